"""MAC and MACE: classifiers of each modality beside loops, published numbers and by hand; who teaches whom."""

import math

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from golden import cases, same
from test_losses import batch, ragged

from vtlib.systems.mac import ModalityClassifiers

TERMS = [
    {"ensemble": False, "collaboration_weight": 0.0},
    {"collaboration_weight": 0.0},
    {"ensemble": False, "collaboration": "ensemble", "collaboration_weight": 0.7},
    {"ensemble": False, "collaboration": "other", "collaboration_weight": 2.0},
    {},
]


def soft(z):
    top = [math.exp(v - max(z)) for v in z]
    return [t / sum(top) for t in top]


def loop(x, y, m, z, w, ensemble=True, collaboration="ensemble", collaboration_weight=1.0, held=None, copy=None):
    """z (N, C): shared; w (2, C, D); held: other (x, z, w), from which the teacher is made; copy: of w, as teacher."""

    def output(x, w):
        return [[sum(float(a) * float(b) for a, b in zip(row, c, strict=True)) for c in w] for row in x]

    own = [(output(x, w[0])[r], output(x, w[1])[r])[m[r]] for r in range(len(y))]
    both = [[(a + b) / 2 for a, b in zip(z[r], own[r], strict=True)] for r in range(len(y))]
    total = 0.0
    for side in (0, 1):
        rows = [r for r in range(len(y)) if m[r] == side]
        total += sum(-math.log(soft(own[r])[y[r]]) for r in rows) / max(1, len(rows))
    if ensemble:
        total += sum(-math.log(soft(both[r])[y[r]]) for r in range(len(y))) / len(y)
    hx, hz, hw = held or (x, z, w)
    apart = 0.0
    for r in range(len(y)):
        p = soft(own[r])
        if collaboration == "ensemble":
            hown = output(hx[r : r + 1], hw[m[r]])[0]
            teacher = soft([(a + b) / 2 for a, b in zip(hz[r], hown, strict=True)])
            apart += sum(t * math.log(t / q) for t, q in zip(teacher, p, strict=True))
        else:
            teacher = soft(output(hx[r : r + 1], (hw if copy is None else copy)[1 - m[r]])[0])
            apart += sum(q * math.log(q / t) for t, q in zip(teacher, p, strict=True))
    return total + collaboration_weight * apart / len(y)


def made(weight, **options):
    """The loss with these weights (2, C, D)."""
    loss = ModalityClassifiers(weight.shape[1], weight.shape[2], **options).to(weight.dtype)
    loss.weight.data.copy_(weight)
    return loss


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def arrays(*tensors):
    return tuple(x.detach().numpy() for x in tensors)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("given", TERMS)
def test_equals_loops_on_ragged_batches_in_any_order(given, seed):
    x, y, m = ragged(seed)
    z, w = normal(len(y), 6, seed=seed), normal(2, 6, x.shape[1], seed=seed + 9)
    loss = made(w, **given)
    value = loss(x, y, m, logits=z).item()
    assert value == pytest.approx(loop(*arrays(x, y, m, z, w), **given), abs=1e-10)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    assert loss(x[order], y[order], m[order], logits=z[order]).item() == pytest.approx(value, abs=1e-12)
    names = torch.randperm(6, generator=torch.Generator().manual_seed(seed))  # class c is called names[c]
    back = names.argsort()
    renamed = made(w[:, back], **given)(x, names[y], m, logits=z[:, back])
    assert renamed.item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("given", TERMS)
def test_of_one_modality_alone(given):
    x, y, m = batch([(3, 0), (2, 0)], seed=4)
    z, w = normal(5, 2), normal(2, 2, 6, seed=1)
    for side in (0, 1):
        expected = loop(*arrays(x, y, m + side, z, w), **given)
        assert made(w, **given)(x, y, m + side, logits=z).item() == pytest.approx(expected, abs=1e-10)


def test_moving_copies_move_first_and_teach_then():
    x, y, m = ragged(4)
    z, w, copy = normal(len(y), 6), normal(2, 6, x.shape[1], seed=1), normal(2, 6, x.shape[1], seed=2)
    given = {"ensemble": False, "collaboration": "other"}
    loss = made(w, slow=0.2, **given)
    assert "copy" in dict(loss.named_buffers()) and len(list(loss.parameters())) == 1
    loss.copy.copy_(copy)
    for _ in range(2):
        copy = 0.8 * copy + 0.2 * w
        expected = loop(*arrays(x, y, m, z, w), copy=copy.numpy(), **given)
        assert loss(x, y, m, logits=z).item() == pytest.approx(expected, abs=1e-10)
        torch.testing.assert_close(loss.copy, copy, rtol=0, atol=1e-15)
    again = made(w, slow=0.2, **given)
    again.load_state_dict(loss.state_dict())
    assert again(x, y, m, logits=z) == loss(x, y, m, logits=z)
    assert not dict(made(w).named_buffers())


# The published case


def golden(shared):
    for case, x in cases(shared, "mac", "mutual"):
        s = case["settings"]
        yield s, case["outputs"], x, torch.tensor(s["labels"]), torch.tensor(s["modality"])


def test_the_whole_published_loss_and_its_gradients(shared):
    for s, out, x, y, modality in golden(shared):
        leaves = {k: x[k].clone().requires_grad_() for k in ("features", "shared")}
        weights = torch.stack([x["visible"], x["thermal"]])
        given = {"ensemble": False, "collaboration": "other", "collaboration_weight": s["weight_kl"]}
        loss = made(weights, slow=s["update_rate"], **given)
        loss.copy.copy_(torch.stack([x["slow_visible"], x["slow_thermal"]]))
        logits, card = leaves["features"] @ leaves["shared"].mT, out["as_coded"]
        assert s["weight_specific"] == 0.5  # which the code adds twice
        value = F.cross_entropy(logits, y) + loss(leaves["features"], y, modality, logits=logits)
        value.backward()
        same(value, card["total"])
        same(leaves["features"].grad, card["gradient_features"])
        same(leaves["shared"].grad, card["gradient_shared"])
        for m, side in enumerate(("visible", "thermal")):
            same(loss.copy[m], card[f"slow_{side}_after"])
            same(loss.weight.grad[m], card[f"gradient_{side}"])


@pytest.mark.parametrize("collaboration", ["ensemble", "other"])
def test_gradients_of_the_collaboration(shared, collaboration):
    for _, out, x, y, m in golden(shared):
        grads, weights = [], torch.stack([x["visible"], x["thermal"]])
        for weight in (1.0, 0.0):
            features = x["features"].clone().requires_grad_()
            loss = made(weights, ensemble=False, collaboration=collaboration, collaboration_weight=weight)
            loss(features, y, m, logits=features @ x["shared"].mT).backward()
            grads.append(features.grad)
        same(grads[0] - grads[1], out["own_loop_of_the_card"][f"gradient_features_collaboration_{collaboration}"])


# By hand


def test_two_classes_by_hand():
    # Own classifier of zeros: (0, 0), cross-entropy ln 2. Shared (2, 0), so the ensemble is (1, 0): p = (.7311, .2689),
    # its cross-entropy ln(1 + 1/e) = .3133, and KL(p || (1/2, 1/2)) = ln 2 - H(p) = .1109
    x, y, m = torch.ones(2, 3, dtype=torch.float64), torch.tensor([0, 0]), torch.tensor([0, 1])
    z, w = torch.tensor([[2.0, 0], [2, 0]], dtype=torch.float64), torch.zeros(2, 2, 3, dtype=torch.float64)
    own = 2 * math.log(2)
    value = made(w, collaboration_weight=0.0)(x, y, m, logits=z).item()
    assert value - own == pytest.approx(0.313262, abs=1e-6)
    value = made(w, ensemble=False)(x, y, m, logits=z).item()
    assert value - own == pytest.approx(0.110944, abs=1e-6)
    # own (ln 3, 0): p = (3/4, 1/4); the other's (0, 0). KL(p || (1/2, 1/2)) = 3/4 ln 3/2 + 1/4 ln 1/2 of visible,
    # and of thermal, where the two are exchanged, KL((1/2, 1/2) || p) = 1/2 ln 2/3 + 1/2 ln 2
    w[0, 0, 0] = math.log(3)
    values = [
        made(w, ensemble=False, collaboration="other", collaboration_weight=c)(x, y, m, logits=z).item()
        for c in (0.0, 1.0)
    ]
    kl = (0.75 * math.log(1.5) + 0.25 * math.log(0.5) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    assert values[0] == pytest.approx(-math.log(0.75) + math.log(2), abs=1e-12)
    assert values[1] - values[0] == pytest.approx(kl, abs=1e-12)


@pytest.mark.parametrize("collaboration", ["ensemble", "other"])
def test_equal_classifiers_agree(collaboration):
    x, y, m = ragged(6)
    w = normal(6, x.shape[1])
    z = x @ w.T
    one = {"ensemble": True, "collaboration": collaboration}
    value = made(w.expand(2, -1, -1), **one, collaboration_weight=1e6)(x, y, m, logits=z).item()
    own = sum(oracles.identity(z[m == k].numpy(), y[m == k].numpy(), 0.0) for k in (0, 1))
    assert value == pytest.approx(own + oracles.identity(z.numpy(), y.numpy(), 0.0), abs=1e-8)


# Gradients


def test_a_classifier_learns_from_its_own_modality():
    x, y, m = batch([(2, 2), (2, 2)], dimension=4, seed=3)
    for side in (0, 1):
        loss = made(normal(2, 2, 4), ensemble=False, collaboration_weight=0.0)
        rows = m == side
        loss(x[rows], y[rows], m[rows], logits=normal(4, 2)).backward()
        assert loss.weight.grad[side].any() and not loss.weight.grad[1 - side].any()


@pytest.mark.parametrize("given", TERMS[2:4])
def test_who_teaches_is_a_constant(given):
    x, y, m = batch([(1, 2), (2, 1)], dimension=4, seed=6)
    z, w = normal(len(y), 2, seed=1), normal(2, 2, 4, seed=2)
    loss, z = made(w, **given), z.requires_grad_()
    loss(x.requires_grad_(), y, m, logits=z).backward()
    assert z.grad is None or not z.grad.any()
    held, small = [a.copy() for a in arrays(x, z, w)], 1e-6
    for place, gradient in ((0, x.grad), (2, loss.weight.grad)):
        for at in np.ndindex(held[place].shape):
            ends = []
            for step in (small, -small):
                moved = [a.copy() for a in held]
                moved[place][at] += step
                ends.append(loop(moved[0], *arrays(y, m), *moved[1:], held=held, **given))
            assert gradient[at].item() == pytest.approx((ends[0] - ends[1]) / (2 * small), abs=1e-7)


@pytest.mark.parametrize("given", TERMS[:2])
def test_gradients_by_differences(given):
    x, y, m = batch([(1, 2), (2, 1), (0, 2)], dimension=4, seed=6)
    loss, z = made(normal(2, 3, 4), **given), normal(len(y), 3, seed=3).requires_grad_()
    call = lambda x, z, w: torch.func.functional_call(loss, {"weight": w}, (x, y, m), {"logits": z})  # noqa: E731
    torch.autograd.gradcheck(call, (x.requires_grad_(), z, normal(2, 3, 4, seed=5).requires_grad_()))


# Contract


def test_types_and_size_at_the_start():
    with torch.device("meta"):
        loss = ModalityClassifiers(395, 2048, slow=0.2)
    assert loss.fast and sum(p.numel() for p in loss.parameters()) == 2 * 395 * 2048
    torch.manual_seed(0)
    assert ModalityClassifiers(50, 100).weight.std().item() == pytest.approx(0.001, rel=0.05)
    x, y, m = ragged(2)
    z = normal(len(y), 6)
    loss = ModalityClassifiers(6, x.shape[1])
    assert loss(x.float(), y, m, logits=z.float()).dtype == torch.float32
    assert loss.double()(x, y, m, logits=z).dtype == torch.float64
    far = made(1e4 * normal(2, 6, x.shape[1]))
    assert far(x.requires_grad_(), y, m, logits=z).isfinite()


def test_what_it_refuses():
    x, y, m = batch([(1, 1), (1, 1)])
    loss, z = ModalityClassifiers(2, 6), torch.zeros(4, 2)
    with pytest.raises(ValueError, match="labels are 7 to 8: with 2 classes they must be 0 to 1"):
        loss(x, y + 7, m, logits=z)
    for shape in ((4, 2, 2), (4, 1), (1, 2), (4, 3)):
        with pytest.raises(ValueError, match=r"logits are .*needs those of one, \(4, 2\)"):
            loss(x, y, m, logits=torch.zeros(shape))
    with pytest.raises(ValueError, match="collaboration 'both' is not known: choose one of ensemble, other"):
        ModalityClassifiers(2, 6, collaboration="both")
    with pytest.raises(ValueError, match="slow must be a number, from 0 to 1"):
        ModalityClassifiers(2, 6, slow=1.5)
    with pytest.raises(ValueError, match="collaboration_weight must be a number"):
        ModalityClassifiers(2, 6, collaboration_weight=-1.0)
