"""Figures against geometry: capsules, projection, and the rasteriser against a loop over pixels and capsules."""

import numpy as np
import pytest

from vtlib.synvt import Spec, draw, scene, shape

SYSU = Spec("sysu", seed=3, identities=(3, 1, 2), images=2, height=48, width=24)


def nearest_front(x, y, rows):
    """Part, depth and normal of the front-most capsule over one point, straight from geometry and in float64."""
    best = (-1, -np.inf, 0.0, 0.0)
    for ax, ay, az, bx, by, bz, ra, rb, flat, cut, part in rows:
        ex, ey = bx - ax, by - ay
        along = ((x - ax) * ex + (y - ay) * ey) / (ex**2 + ey**2)
        t = min(max(along, 0.0), 1.0)
        nx, ny = x - (ax + t * ex), y - (ay + t * ey)
        radius = ra + t * (rb - ra)
        distance = (nx**2 + ny**2) ** 0.5
        if distance >= radius or (cut and along > 1):
            continue
        z = az + t * (bz - az) + flat * (radius**2 - distance**2) ** 0.5
        if z > best[1]:
            best = (int(part), z, nx / radius, ny / radius)
    return best


def test_rasteriser_equals_a_loop_over_pixels_and_capsules():
    g = np.random.default_rng(0)
    ends, radii = g.uniform(-4, 28, (12, 6)), g.uniform(0.8, 5, (12, 2))
    rest = np.stack([g.uniform(0.4, 2, 12), np.arange(12) % 3 == 0, np.arange(12)], axis=1)
    rows = np.concatenate([ends, radii, rest], axis=1).astype(np.float32)
    part, depth, nx, ny = draw.rasterise(rows, 26, 22)
    for y, x in np.ndindex(part.shape):
        want = nearest_front(x + 0.5, y + 0.5, rows.astype(float))
        got = (part[y, x], depth[y, x], nx[y, x], ny[y, x])
        assert got == pytest.approx(want, abs=2e-3), (x, y)
    assert len(np.unique(part)) > 8 and (part == -1).any()


def test_projection_turns_and_flattens():
    row = np.float32([[0.1, 0.5, 0.2, 0.1, 1.0, 0.2, 0.1, 0.1, 0.5, 0, 0]])
    front = draw.project(row, 0.0, 0.0, (100, 100), (50, 100))[0]
    side = draw.project(row, np.pi / 2, 0.0, (100, 100), (50, 100))[0]
    assert front == pytest.approx([60, 50, 20, 60, 0, 20, 10, 10, 0.5, 0, 0], abs=1e-4)
    assert side == pytest.approx(
        [70, 50, -10, 70, 0, -10, 5, 5, 2.0, 0, 0], abs=1e-4
    )  # seen from the side: half as wide
    above = draw.project(row, 0.0, np.pi / 2, (100, 100), (50, 100))[0]
    assert above[:3] == pytest.approx([60, 120, 50], abs=1e-4)  # from above: what is ahead lies lower in the picture


def test_people_stand_on_the_ground_and_are_about_one_high():
    for pid in range(1, 60):
        body = shape(SYSU, pid)
        rows = draw.capsules(body, scene(SYSU, body, (pid, 4, 1)))
        shoes = rows[rows[:, 10] == draw.SHOES]
        assert (shoes[:, [1, 4]] - shoes[:, 6:8]).min() == pytest.approx(0, abs=1e-6)
        head = rows[rows[:, 10] == draw.FACE]
        assert 0.9 < (head[:, 4] + head[:, 7]).max() < 1.1
        assert np.isfinite(rows).all() and (rows[:, 6:9] > 0).all() and 15 <= len(rows) <= 40
