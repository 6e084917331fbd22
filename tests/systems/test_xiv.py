"""XIV: its losses beside loops on ragged batches in any order, the gradients and the limits of the X module."""

import numpy as np
import oracles
import pytest
import torch
from golden import cases, probe, same
from test_losses import batch, ragged, with_view

from vtlib.systems.xiv import XModality, centre_triplet, within_view_triplet


def with_ragged_view(seed, fewer=True, shuffled=True):
    """(features, labels, modality), source: at least 2 images of each identity in each of the three views.
    fewer: only some visible images have one of the view; shuffled: the rows are in no order.
    """
    (features, labels, modality), source = with_view(*ragged(seed, low=3))
    keep = source < 0
    for i in labels.unique():
        rows = ((labels == i) & (source >= 0)).nonzero()[:, 0]
        keep[rows[: -1 if fewer else None]] = True
    kept = (features[keep], labels[keep], modality[keep]), source[keep]  # the set's rows stay in front
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(kept[1])))
    return reordered(*kept, order) if shuffled else kept


def reordered(rows, source, order):
    """The batch in another order of its rows, where source names the new rows."""
    moved = source[order]
    return tuple(x[order] for x in rows), torch.where(moved < 0, moved, order.argsort()[moved])


def views_of(modality, source):
    """V, T or X for each row."""
    return ["X" if s >= 0 else "VT"[m] for m, s in zip(modality.tolist(), source.tolist(), strict=True)]


def centre_pair(a, b, margin):
    """cmt of two lists of centres."""
    total, p = 0.0, len(a)
    for i in range(p):
        d = [oracles.distance(a[i], b[j]) for j in range(p) if j != i]
        d += [oracles.distance(a[j], b[i]) for j in range(p) if j != i]
        total += max(0.0, margin + oracles.distance(a[i], b[i]) - min(d))
    return total / p


def loop_of_centre_triplet(x, y, view, margin=0.5):
    centre = {
        v: [oracles.mean_vector([x[r] for r in range(len(y)) if (y[r], view[r]) == (i, v)]) for i in sorted(set(y))]
        for v in "VTX"
    }
    return centre_pair(centre["T"], centre["V"], margin) + centre_pair(centre["T"], centre["X"], margin)


def loop_of_within_view_triplet(x, y, view, margin=0.3):
    return sum(
        oracles.batch_hard_triplet([x[r] for r in rows], [y[r] for r in rows], margin=margin)
        for rows in ([r for r in range(len(y)) if view[r] == v] for v in "VTX")
    )


PAIRS = [(centre_triplet, loop_of_centre_triplet), (within_view_triplet, loop_of_within_view_triplet)]


@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss, loop", PAIRS)
def test_a_loss_is_its_loop_on_ragged_views(loss, loop, seed, margin):
    rows, source = with_ragged_view(seed)
    expected = loop(rows[0].numpy(), rows[1].tolist(), views_of(rows[2], source), margin)
    assert loss(*rows, source=source, margin=margin).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("loss", [centre_triplet, within_view_triplet])
def test_order_and_names_do_not_matter(loss):
    rows, source = with_ragged_view(5)
    value = loss(*rows, source=source)
    order = torch.from_numpy(np.random.default_rng(9).permutation(len(source)))
    (features, labels, modality), moved = reordered(rows, source, order)
    renamed = 1000 - 7 * labels
    assert loss(features, renamed, modality, source=moved).item() == pytest.approx(value.item(), abs=1e-12)


@pytest.mark.parametrize("loss", [centre_triplet, within_view_triplet])
def test_gradients_by_differences_on_ragged_views(loss):
    (features, labels, modality), source = with_ragged_view(6)
    torch.autograd.gradcheck(
        lambda x: loss(x, labels, modality, source=source, margin=2.0), features.requires_grad_(), atol=1e-6
    )


@pytest.mark.parametrize("loss", [centre_triplet, within_view_triplet])
def test_a_shut_hinge_is_zero_with_a_graph(loss):
    (features, labels, modality), source = with_ragged_view(7)
    apart = (features * 1e-3 + 50.0 * torch.nn.functional.one_hot(labels, 6)).requires_grad_()
    value = loss(apart, labels, modality, source=source)
    value.backward()
    assert value.item() == 0 and not apart.grad.any()


def test_within_view_triplet_by_hand():
    # identity 0 at 0, 1 and identity 1 at 3, 3.2 in each view: hinges of 0.3 are 1 + 0.3 - 3, 1 + 0.3 - 2, ... < 0.
    # At a margin of 2.5: 0.5, 1.5, 0.7, 0.5: mean 0.8. The thermal rows twice as far: positives 2, 2, 0.4, 0.4 and
    # negatives 6, 4, 4, 4.4 leave 0, 0.5, 0, 0: mean 0.125. No view sees another: they lie on each other.
    line = torch.tensor([0.0, 1, 3, 3.2], dtype=torch.float64)
    features = torch.cat([line, 2 * line, line])[:, None]
    labels, modality = torch.tensor([0, 0, 1, 1] * 3), torch.tensor([0, 1, 0]).repeat_interleave(4)
    source = torch.cat([torch.full((8,), -1), torch.arange(4)])
    drawn = features, labels, modality
    assert within_view_triplet(*drawn, source=source).item() == 0
    assert within_view_triplet(*drawn, source=source, margin=2.5).item() == pytest.approx(0.8 + 0.125 + 0.8)


def test_centre_triplet_is_the_same_both_ways():
    (features, labels, modality), source = with_ragged_view(8, fewer=False, shuffled=False)
    own = source < 0
    visible, thermal = own & (modality == 0), own & (modality == 1)

    def both(first, second):
        """cmt(second, first) twice: X are the rows of the first."""
        x = torch.cat([features[first], features[second], features[first]])
        y = torch.cat([labels[first], labels[second], labels[first]])
        n, k = int(first.sum()), int(second.sum())
        m = torch.tensor([0, 1, 0]).repeat_interleave(torch.tensor([n, k, n]))
        return centre_triplet(x, y, m, source=torch.cat([torch.full((n + k,), -1), torch.arange(n)])).item()

    assert both(visible, thermal) == pytest.approx(both(thermal, visible), abs=1e-12) and both(visible, thermal) > 0


def test_batches_for_which_the_losses_are_not_defined():
    rows, source = with_view(*batch([(2, 2), (2, 2)], seed=1))
    labels = rows[1]
    keep = ~((source >= 0) & (labels == 1))
    with pytest.raises(ValueError, match=r"^identity 1 has no .* image in the batch: each needs both$"):
        centre_triplet(*(x[keep] for x in rows), source=source_of(source, keep))
    keep = labels == 0
    with pytest.raises(ValueError, match=r"^identity 0 is alone in the batch: the loss needs a second identity$"):
        centre_triplet(*(x[keep] for x in rows), source=source_of(source, keep))
    keep = torch.arange(len(source)) != ((source >= 0) & (labels == 1)).nonzero()[0]
    with pytest.raises(ValueError, match=r"^identity 1 .* has one alone, or nobody beside it$"):
        within_view_triplet(*(x[keep] for x in rows), source=source_of(source, keep))
    with pytest.raises(ValueError, match="margin must be a number"):
        centre_triplet(*rows, source=source, margin="wide")


def source_of(source, keep):
    """source of the rows that are kept, in their numbers."""
    left = source[keep]
    return torch.where(left < 0, left, (keep.cumsum(0) - 1)[left.clamp(min=0)])


# The X module


def view_of(made, images, modality):
    return made(images, torch.zeros_like(modality), modality, torch.empty(len(modality), 0), None)


def test_x_module_has_ten_parameters_that_learn_fast():
    made = XModality()
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == 10
    assert made.fast and not made.own_crop and made.numbers == 0
    with torch.device("meta"):
        images, streams = view_of(XModality(), torch.empty(4, 3, 8, 4), torch.tensor([0, 1, 1, 0], device="cpu"))
    assert images.is_meta and images.shape == (6, 3, 8, 4) and streams.tolist() == [0, 1, 1, 0, 0, 0]


def test_x_images_are_of_the_visible_rows_in_their_order():
    made, modality = XModality(), torch.tensor([1, 0, 1, 0, 0])
    images = torch.arange(1.0, 6)[:, None, None, None].expand(5, 3, 2, 2)
    found, streams = view_of(made, images, modality)
    assert torch.equal(found[:5], images) and streams.tolist() == [1, 0, 1, 0, 0, 0, 0, 0]
    torch.testing.assert_close(found[5:, 0, 0, 0], torch.tensor([2.0, 4, 5]) * 3 * 0.333**2)


def test_only_bright_pixels_teach_the_x_module():
    for value, learns in ((1.0, True), (-1.0, False)):
        made = XModality()
        images = torch.full((1, 3, 2, 2), value)
        view_of(made, images, torch.tensor([0]))[0][1:].sum().backward()
        assert made.mix.weight.grad.any().item() == made.spread.weight.grad.any().item() == learns


def test_gradients_of_the_x_module_are_the_published_ones(shared):
    for case, x in cases(shared, "xiv", "x_module"):
        made, out = XModality().double(), case["outputs"]["as_coded"]
        at_start = case["settings"].get("start")
        if at_start:
            torch.nn.init.constant_(made.mix.weight, 0.333)  # .333 of float64, as the stored outputs are
            torch.nn.init.constant_(made.spread.weight, 0.333)
        layers = {"in": made.mix, "out": made.spread}
        for name, layer in layers.items():
            if not at_start:
                layer.weight.data.copy_(x[f"{name}.weight"].view_as(layer.weight))
                layer.bias.data.copy_(x[f"{name}.bias"])
        images = x["images"].clone().requires_grad_()
        found = view_of(made, images, torch.arange(len(images)) % 2)[0][len(images) :]
        same(found, out["x_images"])
        (found * probe(found.shape)).sum().backward()
        for name, layer in layers.items():
            for part in ("weight", "bias"):
                same(getattr(layer, part).grad.flatten(), np.ravel(out[f"gradient_{name}.{part}"]), 1e-8)
        same(images.grad, out["gradient_images"], 1e-8)


def test_parts_of_the_published_step(shared):
    (case, x), *_ = cases(shared, "xiv", "whole_step")
    of_set, out, features = torch.tensor(case["settings"]["labels"]), case["outputs"], x["features"]
    n = len(of_set)
    rows = torch.cat([of_set, of_set[::2]]), torch.cat([torch.arange(n) % 2, torch.zeros(n // 2).long()])
    source = torch.cat([torch.full((n,), -1), torch.arange(0, n, 2)])
    triplets = sum(term["triplet"] for term in out["terms"].values())
    same(within_view_triplet(features, *rows, source=source), triplets)
    visible, made = torch.arange(0, n, 2), torch.arange(n, n + n // 2)
    for name, where, what in (("thermal_visible", made, visible), ("thermal_x", visible, made)):
        alike = features.index_copy(0, where, features[what])  # V and X are one, so that both terms are the same
        same(centre_triplet(alike, *rows, source=source), 2 * out["centre_terms"][f"{name}_as_printed"])
