"""SynVT: walking people seen by visible and by thermal cameras, drawn from known factors, in the public sets' layouts.

A person is about 24 tapered capsules (limbs, garments, hair, hat, bag) under an orthographic camera. Four things are
drawn apart, so that each can be changed alone:
    shape    (seed, pid)               proportions, hair, hat, cut of clothes, bag, shoes, gait: seen by every camera
    colours  (colour_seed, pid)        colours and patterns: seen by visible cameras only
    heats    (heat_seed, pid)          how warm each garment looks: seen by thermal cameras only
    scene    (seed, pid, cam, number)  view, pose, light, weather, things in the way, sensor: one draw an image
Shape and cut are therefore all that the two modalities share.

An image depends on its own key alone, never on the batch, the process or the order, so a data set can be made by many
workers, stopped and resumed, and has the same bytes on the same machine with the same versions of NumPy and Pillow.
NumPy and not torch: the capsules of one person have boxes of very different sizes, and small NumPy calls cost least.
"""

import io
import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.io import loadmat, savemat
from tqdm.auto import tqdm

try:
    import fcntl
except ImportError:  # Windows: two makes of one folder at the same time are not kept apart
    fcntl = None

VERSION = 1  # raise it whenever a pixel changes
Key = tuple[int, int, int]  # (pid, cam, number), all from 1
VISIBLE, THERMAL = 0, 1
_SHAPE, _COLOUR, _HEAT, _SCENE, _SENSOR, _SPLIT = range(6)  # one random stream each
_STRANGERS = 1_000_000  # identities of passers-by, who have no images of their own
f32 = np.float32


class Camera(NamedTuple):
    """One camera and where it stands. Angles in degrees."""

    modality: int
    indoor: bool
    scene: str
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
_SCENES = {  # wall colours, ground colours, height of the horizon from the top, chance of ground markings, grain
    "room": ([(150, 142, 128), (176, 168, 150), (120, 100, 80)], [(112, 104, 96), (140, 130, 116)], 0.45, 0.25, 0.06),
    "hall": ([(140, 146, 148), (172, 176, 174), (96, 104, 112)], [(104, 108, 110), (128, 128, 124)], 0.4, 0.25, 0.06),
    "street": ([(96, 92, 88), (132, 120, 108), (64, 70, 66)], [(98, 98, 98), (124, 120, 114)], 0.36, 0.6, 0.06),
    "garden": ([(54, 70, 44), (78, 92, 58), (110, 112, 100)], [(92, 104, 66), (122, 116, 100)], 0.4, 0.25, 0.12),
}
_OBSTACLES = {  # colour, degrees over ambient, half width, top, roundness and roughness of the surface
    "pole": ((96, 98, 100), -2, 0.5, -1, 0, 0.15),
    "bush": ((50, 68, 38), -1, 99, 0, 1, 1),
    "bin": ((62, 74, 70), 1, 1.8, -0.12, 0, 0.15),
}
# Muted clothes as (red, green, blue, weight); the dark and neutral ones are frequent, as in real crops.
_NEUTRAL = [(28, 28, 30, 18), (58, 58, 62, 10), (118, 118, 120, 11), (208, 206, 200, 10), (158, 148, 128, 7)]
_DARK = [(32, 38, 62, 11), (84, 84, 62, 4), (88, 66, 50, 5), (92, 40, 48, 3), (54, 82, 66, 3), (92, 78, 108, 2)]
_LIGHT = [(62, 82, 116, 9), (136, 160, 188, 5), (150, 50, 46, 4), (170, 136, 70, 2), (180, 142, 142, 2)]
_CLOTH = np.array([*_NEUTRAL, *_DARK, *_LIGHT])
_SKIN = np.array([(226, 186, 160), (206, 162, 132), (176, 130, 100), (128, 88, 66), (92, 62, 48)])
_HAIR = np.array([(24, 20, 20), (42, 32, 28), (72, 50, 36), (140, 110, 72), (132, 130, 128)])
PARTS = FACE, HAIR, HAT, TOP, COAT, SLEEVE, LEGS, SHOES, BAG, ARM, HAND, LEG = range(12)
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
    height: int = 96  # pixels; people are drawn for a ratio of about 2 to 1
    width: int = 48
    nuisance: float = 1.0  # 0 to 1, scales occlusion, crop, light, blur and noise
    yaw: float = 1.0  # 0 to 2, scales each camera's range of viewing directions
    colour_seed: int | None = None  # None takes `seed`; another number redraws what one modality alone can see
    heat_seed: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "identities", tuple(self.identities))
        if self.layout not in CAMERAS:
            raise ValueError(f"Spec: layout must be one of {sorted(CAMERAS)}, not {self.layout!r}")
        whole = {"seed": (0, 2**63), "images": (1, 9999), "height": (16, 4096), "width": (16, 4096)}
        whole |= {n: (0, 2**63) for n in ("colour_seed", "heat_seed") if getattr(self, n) is not None}
        for name, (low, high) in (whole | {"nuisance": (0, 1), "yaw": (0, 2)}).items():
            value, kinds = getattr(self, name), (int,) if name in whole else (int, float)
            if type(value) not in kinds or not low <= value <= high:
                kind = "a whole number" if name in whole else "a number"
                raise ValueError(f"Spec: {name} must be {kind} from {low} to {high}, not {value!r}")
        counts = self.identities
        if len(counts) != 3 or any(type(n) is not int or n < m for n, m in zip(counts, (1, 0, 1), strict=True)):
            raise ValueError(f"Spec: identities must be (train >= 1, val >= 0, test >= 1), not {counts}")
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


def colours(spec: Spec, pid: int, body: SimpleNamespace) -> SimpleNamespace:
    """All that visible cameras alone see: base (12 parts, 3) and second (3,) sRGB 0 to 255, and the top's pattern."""
    g = _rng(spec.seed if spec.colour_seed is None else spec.colour_seed, _COLOUR, pid)

    def cloth():
        tone = g.choice(_CLOTH, p=_CLOTH[:, 3] / _CLOTH[:, 3].sum())[:3]
        return np.clip(tone * g.uniform(0.75, 1.25) + g.normal(0, 6, 3), 8, 235)

    base = np.stack([cloth() for _ in PARTS]).astype(f32)
    base[[FACE, ARM, HAND, LEG]] = g.choice(_SKIN, p=[0.3, 0.35, 0.2, 0.1, 0.05]) * g.uniform(0.92, 1.06)
    base[HAIR] = g.choice(_HAIR, p=[0.42, 0.28, 0.17, 0.06, 0.07])
    base[SLEEVE] = base[body.outer]
    if body.hat == "hood":
        base[HAT] = base[SLEEVE]
    if g.random() < 0.2:
        base[LEG] = (40, 38, 42)  # tights
    pattern = str(g.choice(["plain", "stripes", "block", "print", "check"], p=[0.6, 0.12, 0.12, 0.11, 0.05]))
    return SimpleNamespace(base=base, second=cloth(), pattern=pattern, pitch=g.uniform(60, 130), open=g.random() < 0.6)


def heats(spec: Spec, pid: int, body: SimpleNamespace) -> np.ndarray:
    """All that thermal cameras alone see: (12,) share of the step from ambient to skin temperature, 0 to 1.05."""
    g = _rng(spec.seed if spec.heat_seed is None else spec.heat_seed, _HEAT, pid)
    warm = g.uniform(_COOLEST, _WARMEST).astype(f32)
    warm[COAT] *= 1 - 12 * body.puff  # a padded coat hides more
    warm[SLEEVE] = warm[body.outer]
    return warm


def scene(spec: Spec, body: SimpleNamespace, key: Key) -> SimpleNamespace:
    """View, pose, light, weather and obstacles of one image; angles in radians, ambient in degrees Celsius."""
    c, k, g = CAMERAS[spec.layout][key[1]], spec.nuisance, _rng(spec.seed, _SCENE, *key)
    turn = 180.0 * (not body.front if c.away is None else g.random() < c.away)
    yaw = np.radians(c.heading + turn + spec.yaw * c.spread * float(np.clip(g.normal(0, 0.6), -1.3, 1.3)))
    n = SimpleNamespace(cam=c, yaw=yaw, pitch=np.radians(c.pitch + k * g.normal(0, 2)), phase=g.uniform(0, 2 * np.pi))
    n.arms = [str(g.choice(["swing", "pocket", "raised"], p=[0.8, 0.12, 0.08])) for _ in range(2)]
    n.pace = g.uniform(0.75, 1.2) if g.random() < 0.85 else 0.12  # some stand
    n.scale = 0.90 * np.exp(k * g.normal(0, 0.035))
    n.aspect = 1.16 * np.exp(k * g.normal(0, 0.07))  # boxes of people are narrower than the images made of them
    n.dx, n.dy, n.nod = k * g.normal(0, 0.045), k * g.normal(0, 0.015), g.normal(0, 0.004)
    things = [*_OBSTACLES, "person"]
    n.occluder = str(g.choice(things, p=[0.25, 0.25, 0.2, 0.3])) if g.random() < 0.3 * k else "none"
    n.at_x, n.at_y, n.wide = g.uniform(0.05, 0.95), g.uniform(0.62, 0.88), g.uniform(0.06, 0.14)
    n.stranger = _STRANGERS + int(g.integers(_STRANGERS))
    n.ambient = g.uniform(17, 25) if c.indoor else float(np.clip(g.normal(14, 9), -6, 33))
    n.light, n.even, n.azimuth = np.exp(k * g.normal(-0.05, 0.25)), g.uniform(0.6, 0.88), k * g.normal(0, 0.5)
    n.gain = np.asarray(c.gain) * np.exp(k * g.normal(0, 0.04, 3))
    n.sharp = 1 - k * g.uniform(0.0, 0.55)  # share of the resolution that the lens keeps
    return n


# ---------------------------------------------------------------------------------------------- body


def _at(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    return np.array((x, y, z))


def _ahead(angle: float) -> np.ndarray:
    """Unit vector hanging down, swung ahead by `angle`."""
    return _at(0, -np.cos(angle), np.sin(angle))


class _Body(list):
    """Capsules as rows (ax ay az bx by bz ra rb flat cut part); x the person's left, y up, z ahead."""

    def add(self, part, a, b, ra, rb=None, flat=1.0, cut=0.0, when=True):
        if when:
            self.append((*a, *b, ra, ra if rb is None else rb, flat, cut, part))

    def limb(self, points, radii, garment, skin):
        """Two segments from the trunk outwards; the first `cover` (0 to 1) of the path wears `cloth`, if given."""
        cloth, cover, thick, flare = garment
        for i in (0, 1):
            a, b, ra, rb = points[i], points[i + 1], radii[i], radii[i + 1]
            worn = float(np.clip(2 * cover - i, 0, 1))
            hem, rh = a + worn * (b - a), ra + worn * (rb - ra)
            if worn > 0 and cloth is not None:
                start, end = ra + thick * (0.4 + 0.6 * i) + flare * i, rh + thick + flare * (i + worn)
                self.add(cloth, a, hem, start, end, cut=float(worn < 1 or i == 1))
            if worn < 1:
                self.add(skin, hem, b, rh, rb)


def capsules(body: SimpleNamespace, view: SimpleNamespace) -> np.ndarray:
    """The person as (N, 11) float32 rows (ax ay az bx by bz ra rb flat cut part), feet on y = 0, height 1."""
    rows, hips, lean = _Body(), _at(y=body.hip_y), _ahead(np.pi - body.stoop)  # lean: up the trunk
    chest = hips + lean * (0.800 - body.hip_y)
    _leg(rows, body, view, hips, -1)
    _leg(rows, body, view, hips, 1)
    _arm(rows, body, view, chest, -1, view.arms[0])
    _arm(rows, body, view, chest, 1, view.arms[1])
    _trunk(rows, body, view, hips, chest, lean)
    _head(rows, body, chest + lean * 0.125 + _at(z=0.012 + view.nod))
    _bag(rows, body, hips, chest, lean)
    table = np.array(rows, dtype=f32)
    shoes = table[table[:, 10] == SHOES]
    table[:, [1, 4]] -= (shoes[:, [1, 4]] - shoes[:, 6:8]).min()
    return table


def _leg(rows, body, view, hips, side):
    fat, length = body.build**0.6, body.hip_y - 0.03
    phase = view.phase + (0 if side > 0 else np.pi)
    swing = body.stride * view.pace * np.sin(phase)
    bend = 0.08 + 1.7 * body.stride * view.pace * max(0.0, np.cos(phase)) ** 2  # the leg that comes forward
    hip = hips + _at(side * body.hip)
    knee = hip + _ahead(swing + 0.3 * bend) * length * 0.5
    ankle = knee + _ahead(swing - 0.7 * bend) * length * 0.48
    garment = (LEGS, body.leg_cover, body.leg_thick, body.leg_flare)
    if body.skirt:  # what a skirt covers is not drawn
        garment = (None, (length + 0.01 - body.skirt_y) / length, 0, 0)
    rows.limb((hip, knee, ankle), (0.051 * fat, 0.036 * fat**0.7, 0.023), garment, LEG)
    tilt, heel = 0.6 * (swing - 0.7 * bend) + np.pi / 2, ankle + _at(0, -0.012, -0.012)
    toe = ankle + _ahead(tilt - 0.45 * (body.shoes == "heels")) * 0.085 + _at(side * 0.012, -0.018)
    rows.add(SHOES, heel, toe, 0.026, 0.019)
    rows.add(SHOES, heel, heel - _at(0, 0.045), 0.012, 0.008, when=body.shoes == "heels")
    shaft = 0.036 if body.leg_thick < 0.006 else 0.031
    rows.add(SHOES, ankle + 0.45 * (knee - ankle), ankle, shaft, 0.029, when=body.shoes == "boots")


def _arm(rows, body, view, chest, side, pose):
    fat, phase = body.build**0.5, view.phase + (np.pi if side > 0 else 0)  # against the leg of the same side
    swing, bend = body.swing * view.pace * np.sin(phase), body.elbow + 0.2 * max(0.0, np.sin(phase))
    out, turn = body.abduct + 0.06 * (body.build - 1), 0.2
    if pose == "pocket":
        swing, bend, out, turn = -0.25, 0.75, out + 0.12, -0.6
    if pose == "raised":
        swing, bend = 0.5, 1.9
    if body.bag == "hand" and side == body.hand:
        swing, bend = 0.1 * np.sin(phase), 0.08
    shoulder = chest + _at(side * body.shoulder, -0.008)
    elbow = shoulder + (_ahead(swing) + _at(side * out)) * 0.172
    wrist = elbow + (_ahead(swing + bend) + _at(side * out * turn)) * 0.145
    garment = (SLEEVE, body.sleeve, 0.7 * body.puff, 0.002)
    rows.limb((shoulder, elbow, wrist), (0.033 * fat, 0.026 * fat, 0.018), garment, ARM)
    rows.add(HAND, wrist, wrist + _ahead(swing + bend) * 0.045, 0.019, 0.014, when=pose != "pocket")


def _trunk(rows, body, view, hips, chest, lean):
    puff, fat = body.puff, body.build**0.4
    reach = body.stride * view.pace * abs(np.sin(view.phase))  # how far the thighs are apart
    waist, belly = hips + lean * 0.09, body.waist + puff
    for side in (-1, 1):  # the slope from neck to shoulder
        end = chest + _at(side * body.shoulder * 0.9, -0.004)
        rows.add(body.outer, chest + _at(side * 0.012, 0.03), end, 0.028, 0.03 + puff)
    rows.add(body.outer, chest - lean * 0.07, waist, body.shoulder * 0.92 + puff, belly, flat=0.66 * fat)
    seat, drop = body.hip + 0.043 * fat + 0.4 * body.leg_thick + puff, max(body.hip_y - body.coat_y, 0)
    hem = seat + 4 * body.coat_flare * (0.52 - body.coat_y)
    deep = 0.068 * fat + body.leg_thick + 0.8 * reach * drop  # hangs in front of the legs and follows the step
    if body.skirt:
        wide, start = max(body.skirt_r, seat), body.hip_y + 0.05
        flat = max(0.85, (reach * (body.hip_y - body.skirt_y) + 0.04) / wide)
        rows.add(LEGS, _at(y=start), _at(y=body.skirt_y), belly - puff, wide, flat=flat, cut=1.0)
        share = min((start - body.coat_y) / (start - body.skirt_y), 1.0)  # and in front of the skirt
        deep = max(deep, flat * (belly + share * (wide - belly)) + 0.01)
    else:
        rows.add(LEGS, hips - _at(body.hip, -0.005), hips + _at(body.hip, 0.005), 0.046 * fat)
    rows.add(body.outer, waist, _at(y=body.coat_y), belly, hem, flat=max(0.74, deep / hem), cut=1.0)
    rows.add(ARM if body.sleeve < 1 else FACE, chest, chest + lean * 0.075, 0.030 * fat)


def _head(rows, body, mid):
    s, hair, hat = body.head, body.hair, body.hat
    up, back = _at(y=0.016 * s), _at(z=-0.018 * s)
    crown, brow, fall = mid + up * 2.4, mid + up * 1.5, _at(y=0.06 if hair == "bob" else 0.125)
    rows.add(FACE, mid - up, mid + up, 0.046 * s, 0.051 * s)
    rows.add(HAIR, mid + up + back * 0.7, mid + back, 0.055 * s, 0.053 * s, when=hair != "shaved")
    rows.add(HAIR, mid + back, mid + back * 1.5 - fall, 0.056 * s, 0.05 * s, when=hair in ("bob", "long"))
    rows.add(HAIR, crown + back * 2.2, crown + back * 2.5, 0.024, when=hair == "bun")
    rows.add(HAIR, mid + up + back * 2.6, mid + back * 3.4 - _at(y=0.10), 0.022, 0.014, when=hair == "ponytail")
    rows.add(HAT, mid + up * 1.7, mid + up * 2.2 + back * 0.2, 0.058 * s, 0.054 * s, when=hat not in ("none", "hood"))
    rows.add(HAT, mid + up * 1.6, brow + _at(z=0.085), 0.03, 0.022, when=hat == "cap")
    rows.add(HAT, brow - _at(0.065), brow + _at(0.065), 0.014, flat=4.0, when=hat == "brim")
    rows.add(HAT, mid + up * 0.9 + back * 0.9, mid + back * 1.5 - up * 3.5, 0.066 * s, 0.06, when=hat == "hood")


def _bag(rows, body, hips, chest, lean):
    size, side, puff = body.bag_size, body.hand, body.puff
    if body.bag == "backpack":
        rear = chest - _at(z=0.075 + puff + 0.01 * size)
        rows.add(BAG, rear - lean * 0.02, rear - lean * 0.17 * size, 0.062 * size, 0.072 * size, flat=0.7)
        for x in (-0.06, 0.06):
            rows.add(BAG, chest + _at(x, 0.03, 0.022 + puff), chest + _at(x, 0, 0.052 + puff) - lean * 0.12, 0.011)
    if body.bag == "shoulder":
        at = hips + _at(side * (0.105 + puff), 0.01, -0.01)
        rows.add(BAG, at, at - _at(y=0.07 * size), 0.045 * size, 0.05 * size, flat=1.4)
        for z in (0.058 + puff, -0.062 - puff):
            rows.add(BAG, chest + _at(-side * 0.06, 0.02, z * 0.8), at + _at(0, 0.02, z * 0.6), 0.009)
    at = _at(side * (body.shoulder + 0.06), 0.40, 0.02)
    rows.add(BAG, at, at - _at(y=0.09 * size), 0.042 * size, 0.05 * size, flat=1.6, when=body.bag == "hand")


# ---------------------------------------------------------------------------------------------- camera


def project(rows: np.ndarray, yaw: float, pitch: float, scale: tuple, foot: tuple) -> np.ndarray:
    """Capsules (N, 11) from the person's frame to pixels: x right, y down, z to the viewer. Angles in radians.

    scale: pixels per person's height in x and y. foot: pixel (x, y) of the frame's origin.
    """
    x, y, z = rows[:, :6].reshape(-1, 2, 3).transpose(2, 0, 1)  # (N, 2) each: both ends
    out, flat, cos, sin = rows.copy(), rows[:, 8], np.cos(yaw), np.sin(yaw)
    side, near = x * cos + z * sin, z * cos - x * sin
    out[:, 0:6:3] = foot[0] + scale[0] * side
    out[:, 1:6:3] = foot[1] - scale[1] * (y * np.cos(pitch) - near * np.sin(pitch))
    out[:, 2:6:3] = scale[1] * (near * np.cos(pitch) + y * np.sin(pitch))
    across, deep = np.sqrt(cos**2 + (flat * sin) ** 2), np.sqrt(sin**2 + (flat * cos) ** 2)  # an ellipse turned by yaw
    out[:, 6:8] *= (across * np.sqrt(scale[0] * scale[1]))[:, None]
    out[:, 8] = deep / across  # from here on: depth of the cross-section over its width
    return out


def rasterise(rows: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Front-most capsule of every pixel centre, by a running z-buffer over the capsules' boxes; rows from project().

    A pixel is inside where its distance to the projected axis, at the nearest point t of it, is below ra + t (rb - ra);
    its depth is that of the axis plus `flat` times the height of the round surface. `cut` removes what lies beyond b.
    Returns part (H, W) int8 with -1 outside; depth, and the surface normal's x (right) and y (down), (H, W) float32.
    """
    part = np.full((height, width), -1, np.int8)
    depth = np.full((height, width), -np.inf, f32)
    normal_x, normal_y = np.zeros((2, height, width), f32)
    for ax, ay, az, bx, by, bz, ra, rb, flat, cut, label in rows.astype(f32):
        x0, x1 = max(int(min(ax - ra, bx - rb)), 0), min(int(max(ax + ra, bx + rb)) + 1, width)
        y0, y1 = max(int(min(ay - ra, by - rb)), 0), min(int(max(ay + ra, by + rb)) + 1, height)
        if x0 >= x1 or y0 >= y1:
            continue
        dx = np.arange(x0, x1, dtype=f32) + (0.5 - ax)
        dy = (np.arange(y0, y1, dtype=f32) + (0.5 - ay))[:, None]
        ex, ey = bx - ax, by - ay
        length = max(ex * ex + ey * ey, f32(1e-6))
        raw = dx * (ex / length) + dy * (ey / length)  # (h, w) place along the axis
        t = np.minimum(np.maximum(raw, 0), 1)
        r = ra + t * (rb - ra)
        px, py = dx - t * ex, dy - t * ey
        rise = r * r - px * px - py * py
        box = np.s_[y0:y1, x0:x1]
        z = az + t * (bz - az) + flat * np.sqrt(np.maximum(rise, 0))
        win = (rise > 0) & (z > depth[box])
        if cut:
            win &= raw <= 1
        for buffer, value in ((depth, z), (part, np.int8(label)), (normal_x, px / r), (normal_y, py / r)):
            np.copyto(buffer[box], value, where=win)
    return part, depth, normal_x, normal_y


def _people(spec: Spec, pid: int, body, view):
    """From back to front the person and, where one walks through the crop, a stranger; at twice the image's resolution.

    Yields part (2H, 2W), the normal nx, ny, nz, and `up` (2H, 1), each row's height over the feet, which are at `foot`.
    """
    cast = [(pid, body, view, 0.0)]
    if view.occluder == "person":
        seen = SimpleNamespace(**{**vars(view), "phase": view.phase + 2, "yaw": view.yaw + 0.4})
        shift = (0.42 + view.wide) * (1 if view.at_x > 0.5 else -1)
        cast.insert(int(view.at_y > 0.75), (view.stranger, shape(spec, view.stranger), seen, shift))
    h, w = 2 * spec.height, 2 * spec.width
    for pid, body, view, shift in cast:
        scale = h * view.scale / (np.cos(view.pitch) + 0.04)
        foot = (w * (0.5 + view.dx + shift), h * (0.5 + view.scale * 0.5 + view.dy))
        rows = project(capsules(body, view), view.yaw, view.pitch, (scale * view.aspect, scale), foot)
        part, _, nx, ny = rasterise(rows, h, w)
        nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
        up = ((foot[1] - np.arange(h) - 0.5) / scale).astype(f32)[:, None]
        yield SimpleNamespace(pid=pid, body=body, view=view, part=part, nx=nx, ny=ny, nz=nz, up=up, foot=foot)


def _noise(g, height: int, width: int, cell: float) -> np.ndarray:
    """(H, W) float32 smooth noise with grains of about `cell` pixels, standard deviation near 0.7."""
    small = g.standard_normal((int(height / cell) + 2, int(width / cell) + 2), dtype=f32)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _blur(image: np.ndarray, share: float) -> np.ndarray:
    """(H, W, C) with only `share` of its resolution left."""
    h, w, c = image.shape
    size = (max(round(w * share), 4), max(round(h * share), 4))
    planes = [Image.fromarray(np.ascontiguousarray(image[..., i], f32)) for i in range(c)]
    planes = [p.resize(size, Image.Resampling.BOX).resize((w, h), Image.Resampling.BICUBIC) for p in planes]
    return np.stack([np.asarray(p) for p in planes], axis=-1)


def _background(g, spec: Spec, view, walls, grounds, contrast: float) -> np.ndarray:
    """(H, W, C) wall and ground of the camera's scene, values (n, C) of each, with structures, markings and grain."""
    h, w = spec.height, spec.width
    *_, horizon, marked, grain = _SCENES[view.cam.scene]
    walls, grounds = f32(walls), f32(grounds)
    far = int(h * (horizon + g.normal(0, 0.05)))
    out = np.empty((h, w, walls.shape[1]), f32)
    out[:far], out[far:] = g.choice(walls), g.choice(grounds)
    for i in range(int(g.integers(4, 14))):  # doors, windows, cars, kerbs; every third one is a post
        tall, wide = (g.uniform(0.3, 0.6), g.uniform(0.03, 0.1)) if i % 3 == 0 else g.uniform(0.03, (0.3, 0.6))
        base, left = far + int(h * g.uniform(-0.4, 0.12)), int(w * g.uniform(-0.2, 1.0))
        box = np.s_[max(base - int(h * tall), 0) : max(base, 0), max(left, 0) : max(left + int(w * wide) + 1, 0)]
        value = g.choice(walls if g.random() < 0.8 else grounds) * (1 + contrast * g.uniform(-0.6, 0.5))
        out[box] = 0.3 * out[box] + 0.7 * value
    y, x = np.arange(h, dtype=f32)[:, None] / h, np.arange(w, dtype=f32) / w
    if g.random() < marked:  # stripes or tiles, wider where they are nearer
        bars = np.sin((g.uniform(8, 30) * (1.2 - y) + g.uniform(-6, 6) * x) / (0.25 + y)) > g.uniform(0.2, 0.9)
        out[far:] *= 1 + contrast * g.uniform(0.1, 0.6) * bars[far:, :, None]
    slope = g.uniform(-0.25, 0.25) * (x - 0.5) + g.uniform(-0.3, 0.3) * (y - 0.5)
    rough = 0.05 * _noise(g, h, w, h / 8) + grain * (_noise(g, h, w, h / 50) + 0.7 * _noise(g, h, w, h / 110))
    return out * (1 + contrast * slope)[..., None] * (1 + contrast * rough)[..., None]


def _foreground(image: np.ndarray, g, view, people, paint, cell: float, contrast: float) -> np.ndarray:
    """Lay people of colours paint(person, folds), and what stands in the way, over an image (H, W, C)."""
    h, w, _ = image.shape

    def halve(x):  # averaging four samples softens the edge
        return (x[0::2, 0::2] + x[1::2, 0::2] + x[0::2, 1::2] + x[1::2, 1::2]) * f32(0.25)

    folds = _noise(g, 2 * h, 2 * w, h / cell)
    for d in people:
        seen = (d.part >= 0)[..., None].astype(f32)
        image = image * (1 - halve(seen)) + halve(paint(d, folds) * seen)
    if view.occluder not in _OBSTACLES:
        return image
    colour, warmer, wide, top, curve, rough = _OBSTACLES[view.occluder]
    x, y = np.arange(w, dtype=f32) / w - view.at_x, np.arange(h, dtype=f32)[:, None] / h
    grain = _noise(g, h, w, h / 24)
    mask = (np.abs(x) < wide * view.wide) & (y > view.at_y + top + curve * 0.05 * grain + curve * 0.5 * x**2)
    value = f32(colour if view.cam.modality == VISIBLE else [view.ambient + warmer])
    return np.where(mask[..., None], value * (1 + contrast * rough * grain)[..., None], image).astype(f32)


def _visible_person(spec: Spec, d, folds: np.ndarray) -> np.ndarray:
    """(2H, 2W, 3) colour 0 to 255 of one person under one light and an even sky."""
    view, paint = d.view, colours(spec, d.pid, d.body)
    value = np.take(paint.base, np.maximum(d.part, 0), axis=0)
    sin, cos = f32(np.sin(view.yaw)), f32(np.cos(view.yaw))
    front, side = d.nx * sin + d.nz * cos, d.nx * cos - d.nz * sin  # the normal in the person's frame
    wave = np.sin(d.up * f32(1.8 * paint.pitch))
    marks = {"plain": False, "stripes": wave > 0.2, "block": d.up < 0.66, "check": wave * np.sin(14 * side) > 0}
    marks["print"] = (d.part == TOP) & (front > 0.75) & (np.abs(side) < 0.4) & (np.abs(d.up - 0.72) < 0.035)
    top = (d.part == TOP) | ((d.part == SLEEVE) & (d.body.outer == TOP))
    value[top & marks[paint.pattern]] = paint.second
    if paint.open:  # an open coat shows the top
        value[(d.part == COAT) & (front > 0.5) & (np.abs(side) < 0.16) & (d.up < 0.83)] = paint.base[TOP]
    lx, ly, lz = view.cam.light
    angle, level = np.arctan2(lx, lz) + view.azimuth, np.hypot(lx, lz)
    facing = d.nx * f32(level * np.sin(angle)) + d.nz * f32(level * np.cos(angle)) - d.ny * ly
    sky = view.even * (0.81 - 0.14 * d.ny)
    shade = (sky + (1.1 - 0.76 * view.even) * np.maximum(facing, 0)) * (1 + 0.13 * folds)
    return value * shade[..., None]


def _visible(spec: Spec, g, people, view) -> np.ndarray:
    h, w, k = spec.height, spec.width, spec.nuisance
    walls, grounds, *_ = _SCENES[view.cam.scene]
    image = _blur(_background(g, spec, view, walls, grounds, 1.0), min(g.uniform(16, 44) / h, 0.9))
    y, x = np.arange(h, dtype=f32)[:, None], np.arange(w, dtype=f32)
    for d in people:  # shadow under the feet
        near = ((x - d.foot[0] / 2) / (0.3 * w)) ** 2 + ((y - d.foot[1] / 2) / (0.035 * h)) ** 2
        image *= (1 - 0.45 * np.exp(-near))[..., None]
    image = _foreground(image, g, view, people, partial(_visible_person, spec), 14, 0.3)
    image = _blur(image, view.sharp) * f32(view.gain * view.light)
    image += f32(1 + 3.5 * k) * g.standard_normal(image.shape, dtype=f32)
    haze = f32(8 * k * g.random())
    return np.clip(haze + image * (1 - haze / 255), 0, 255).astype(np.uint8)


def _thermal_person(spec: Spec, d, folds: np.ndarray) -> np.ndarray:
    """(2H, 2W, 1) apparent temperature in degrees: skin over ambient, weaker at grazing angles and towards the feet."""
    ambient, warm = d.view.ambient, heats(spec, d.pid, d.body)
    step = max(32.5 - 0.95 * ambient, 4.0)  # from ambient to skin; skin follows the weather a little
    share = np.take(warm, np.maximum(d.part, 0)) * (0.80 + 0.20 * d.nz)
    legs = d.part == LEGS
    cloth = legs | (d.part == TOP) | (d.part == COAT) | (d.part == SLEEVE)
    share *= 1 + cloth * (0.09 * folds) - legs * (0.25 * (0.45 - d.up))
    return (ambient + step * share)[..., None]


def _thermal(spec: Spec, g, people, view) -> np.ndarray:
    h, w, k, ambient = spec.height, spec.width, spec.nuisance, view.ambient
    sun = 0.0 if view.cam.indoor else max(0.0, g.normal(1.5, 3))
    walls, grounds = (-1.5, 0.5, 1.5 + sun, -1 if view.cam.indoor else -4), (-0.5, 0.5 * sun, 1 + sun)
    walls, grounds = (1 + f32(v)[:, None] / 12 for v in (walls, grounds))  # 12 degrees stand for full contrast
    image = ambient + 12 * (_background(g, spec, view, walls, grounds, 0.25) - 1)
    image = _blur(image, g.uniform(0.2, 0.6))
    image = _foreground(image, g, view, people, partial(_thermal_person, spec), 12, 0.03)
    image = _blur(image, 0.85 * view.sharp * (1 - 0.3 * k))
    noise = _noise(g, h, w, 1.5) + 0.3 * g.standard_normal((1, w), dtype=f32)  # of pixels and of columns
    image += f32(0.05 + 0.2 * k) * noise[..., None]
    low, high = np.percentile(image, (g.uniform(0.5, 4), g.uniform(97, 99.8)))  # automatic gain
    floor, top, gamma = g.uniform(5, 70), g.uniform(140, 250), g.uniform(0.8, 1.3)
    image = np.clip((image - low) / max(high - low, 6.0), 0, 1.15) ** gamma
    return np.repeat(np.clip(floor + (top - floor) * image, 0, 255).astype(np.uint8), 3, axis=2)


def render_batch(spec: Spec, keys: Iterable[Key]) -> np.ndarray:
    """Images (B, height, width, 3) uint8 of the keys; thermal: 3 equal channels. ValueError for an unknown camera."""
    keys = list(keys)
    out = np.empty((len(keys), spec.height, spec.width, 3), np.uint8)
    for image, (pid, cam, number) in zip(out, keys, strict=True):
        if cam not in CAMERAS[spec.layout]:
            raise ValueError(f"camera must be one of {list(CAMERAS[spec.layout])} in layout {spec.layout!r}, not {cam}")
        body = shape(spec, pid)
        view = scene(spec, body, (pid, cam, number))
        draw = _visible if view.cam.modality == VISIBLE else _thermal
        image[:] = draw(spec, _rng(spec.seed, _SENSOR, pid, cam, number), list(_people(spec, pid, body, view)), view)
    return out


def sheet(spec: Spec, pids: Iterable[int], cams: Iterable[int], number: int = 1) -> np.ndarray:
    """Contact sheet, one row a camera and one column a person: (rows * height, columns * width, 3) uint8."""
    pids = list(pids)
    return np.concatenate([np.hstack(list(render_batch(spec, [(p, c, number) for p in pids]))) for c in cams])


# ---------------------------------------------------------------------------------------------- on disk


class Structure(NamedTuple):
    """Which images a data set has, and the identities of each part."""

    counts: dict[int, dict[int, int]]  # {cam: {pid: images}}
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def structure(spec: Spec) -> Structure:
    """`spec.images` images of identities 1 to n in every camera; identities are dealt to the parts at random."""
    n, (train, val, _) = sum(spec.identities), spec.identities
    parts = np.split(1 + _rng(spec.seed, _SPLIT).permutation(n), (train, train + val))
    counts = {cam: dict.fromkeys(range(1, n + 1), spec.images) for cam in CAMERAS[spec.layout]}
    return Structure(counts, *(tuple(sorted(p.tolist())) for p in parts))


def read_structure(mat_path: str | Path, train: Iterable[int], val: Iterable[int], test: Iterable[int]) -> Structure:
    """Image counts of the official rand_perm_cam.mat (cells of (10, n) permutations) for the given identities."""
    parts = [tuple(sorted(map(int, ids))) for ids in (train, val, test)]
    counts = {}
    for cam, column in enumerate(loadmat(mat_path)["rand_perm_cam"][:, 0], start=1):
        sizes = {pid: column[pid - 1, 0].shape[1] for pid in sorted(sum(parts, ())) if pid <= len(column)}
        counts[cam] = {pid: n for pid, n in sizes.items() if n}
    return Structure(counts, *parts)


def image_path(spec: Spec, key: Key) -> str:
    """Where the image of (pid, cam, number) lies, relative to the data folder."""
    pid, cam, number = key
    if spec.layout == "sysu":
        return f"cam{cam}/{pid:04d}/{number:04d}.jpg"
    view, frame = "front" if shape(spec, pid).front else "back", number + (cam - 1) * spec.images
    return f"{('Visible', 'Thermal')[cam - 1]}/{pid}/{view}_{'vt'[cam - 1]}_{frame:05d}_{pid}.bmp"


def factors(spec: Spec, keys: Iterable[Key]) -> list[dict]:
    """What generated each image, one row each. Degrees, metres, degrees Celsius; side: where a bag hangs."""
    rows = []
    for key in keys:
        body = shape(spec, key[0])
        view = scene(spec, body, key)
        drawn = vars(body) | vars(view)
        row = {"path": image_path(spec, key), "pid": key[0], "cam": key[1], "number": key[2]}
        row |= {"modality": view.cam.modality} | {name: drawn[name] for name in _NAMED}
        row |= {name: round(float(drawn[name]), 3) for name in _MEASURED}
        rows.append(row | {"yaw": round(float(np.degrees(view.yaw)) % 360, 1)})
    return rows


def _put(root: Path, name: str, data: bytes) -> None:
    """Write under a name of this process, then move: a file that has its final name is whole."""
    target, temporary = root / name, root / ".partial" / str(os.getpid())
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    os.replace(temporary, target)


def _write_image(spec: Spec, root: Path, key: Key) -> None:
    stream = io.BytesIO()
    image = Image.fromarray(render_batch(spec, [key])[0])
    image.save(stream, "JPEG" if spec.layout == "sysu" else "BMP", quality=92)
    _put(root, image_path(spec, key), stream.getvalue())


def _sysu_lists(spec: Spec, plan: Structure):
    everyone = sorted(plan.train + plan.val + plan.test)
    for name, ids in zip(("train", "val", "test", "available"), (*plan[1:], everyone), strict=True):
        yield f"exp/{name}_id.txt", ",".join(map(str, ids)).encode()
    cells = np.empty((len(CAMERAS["sysu"]), 1), object)
    for cam in CAMERAS["sysu"]:
        cells[cam - 1, 0] = column = np.empty((everyone[-1], 1), object)
        for pid in range(1, len(column) + 1):
            g, n = _rng(spec.seed, _SPLIT, cam, pid), plan.counts.get(cam, {}).get(pid, 0)
            column[pid - 1, 0] = np.stack([1 + g.permutation(n) for _ in range(10)]).astype(np.uint16)
    stream = io.BytesIO()
    savemat(stream, {"rand_perm_cam": cells}, do_compression=True)
    title = b"MATLAB 5.0 MAT-file, permutations of SynVT".ljust(116)  # in place of the date: same spec, same bytes
    yield "exp/rand_perm_cam.mat", title + stream.getvalue()[116:]


def _regdb_lists(spec: Spec, plan: Structure):
    for trial in range(1, 11):
        g = _rng(spec.seed, _SPLIT, trial)
        halves = np.split(g.permutation(sorted(plan.counts[1])), [len(plan.train)])
        for part, ids in zip(("train", "test"), halves, strict=True):
            labels = dict(zip(sorted(ids.tolist()), g.permutation(len(ids)).tolist(), strict=True))
            for cam, modality in ((1, "visible"), (2, "thermal")):
                keys = [(pid, cam, n + 1) for pid in labels for n in range(spec.images)]
                lines = [f"{image_path(spec, key)} {labels[key[0]]}\n" for key in keys]
                yield f"idx/{part}_{modality}_{trial}.txt", "".join(lines).encode()


def _finished(root: Path, record: str) -> bool:
    """Whether `root` holds this data set, complete; ValueError where it holds, or is getting, something else."""
    for name in ("synvt.json", ".partial/synvt.json"):
        if (root / name).exists():
            if json.loads((root / name).read_text()) != json.loads(record):
                raise ValueError(f"{root} holds a data set of another spec: choose another name, or remove that folder")
            return name == "synvt.json"
    if root.exists() and any(p.name != ".partial" for p in root.iterdir()):
        raise ValueError(f"{root} holds files but no synvt.json: choose another name, or remove that folder")
    return False


def _fill(spec: Spec, root: Path, keys: list[Key], workers: int | None, progress: bool) -> None:
    """Write the images that are not there yet."""
    missing = [k for k in keys if not (root / image_path(spec, k)).exists()]
    workers = min(workers or os.cpu_count() or 1, 1 + len(missing) // 32)
    begun, write = len(keys) - len(missing), partial(_write_image, spec, root)
    with ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else nullcontext() as pool:
        done = pool.map(write, missing, chunksize=32) if pool else map(write, missing)
        list(tqdm(done, total=len(keys), initial=begun, desc=root.name, unit="img", disable=not progress))


def make(
    spec: Spec, root: str | Path, *, plan: Structure | None = None, workers: int | None = None, progress: bool = True
) -> Path:
    """Write the data set of `spec` under `root`: images, lists, factors.csv, last synvt.json, which says "complete".

    Returns the folder; at once where it is complete, and where a make was stopped it goes on to the same bytes.
    plan:    the images of a SYSU layout, by default structure(spec); read_structure() gives the sizes of the real set
    workers: processes, by default one a core; with more than one, a script needs `if __name__ == "__main__"`
    Raises ValueError if the folder belongs to another spec or holds other files.
    """
    if plan is not None and spec.layout != "sysu":
        raise ValueError("plan: only the SYSU layout takes another structure; leave it out")
    root, plan, own = Path(root), plan or structure(spec), {"plan": plan._asdict()} if plan else {}
    keys = [(pid, cam, n + 1) for cam, counts in plan.counts.items() for pid in counts for n in range(counts[pid])]
    about = {"generator": "SynVT", "version": VERSION, "spec": asdict(spec), "images": len(keys)}
    record = json.dumps(about | own, indent=1)
    if _finished(root, record):
        return root
    (root / ".partial").mkdir(parents=True, exist_ok=True)
    with (root / ".partial" / "lock").open("w") as lock:
        if fcntl:  # a second make of the same folder waits here, and then finds it done
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not _finished(root, record):
            _put(root, ".partial/synvt.json", record.encode())
            _fill(spec, root, keys, workers, progress)
            for name, data in (_sysu_lists if spec.layout == "sysu" else _regdb_lists)(spec, plan):
                _put(root, name, data)
            rows = sorted(factors(spec, keys), key=lambda row: row["path"])
            lines = [",".join(map(str, line)) + "\n" for line in (rows[0], *(row.values() for row in rows))]
            _put(root, "factors.csv", "".join(lines).encode())
            _put(root, "synvt.json", record.encode())
            shutil.rmtree(root / ".partial")
    return root


_SYSU = Spec("sysu", identities=(200, 30, 100), images=6)
_REGDB = Spec("regdb", identities=(103, 0, 103), images=10)
PRESETS = {  # names are those of the data folders
    "synvt_sysu_quick": replace(_SYSU, identities=(12, 4, 6), images=4, height=48, width=24),
    "synvt_regdb_quick": replace(_REGDB, identities=(12, 0, 12), images=4, height=48, width=24),
    "synvt_sysu": replace(_SYSU, identities=(500, 30, 100), images=4, nuisance=0.5),
    "synvt_regdb": replace(_REGDB, identities=(206, 0, 206), nuisance=0.5),
    "synvt_sysu_full": replace(_SYSU, identities=(296, 99, 96), images=15, height=288, width=144),
    "synvt_regdb_full": replace(_REGDB, identities=(206, 0, 206), height=288, width=144),
}
