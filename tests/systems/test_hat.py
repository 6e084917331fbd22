"""HAT: its losses beside loops on ragged batches in any order, their gradients, and the limits of the grey view."""

import math

import numpy as np
import oracles
import pytest
import torch
from golden import cases, same
from test_losses import batch, with_view
from test_xiv import reordered, source_of, view_of, views_of, with_ragged_view

from vtlib.common import MEAN, STD
from vtlib.systems.hat import Grey, homogeneous_invariance, tri_directional


def triplets(x, y, view, margin=0.3):
    """(distance to the positive, hinge, view of the anchor) of each row as an anchor."""
    found = []
    for a, (identity, v) in enumerate(zip(y, view, strict=True)):
        pull, push = {"V": "TX", "T": "XV", "X": "VT"}[v]
        near = max(oracles.distance(x[a], x[p]) for p in range(len(y)) if y[p] == identity and view[p] == pull)
        far = min(oracles.distance(x[a], x[n]) for n in range(len(y)) if y[n] != identity and view[n] == push)
        found.append((near, max(0.0, margin + near - far), v))
    return found


def weights_of(found):
    top = [math.exp(hinge) for _, hinge, _ in found]
    return [3 * t / sum(top) for t in top]


def loop_of_tri_directional(x, y, view, margin=0.3, weighting=True, regulariser=0.1, weights=None):
    """weights: those of another batch, where a derivative holds them."""
    found = triplets(x, y, view, margin)
    shares = [1 / view.count(v) for _, _, v in found]
    weights = (weights or weights_of(found)) if weighting else shares
    value = sum(w * hinge for w, (_, hinge, _) in zip(weights, found, strict=True))
    return value + regulariser * sum(s * near for s, (near, _, _) in zip(shares, found, strict=True))


def loop_of_homogeneous_invariance(x, source):
    values = []
    for row, s in enumerate(source):
        for a, b in zip(x[row], x[s], strict=True) if s >= 0 else ():
            gap = abs(a - b)
            values.append(gap * gap / 2 if gap < 1 else gap - 0.5)
    return sum(values) / len(values)


OPTIONS = [{}, {"weighting": False}, {"regulariser": 0.0}, {"margin": 2.0, "regulariser": 1.0}, {"margin": 0.0}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_tri_directional_is_its_loop_on_ragged_views(seed, options):
    rows, source = with_ragged_view(seed)
    expected = loop_of_tri_directional(rows[0].numpy(), rows[1].tolist(), views_of(rows[2], source), **options)
    assert tri_directional(*rows, source=source, **options).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_homogeneous_invariance_is_its_loop_on_ragged_views(seed):
    rows, source = with_ragged_view(seed)
    gaps = (rows[0] - rows[0][source.clamp(min=0)])[source >= 0].abs()
    assert (gaps < 1).any() and (gaps > 1).any()  # both sides of the knee
    expected = loop_of_homogeneous_invariance(rows[0].tolist(), source.tolist())
    assert homogeneous_invariance(*rows, source=source).item() == pytest.approx(expected, abs=1e-10)


def test_homogeneous_invariance_by_hand():
    # rows 1 and 3 are of the view, of rows 2 and 0: gaps 0.5, 3 and 0, 1 -> 0.125, 2.5, 0, 0.5, mean 0.78125
    features = torch.tensor([[0.0, 0], [1, 5], [0.5, 2], [0, 1]])
    drawn = features, torch.tensor([1, 2, 2, 1]), torch.zeros(4).long()
    assert homogeneous_invariance(*drawn, source=torch.tensor([-1, 2, -1, 0])).item() == pytest.approx(0.78125)


@pytest.mark.parametrize("loss", [tri_directional, homogeneous_invariance])
def test_order_and_names_do_not_matter(loss):
    rows, source = with_ragged_view(5)
    value = loss(*rows, source=source)
    order = torch.from_numpy(np.random.default_rng(9).permutation(len(source)))
    (features, labels, modality), moved = reordered(rows, source, order)
    assert loss(features, 1000 - 7 * labels, modality, source=moved).item() == pytest.approx(value.item(), abs=1e-12)


def test_weights_are_constants_for_the_gradient():
    (features, labels, modality), source = with_ragged_view(6)
    y, view, held = labels.tolist(), views_of(modality, source), features.numpy().copy()
    weights, small = weights_of(triplets(held, y, view)), 1e-6
    tri_directional(features.requires_grad_(), labels, modality, source=source).backward()
    for at in list(np.ndindex(held.shape))[::17]:
        ends = []
        for step in (small, -small):
            moved = held.copy()
            moved[at] += step
            ends.append(loop_of_tri_directional(moved, y, view, weights=weights))
        assert features.grad[at].item() == pytest.approx((ends[0] - ends[1]) / (2 * small), abs=1e-7)


@pytest.mark.parametrize("loss, options", [(tri_directional, {"weighting": False}), (homogeneous_invariance, {})])
def test_gradients_by_differences_on_ragged_views(loss, options):
    (features, labels, modality), source = with_ragged_view(7)
    torch.autograd.gradcheck(
        lambda x: loss(x, labels, modality, source=source, **options), features.requires_grad_(), atol=1e-6
    )


def test_a_shut_hinge_is_zero_with_a_graph():
    (features, labels, modality), source = with_ragged_view(8)
    apart = (features * 1e-3 + 50.0 * torch.nn.functional.one_hot(labels, 6)).requires_grad_()
    value = tri_directional(apart, labels, modality, source=source, regulariser=0.0)
    value.backward()
    assert value.item() == 0 and not apart.grad.any()


def test_equal_modalities_leave_nothing_to_hold_together():
    features = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = features.repeat(3, 1), torch.arange(3).repeat(3), torch.tensor([0, 1, 0]).repeat_interleave(3)
    source = torch.cat([torch.full((6,), -1), torch.arange(3)])
    assert homogeneous_invariance(*drawn, source=source).item() == 0
    plain, whole = (tri_directional(*drawn, source=source, regulariser=r).item() for r in (0.0, 1.0))
    assert plain == whole


def test_the_regulariser_has_its_published_gradient(shared):
    for case, x in cases(shared, "hat", "tri_directional"):
        if case["name"] == "hand":
            continue  # it sits on the corner of a hinge
        of_one, out = torch.tensor(case["settings"]["labels"]), case["outputs"]["own_distances"]
        n = len(of_one)
        drawn = of_one.repeat(3), torch.tensor([0, 1, 0]).repeat_interleave(n)
        source = torch.cat([torch.full((2 * n,), -1), torch.arange(n)])
        features = x["features"].clone().requires_grad_()
        ends = [
            tri_directional(features, *drawn, source=source, margin=case["settings"]["margin"], regulariser=r)
            for r in (1.0, 0.0)
        ]
        same(ends[0] - ends[1], out["regulariser"])
        (ends[0] - ends[1]).backward()
        same(features.grad, out["gradient_regulariser"], 1e-8)


def test_batches_for_which_the_loss_is_not_defined():
    rows, source = with_view(*batch([(2, 2), (2, 2), (2, 2)], seed=1))
    labels, modality = rows[1], rows[2]
    lacks = r"^identity 1 lacks an image of a modality or view, .* nobody beside it$"
    for kind in (source >= 0, modality == 1):
        keep = ~(kind & (labels == 1))
        with pytest.raises(ValueError, match=lacks):
            tri_directional(*(x[keep] for x in rows), source=source_of(source, keep))
    with pytest.raises(ValueError, match=lacks):
        tri_directional(rows[0], torch.ones_like(labels), modality, source=source)
    with pytest.raises(ValueError, match="regulariser must be a number, finite and at least 0"):
        tri_directional(*rows, source=source, regulariser=-1.0)


# The grey view


def test_grey_images_are_of_the_visible_rows_in_their_order():
    modality = torch.tensor([1, 0, 1, 0, 0])
    raw = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    raw[3] = 0  # padding, which stays black
    images = (raw - mean) / std
    found, streams = view_of(Grey(), images, modality)
    assert torch.equal(found[:5], images) and streams.tolist() == [1, 0, 1, 0, 0, 0, 0, 0]
    luma = 0.299 * raw[:, 0] + 0.587 * raw[:, 1] + 0.114 * raw[:, 2]
    torch.testing.assert_close(found[5:] * std + mean, luma[modality == 0, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(found[6], images[3])


def test_grey_has_nothing_to_learn_or_to_store():
    made = Grey()
    assert not list(made.parameters()) and not made.state_dict() and not made.own_crop and made.numbers == 0
    with torch.device("meta"):
        assert all(buffer.is_meta for buffer in Grey().buffers())
