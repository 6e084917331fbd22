"""The factors of SynVT, which are the quantities that decide an image, and how they are drawn at random: shape, colours
and heat of its people, its scenes and cameras. render_batch() turns them into pixels with draw.py."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from . import draw
from .draw import ARM, COAT, FACE, HAIR, HAND, HAT, LEG, OBSTACLES, PARTS, SLEEVE, THERMAL, TOP, VISIBLE

Key = tuple[int, int, int]  # (pid, cam, number), all from 1
_SHAPE, _COLOUR, _HEAT, _SCENE, _SENSOR, SPLIT, _REAL = range(7)  # the kinds of random streams: see random_stream()
_STRANGERS = 1_000_000  # first identity of the passers-by, who have no images of their own


class Camera(NamedTuple):
    """One camera and its place. Angles in degrees."""

    modality: int  # VISIBLE or THERMAL
    indoor: bool
    scene: str  # a key of draw.SCENES
    heading: float  # mean direction that people face: 0 towards the viewer, 90 to the right of the picture
    spread: float  # scale of the random deviation from `heading`, which is at most 1.3 times this
    away: (
        float | None
    )  # share of images in which people walk the other way; None: each person always shows the same side
    pitch: float  # how far the camera looks down
    light: tuple[float, float, float] = (0, 1, 0)  # direction towards the light: x right, y up, z to the viewer
    gain: tuple[float, float, float] = (1, 1, 1)  # colour cast: factors of red, green, blue


CAMERAS = {
    "sysu": {
        1: Camera(VISIBLE, True, "room", 20, 30, 0.35, 14, (0.1, 0.9, 0.4), (1.08, 1.0, 0.86)),
        2: Camera(VISIBLE, True, "hall", -35, 30, 0.35, 10, (-0.4, 0.8, 0.45), (0.96, 1.0, 1.02)),
        3: Camera(THERMAL, True, "hall", -35, 30, 0.35, 10),  # at the place of camera 2
        4: Camera(VISIBLE, False, "street", 50, 35, 0.4, 7, (0.75, 0.55, 0.35), (1.04, 1.0, 0.94)),
        5: Camera(VISIBLE, False, "garden", -15, 35, 0.4, 12, (-0.6, 0.7, 0.35), (0.95, 1.0, 1.05)),
        6: Camera(THERMAL, False, "street", 25, 40, 0.4, 8),
    },
    "regdb": {
        1: Camera(VISIBLE, False, "street", 0, 12, None, 8, (0.45, 0.75, 0.45), (1.0, 1.0, 0.97)),
        2: Camera(THERMAL, False, "street", 0, 12, None, 8),
    },
}
# Muted colours of clothes as (red, green, blue, weight); dark and neutral ones are frequent, as in real images.
_NEUTRAL = [(28, 28, 30, 18), (58, 58, 62, 10), (118, 118, 120, 11), (208, 206, 200, 10), (158, 148, 128, 7)]
_DARK = [(32, 38, 62, 11), (84, 84, 62, 4), (88, 66, 50, 5), (92, 40, 48, 3), (54, 82, 66, 3), (92, 78, 108, 2)]
_LIGHT = [(62, 82, 116, 9), (136, 160, 188, 5), (150, 50, 46, 4), (170, 136, 70, 2), (180, 142, 142, 2)]
_CLOTH = np.array([*_NEUTRAL, *_DARK, *_LIGHT])
_SKIN = np.array([(226, 186, 160), (206, 162, 132), (176, 130, 100), (128, 88, 66), (92, 62, 48)])
_HAIR = np.array([(24, 20, 20), (42, 32, 28), (72, 50, 36), (140, 110, 72), (132, 130, 128)])
# Apparent temperature of each of PARTS: 0 is ambient temperature, 1 is skin; drawn between these two bounds.
_COOLEST = (0.95, 0.4, 0.2, 0.5, 0.3, 0, 0.38, 0.2, 0.05, 0.85, 0.55, 0.75)
_WARMEST = (1.05, 0.7, 0.5, 0.85, 0.62, 0, 0.85, 0.5, 0.35, 1.0, 1.0, 1.0)
# Lengths are shares of the person's height, and heights are those over the feet.
_CUT = {  # covered share of the legs, its spread, thickness, flare; of skirts: height of the hem, radius
    "shorts": (0.42, 0.08, 0.016, 0, 0, 0),
    "cropped": (0.74, 0.08, 0.009, 0, 0, 0),
    "slim": (1, 0, 0.002, 0, 0, 0),
    "straight": (1, 0, 0.009, 0.006, 0, 0),
    "wide": (1, 0, 0.022, 0.018, 0, 0),
    "skirt": (1, 0, 0.009, 0, 0.36, 0.105),
    "midi": (1, 0, 0.009, 0, 0.25, 0.112),
    "long_skirt": (1, 0, 0.009, 0, 0.10, 0.118),
}
_HEM = {"none": 0.50, "jacket": 0.47, "coat": 0.37, "long_coat": 0.24}  # height of a coat's hem
_CHOICES = {  # options and their weights, or two rows of weights where the two halves of the people differ
    "hair": (("shaved", "short", "bob", "long", "bun", "ponytail"), (1, 7, 3, 1, 0.5, 0.5), (0.1, 2, 4, 5, 2, 3)),
    "hat": (("none", "cap", "beanie", "brim", "hood"), (13, 2, 1.5, 1.2, 1.8)),
    "coat": (tuple(_HEM), (9, 4, 3, 2.5)),
    "legs": (tuple(_CUT), (3, 2, 3, 6, 3, 0, 0, 0), (2, 2, 5, 3, 2, 2.5, 2.5, 2.5)),
    "bag": (("none", "backpack", "shoulder", "hand"), (7, 4, 4, 2)),
    "shoes": (("low", "boots", "heels"), (6, 2, 0), (4, 3, 2)),
    "sleeve": ((0.12, 0.38, 0.5, 0.72, 1.0), (0.08, 0.24, 0.14, 0.12, 0.42)),
}
# Columns of factors.csv: names and numbers of the person, equal in all of its images, and then of the image
PERSON_NAMED = ("hair", "hat", "coat", "legs", "bag", "shoes", "side")
PERSON_MEASURED = ("sleeve", "leg_cover", "skirt_y", "coat_y", "puff", "height", "build", "stride")
NAMED = ("occluder", *PERSON_NAMED)
MEASURED = (*PERSON_MEASURED, "phase", "pace", "scale", "light", "ambient")


@dataclass(frozen=True)
class Spec:
    """All settings that decide the bytes of one data set. Raises: ValueError naming a field that is out of range."""

    layout: str = "sysu"  # or "regdb": camera 1 visible, 2 thermal
    seed: int = 0
    identities: tuple[int, int, int] = (12, 4, 6)  # train, val, test: disjoint; RegDB has no val and ten random splits
    images: int = 4  # per identity and camera
    gallery_images: int = 0  # if larger: of test identities in each visible camera; a 10-shot gallery needs ten
    height: int = 96  # pixels; people are drawn for images about twice as high as wide
    width: int = 48
    nuisance: float = 1.0  # 0 to 1: strength of occlusion, misplaced crops, light, blur and noise
    yaw: float = 1.0  # 0 to 2: factor on each camera's spread of viewing directions
    colour_seed: int | None = None  # seed of what visible cameras alone see; None: `seed`
    heat_seed: int | None = None  # seed of what thermal cameras alone see; None: `seed`
    redress: bool = False  # colours and heats are drawn anew for each image: shape alone tells people apart
    apart: bool = False  # visible cameras see odd identities, thermal ones even: nobody is seen by both
    realism: float = 0.0  # 0 to 1: weaker thermal contrast, sun-warmed scenes, lower resolution, as in real images

    def __post_init__(self):
        object.__setattr__(self, "identities", tuple(self.identities))
        if self.layout not in CAMERAS:
            raise ValueError(f"Spec: layout must be one of {sorted(CAMERAS)}, not {self.layout!r}")
        integers = {"seed": (0, 2**63), "images": (1, 9999), "gallery_images": (0, 9999)}
        integers |= {"height": (16, 4096), "width": (16, 4096)}
        integers |= {n: (0, 2**63) for n in ("colour_seed", "heat_seed") if getattr(self, n) is not None}
        for name, (low, high) in (integers | {"nuisance": (0, 1), "yaw": (0, 2), "realism": (0, 1)}).items():
            value, types = getattr(self, name), (int,) if name in integers else (int, float)
            if type(value) not in types or not low <= value <= high:
                kind = "a whole number" if name in integers else "a number"
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


def random_stream(seed: int, *words: int) -> np.random.Generator:
    """A random stream that its arguments alone decide. Args: seed: 0 or more; words: kind of stream, then e.g. pid."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


@lru_cache(maxsize=4096)  # every image of a person and its path need it
def shape(spec: Spec, pid: int) -> SimpleNamespace:
    """Body, cut of clothes, and gait of one person: what both modalities see. Lengths are shares of the height.

    Exceptions: `height` is in metres, `build` and `head` are factors around 1, angles are in radians. data/README.md
    documents the fields in NAMED and MEASURED. The result is cached and shared: do not change it.
    Args: spec: its seed counts; pid: the identity, from 1.
    """
    g = random_stream(spec.seed, _SHAPE, pid)
    half = int(g.random() < 0.5)  # 1: narrower shoulders, wider hips, last row of weights in _CHOICES
    build = float(np.clip(np.exp(g.normal(0, 0.14)), 0.74, 1.45))
    body = SimpleNamespace(build=build, height=float(np.clip(g.normal(1.76 - 0.12 * half, 0.065), 1.48, 2.0)))
    body.shoulder = g.normal(0.099 - 0.011 * half, 0.006) * build**0.35
    body.hip, body.hip_y = g.normal(0.045 + 0.004 * half, 0.004) * build**0.5, g.normal(0.515, 0.014)
    body.waist, body.head = g.normal(0.071 - 0.006 * half, 0.005) * build**0.4, g.normal(1.0, 0.06)
    body.sleeve = 1.0
    for name, (options, *weights) in _CHOICES.items():
        if name != "sleeve" or body.coat == "none":
            share = np.array(weights[-half])  # row 0 or row -1
            setattr(body, name, options[g.choice(len(options), p=share / share.sum())])
    cover, spread, thick, flare, skirt_y, skirt_r = _CUT[body.legs]
    body.leg_cover, body.skirt = cover + spread * g.uniform(-1, 1), skirt_r > 0
    body.leg_thick, body.leg_flare = thick * g.uniform(0.7, 1.3), flare * g.uniform(0.5, 1.5)
    body.skirt_y, body.skirt_r = skirt_y + g.uniform(-0.035, 0.035) * body.skirt, skirt_r * g.uniform(0.85, 1.3)
    body.coat_y, body.coat_flare = _HEM[body.coat] + g.uniform(-0.035, 0.035), g.uniform(0.0, 0.028)
    body.outer = TOP if body.coat == "none" else COAT
    body.puff = g.uniform(0.001, 0.011) if body.outer == TOP else g.uniform(0.006, 0.026)  # thickness of the cloth
    body.hand, body.bag_size = 1 if g.random() < 0.5 else -1, g.uniform(0.8, 1.35)  # hand: 1 left, -1 right
    body.side = {"none": "", "backpack": "both"}.get(body.bag, "left" if body.hand > 0 else "right")
    body.stride = g.uniform(0.20, 0.46) * (0.6 if body.skirt and skirt_y < 0.3 else 1.0)
    body.swing, body.elbow, body.abduct = g.uniform(0.1, 0.6), g.uniform(0.08, 0.5), g.uniform(0.04, 0.2)
    body.stoop, body.front = g.normal(0.05, 0.045), g.random() < 0.5  # front: the side that RegDB shows of this person
    return body


def colours(spec: Spec, pid: int, body: SimpleNamespace, *image: int) -> SimpleNamespace:
    """What visible cameras alone see of a person, in sRGB from 0 to 255.

    Args: spec: its colour_seed counts; pid: the identity; body: of shape(); image: camera and number, if each image has
        its own draw (`Spec.redress`).
    Returns: base (12, 3), the colour of each of PARTS; second (3,) colour and pattern of the top; pitch: density of its
        stripes; open: whether an open coat shows the top.
    """
    g = random_stream(spec.seed if spec.colour_seed is None else spec.colour_seed, _COLOUR, pid, *image)

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
    """What thermal cameras alone see of a person: (12,) float32, warmth of each of PARTS.

    0 is ambient temperature, 1 is that of skin; the largest value is 1.05.
    Args: spec: its heat_seed counts; pid, body, image: as for colours().
    """
    g = random_stream(spec.seed if spec.heat_seed is None else spec.heat_seed, _HEAT, pid, *image)
    warm = g.uniform(_COOLEST, _WARMEST).astype(np.float32)
    warm[COAT] *= 1 - 12 * body.puff  # a thick coat looks cooler
    warm[SLEEVE] = warm[body.outer]
    return warm


def scene(spec: Spec, body: SimpleNamespace, key: Key) -> SimpleNamespace:
    """View, pose, light, weather and obstacles of one image. Angles are in radians, `ambient` in degrees Celsius.

    Args: spec: seed, nuisance, yaw and realism count; body: of shape(); key: (pid, cam, number).
    Returns: the fields that draw.draw() reads; those in NAMED and MEASURED are documented in data/README.md.
    """
    camera, k, g = CAMERAS[spec.layout][key[1]], spec.nuisance, random_stream(spec.seed, _SCENE, *key)
    turn = 180.0 * (not body.front if camera.away is None else g.random() < camera.away)
    yaw = np.radians(camera.heading + turn + spec.yaw * camera.spread * float(np.clip(g.normal(0, 0.6), -1.3, 1.3)))
    view = SimpleNamespace(cam=camera, dress=key[1:] if spec.redress else (), yaw=yaw)
    view.pitch, view.phase = np.radians(camera.pitch + k * g.normal(0, 2)), g.uniform(0, 2 * np.pi)
    view.arms = [str(g.choice(["swing", "pocket", "raised"], p=[0.8, 0.12, 0.08])) for _ in range(2)]
    view.pace = g.uniform(0.75, 1.2) if g.random() < 0.85 else 0.12  # some people stand
    view.scale = 0.90 * np.exp(k * g.normal(0, 0.035))
    view.aspect = 1.16 * np.exp(k * g.normal(0, 0.07))  # people's boxes are stretched in width
    view.dx, view.dy, view.nod = k * g.normal(0, 0.045), k * g.normal(0, 0.015), g.normal(0, 0.004)
    kinds = [*OBSTACLES, "person"]
    view.occluder = str(g.choice(kinds, p=[0.25, 0.25, 0.2, 0.3])) if g.random() < 0.3 * k else "none"
    view.at_x, view.at_y, view.wide = g.uniform(0.05, 0.95), g.uniform(0.62, 0.88), g.uniform(0.06, 0.14)
    view.stranger = _STRANGERS + int(g.integers(_STRANGERS))
    view.ambient = g.uniform(17, 25) if camera.indoor else float(np.clip(g.normal(14, 9), -6, 33))
    view.light, view.even, view.azimuth = np.exp(k * g.normal(-0.05, 0.25)), g.uniform(0.6, 0.88), k * g.normal(0, 0.5)
    view.gain = np.asarray(camera.gain) * np.exp(k * g.normal(0, 0.04, 3))
    view.sharp = 1 - k * g.uniform(0.0, 0.55)  # share of the resolution that is left
    view.span, view.sun = 1.0, 0.0  # thermal: share of the grey levels in use; degrees that the sun adds to the scene
    if r := spec.realism:  # a stream of its own, so that realism 0 leaves all other draws as they are
        g = random_stream(spec.seed, _REAL, *key)
        view.span, view.sun = np.exp(r * g.uniform(-2.2, -0.3)), 0.0 if camera.indoor else r * max(0.0, g.normal(2, 6))
        view.sharp *= 1 - r * g.uniform(0.1, 0.7)
    return view


def _cast(spec: Spec, pid: int, body: SimpleNamespace, view: SimpleNamespace) -> list[draw.Person]:
    """The person and, if the occluder is a person, a stranger; whoever stands behind comes first."""
    surface = colours if view.cam.modality == VISIBLE else heats
    cast = [draw.Person(body, view, surface(spec, pid, body, *view.dress))]
    if view.occluder == "person":
        stranger = shape(spec, view.stranger)
        pose = SimpleNamespace(**{**vars(view), "phase": view.phase + 2, "yaw": view.yaw + 0.4})
        shift = (0.42 + view.wide) * (1 if view.at_x > 0.5 else -1)
        look = surface(spec, view.stranger, stranger, *view.dress)
        cast.insert(int(view.at_y > 0.75), draw.Person(stranger, pose, look, shift))
    return cast


def render_batch(spec: Spec, keys: Iterable[Key]) -> np.ndarray:
    """Draw images: (B, height, width, 3) uint8 RGB; thermal ones have 3 equal channels.

    Args: spec: of the data set; keys: B times (pid, cam, number), each from 1.
    Raises: ValueError for a camera that the layout does not have.
    """
    keys = list(keys)
    out = np.empty((len(keys), spec.height, spec.width, 3), np.uint8)
    for image, (pid, cam, number) in zip(out, keys, strict=True):
        if cam not in CAMERAS[spec.layout]:
            raise ValueError(f"camera must be one of {list(CAMERAS[spec.layout])} in layout {spec.layout!r}, not {cam}")
        body = shape(spec, pid)
        view = scene(spec, body, (pid, cam, number))
        g, cast = random_stream(spec.seed, _SENSOR, pid, cam, number), _cast(spec, pid, body, view)
        image[:] = draw.draw(cast, view, g, spec.height, spec.width, spec.nuisance)
    return out


def sheet(spec: Spec, pids: Iterable[int], cams: Iterable[int], number: int = 1) -> np.ndarray:
    """A contact sheet with one row per camera and one column per person: (rows * height, columns * width, 3) uint8.

    Args: spec: of the data set; pids, cams: columns and rows; number: which image of each person and camera.
    """
    pids = list(pids)
    return np.concatenate([np.hstack(list(render_batch(spec, [(p, c, number) for p in pids]))) for c in cams])
