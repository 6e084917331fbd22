"""CMSP: its loss beside loops with every option, the constants of its gradient, and the gates of a trunk."""

import math

import numpy as np
import oracles
import pytest
import torch
from test_losses import batch, on_line, ragged
from torch import nn

from vtlib.backbones import load_backbone
from vtlib.model import TwoStreamNet, stages
from vtlib.systems.cmsp import Gate, modality_gates, similarity_preserving

OPTIONS = [
    {},
    {"scale": 3.0},
    {"scale": 3.0, "gamma": 0.0},
    {"scale": 2.0, "gamma": 0.7, "preserve": False},
    {"scale": 5.0, "leave_out": False},
    {"gamma": 1.0, "leave_out": False, "preserve": False},
]


def profile(x, y, m, r, side, scale, leave_out):
    """{identity: probability} for row r by the nearest of the centres of one modality."""
    weight = {}
    for j in sorted(set(y)):
        rows = [s for s in range(len(y)) if (y[s], m[s]) == (j, side) and not (leave_out and s == r)]
        unit = [[v / oracles.distance(x[s], [0.0] * len(x[s])) for v in x[s]] for s in rows]
        weight[j] = math.exp(scale * oracles.cosine(x[r], oracles.mean_vector(unit)))
    return {j: w / sum(weight.values()) for j, w in weight.items()}


def loop(x, y, m, scale=16.0, gamma=2.0, leave_out=True, preserve=True, held=None):
    """held: other features, whose probabilities are what the gradient takes as constants."""
    total = 0.0
    for r in range(len(y)):
        same, across = (profile(x, y, m, r, side, scale, leave_out) for side in (m[r], 1 - m[r]))
        kept, hard = same, across
        if held is not None:
            kept, hard = (profile(held, y, m, r, side, scale, leave_out) for side in (m[r], 1 - m[r]))
        focus = (1 - hard[y[r]]) ** gamma
        total -= math.log(same[y[r]]) + focus * math.log(across[y[r]])
        if preserve:
            total += focus * sum(p * (math.log(p) - math.log(across[j])) for j, p in kept.items())
    return total / len(y)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("given", OPTIONS)
def test_equals_loops_on_ragged_batches_in_any_order(given, seed):
    features, labels, modality = ragged(seed, low=2, scale=7.0)
    value = similarity_preserving(features, labels, modality, **given)
    assert value.item() == pytest.approx(loop(features.numpy(), labels.tolist(), modality.tolist(), **given), abs=1e-10)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    moved = similarity_preserving(features[order], 90 - 7 * labels[order], modality[order], **given)
    assert moved.item() == pytest.approx(value.item(), abs=1e-12)


@pytest.mark.parametrize("given", [{}, {"scale": 2.0, "gamma": 1.0}, {"leave_out": False, "preserve": False}])
def test_gradient_takes_focus_and_own_profile_as_constants(given):
    features, labels, modality = batch([(2, 2), (2, 3)], dimension=3, seed=4)
    y, m, held, small = labels.tolist(), modality.tolist(), features.numpy().copy(), 1e-6
    similarity_preserving(features.requires_grad_(), labels, modality, **given).backward()
    for at in np.ndindex(held.shape):
        ends = []
        for step in (small, -small):
            moved = held.copy()
            moved[at] += step
            ends.append(loop(moved, y, m, held=held, **given))
        assert features.grad[at].item() == pytest.approx((ends[0] - ends[1]) / (2 * small), abs=1e-7)


def square():
    """Two identities at right angles, one image of each in each modality."""
    features = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]], dtype=torch.float64)
    return features, torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])


def test_by_hand():
    # P of the right identity is 1 / (1 + 1/e) = 0.731059 in both modalities; -log of it 0.313262, (1 - P)^2 0.0723295
    hand = {"scale": 1.0, "leave_out": False}
    assert similarity_preserving(*square(), **hand).item() == pytest.approx(0.313262 * 1.0723295, abs=1e-6)
    sharp = similarity_preserving(*square(), gamma=0.0, leave_out=False).item()
    assert sharp == pytest.approx(2 * math.log(1 + math.exp(-16)), rel=1e-9)


def test_an_image_left_out_by_hand():
    # On a line all cosines are 1 or -1. Identity 1 is at 1 and 2, identity 2 at -1 and -2: every centre is right, also
    # that of the other image alone, and so P = 1 / (1 + exp(-2 scale))
    rows = [(side * place, 1 + (side < 0), m) for side in (1, -1) for m in (0, 1) for place in (1, 2)]
    right = -math.log(1 / (1 + math.exp(-1)))
    assert similarity_preserving(*on_line(*rows), scale=0.5, gamma=0.0).item() == pytest.approx(2 * right)
    # one visible image of identity 1 at -1: without itself its centre is at +, with itself the centre is 0
    rows[0] = (-1, 1, 0)
    y, m = ([r[k] for r in rows] for k in (1, 2))
    assert similarity_preserving(*on_line(*rows), scale=0.5).item() == pytest.approx(
        loop(np.array([[r[0]] for r in rows], float), y, m, scale=0.5)
    )
    assert profile([[r[0]] for r in rows], y, m, 0, 0, 0.5, True)[1] == pytest.approx(1 / (1 + math.e))


def test_equal_modalities_have_nothing_to_preserve():
    features, labels, _ = batch([(3, 0), (3, 0), (2, 0)], dimension=4, seed=2)
    drawn = features.repeat(2, 1), labels.repeat(2), torch.arange(2).repeat_interleave(len(labels))
    given = {"gamma": 0.0, "leave_out": False}
    values = [similarity_preserving(*drawn, preserve=p, **given).item() for p in (True, False)]
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    y, m = labels.repeat(2).tolist(), drawn[2].tolist()
    own = [profile(drawn[0].numpy(), y, m, r, m[r], 16.0, False)[y[r]] for r in range(len(y))]
    assert values[0] == pytest.approx(-2 * np.log(own).mean(), abs=1e-10)


def test_an_easy_batch_has_next_to_no_gradient_and_no_nan():
    features, labels, modality = square()
    near = torch.cat([features, features + 0.001]).float().requires_grad_()
    value = similarity_preserving(near, labels.repeat(2), modality.repeat(2), scale=300.0)
    value.backward()
    assert value.item() == 0 and not near.grad.any()
    lost = torch.zeros(8, 2, requires_grad=True)
    value = similarity_preserving(lost, labels.repeat(2), modality.repeat(2))
    value.backward()
    assert value.isfinite() and lost.grad.isfinite().all()


def test_what_it_refuses():
    with pytest.raises(ValueError, match="identity 0 has one image in a modality: set leave_out=false"):
        similarity_preserving(*square())
    features, labels, modality = batch([(2, 2), (2, 1)], dimension=3, names=(4, 6))
    with pytest.raises(ValueError, match="identity 6 has one image in a modality"):
        similarity_preserving(features, labels, modality)
    with pytest.raises(ValueError, match="identity 6 has no thermal image"):
        similarity_preserving(*batch([(2, 2), (2, 0)], names=(4, 6)))
    with pytest.raises(ValueError, match="identity 4 is alone"):
        similarity_preserving(*batch([(2, 2)], names=(4,)))
    for given in ({"scale": 0.0}, {"gamma": -1.0}, {"leave_out": 1}):
        with pytest.raises(ValueError, match=next(iter(given))):
            similarity_preserving(*square(), **given)


# Gates


@pytest.mark.parametrize(
    ("backbone", "widths"), [("resnet50", [64, 256, 512, 1024, 2048]), ("resnet18", [64, 64, 128, 256, 512])]
)
@pytest.mark.parametrize("attention", [False, True])
def test_each_stage_ends_with_a_gate_of_its_width(backbone, widths, attention):
    with torch.device("meta"):
        by_stage = stages(load_backbone(backbone, "none"), attention, 1)
        wrapped = [nn.Sequential(*stage) for stage in by_stage]
        for either in (by_stage, wrapped):
            modality_gates(either)
    for either in (by_stage, wrapped):
        assert [stage[-1].a.shape for stage in either] == [(2, width) for width in widths]
        assert all(isinstance(stage[-1], Gate) for stage in either)
    assert len(by_stage[0]) == 5 and len(by_stage[1]) == 2 + attention


def test_gates_learn_fast_and_do_not_decay():
    with torch.device("meta"):
        net = TwoStreamNet(395, "resnet50", attention=False, specific_stages=0, change=modality_gates)
        plain = TwoStreamNet(395, "resnet50", attention=False, specific_stages=0)
    gates = [m for m in net.modules() if isinstance(m, Gate)]
    added = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in plain.parameters())
    assert len(gates) == 5 and added == 2 * (64 + 256 + 512 + 1024 + 2048)
    assert all(g.by_modality and g.fast and not g.decayed for g in gates)
    fresh = {id(p) for p in net.fresh_parameters()}
    assert all(id(g.a) in fresh for g in gates)


def test_a_gate_is_that_of_the_row():
    gate, modality = Gate(3), torch.tensor([1, 0, 1])
    maps = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gate(maps, modality), 0.880797 * maps)  # the logistic function at 2
    assert gate(maps.bfloat16(), modality).dtype == torch.bfloat16
    with torch.no_grad():
        gate.a.copy_(torch.tensor([[torch.inf, -torch.inf, 0], [-torch.inf, torch.inf, math.log(3)]]))
    share = torch.tensor([[1, 0, 0.5], [0, 1, 0.75]])[modality][:, :, None, None]
    torch.testing.assert_close(gate(maps, modality), maps * share)
    gate = Gate(3)
    gate(maps, modality)[1].sum().backward()
    assert gate.a.grad[0].all() and not gate.a.grad[1].any()


def test_a_gate_by_differences():
    gate, maps = Gate(2).double(), torch.randn(2, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    call = lambda x, a: torch.func.functional_call(gate, {"a": a}, (x, torch.tensor([1, 0])))  # noqa: E731
    torch.autograd.gradcheck(call, (maps, gate.a))
