"""One image of SynVT from its factors: people and the scene around them as pixels.

A person is about 24 tapered capsules (limbs, garments, hair, hat, bag) under an orthographic camera. A capsule is a
segment from a to b with a radius at each end, here a row (ax ay az bx by bz ra rb flat cut part): `flat` is the depth
of its elliptic cross-section over the width, `cut` 1 ends it flat at b, `part` is one of PARTS.
`body` and `view` come from people.shape() and people.scene(), `g` is a stream of random numbers, h and w (H, W) are
height and width in pixels. Nothing here knows data sets, or how the factors are drawn.
NumPy, not torch: the capsules cover boxes of very different sizes, and many small calls are fastest in NumPy.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from PIL import Image

VISIBLE, THERMAL = 0, 1
PARTS = FACE, HAIR, HAT, TOP, COAT, SLEEVE, LEGS, SHOES, BAG, ARM, HAND, LEG = range(12)
SCENES = {  # wall colours, ground colours, height of the horizon from the top, chance of ground markings, grain
    "room": ([(150, 142, 128), (176, 168, 150), (120, 100, 80)], [(112, 104, 96), (140, 130, 116)], 0.45, 0.25, 0.06),
    "hall": ([(140, 146, 148), (172, 176, 174), (96, 104, 112)], [(104, 108, 110), (128, 128, 124)], 0.4, 0.25, 0.06),
    "street": ([(96, 92, 88), (132, 120, 108), (64, 70, 66)], [(98, 98, 98), (124, 120, 114)], 0.36, 0.6, 0.06),
    "garden": ([(54, 70, 44), (78, 92, 58), (110, 112, 100)], [(92, 104, 66), (122, 116, 100)], 0.4, 0.25, 0.12),
}
OBSTACLES = {  # colour, degrees above ambient, half width, top, curvature of the top, roughness of the surface
    "pole": ((96, 98, 100), -2, 0.5, -1, 0, 0.15),
    "bush": ((50, 68, 38), -1, 99, 0, 1, 1),
    "bin": ((62, 74, 70), 1, 1.8, -0.12, 0, 0.15),
}
f32 = np.float32


class Person(NamedTuple):
    """A person in an image, by the factors that decide its look."""

    body: SimpleNamespace  # people.shape()
    view: SimpleNamespace  # people.scene()
    surface: SimpleNamespace | np.ndarray  # people.colours() for a visible camera, people.heats() for a thermal one
    shift: float = 0.0  # to the right of the place in `view`, in widths of the image


def _at(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """A point or a vector in the person's frame: x the person's left, y up, z ahead."""
    return np.array((x, y, z))


def _ahead(angle: float) -> np.ndarray:
    """Unit vector that points down at angle 0 and ahead at pi / 2."""
    return _at(0, -np.cos(angle), np.sin(angle))


class _Body(list):
    """A list of capsules."""

    def add(self, part, a, b, ra, rb=None, flat=1.0, cut=0.0, when=True):
        """Append one capsule, if `when`; rb is ra by default."""
        if when:
            self.append((*a, *b, ra, ra if rb is None else rb, flat, cut, part))

    def limb(self, points, radii, garment, skin):
        """Two segments through three points, from the trunk outwards: a garment, and beyond its end the part `skin`.

        garment: (part, or None for nothing; share of the path that it covers, 0 to 1; thickness; flare).
        """
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
    """The capsules of a person, (N, 11) float32, in the person's frame: feet on y = 0, height about 1.

    Args: body: of people.shape(); view: of people.scene(), its pose counts.
    """
    rows, hips, lean = _Body(), _at(y=body.hip_y), _ahead(np.pi - body.stoop)  # lean: direction up the trunk
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
    bend = 0.08 + 1.7 * body.stride * view.pace * max(0.0, np.cos(phase)) ** 2  # of the leg that swings forward
    hip = hips + _at(side * body.hip)
    knee = hip + _ahead(swing + 0.3 * bend) * length * 0.5
    ankle = knee + _ahead(swing - 0.7 * bend) * length * 0.48
    garment = (LEGS, body.leg_cover, body.leg_thick, body.leg_flare)
    if body.skirt:  # the part of the leg under the skirt is not drawn
        garment = (None, (length + 0.01 - body.skirt_y) / length, 0, 0)
    rows.limb((hip, knee, ankle), (0.051 * fat, 0.036 * fat**0.7, 0.023), garment, LEG)
    tilt, heel = 0.6 * (swing - 0.7 * bend) + np.pi / 2, ankle + _at(0, -0.012, -0.012)
    toe = ankle + _ahead(tilt - 0.45 * (body.shoes == "heels")) * 0.085 + _at(side * 0.012, -0.018)
    rows.add(SHOES, heel, toe, 0.026, 0.019)
    rows.add(SHOES, heel, heel - _at(0, 0.045), 0.012, 0.008, when=body.shoes == "heels")
    shaft = 0.036 if body.leg_thick < 0.006 else 0.031
    rows.add(SHOES, ankle + 0.45 * (knee - ankle), ankle, shaft, 0.029, when=body.shoes == "boots")


def _arm(rows, body, view, chest, side, pose):
    fat, phase = body.build**0.5, view.phase + (np.pi if side > 0 else 0)  # opposite to the leg of this side
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
    reach = body.stride * view.pace * abs(np.sin(view.phase))  # how far apart the thighs are
    waist, belly = hips + lean * 0.09, body.waist + puff
    for side in (-1, 1):  # the slope from neck to shoulder
        end = chest + _at(side * body.shoulder * 0.9, -0.004)
        rows.add(body.outer, chest + _at(side * 0.012, 0.03), end, 0.028, 0.03 + puff)
    rows.add(body.outer, chest - lean * 0.07, waist, body.shoulder * 0.92 + puff, belly, flat=0.66 * fat)
    seat, drop = body.hip + 0.043 * fat + 0.4 * body.leg_thick + puff, max(body.hip_y - body.coat_y, 0)
    hem = seat + 4 * body.coat_flare * (0.52 - body.coat_y)
    deep = 0.068 * fat + body.leg_thick + 0.8 * reach * drop  # a coat hangs over the legs and widens with the step
    if body.skirt:
        wide, start = max(body.skirt_r, seat), body.hip_y + 0.05
        flat = max(0.85, (reach * (body.hip_y - body.skirt_y) + 0.04) / wide)
        rows.add(LEGS, _at(y=start), _at(y=body.skirt_y), belly - puff, wide, flat=flat, cut=1.0)
        share = min((start - body.coat_y) / (start - body.skirt_y), 1.0)  # a coat also covers the skirt
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


def project(rows: np.ndarray, yaw: float, pitch: float, scale: tuple, foot: tuple) -> np.ndarray:
    """Project capsules from the person's frame to pixels: x right, y down, z to the viewer.

    Args: rows: (N, 11) of capsules(); yaw, pitch: radians; scale: pixels per person's height in x and in y; foot: pixel
        (x, y) of the frame's origin.
    Returns: (N, 11), with `flat` now the depth of the cross-section as seen by the viewer over its visible width.
    """
    x, y, z = rows[:, :6].reshape(-1, 2, 3).transpose(2, 0, 1)  # (N, 2) each, a column for each end
    out, flat, cos, sin = rows.copy(), rows[:, 8], np.cos(yaw), np.sin(yaw)
    side, near = x * cos + z * sin, z * cos - x * sin
    out[:, 0:6:3] = foot[0] + scale[0] * side
    out[:, 1:6:3] = foot[1] - scale[1] * (y * np.cos(pitch) - near * np.sin(pitch))
    out[:, 2:6:3] = scale[1] * (near * np.cos(pitch) + y * np.sin(pitch))
    across, deep = np.sqrt(cos**2 + (flat * sin) ** 2), np.sqrt(sin**2 + (flat * cos) ** 2)  # an ellipse turned by yaw
    out[:, 6:8] *= (across * np.sqrt(scale[0] * scale[1]))[:, None]
    out[:, 8] = deep / across
    return out


def rasterise(rows: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the front-most capsule at every pixel centre, with a z-buffer that is updated capsule by capsule.

    A capsule covers a pixel if its distance to the projected axis, at the nearest point t in 0 to 1 of the axis, is
    below ra + t (rb - ra). Its depth is that of the axis plus `flat` times the height of the round surface there.
    Args: rows: (N, 11) of project(); height, width: pixels.
    Returns: part (H, W) int8, -1 where there is no capsule; depth (H, W) float32, larger is nearer; the x (right) and
        the y (down) of the surface normal, (H, W) float32 each.
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
        raw = dx * (ex / length) + dy * (ey / length)  # (h, w) position along the axis, 0 at a, 1 at b
        t = np.minimum(np.maximum(raw, 0), 1)
        r = ra + t * (rb - ra)
        px, py = dx - t * ex, dy - t * ey
        rise = r * r - px * px - py * py
        box = np.s_[y0:y1, x0:x1]
        z = az + t * (bz - az) + flat * np.sqrt(np.maximum(rise, 0))
        nearest = (rise > 0) & (z > depth[box])
        if cut:
            nearest &= raw <= 1
        for buffer, value in ((depth, z), (part, np.int8(label)), (normal_x, px / r), (normal_y, py / r)):
            np.copyto(buffer[box], value, where=nearest)
    return part, depth, normal_x, normal_y


def _seen(person: Person, h: int, w: int) -> SimpleNamespace:
    """What the camera sees of a person on a grid of h x w points: the fields of `person`; part (h, w); the surface
    normal nx, ny, nz (h, w); up (h, 1), the height of each row over the feet; foot, the point (x, y) of the feet."""
    body, view, _, shift = person
    scale = h * view.scale / (np.cos(view.pitch) + 0.04)
    foot = (w * (0.5 + view.dx + shift), h * (0.5 + view.scale * 0.5 + view.dy))
    rows = project(capsules(body, view), view.yaw, view.pitch, (scale * view.aspect, scale), foot)
    part, _, nx, ny = rasterise(rows, h, w)
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
    up = ((foot[1] - np.arange(h) - 0.5) / scale).astype(f32)[:, None]
    return SimpleNamespace(**person._asdict(), part=part, nx=nx, ny=ny, nz=nz, up=up, foot=foot)


def part_map(person: Person, height: int, width: int) -> np.ndarray:
    """Which of PARTS each pixel of an image shows: (height, width) int8, -1 outside the person. Ignores obstacles.

    Args: person: its surface may be None; height, width: pixels.
    """
    return _seen(person, height, width).part


def _noise(g, height: int, width: int, cell: float) -> np.ndarray:
    """Smooth noise, (H, W) float32, with grains of about `cell` pixels and a standard deviation near 0.7."""
    small = g.standard_normal((int(height / cell) + 2, int(width / cell) + 2), dtype=f32)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _blur(image: np.ndarray, share: float) -> np.ndarray:
    """An image (H, W, C) with only a share (0 to 1) of its resolution left."""
    h, w, c = image.shape
    size = (max(round(w * share), 4), max(round(h * share), 4))
    planes = [Image.fromarray(np.ascontiguousarray(image[..., i], f32)) for i in range(c)]
    planes = [p.resize(size, Image.Resampling.BOX).resize((w, h), Image.Resampling.BICUBIC) for p in planes]
    return np.stack([np.asarray(p) for p in planes], axis=-1)


def _background(g, view, size, walls, grounds, contrast: float) -> np.ndarray:
    """Wall and ground of the camera's scene with structures, markings and grain, (H, W, C) float32.

    size: (H, W). walls, grounds: (n, C) values to choose from. contrast: strength of all that is laid over them.
    """
    h, w = size
    *_, horizon, marked, grain = SCENES[view.cam.scene]
    walls, grounds = f32(walls), f32(grounds)
    far = int(h * (horizon + g.normal(0, 0.05)))
    out = np.empty((h, w, walls.shape[1]), f32)
    out[:far], out[far:] = g.choice(walls), g.choice(grounds)
    for i in range(int(g.integers(4, 14))):  # doors, windows, cars, kerbs; each third one is a post
        tall, wide = (g.uniform(0.3, 0.6), g.uniform(0.03, 0.1)) if i % 3 == 0 else g.uniform(0.03, (0.3, 0.6))
        base, left = far + int(h * g.uniform(-0.4, 0.12)), int(w * g.uniform(-0.2, 1.0))
        box = np.s_[max(base - int(h * tall), 0) : max(base, 0), max(left, 0) : max(left + int(w * wide) + 1, 0)]
        value = g.choice(walls if g.random() < 0.8 else grounds) * (1 + contrast * g.uniform(-0.6, 0.5))
        out[box] = 0.3 * out[box] + 0.7 * value
    y, x = np.arange(h, dtype=f32)[:, None] / h, np.arange(w, dtype=f32) / w
    if g.random() < marked:  # stripes or tiles, wider towards the viewer
        bars = np.sin((g.uniform(8, 30) * (1.2 - y) + g.uniform(-6, 6) * x) / (0.25 + y)) > g.uniform(0.2, 0.9)
        out[far:] *= 1 + contrast * g.uniform(0.1, 0.6) * bars[far:, :, None]
    slope = g.uniform(-0.25, 0.25) * (x - 0.5) + g.uniform(-0.3, 0.3) * (y - 0.5)
    rough = 0.05 * _noise(g, h, w, h / 8) + grain * (_noise(g, h, w, h / 50) + 0.7 * _noise(g, h, w, h / 110))
    return out * (1 + contrast * slope)[..., None] * (1 + contrast * rough)[..., None]


def _foreground(image: np.ndarray, g, view, people, paint, cell: float, contrast: float) -> np.ndarray:
    """Lay people and then obstacles over an image (H, W, C).

    people: what _seen() returns, on a grid of twice the size. paint(seen, folds): values (2H, 2W, C) of one of them.
    cell: grains of the folds of cloth per height of the image.
    """
    h, w, _ = image.shape

    def halve(x):  # the mean of 2 x 2 samples makes edges soft
        return (x[0::2, 0::2] + x[1::2, 0::2] + x[0::2, 1::2] + x[1::2, 1::2]) * f32(0.25)

    folds = _noise(g, 2 * h, 2 * w, h / cell)
    for seen in people:
        mask = (seen.part >= 0)[..., None].astype(f32)
        image = image * (1 - halve(mask)) + halve(paint(seen, folds) * mask)
    if view.occluder not in OBSTACLES:
        return image
    colour, warmer, wide, top, curve, rough = OBSTACLES[view.occluder]
    x, y = np.arange(w, dtype=f32) / w - view.at_x, np.arange(h, dtype=f32)[:, None] / h
    grain = _noise(g, h, w, h / 24)
    mask = (np.abs(x) < wide * view.wide) & (y > view.at_y + top + curve * 0.05 * grain + curve * 0.5 * x**2)
    value = f32(colour if view.cam.modality == VISIBLE else [view.ambient + warmer])
    return np.where(mask[..., None], value * (1 + contrast * rough * grain)[..., None], image).astype(f32)


def _visible_person(seen, folds: np.ndarray) -> np.ndarray:
    """Colours of one person, (2H, 2W, 3) from 0 to 255, under one light and an even sky."""
    view, paint, part, up = seen.view, seen.surface, seen.part, seen.up
    value = np.take(paint.base, np.maximum(part, 0), axis=0)
    sin, cos = f32(np.sin(view.yaw)), f32(np.cos(view.yaw))
    front, side = seen.nx * sin + seen.nz * cos, seen.nx * cos - seen.nz * sin  # the normal in the person's frame
    wave = np.sin(up * f32(1.8 * paint.pitch))
    marks = {"plain": False, "stripes": wave > 0.2, "block": up < 0.66, "check": wave * np.sin(14 * side) > 0}
    marks["print"] = (part == TOP) & (front > 0.75) & (np.abs(side) < 0.4) & (np.abs(up - 0.72) < 0.035)
    top = (part == TOP) | ((part == SLEEVE) & (seen.body.outer == TOP))
    value[top & marks[paint.pattern]] = paint.second
    if paint.open:  # an open coat shows the top
        value[(part == COAT) & (front > 0.5) & (np.abs(side) < 0.16) & (up < 0.83)] = paint.base[TOP]
    lx, ly, lz = view.cam.light
    angle, level = np.arctan2(lx, lz) + view.azimuth, np.hypot(lx, lz)
    facing = seen.nx * f32(level * np.sin(angle)) + seen.nz * f32(level * np.cos(angle)) - seen.ny * ly
    sky = view.even * (0.81 - 0.14 * seen.ny)
    shade = (sky + (1.1 - 0.76 * view.even) * np.maximum(facing, 0)) * (1 + 0.13 * folds)
    return value * shade[..., None]


def _visible(people, view, g, size, nuisance: float) -> np.ndarray:
    """The image of a visible camera, (H, W, 3) uint8: background, shadows, people, lens and sensor."""
    h, w = size
    walls, grounds, *_ = SCENES[view.cam.scene]
    image = _blur(_background(g, view, size, walls, grounds, 1.0), min(g.uniform(16, 44) / h, 0.9))
    y, x = np.arange(h, dtype=f32)[:, None], np.arange(w, dtype=f32)
    for foot_x, foot_y in (seen.foot for seen in people):  # shadow under the feet
        near = ((x - foot_x / 2) / (0.3 * w)) ** 2 + ((y - foot_y / 2) / (0.035 * h)) ** 2
        image *= (1 - 0.45 * np.exp(-near))[..., None]
    image = _foreground(image, g, view, people, _visible_person, 14, 0.3)
    image = _blur(image, view.sharp) * f32(view.gain * view.light)
    image += f32(1 + 3.5 * nuisance) * g.standard_normal(image.shape, dtype=f32)
    haze = f32(8 * nuisance * g.random())
    return np.clip(haze + image * (1 - haze / 255), 0, 255).astype(np.uint8)


def _thermal_person(seen, folds: np.ndarray) -> np.ndarray:
    """Apparent temperature of one person, (2H, 2W, 1) in degrees Celsius.

    It lies between ambient and skin temperature, lower at grazing angles and, on trousers, towards the feet.
    """
    ambient, part = seen.view.ambient, seen.part
    step = max(32.5 - 0.95 * ambient, 4.0)  # from ambient to skin, which follows the weather a little
    share = np.take(seen.surface, np.maximum(part, 0)) * (0.80 + 0.20 * seen.nz)
    legs = part == LEGS
    cloth = legs | (part == TOP) | (part == COAT) | (part == SLEEVE)
    share *= 1 + cloth * (0.09 * folds) - legs * (0.25 * (0.45 - seen.up))
    return (ambient + step * share)[..., None]


def _thermal(people, view, g, size, nuisance: float) -> np.ndarray:
    """The image of a thermal camera, (H, W, 3) uint8 with equal channels: temperatures, then lens, noise and gain."""
    (h, w), ambient = size, view.ambient
    sun = 0.0 if view.cam.indoor else max(0.0, g.normal(1.5, 3)) + view.sun
    walls, grounds = (-1.5, 0.5, 1.5 + sun, -1 if view.cam.indoor else -4), (-0.5, 0.5 * sun, 1 + sun)
    walls, grounds = (1 + f32(v)[:, None] / 12 for v in (walls, grounds))  # 12 degrees are full contrast
    image = ambient + 12 * (_background(g, view, size, walls, grounds, 0.25) - 1)
    image = _blur(image, g.uniform(0.2, 0.6))
    image = _foreground(image, g, view, people, _thermal_person, 12, 0.03)
    image = _blur(image, 0.85 * view.sharp * (1 - 0.3 * nuisance))
    noise = _noise(g, h, w, 1.5) + 0.3 * g.standard_normal((1, w), dtype=f32)  # noise of pixels and of columns
    image += f32(0.05 + 0.2 * nuisance) * noise[..., None]
    low, high = np.percentile(image, (g.uniform(0.5, 4), g.uniform(97, 99.8)))  # automatic gain
    floor, top, gamma = g.uniform(5, 70), g.uniform(140, 250), g.uniform(0.8, 1.3)
    if view.span < 1:  # as if the gain were set for a frame in which the person is one of many warm objects
        floor, top = floor + 0.3 * (1 - view.span) * (top - floor) + np.array((0, view.span)) * (top - floor)
    image = np.clip((image - low) / max(high - low, 6.0), 0, 1.15) ** gamma
    return np.repeat(np.clip(floor + (top - floor) * image, 0, 255).astype(np.uint8), 3, axis=2)


def draw(
    cast: list[Person], view: SimpleNamespace, generator: np.random.Generator, height: int, width: int, nuisance: float
) -> np.ndarray:
    """Draw one image, (H, W, 3) uint8; a thermal one has 3 equal channels.

    Args: cast: the people, the hindmost first; view: of people.scene(), whose camera decides the modality and so what
        each person's `surface` must be; generator: for background, folds of cloth and sensor; height, width: pixels;
        nuisance: 0 to 1, strength of the sensor's noise, haze and blur.
    """
    people = [_seen(person, 2 * height, 2 * width) for person in cast]  # _foreground() halves it
    paint = _visible if view.cam.modality == VISIBLE else _thermal
    return paint(people, view, generator, (height, width), nuisance)
