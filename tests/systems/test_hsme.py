"""HSME and D-HSME: the sphere softmax by hand, turns that change nothing, restraints, and stops between them."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vtlib.config import experiment
from vtlib.systems.hsme import Sphere

N = torch.zeros(64).long()  # modality, which the head does not read


def head(channels=6, classes=4, width=4, seed=0, **options):
    torch.manual_seed(seed)
    return Sphere(channels, classes, nn.Flatten(), width=width, **options)


def maps(count, channels=6, seed=1):
    return torch.randn(count, channels, 1, 1, generator=torch.Generator().manual_seed(seed))


# Sphere softmax


def test_logits_are_scaled_cosines():
    made = head(scale=7.0).eval()
    made.neck.running_mean.normal_()
    made.neck.running_var.uniform_(0.5, 2)
    made.neck.weight.data.uniform_(0.5, 2)
    x = maps(9)
    out = made(x, N[:9])
    f = ((x[..., 0, 0] - made.neck.running_mean) / (made.neck.running_var + 1e-5).sqrt() * made.neck.weight).detach()
    e, w = (f @ made.embed.weight.T).detach().double().numpy(), made.classifier.weight.detach().double().numpy()
    np.testing.assert_allclose(out.features.detach(), e, rtol=1e-4, atol=1e-5)
    for i in range(9):
        for c in range(4):
            cosine = sum(a * b for a, b in zip(e[i], w[c], strict=True)) / math.dist(e[i], [0] * 4)
            assert out.logits[i, c].item() == pytest.approx(7 * cosine / math.dist(w[c], [0] * 4), abs=1e-4)
    assert out.pooled[0] is out.features and out.local == (None,) and made.widths == [4] and made.dim == 4


def test_two_opposite_classes_by_hand():
    made = head(3, 2, 3).double().eval()
    with torch.no_grad():
        made.embed.weight.copy_(torch.eye(3))
        made.classifier.weight.copy_(torch.tensor([[5.0, 0, 0], [-0.1, 0, 0]]))
    x = torch.tensor([[0.3, 0, 0]], dtype=torch.float64)[..., None, None]
    logits = made(x, N[:1]).logits
    torch.testing.assert_close(logits, torch.tensor([[14.0, -14.0]], dtype=torch.float64))
    loss = F.cross_entropy(logits, N[:1]).item()
    assert loss == pytest.approx(math.log1p(math.exp(-28)), rel=1e-3)
    # C classes that point apart as far as they can: no loss is below log(1 + (C-1) exp(-s C / (C-1)))
    simplex = torch.eye(3, dtype=torch.float64) - 1 / 3
    made = head(3, 3, 3, scale=1.0).double().eval()
    made.embed.weight.data.copy_(torch.eye(3))
    made.classifier.weight.data.copy_(simplex)
    loss = F.cross_entropy(made(simplex[..., None, None], N[:3]).logits, torch.arange(3)).item()
    assert loss == pytest.approx(math.log(1 + 2 * math.exp(-1.5)), abs=1e-5)


@pytest.mark.parametrize("factor", [1e-3, 10.0, 1e6])
def test_lengths_do_not_count(factor):
    made, x = head(), maps(12)
    expected = made(x, N[:12]).logits
    for name in ("classifier", "embed"):
        scaled = copy.deepcopy(made)
        getattr(scaled, name).weight.data.mul_(factor)
        torch.testing.assert_close(scaled(x, N[:12]).logits, expected, rtol=1e-4, atol=1e-4)
    double = copy.deepcopy(made).double()
    double.neck.eps = 1e-30
    found = [double(k * x.double(), N[:12]).logits for k in (1, factor)]
    torch.testing.assert_close(*found)


def test_a_feature_of_zeros_is_finite_and_moves_nothing():
    made, x = head().eval(), maps(3)
    x[1] = 0
    out = made(x.requires_grad_(), N[:3])
    F.cross_entropy(out.logits, torch.tensor([0, 1, 2])).backward()
    assert not out.logits[1].any() and not x.grad[1].any() and x.grad[0].any()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() < 100 for p in made.parameters() if p.grad is not None)


def test_gradients_by_differences():
    made, x = head(4, 3, 3).double(), maps(5, 4).double().requires_grad_()
    names = ("embed.weight", "classifier.weight", "neck.weight")
    held = tuple(dict(made.named_parameters())[n].detach().clone().requires_grad_() for n in names)

    def logits(x, *weights):
        return torch.func.functional_call(made, dict(zip(names, weights, strict=True)), (x, N[:5])).logits

    torch.autograd.gradcheck(logits, (x, *held))


def test_size_types_and_neck():
    with torch.device("meta"):
        made = Sphere(2048, 395, nn.Flatten(), cycles=3)
    assert made.fast and sum(p.numel() for p in made.parameters()) == 2 * 2048 + 2048 * 512 + 395 * 512
    assert made.kept.shape == (512, 2048) and made.embed.bias is None and not made.neck.bias.requires_grad
    assert made(torch.empty(2, 2048, 1, 1, device="meta"), N[:2]).logits.shape == (2, 395)
    assert head()(maps(4).bfloat16(), N[:4]).logits.dtype == torch.float32
    assert head().double()(maps(4).double(), N[:4]).logits.dtype == torch.float64


def test_what_it_refuses():
    for options, sentence in (
        ({"scale": 0.0}, "scale must be a number, finite and above 0"),
        ({"cycles": -1}, "cycles must be a whole number, finite and at least 0"),
        ({"cycles": 1.5}, "cycles must be a whole number"),
    ):
        with pytest.raises(ValueError, match=sentence):
            head(**options)


# Decorrelation


def score(weight):
    """sum of |E_i|^2 / sum over all pairs of |E_i . E_j|."""
    rows = weight.detach().double().numpy()
    dots = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in rows] for p in rows]
    return sum(dots[i][i] for i in range(len(rows))) / sum(abs(d) for row in dots for d in row)


def test_score_by_hand():
    made = head(2, 2, 2)
    for rows, expected in (([[1.0, 0], [0, 3]], 1), ([[1, 0], [1, 0]], 0.5), ([[1, 0], [-1, 1]], 3 / 5)):
        made.embed.weight.data.copy_(torch.tensor(rows))
        assert made.decorrelation() == pytest.approx(expected)
    made = head(20, 2, 9)
    assert made.decorrelation() == pytest.approx(score(made.embed.weight), rel=1e-5)


@pytest.mark.parametrize(("channels", "width"), [(40, 8), (8, 8), (6, 9)])
def test_a_turn_keeps_distances_and_logits_and_leaves_orthogonal_rows(channels, width):
    made, x = head(channels, 5, width).double().eval(), maps(30, channels).double()
    before, start = made(x, N[:30]), made.decorrelation()
    made.decorrelate()
    after = made(x, N[:30])
    apart = [(o.features[:, None] - o.features).norm(dim=2) for o in (after, before)]
    torch.testing.assert_close(*apart, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(after.logits, before.logits, rtol=0, atol=1e-9)
    g = (made.embed.weight @ made.embed.weight.mT).detach()
    assert (g - g.diagonal().diag()).abs().max() < 1e-9 * g.max()
    assert start < 0.8 and made.decorrelation() == pytest.approx(1, abs=1e-8)
    lengths = g.diagonal()
    assert (lengths[:-1] >= lengths[1:] - 1e-12).all()  # singular values, the largest first


# Restraint and relaxation


def phases(epochs, cycles):
    made, seen = head(cycles=cycles), ""
    for epoch in range(epochs):
        made.at_epoch(epoch, epochs)
        seen += ".R"[int(made.restrained)]
    return seen


def test_phases():
    assert phases(12, 0) == "." * 12
    assert phases(12, 1) == "......RRRRRR"
    assert phases(12, 2) == "......RR..RR"
    assert phases(10, 3) == ".....R.R.R"
    assert phases(8, 3) == "....RR.R"  # too few epochs for three cycles
    assert phases(60, 3) == "." * 30 + "RRRRRR......RRRRRR......RRRRRR"
    assert [phases(n, 3) for n in (0, 1, 2, 3)] == ["", ".", ".R", "..R"]


@pytest.mark.parametrize("profile", ["quick", "cpu", "gpu", "paper"])
def test_a_training_of_each_profile_ends_with_a_restraint(profile):
    made = experiment(profile, "d_hsme")
    assert phases(made.epochs, int(made.modules["sphere"]["cycles"])).endswith("R")


@pytest.mark.parametrize("cycles", range(1, 8))
def test_every_training_begins_and_ends_the_second_half_with_a_restraint(cycles):
    for epochs in range(2, 40):
        seen = phases(epochs, cycles)
        first, second = seen[: epochs - epochs // 2], seen[epochs - epochs // 2 :]
        assert "R" not in first and second[0] == second[-1] == "R"
        assert len([s for s in seen.split(".") if s]) <= cycles


def train(made, optimizer, first, last, epochs, x, labels):
    """Epochs first to last - 1, of three steps; returns E as each step used it."""
    used = []
    for epoch in range(first, last):
        made.at_epoch(epoch, epochs)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(made(x, N[: len(x)]).logits, labels).backward()
            used.append(made.embedding().detach().clone())
            optimizer.step()
    return used


def sgd(made):
    return torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


def test_a_restrained_embedding_is_bit_equal_and_the_rest_learns():
    made, x, labels = head(cycles=2), maps(16), torch.arange(16) % 4
    optimizer = sgd(made)
    used = train(made, optimizer, 0, 6, 12, x, labels)
    assert not torch.equal(used[0], used[-1]) and not bool(made.restrained)
    classes = made.classifier.weight.clone()
    used = train(made, optimizer, 6, 8, 12, x, labels)  # restraint
    assert all(torch.equal(e, used[0]) for e in used) and torch.equal(made.embedding(), used[0])
    assert not torch.equal(made.embed.weight, used[0])  # momentum and weight decay go on
    assert not torch.equal(made.classifier.weight, classes)
    assert made.decorrelation() == pytest.approx(1, abs=1e-5)
    relaxed = train(made, optimizer, 8, 10, 12, x, labels)  # begins where the restraint was
    assert torch.equal(relaxed[0], used[0]) and not torch.equal(relaxed[-1], used[0])
    last = train(made, optimizer, 10, 12, 12, x, labels)
    assert all(torch.equal(e, last[0]) for e in last) and not torch.equal(last[0], used[0])
    assert made.decorrelation() == pytest.approx(1, abs=1e-5)
    assert made.embed.weight.requires_grad


def test_beginning_a_restraint_changes_no_logit():
    made, x = head(cycles=2), maps(16)
    train(made, sgd(made), 0, 6, 12, x, torch.arange(16) % 4)
    before = made.eval()(x, N[:16]).logits
    made.at_epoch(6, 12)
    torch.testing.assert_close(made(x, N[:16]).logits, before, rtol=1e-4, atol=1e-4)
    made.embed.weight.data.add_(1)
    made.decorrelate()  # of what is used, not of what drifts
    torch.testing.assert_close(made(x, N[:16]).logits, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stop", range(1, 12))
def test_a_stop_between_epochs_changes_no_bit(stop):
    x, labels = maps(16), torch.arange(16) % 4
    whole = head(cycles=2)
    train(whole, sgd(whole), 0, 12, 12, x, labels)
    first = head(cycles=2)
    optimizer = sgd(first)
    train(first, optimizer, 0, stop, 12, x, labels)
    again = head(seed=9, cycles=2)
    again.load_state_dict(first.state_dict())
    resumed = sgd(again)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(again, resumed, stop, 12, 12, x, labels)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())


def test_without_cycles_an_epoch_does_nothing():
    made = head()
    before = {k: v.clone() for k, v in made.state_dict().items()}
    for epoch in range(6):
        made.at_epoch(epoch, 6)
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())
