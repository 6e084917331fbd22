"""Who the people of SynVT are: their shape, colours and heat, the scenes and the cameras that see them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from . import draw
from .draw import ARM, COAT, FACE, HAIR, HAND, HAT, LEG, OBSTACLES, PARTS, SLEEVE, THERMAL, TOP, VISIBLE

Key = tuple[int, int, int]  # (pid, cam, number), all from 1
_SHAPE, _COLOUR, _HEAT, _SCENE, _SENSOR, _SPLIT, _REAL = range(7)  # one random stream each
_STRANGERS = 1_000_000  # identities of passers-by, who have no images of their own


class Camera(NamedTuple):
    """One camera and where it stands. Angles in degrees."""

    modality: int
    indoor: bool
    scene: str  # one of figure.SCENES
    heading: float  # direction people mostly face: 0 the viewer, 90 the picture's right
    spread: float  # of headings, 1.3 of it at most
    away: float | None  # share of people who walk the other way; None: each person always shows the same side
    pitch: float  # seen from this much above
    light: tuple[float, float, float] = (0, 1, 0)  # x right, y up, z to the viewer
    gain: tuple[float, float, float] = (1, 1, 1)  # colour cast


CAMERAS = {
    "sysu": {
        1: Camera(VISIBLE, True, "room", 20, 30, 0.35, 14, (0.1, 0.9, 0.4), (1.08, 1.0, 0.86)),
        2: Camera(VISIBLE, True, "hall", -35, 30, 0.35, 10, (-0.4, 0.8, 0.45), (0.96, 1.0, 1.02)),
        3: Camera(THERMAL, True, "hall", -35, 30, 0.35, 10),  # in the place of camera 2
        4: Camera(VISIBLE, False, "street", 50, 35, 0.4, 7, (0.75, 0.55, 0.35), (1.04, 1.0, 0.94)),
        5: Camera(VISIBLE, False, "garden", -15, 35, 0.4, 12, (-0.6, 0.7, 0.35), (0.95, 1.0, 1.05)),
        6: Camera(THERMAL, False, "street", 25, 40, 0.4, 8),
    },
    "regdb": {
        1: Camera(VISIBLE, False, "street", 0, 12, None, 8, (0.45, 0.75, 0.45), (1.0, 1.0, 0.97)),
        2: Camera(THERMAL, False, "street", 0, 12, None, 8),
    },
}
# Muted clothes as (red, green, blue, weight); the dark and neutral ones are frequent, as in real crops.
_NEUTRAL = [(28, 28, 30, 18), (58, 58, 62, 10), (118, 118, 120, 11), (208, 206, 200, 10), (158, 148, 128, 7)]
_DARK = [(32, 38, 62, 11), (84, 84, 62, 4), (88, 66, 50, 5), (92, 40, 48, 3), (54, 82, 66, 3), (92, 78, 108, 2)]
_LIGHT = [(62, 82, 116, 9), (136, 160, 188, 5), (150, 50, 46, 4), (170, 136, 70, 2), (180, 142, 142, 2)]
_CLOTH = np.array([*_NEUTRAL, *_DARK, *_LIGHT])
_SKIN = np.array([(226, 186, 160), (206, 162, 132), (176, 130, 100), (128, 88, 66), (92, 62, 48)])
_HAIR = np.array([(24, 20, 20), (42, 32, 28), (72, 50, 36), (140, 110, 72), (132, 130, 128)])
_COOLEST = (0.95, 0.4, 0.2, 0.5, 0.3, 0, 0.38, 0.2, 0.05, 0.85, 0.55, 0.75)  # by part: share of the step from ambient
_WARMEST = (1.05, 0.7, 0.5, 0.85, 0.62, 0, 0.85, 0.5, 0.35, 1.0, 1.0, 1.0)  # temperature to that of skin
_CUT = {  # legs: covered share, its spread, thickness, flare; skirts: height of the hem, radius
    "shorts": (0.42, 0.08, 0.016, 0, 0, 0),
    "cropped": (0.74, 0.08, 0.009, 0, 0, 0),
    "slim": (1, 0, 0.002, 0, 0, 0),
    "straight": (1, 0, 0.009, 0.006, 0, 0),
    "wide": (1, 0, 0.022, 0.018, 0, 0),
    "skirt": (1, 0, 0.009, 0, 0.36, 0.105),
    "midi": (1, 0, 0.009, 0, 0.25, 0.112),
    "long_skirt": (1, 0, 0.009, 0, 0.10, 0.118),
}
_HEM = {"none": 0.50, "jacket": 0.47, "coat": 0.37, "long_coat": 0.24}  # lengths are shares of the person's height
_CHOICES = {  # options and weights, for one half of the people and for the other where they differ
    "hair": (("shaved", "short", "bob", "long", "bun", "ponytail"), (1, 7, 3, 1, 0.5, 0.5), (0.1, 2, 4, 5, 2, 3)),
    "hat": (("none", "cap", "beanie", "brim", "hood"), (13, 2, 1.5, 1.2, 1.8)),
    "coat": (tuple(_HEM), (9, 4, 3, 2.5)),
    "legs": (tuple(_CUT), (3, 2, 3, 6, 3, 0, 0, 0), (2, 2, 5, 3, 2, 2.5, 2.5, 2.5)),
    "bag": (("none", "backpack", "shoulder", "hand"), (7, 4, 4, 2)),
    "shoes": (("low", "boots", "heels"), (6, 2, 0), (4, 3, 2)),
    "sleeve": ((0.12, 0.38, 0.5, 0.72, 1.0), (0.08, 0.24, 0.14, 0.12, 0.42)),
}
_NAMED = ("occluder", "hair", "hat", "coat", "legs", "bag", "shoes", "side")  # the columns of factors.csv
_MEASURED = ("sleeve", "leg_cover", "skirt_y", "coat_y", "puff", "height", "build", "stride")
_MEASURED += ("phase", "pace", "scale", "light", "ambient")


@dataclass(frozen=True)
class Spec:
    """Everything that decides the bytes of one data set. ValueError for a value out of range, naming the field."""

    layout: str = "sysu"  # or "regdb": camera 1 visible, 2 thermal
    seed: int = 0
    identities: tuple[int, int, int] = (12, 4, 6)  # train, val, test: disjoint; RegDB has no val and ten random splits
    images: int = 4  # per identity and camera
    gallery_images: int = 0  # of test identities in each visible camera, if more: ten make a 10-shot gallery
    height: int = 96  # pixels; people are drawn for a ratio of about 2 to 1
    width: int = 48
    nuisance: float = 1.0  # 0 to 1, scales occlusion, crop, light, blur and noise
    yaw: float = 1.0  # 0 to 2, scales each camera's range of viewing directions
    colour_seed: int | None = None  # None takes `seed`; another number redraws what one modality alone can see
    heat_seed: int | None = None
    redress: bool = False  # colours and heats are drawn anew for each image: shape alone tells people apart
    apart: bool = False  # visible cameras see the odd identities, thermal ones the even: no pair across modalities
    realism: float = 0.0  # 0 to 1: weak thermal contrast, sun-warmed scenes, low resolution, as in real crops

    def __post_init__(self):
        object.__setattr__(self, "identities", tuple(self.identities))
        if self.layout not in CAMERAS:
            raise ValueError(f"Spec: layout must be one of {sorted(CAMERAS)}, not {self.layout!r}")
        whole = {
            "seed": (0, 2**63),
            "images": (1, 9999),
            "gallery_images": (0, 9999),
            "height": (16, 4096),
            "width": (16, 4096),
        }
        whole |= {n: (0, 2**63) for n in ("colour_seed", "heat_seed") if getattr(self, n) is not None}
        for name, (low, high) in (whole | {"nuisance": (0, 1), "yaw": (0, 2), "realism": (0, 1)}).items():
            value, kinds = getattr(self, name), (int,) if name in whole else (int, float)
            if type(value) not in kinds or not low <= value <= high:
                kind = "a whole number" if name in whole else "a number"
                raise ValueError(f"Spec: {name} must be {kind} from {low} to {high}, not {value!r}")
        counts = self.identities
        if len(counts) != 3 or any(type(n) is not int or n < m for n, m in zip(counts, (1, 0, 1), strict=True)):
            raise ValueError(f"Spec: identities must be (train >= 1, val >= 0, test >= 1), not {counts}")
        if self.layout == "regdb" and self.gallery_images:
            raise ValueError("Spec: gallery_images counts in the SYSU layout alone, RegDB has no shots")
        if self.layout == "regdb" and self.apart:
            raise ValueError("Spec: apart is for the SYSU layout alone, RegDB's lists pair all images")
        if self.layout == "regdb" and (counts[1] or counts[0] != counts[2]):
            raise ValueError(f"Spec: identities of RegDB must be (n, 0, n), half and half, not {counts}")


def _rng(seed: int, *words: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


@lru_cache(maxsize=4096)  # asked for by every image of a person, and for its path
def shape(spec: Spec, pid: int) -> SimpleNamespace:
    """Body, cut and gait of one person, shared by all callers; lengths in shares of the person's height, in metres."""
    g = _rng(spec.seed, _SHAPE, pid)
    half = int(g.random() < 0.5)  # 1: narrower shoulders, wider hips, other clothes and hair more often
    build = float(np.clip(np.exp(g.normal(0, 0.14)), 0.74, 1.45))
    s = SimpleNamespace(build=build, height=float(np.clip(g.normal(1.76 - 0.12 * half, 0.065), 1.48, 2.0)))
    s.shoulder = g.normal(0.099 - 0.011 * half, 0.006) * build**0.35
    s.hip, s.hip_y = g.normal(0.045 + 0.004 * half, 0.004) * build**0.5, g.normal(0.515, 0.014)
    s.waist, s.head = g.normal(0.071 - 0.006 * half, 0.005) * build**0.4, g.normal(1.0, 0.06)
    s.sleeve = 1.0
    for name, (options, *weights) in _CHOICES.items():
        if name != "sleeve" or s.coat == "none":
            share = np.array(weights[-half])  # the first or the last
            setattr(s, name, options[g.choice(len(options), p=share / share.sum())])
    cover, spread, thick, flare, skirt_y, skirt_r = _CUT[s.legs]
    s.leg_cover, s.skirt = cover + spread * g.uniform(-1, 1), skirt_r > 0
    s.leg_thick, s.leg_flare = thick * g.uniform(0.7, 1.3), flare * g.uniform(0.5, 1.5)
    s.skirt_y, s.skirt_r = skirt_y + g.uniform(-0.035, 0.035) * s.skirt, skirt_r * g.uniform(0.85, 1.3)
    s.coat_y, s.coat_flare = _HEM[s.coat] + g.uniform(-0.035, 0.035), g.uniform(0.0, 0.028)
    s.outer = TOP if s.coat == "none" else COAT
    s.puff = g.uniform(0.001, 0.011) if s.outer == TOP else g.uniform(0.006, 0.026)  # thickness of the cloth
    s.hand, s.bag_size = 1 if g.random() < 0.5 else -1, g.uniform(0.8, 1.35)  # of the bag; +1: the person's left
    s.side = {"none": "", "backpack": "both"}.get(s.bag, "left" if s.hand > 0 else "right")
    s.stride = g.uniform(0.20, 0.46) * (0.6 if s.skirt and skirt_y < 0.3 else 1.0)
    s.swing, s.elbow, s.abduct = g.uniform(0.1, 0.6), g.uniform(0.08, 0.5), g.uniform(0.04, 0.2)
    s.stoop, s.front = g.normal(0.05, 0.045), g.random() < 0.5  # front: RegDB shows one side of a person
    return s


def colours(spec: Spec, pid: int, body: SimpleNamespace, *image: int) -> SimpleNamespace:
    """All that visible cameras alone see: base (12 parts, 3) and second (3,) sRGB 0 to 255, and the top's pattern.

    image: camera and number, where each image has a draw of its own.
    """
    g = _rng(spec.seed if spec.colour_seed is None else spec.colour_seed, _COLOUR, pid, *image)

    def cloth():
        tone = g.choice(_CLOTH, p=_CLOTH[:, 3] / _CLOTH[:, 3].sum())[:3]
        return np.clip(tone * g.uniform(0.75, 1.25) + g.normal(0, 6, 3), 8, 235)

    base = np.stack([cloth() for _ in PARTS]).astype(np.float32)
    base[[FACE, ARM, HAND, LEG]] = g.choice(_SKIN, p=[0.3, 0.35, 0.2, 0.1, 0.05]) * g.uniform(0.92, 1.06)
    base[HAIR] = g.choice(_HAIR, p=[0.42, 0.28, 0.17, 0.06, 0.07])
    base[SLEEVE] = base[body.outer]
    if body.hat == "hood":
        base[HAT] = base[SLEEVE]
    if g.random() < 0.2:
        base[LEG] = (40, 38, 42)  # tights
    pattern = str(g.choice(["plain", "stripes", "block", "print", "check"], p=[0.6, 0.12, 0.12, 0.11, 0.05]))
    return SimpleNamespace(base=base, second=cloth(), pattern=pattern, pitch=g.uniform(60, 130), open=g.random() < 0.6)


def heats(spec: Spec, pid: int, body: SimpleNamespace, *image: int) -> np.ndarray:
    """All that thermal cameras alone see: (12,) share of the step from ambient to skin temperature, 0 to 1.05."""
    g = _rng(spec.seed if spec.heat_seed is None else spec.heat_seed, _HEAT, pid, *image)
    warm = g.uniform(_COOLEST, _WARMEST).astype(np.float32)
    warm[COAT] *= 1 - 12 * body.puff  # a padded coat hides more
    warm[SLEEVE] = warm[body.outer]
    return warm


def scene(spec: Spec, body: SimpleNamespace, key: Key) -> SimpleNamespace:
    """View, pose, light, weather and obstacles of one image; angles in radians, ambient in degrees Celsius."""
    c, k, g = CAMERAS[spec.layout][key[1]], spec.nuisance, _rng(spec.seed, _SCENE, *key)
    turn = 180.0 * (not body.front if c.away is None else g.random() < c.away)
    yaw = np.radians(c.heading + turn + spec.yaw * c.spread * float(np.clip(g.normal(0, 0.6), -1.3, 1.3)))
    n = SimpleNamespace(
        cam=c,
        dress=key[1:] if spec.redress else (),
        yaw=yaw,
        pitch=np.radians(c.pitch + k * g.normal(0, 2)),
        phase=g.uniform(0, 2 * np.pi),
    )
    n.arms = [str(g.choice(["swing", "pocket", "raised"], p=[0.8, 0.12, 0.08])) for _ in range(2)]
    n.pace = g.uniform(0.75, 1.2) if g.random() < 0.85 else 0.12  # some stand
    n.scale = 0.90 * np.exp(k * g.normal(0, 0.035))
    n.aspect = 1.16 * np.exp(k * g.normal(0, 0.07))  # boxes of people are narrower than the images made of them
    n.dx, n.dy, n.nod = k * g.normal(0, 0.045), k * g.normal(0, 0.015), g.normal(0, 0.004)
    things = [*OBSTACLES, "person"]
    n.occluder = str(g.choice(things, p=[0.25, 0.25, 0.2, 0.3])) if g.random() < 0.3 * k else "none"
    n.at_x, n.at_y, n.wide = g.uniform(0.05, 0.95), g.uniform(0.62, 0.88), g.uniform(0.06, 0.14)
    n.stranger = _STRANGERS + int(g.integers(_STRANGERS))
    n.ambient = g.uniform(17, 25) if c.indoor else float(np.clip(g.normal(14, 9), -6, 33))
    n.light, n.even, n.azimuth = np.exp(k * g.normal(-0.05, 0.25)), g.uniform(0.6, 0.88), k * g.normal(0, 0.5)
    n.gain = np.asarray(c.gain) * np.exp(k * g.normal(0, 0.04, 3))
    n.sharp = 1 - k * g.uniform(0.0, 0.55)  # share of the resolution that the lens keeps
    n.span, n.sun = 1.0, 0.0  # thermal: share of the grey levels that the crop spans; degrees that the sun adds around
    if r := spec.realism:  # a stream of its own: without it every byte stays as it was
        g = _rng(spec.seed, _REAL, *key)
        n.span, n.sun = np.exp(r * g.uniform(-2.2, -0.3)), 0.0 if c.indoor else r * max(0.0, g.normal(2, 6))
        n.sharp *= 1 - r * g.uniform(0.1, 0.7)
    return n


def _cast(spec: Spec, pid: int, body: SimpleNamespace, view: SimpleNamespace) -> list[draw.Person]:
    """From back to front the person and, where one walks through the crop, a stranger."""
    surface = colours if view.cam.modality == VISIBLE else heats
    cast = [draw.Person(body, view, surface(spec, pid, body, *view.dress))]
    if view.occluder == "person":
        other = shape(spec, view.stranger)
        seen = SimpleNamespace(**{**vars(view), "phase": view.phase + 2, "yaw": view.yaw + 0.4})
        shift = (0.42 + view.wide) * (1 if view.at_x > 0.5 else -1)
        cast.insert(
            int(view.at_y > 0.75), draw.Person(other, seen, surface(spec, view.stranger, other, *view.dress), shift)
        )
    return cast


def render_batch(spec: Spec, keys: Iterable[Key]) -> np.ndarray:
    """Images (B, height, width, 3) uint8 of the keys; thermal: 3 equal channels. ValueError for an unknown camera."""
    keys = list(keys)
    out = np.empty((len(keys), spec.height, spec.width, 3), np.uint8)
    for image, (pid, cam, number) in zip(out, keys, strict=True):
        if cam not in CAMERAS[spec.layout]:
            raise ValueError(f"camera must be one of {list(CAMERAS[spec.layout])} in layout {spec.layout!r}, not {cam}")
        body = shape(spec, pid)
        view = scene(spec, body, (pid, cam, number))
        g, cast = _rng(spec.seed, _SENSOR, pid, cam, number), _cast(spec, pid, body, view)
        image[:] = draw.draw(cast, view, g, spec.height, spec.width, spec.nuisance)
    return out


def sheet(spec: Spec, pids: Iterable[int], cams: Iterable[int], number: int = 1) -> np.ndarray:
    """Contact sheet, one row a camera and one column a person: (rows * height, columns * width, 3) uint8."""
    pids = list(pids)
    return np.concatenate([np.hstack(list(render_batch(spec, [(p, c, number) for p in pids]))) for c in cams])
