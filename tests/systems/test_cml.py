"""CML: mixes of images beside loops over pixels, who is mixed with whom and how often, and the agreement of logits."""

import math

import numpy as np
import oracles
import pytest
import torch
from test_losses import batch, ragged

from vtlib import train
from vtlib.config import experiment
from vtlib.systems.cml import ModalityMix, modality_kl

FORMS = pytest.mark.parametrize("form", ["mixup", "cutmix"])
ADDS = pytest.mark.parametrize("add", [False, True])


def drawn_images(seed=0, size=(7, 5), low=1):
    """images, labels, modality and numbers of a ragged batch in no order."""
    _, labels, modality = ragged(seed, low=low)
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(len(labels), 3, *size, generator=g)
    return images, labels, modality, torch.rand(len(labels), ModalityMix.numbers, generator=g)


def partner_of(r, labels, modality, number):
    others = [s for s in range(len(labels)) if labels[s] == labels[r] and modality[s] != modality[r]]
    return others[int(number * len(others))]


def mixed(first, second, lam, form, places):
    """One mix, pixel by pixel; places: where the rectangle lies, from 0 to 1, down and right."""
    out, (height, width) = first.copy(), first.shape[1:]
    high, wide = (round(math.sqrt(1 - lam) * n) for n in (height, width))
    top, left = (int(u * (n - k + 1)) for u, n, k in zip(places, (height, width), (high, wide), strict=True))
    for i in range(height):
        for j in range(width):
            if form == "mixup":
                out[:, i, j] = lam * first[:, i, j] + (1 - lam) * second[:, i, j]
            elif top <= i < top + high and left <= j < left + wide:
                out[:, i, j] = second[:, i, j]
    return out


@pytest.mark.parametrize("seed", range(3))
@ADDS
@FORMS
def test_equals_loops_over_pixels(form, add, seed):
    images, labels, modality, numbers = drawn_images(seed)
    found, streams = ModalityMix(form=form, add=add)(images, labels, modality, numbers, None)
    x, y, m, u = images.numpy().astype(float), labels.tolist(), modality.tolist(), numbers.tolist()
    expected, sides = [] if not add else list(x), list(m)
    for r in range(len(y)):
        lam = u[r][0] if add else max(u[r][0], 1 - u[r][0])
        one = mixed(x[r], x[partner_of(r, y, m, u[r][2])], lam, form, u[r][3:])
        if not add:
            expected.append(one if u[r][1] < 0.5 else x[r])
        elif m[r] == 0:
            expected.append(one)
            sides.append(0 if lam >= 0.5 else 1)
    np.testing.assert_allclose(found.numpy(), np.array(expected), atol=1e-5)
    assert streams.tolist() == sides and streams.dtype == modality.dtype and found.dtype == images.dtype


@FORMS
def test_the_whole_share_leaves_an_image_as_it_is(form):
    images, labels, modality, numbers = drawn_images()
    for lam in (0.0, 1.0):  # lam and 1 - lam: the larger share is the image's own
        numbers[:, 0], numbers[:, 1] = lam, 0.0
        assert torch.equal(ModalityMix(form=form)(images, labels, modality, numbers, None)[0], images)
    for lam, side in ((1.0, 0), (0.0, 1)):
        numbers[:, 0] = lam
        found, streams = ModalityMix(form=form, add=True)(images, labels, modality, numbers, None)
        added, visible = found[len(images) :], modality == 0
        assert torch.equal(added, images[visible]) is (lam == 1) and set(streams[len(images) :].tolist()) == {side}


@ADDS
@FORMS
def test_a_mix_keeps_the_mean_and_the_person(form, add):
    _, labels, modality, numbers = drawn_images(4)
    marks = torch.stack([labels, modality, torch.ones_like(labels)], 1).float()[:, :, None, None].expand(-1, -1, 60, 40)
    numbers[:, 1] = 0.2  # all are replaced
    found = ModalityMix(form=form, add=add)(marks, labels, modality, numbers, None)[0]
    rows = torch.arange(len(labels))
    if add:
        found, rows = found[len(labels) :], rows[modality == 0]
    lam = numbers[rows, 0] if add else torch.maximum(numbers[rows, 0], 1 - numbers[rows, 0])
    assert torch.equal(found[:, 0].mean((1, 2)).round().long(), labels[rows]) and len(found) == len(rows)
    own = 1 - (found[:, 1].mean((1, 2)) - modality[rows]).abs()  # the share of the own modality
    assert (own - lam).abs().max() < (1e-5 if form == "mixup" else 0.03)


def test_partners_and_places_are_drawn_evenly():
    n, size = 2000, (4, 3)
    labels, modality = torch.zeros(n + 4).long(), torch.cat([torch.zeros(n), torch.ones(4)]).long()
    images = torch.cat([torch.full((n,), -1.0), torch.arange(4.0)])[:, None, None, None].expand(-1, 3, *size)
    numbers = torch.rand(n + 4, ModalityMix.numbers, generator=torch.Generator().manual_seed(0))
    lam = numbers[:, 0].clone()
    numbers[:, 0] = 11 / 12  # the rectangle is one pixel
    found = ModalityMix(form="cutmix")(images, labels, modality, numbers, None)[0][:n, 0]
    changed = (found != -1).flatten(1)
    assert changed.any(1).float().mean().item() == pytest.approx(0.5, abs=0.03) and changed.sum(1).max() == 1
    assert changed[changed.any(1)].float().mean(0).tolist() == pytest.approx([1 / 12] * 12, abs=0.02)
    partners = found.flatten(1)[changed].long().bincount() / changed.sum()
    assert partners.tolist() == pytest.approx([1 / 4] * 4, abs=0.04)
    numbers[:, 0] = lam
    streams = ModalityMix(add=True)(images, labels, modality, numbers, None)[1]
    assert streams[n + 4 :].float().mean().item() == pytest.approx(0.5, abs=0.03)


@ADDS
@FORMS
def test_no_step_waits_for_the_device_of_the_images(form, add):
    images, labels, modality, numbers = drawn_images()
    here, streams = ModalityMix(form=form, add=add)(images, labels, modality, numbers, None)
    there, chosen = ModalityMix(form=form, add=add)(images.to("meta"), labels, modality, numbers, None)
    assert there.shape == here.shape and torch.equal(chosen, streams) and not chosen.is_meta


@ADDS
@FORMS
def test_the_batch_is_left_alone_and_the_largest_numbers_do(form, add):
    images, labels, modality, numbers = drawn_images(2)
    numbers[:, 1:], numbers[:, 2:] = 0.0, 1 - 2.0**-24  # the largest that torch.rand gives
    before = images.clone()
    found, _ = ModalityMix(form=form, add=add)(images, labels, modality, numbers, None)
    assert torch.equal(images, before) and found.isfinite().all()
    y, m = labels.tolist(), modality.tolist()
    numbers[:, 0] = 0.5
    found, _ = ModalityMix(form="mixup", add=add)(images, labels, modality, numbers, None)
    last = torch.tensor([partner_of(r, y, m, 1 - 2.0**-24) for r in range(len(y))])
    half = (images + images[last]) / 2
    torch.testing.assert_close(found[len(y) if add else 0 :], half[modality == 0] if add else half)


def test_what_a_mix_refuses():
    images, labels, modality, numbers = drawn_images()
    with pytest.raises(ValueError, match="identity 7 has images of one modality: a mix needs both"):
        ModalityMix()(images, torch.full_like(labels, 7), torch.zeros_like(modality), numbers, None)
    with pytest.raises(ValueError, match=r"views\.mix\.form"):
        experiment("quick", "cml", views={"mix": {"form": "blend"}})


def test_the_network_that_is_tested_mixes_nothing():
    net = train.make_net(experiment("quick", "cml"), 4)
    assert not any(isinstance(m, ModalityMix) for m in net.modules()) and not ModalityMix().state_dict()


# Agreement


def softmax(row):
    top = [math.exp(v - max(row)) for v in row]
    return [t / sum(top) for t in top]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def loop(x, y, m, z, of="classes"):
    soft = [softmax(row) for row in (z if of == "classes" else x).tolist()]
    groups = oracles.centres(soft, y if of == "classes" else [0] * len(y), m)
    terms = [(kl(groups[i, 0], groups[i, 1]) + kl(groups[i, 1], groups[i, 0])) / 2 for i, k in groups if k == 0]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("of", ["classes", "features"])
def test_kl_equals_loops_on_ragged_batches_in_any_order(of, seed):
    x, y, m = ragged(seed, scale=3.0)
    z = 2 * torch.from_numpy(np.random.default_rng(seed).normal(size=(len(y), 9)))
    value = modality_kl(x, y, m, logits=z, of=of).item()
    assert value == pytest.approx(loop(x, y.tolist(), m.tolist(), z, of), abs=1e-10) and value > 0
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    moved = modality_kl(x[order], 90 - 7 * y[order], 1 - m[order], logits=z[order], of=of).item()
    assert moved == pytest.approx(value, abs=1e-12)  # also with the modalities exchanged
    apart = modality_kl(x + 5, y, m, logits=z - 3, of=of).item()
    assert apart == pytest.approx(value, abs=1e-10)  # a softmax does not know a shift


def test_kl_by_hand():
    # (.9, .1) and (.5, .5): KL .368064 and .510826, half their sum .439445
    logits = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64).log()
    drawn = logits + 1, torch.tensor([3, 3]), torch.tensor([0, 1])
    for of in ("classes", "features"):
        assert modality_kl(*drawn, logits=logits, of=of).item() == pytest.approx(0.439445, abs=1e-6)
    # the mean of (.9, .1) and (.1, .9) is (.5, .5), and the loss then 0
    two = torch.cat([logits[:1], logits[:1].flip(1), logits[1:]]).requires_grad_()
    value = modality_kl(two, torch.tensor([3, 3, 3]), torch.tensor([0, 0, 1]), logits=two)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12) and two.grad.abs().max() < 1e-12
    # half of two identities agrees
    both = torch.cat([logits, logits[:1], logits[:1]])
    value = modality_kl(both, torch.tensor([3, 3, 4, 4]), torch.tensor([0, 1, 0, 1]), logits=both)
    assert value.item() == pytest.approx(0.439445 / 2, abs=1e-6)


@pytest.mark.parametrize("gap", [90.0, 200.0, 3000.0])
def test_kl_of_far_logits_is_finite(gap):
    drawn = torch.zeros(5, 2), torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 1])
    for row, expected in (([0, gap, 0], 0), ([gap, 0, 0], gap / 2)):  # identity 0 agrees, or is all of two classes
        logits = torch.tensor([[0, gap, 0], row, [gap, 0, 0], [gap, 0, 0], [gap, 0, 0]], requires_grad=True)
        value = modality_kl(*drawn, logits=logits)
        value.backward()
        assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-5) and logits.grad.isfinite().all()


@pytest.mark.parametrize("of", ["classes", "features"])
def test_kl_by_differences(of):
    x, y, m = batch([(2, 1), (1, 3)], dimension=4, seed=5)
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(len(y), 3))).requires_grad_()
    call = lambda *v: modality_kl(v[0], y, m, logits=v[1], of=of) + 0 * (v[0].sum() + v[1].sum())  # noqa: E731
    torch.autograd.gradcheck(call, (x.requires_grad_(), z))


def test_what_kl_refuses():
    x, y, m = batch([(2, 2), (2, 0)], names=(4, 6))
    with pytest.raises(ValueError, match="identity 6 has no thermal image"):
        modality_kl(x, y, m, logits=x)
    assert modality_kl(x, y, m, logits=x, of="features").isfinite()
    with pytest.raises(ValueError, match="of 'stripes' is not known: choose one of classes, features"):
        modality_kl(x, y, m, logits=x, of="stripes")
