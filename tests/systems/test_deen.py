"""DEEN: its losses beside loops, aggregation and expansion place by place, and where they stand in a network."""

import math
from itertools import product

import numpy as np
import oracles
import pytest
import torch
from golden import cases, probe, same
from test_losses import batch, ragged
from torch import nn

from vtlib.backbones import load_backbone
from vtlib.losses import identity
from vtlib.model import TwoStreamNet, stages
from vtlib.systems.deen import (
    Aggregation,
    Branches,
    Expansion,
    branch_orthogonality,
    branch_triplet,
    centre_pull_mining,
    diverse_expansion,
)

LOSSES = (centre_pull_mining, branch_orthogonality, branch_triplet)


def with_branches(features, labels, modality, seed=0):
    """The batch and local (N, 3, D): the features, and two more that are near them."""
    g = torch.Generator().manual_seed(seed)
    more = [features + torch.randn(features.shape, generator=g, dtype=features.dtype) for _ in range(2)]
    return (features, labels, modality), torch.stack([features, *more], 1)


def pull(plain, expanded, own, people, margin, held):
    """One direction: own, the modality of the expanded centres; held: d(V0, V) are of these centres."""
    total, d = 0.0, oracles.distance
    for i in people:
        near = margin + d(plain[i, 1 - own], expanded[i, own])
        total += max(0.0, near - d(held[0][i, own], held[1][i, own]))
        for group in (expanded, plain):
            total += max(0.0, near - min(d(group[i, own], group[j, own]) for j in people if j != i)) / 2
    return total / len(people)


def loop_of_centre_pull_mining(local, y, m, margin=0.2, held=None):
    """held: other features, whose distances are what the gradient takes as constants."""
    people, total = sorted(set(y)), 0.0
    centre, fixed = (
        [oracles.centres(x[:, b], y, m) for b in range(3)] for x in (local, local if held is None else held)
    )
    for b in (1, 2):
        ways = [pull(centre[0], centre[b], own, people, margin, (fixed[0], fixed[b])) for own in (0, 1)]
        total += sum(ways) / 2
    return total


def loop_of_branch_orthogonality(local, y, m):
    return sum(float(a) * float(b) for row in local for a, b in zip(row[1], row[2], strict=True)) / (3 * len(y))


def loop_of_branch_triplet(local, y, m, margin=0.3):
    rows = [(i, b) for i in range(len(y)) for b in range(3)]
    return oracles.batch_hard_triplet([local[i, b] for i, b in rows], [y[i] for i, _ in rows], margin=margin)


LOOPS = (loop_of_centre_pull_mining, loop_of_branch_orthogonality, loop_of_branch_triplet)
OPTIONS = {centre_pull_mining: (0.0, 0.2, 3.0), branch_triplet: (0.0, 0.3, 3.0), branch_orthogonality: ()}
GIVEN = [
    (loss, expected, options)
    for loss, expected in zip(LOSSES, LOOPS, strict=True)
    for options in ({}, *({"margin": x} for x in OPTIONS[loss]))
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("loss", "expected", "options"), GIVEN)
def test_a_loss_is_its_loop_on_ragged_batches_in_any_order(loss, expected, options, seed):
    (features, labels, modality), local = with_branches(*ragged(seed), seed=seed)
    value = loss(features, labels, modality, local=local, **options)
    stored = expected(local.numpy(), labels.tolist(), modality.tolist(), **options)
    assert value.item() == pytest.approx(stored, abs=1e-10) and value.dtype == torch.float64
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    moved = loss(features[order], 90 - 7 * labels[order], modality[order], local=local[order], **options)
    assert moved.item() == pytest.approx(value.item(), abs=1e-12)
    assert loss(0 * features, labels, modality, local=local, **options).item() == value.item()


def test_expanded_branches_are_exchangeable_and_the_plain_one_is_not():
    rows, local = with_branches(*ragged(4))
    for loss in LOSSES:
        value = loss(*rows, local=local).item()
        assert loss(*rows, local=local[:, [0, 2, 1]]).item() == pytest.approx(value, abs=1e-12)
        others = loss(*rows, local=local[:, [1, 0, 2]]).item()
        assert (others == pytest.approx(value, abs=1e-12)) == (loss is branch_triplet)


@pytest.mark.parametrize("margin", [0.2, 2.0])
def test_gradient_of_centre_pull_mining_takes_own_distances_as_constants(margin):
    (features, labels, modality), local = with_branches(*batch([(2, 1), (1, 3), (2, 2)], dimension=2, seed=3))
    y, m, held, small = labels.tolist(), modality.tolist(), local.numpy().copy(), 1e-6
    centre_pull_mining(features, labels, modality, local=local.requires_grad_(), margin=margin).backward()
    for at in np.ndindex(held.shape):
        ends = []
        for step in (small, -small):
            moved = held.copy()
            moved[at] += step
            ends.append(loop_of_centre_pull_mining(moved, y, m, margin, held))
        assert local.grad[at].item() == pytest.approx((ends[0] - ends[1]) / (2 * small), abs=1e-7)


def on_a_line(v0, t0, v, t):
    """A batch of one image of each identity and modality: its plain and its (two equal) expanded places."""
    p = len(v0)
    plain, expanded = (torch.tensor([*a, *b], dtype=torch.float64) for a, b in ((v0, t0), (v, t)))
    local = torch.stack([plain, expanded, expanded], 1)[..., None]
    return (local[:, 0], torch.arange(2 * p) % p, torch.arange(2 * p) // p), local.requires_grad_()


def test_a_plain_centre_does_not_learn_from_the_distance_to_its_own_branch():
    # identities 100 apart, so that only the first hinge is open: T0 and V learn, V0 does not (nor does T, T0 = T)
    rows, local = on_a_line((0.0, 100), (3.0, 103), (1.0, 101), (0.0, 100))
    centre_pull_mining(*rows, local=local).backward()
    grad = local.grad[..., 0]
    assert not grad[:2, 0].any() and (grad[2:, 0] > 0).all() and (grad[:2, 1:] < 0).all() and not grad[2:, 1:].any()
    # [.2 + d(T0, V) - d(V0, V)]_+ = 1.2 of each identity and branch; T lies on V0 and far from T0: shut
    assert centre_pull_mining(*rows, local=local).item() == pytest.approx(1.2)


def test_shut_hinges_are_zero_with_a_graph():
    rows, local = on_a_line((0.0, 100), (5.0, 105), (5.0, 105), (0.0, 100))  # each expanded on the other's plain one
    centre_pull_mining(*rows, local=local).backward()
    assert centre_pull_mining(*rows, local=local).item() == 0 and not local.grad.any()
    local.grad = None
    assert branch_triplet(*rows, local=local, margin=1.0).item() == 0
    branch_triplet(*rows, local=local).backward()
    assert not local.grad.any()
    local.grad = None
    right = (torch.eye(3, dtype=torch.float64)[None] + 0 * local).requires_grad_()  # branches at right angles
    value = branch_orthogonality(*rows, local=right)
    value.backward()
    assert value.item() == 0 and local.grad is not None


def test_branch_triplet_by_hand():
    # places 0 1 2 3 of identity 0 and 10 to 13 of identity 1: 3 + .3 - 7 < 0, all are shut
    rows, local = on_a_line((0.0, 10), (1.0, 11), (2.0, 12), (3.0, 13))
    assert branch_triplet(*rows, local=local).item() == 0
    # 4 to 7 instead: furthest own 3 2 2 3 and nearest other 4 3 2 1 leave 0 0 .3 2.3, and the same mirrored. The plain
    # places 0 1 4 5 are there once, the expanded 2 3 6 7 twice: (2 (.3 + 2.3) + 2.3 + .3) / 12
    rows, local = on_a_line((0.0, 4), (1.0, 5), (2.0, 6), (3.0, 7))
    assert branch_triplet(*rows, local=local).item() == pytest.approx(0.65)


@pytest.mark.parametrize("loss", [branch_orthogonality, branch_triplet])
def test_gradients_by_differences(loss):
    (features, labels, modality), local = with_branches(*batch([(2, 1), (1, 2)], dimension=3, seed=6))
    torch.autograd.gradcheck(lambda x: loss(features, labels, modality, local=x), local.requires_grad_(), atol=1e-6)


def test_gradient_of_orthogonality_is_the_published_one(shared):
    ((case, x),) = cases(shared, "deen", "orthogonality")
    pooled = x["pooled"].requires_grad_()
    local = pooled.unflatten(0, (3, -1)).transpose(0, 1)
    labels = torch.zeros(len(local)).long()
    branch_orthogonality(local[:, 0], labels, labels, local=local).backward()
    same(pooled.grad, case["outputs"]["as_coded_lines"]["gradient"])


def test_batches_for_which_the_losses_are_not_defined():
    rows, local = with_branches(*batch([(2, 2), (2, 0)], names=(4, 6)))
    with pytest.raises(ValueError, match=r"^identity 6 has no thermal image in the batch: each needs both$"):
        centre_pull_mining(*rows, local=local)
    assert branch_triplet(*rows, local=local).isfinite()  # which needs no modality, and three features are of one image
    rows, local = with_branches(*batch([(2, 2)], names=(4,)))
    for loss in (centre_pull_mining, branch_triplet):
        with pytest.raises(ValueError, match=r"^identity 4 is alone in the batch: .* needs a second identity$"):
            loss(*rows, local=local)
        with pytest.raises(ValueError, match="margin must be a number"):
            loss(*rows, local=local, margin="wide")
    with pytest.raises(ValueError, match=r"^local is \(4, 6\): it must be \(N, S, d\) with the N = 4 of features$"):
        branch_orthogonality(*rows, local=local[:, 0])


@pytest.mark.parametrize("stripes", [1, 2, 6])
@pytest.mark.parametrize("loss", LOSSES)
def test_stripes_are_no_branches(loss, stripes):
    rows, local = with_branches(*batch([(2, 2), (2, 2)]))
    sentence = rf"^local is \(8, {stripes}, 6\): the loss needs the \(N, 3, D\) of the head `branches`$"
    with pytest.raises(ValueError, match=sentence):
        loss(*rows, local=local[:, :1].expand(-1, stripes, -1))


def test_options_of_the_trunk_have_ranges():
    with pytest.raises(ValueError, match=r"^dropout must be a number, from 0 to 1, not 1\.5$"):
        diverse_expansion.check(dropout=1.5)
    diverse_expansion.check(dropout=0.5, pairs=True)


@pytest.mark.parametrize("loss", LOSSES)
def test_values_of_any_size_and_not_a_number(loss):
    rows, local = with_branches(*batch([(2, 2), (2, 2)], seed=2))
    local[0, 1, 0] = torch.nan
    assert loss(*rows, local=local).isnan()
    for size in (1e-12, 1e12):
        (features, *who), local = with_branches(*batch([(2, 2), (2, 2)], seed=2))
        local = (local.float() * size).requires_grad_()
        value = loss(features.float(), *who, local=local)
        value.backward()
        assert value.isfinite() and local.grad.isfinite().all()
    equal = torch.ones(8, 3, 4, requires_grad=True)
    loss(equal[:, 0], *who, local=equal).backward()
    assert equal.grad.isfinite().all()


# Aggregation


def drawn_aggregation(high, low, step, seed=0):
    """An Aggregation of no stage whose scales and statistics are none of those that it starts with."""
    torch.manual_seed(seed)
    made = Aggregation(nn.Identity(), high, low, step).double().eval().requires_grad_(False)
    for norm in (made.norm, made.at_norm):
        for x in (norm.weight, norm.bias, norm.running_mean):
            x.normal_(0.5, 0.5)
        norm.running_var.uniform_(0.5, 2)
    return made


def point(layer, map_, at):
    """A 1x1 convolution at one place (row, column) of a map (C, h, w): the place times its stride."""
    step = layer.stride[0]
    x = map_[:, at[0] * step, at[1] * step]
    weight, bias = layer.weight[..., 0, 0].numpy(), layer.bias.tolist()
    return [sum(w * float(v) for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def shift(norm, row):
    numbers = [x.tolist() for x in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
    return [g * (x - m) / math.sqrt(v + norm.eps) + b for x, m, v, g, b in zip(row, *numbers, strict=True)]


def places_of(map_, step=1):
    return list(product(range(-(-map_.shape[1] // step)), range(-(-map_.shape[2] // step))))


def loop_of_channels(made, high, low):
    """high (C_h, h, w) + BN(W y), y_a = sum_b E_ab g_b / C_l, E_ab = sum over places theta_a phi_b."""
    step, at_high, at_low = made.key.stride[0], places_of(high), places_of(low)
    assert at_high == places_of(low, step)
    theta, phi = ([point(f, x, p) for p in at_high] for f, x in ((made.query, high), (made.key, low)))
    value = {p: point(made.value, low, p) for p in at_low}
    y, c = np.zeros_like(low), len(low)
    for p, a in product(at_low, range(c)):
        y[(a, *p)] = sum(sum(t[a] * f[b] for t, f in zip(theta, phi, strict=True)) / c * value[p][b] for b in range(c))
    out = high.copy()
    for p in at_high:
        out[(slice(None), *p)] += shift(made.norm, point(made.back, y, p))
    return out


def loop_of_places(made, high, low):
    """high + BN(W y), y_i = sum_j (theta(high)_i . phi(low)_j) g(low)_j / N_l."""
    out, at_low = high.copy(), places_of(low)
    phi, value = ([point(f, low, p) for p in at_low] for f in (made.at_key, made.at_value))
    for p in places_of(high):
        theta, y = point(made.at_query, high, p), np.zeros(made.at_value.out_channels)
        for f, v in zip(phi, value, strict=True):
            y += sum(a * b for a, b in zip(theta, f, strict=True)) / len(at_low) * np.array(v)
        out[(slice(None), *p)] += shift(made.at_norm, point(made.at_back, y[:, None, None], (0, 0)))
    return out


SHAPES = [((5, 2, 3), (4, 2, 3), 1), ((6, 2, 3), (4, 4, 6), 2), ((3, 3, 2), (2, 5, 3), 2), ((3, 1, 1), (1, 1, 1), 1)]


@pytest.mark.parametrize(("high", "low", "step"), SHAPES)
def test_aggregation_is_its_loop_over_channels_and_places(high, low, step):
    made = drawn_aggregation(high[0], low[0], step)
    x, y = (torch.randn(2, *s, dtype=torch.float64) for s in (high, low))
    between = made.channels(x, y)
    after = made.places(between, y)
    for i in range(2):
        expected = loop_of_channels(made, x[i].numpy(), y[i].numpy())
        np.testing.assert_allclose(between[i].numpy(), expected, atol=1e-10)
        np.testing.assert_allclose(after[i].numpy(), loop_of_places(made, expected, y[i].numpy()), atol=1e-10)


def test_channels_come_before_places():
    made, low = drawn_aggregation(5, 4, 2), torch.randn(2, 4, 5, 3, dtype=torch.float64)
    made.stage = nn.Conv2d(4, 5, 3, 2, 1).double()
    assert torch.equal(made(low), made.places(made.channels(made.stage(low), low), low))


def test_places_by_hand():
    # one channel, two places: theta = 2 h, phi = l, g = l: y_i = 2 h_i (1 + 9) / 2 = 10 h_i, and the norm doubles it
    made = Aggregation(nn.Identity(), 1, 1, 1).double().eval().requires_grad_(False)
    for layer, weight in ((made.at_query, 2), (made.at_key, 1), (made.at_value, 1), (made.at_back, 1)):
        layer.weight.fill_(weight)
        layer.bias.zero_()
    made.at_norm.weight.fill_(2 * math.sqrt(1 + made.at_norm.eps))
    high, low = (torch.tensor(x, dtype=torch.float64).view(1, 1, 1, 2) for x in ((1, -2), (1, 3)))
    assert made.places(high, low).flatten().tolist() == pytest.approx([21, -42])


def test_batch_statistics_of_the_channel_block_are_the_published_ones(shared):
    n = 0
    for case, x in cases(shared, "deen", "aggregation"):
        made = Aggregation(nn.Identity(), x["high"].shape[1], x["low"].shape[1], case["settings"]["stride"]).double()
        for name in ("query", "key", "value", "back"):
            layer = getattr(made, name)
            layer.weight.data.copy_(x[f"channel.{name}.weight"][..., None, None])
            layer.bias.data.copy_(x[f"channel.{name}.bias"])
        made.norm.weight.data.copy_(x["channel.norm.gamma"])
        made.norm.bias.data.copy_(x["channel.norm.beta"])
        same(made.train().channels(x["high"], x["low"]), case["outputs"]["train"]["after_channel_block"])
        n += 1
    assert n == 4


def test_no_matrix_of_places_is_built():
    with torch.device("meta"):  # 10^10 pairs of places: 40 GB, were they built
        made, low = Aggregation(nn.Identity(), 8, 8, 1), torch.empty(1, 8, 1000, 100)
        assert made(low).shape == low.shape
    seen, made = [], Aggregation(nn.Identity(), 8, 8, 1)
    low = torch.randn(1, 8, 60, 30)

    class Sizes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, call, types, args=(), kwargs=None):
            out = call(*args, **kwargs or {})
            seen.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Sizes():
        made(low)
    assert max(seen) == low.numel()


def fill(made, x):
    for prefix, place in (("", "channel"), ("at_", "position")):
        for name in ("query", "key", "value", "back"):
            layer = getattr(made, prefix + name)
            layer.weight.data.copy_(x[f"{place}.{name}.weight"][..., None, None])
            layer.bias.data.copy_(x[f"{place}.{name}.bias"])
        norm = getattr(made, f"{prefix}norm")
        norm.weight.data.copy_(x[f"{place}.norm.gamma"])
        norm.bias.data.copy_(x[f"{place}.norm.beta"])
        norm.running_mean.copy_(x[f"{place}.norm.mean"])
        norm.running_var.copy_(x[f"{place}.norm.variance"])


@pytest.mark.parametrize("training", [False, True])
def test_pairs_of_places_are_the_published_ones(shared, training):
    n = 0
    for case, x in cases(shared, "deen", "aggregation"):
        high, low, out = x["high"], x["low"], case["outputs"]["train" if training else "eval"]
        made = Aggregation(nn.Identity(), high.shape[1], low.shape[1], case["settings"]["stride"], pairs=True).double()
        fill(made.train(training), x)
        high.requires_grad_()
        low.requires_grad_()
        found = made.places(made.channels(high, low), low)
        same(found, out["output"])
        (found * probe(found.shape)).sum().backward()
        same(high.grad, out["gradient_high"], 1e-8)
        same(low.grad, out["gradient_low"], 1e-8)
        n += 1
    assert n == 4


def loop_of_pairs(made, high, low):
    """y of the places j and j + N_h / 2 together: both products count for both, divided by N_l / 2."""
    out, at_high, at_low = high.copy(), places_of(high), places_of(low)
    theta, phi, value = (
        [np.array(point(f, x, p)) for p in at]
        for f, x, at in ((made.at_query, high, at_high), (made.at_key, low, at_low), (made.at_value, low, at_low))
    )
    n, m = len(at_high) // 2, len(at_low) // 2
    for i in range(n):
        e = [(theta[i] @ phi[j] + theta[i + n] @ phi[j + m]) / m for j in range(m)]
        for one in (0, 1):
            y = sum(a * value[j + one * m] for j, a in enumerate(e))
            out[(slice(None), *at_high[i + one * n])] += shift(
                made.at_norm, point(made.at_back, y[:, None, None], (0, 0))
            )
    return out


@pytest.mark.parametrize(("high", "low", "step"), SHAPES[:2])
def test_pairs_are_their_loop(high, low, step):
    made = drawn_aggregation(high[0], low[0], step)
    made.pairs = True
    x, y = (torch.randn(1, *s, dtype=torch.float64) for s in (high, low))
    np.testing.assert_allclose(
        made.places(x, y)[0].numpy(), loop_of_pairs(made, x[0].numpy(), y[0].numpy()), atol=1e-10
    )


def test_pairs_of_an_odd_number_of_places():
    made = drawn_aggregation(3, 2, 1)
    made.pairs = True
    with pytest.raises(ValueError, match=r"^pairs needs an even number of places, not 5 x 3: set pairs=false$"):
        made.places(torch.ones(1, 3, 5, 3).double(), torch.ones(1, 2, 5, 3).double())


# Expansion


def test_expansion_is_its_loop():
    torch.manual_seed(0)
    made = Expansion(4, 0.0).double().requires_grad_(False)
    image = torch.randn(1, 4, 5, 4, dtype=torch.float64)
    x = image[0].numpy()
    plain, *expanded = made(image).numpy()
    assert np.array_equal(plain, x)
    for wide, up, found in zip(made.wide, made.up, expanded, strict=True):
        for r, c in product(range(5), range(4)):
            total = 0.0
            for d, layer in enumerate(wide, 1):
                for i, j, k in product(range(4), range(3), range(3)):
                    at = r + d * (j - 1), c + d * (k - 1)
                    if 0 <= at[0] < 5 and 0 <= at[1] < 4:
                        total += layer.weight[0, i, j, k].item() * x[(i, *at)] / 3
            row = [w * max(0.0, total) + b for w, b in zip(up.weight.flatten().tolist(), up.bias.tolist(), strict=True)]
            assert found[:, r, c].tolist() == pytest.approx(row, abs=1e-12)


def test_dropout_of_all_three_in_training_alone():
    torch.manual_seed(0)
    made, x = Expansion(8, 0.5), torch.randn(2, 8, 6, 3)
    out = made(x)
    for third in out.tensor_split(3):
        assert 0.3 < (third == 0).float().mean() < 0.7
    still = made.eval()(x)
    assert torch.equal(still[:2], x) and torch.equal(still, made(x))
    torch.testing.assert_close(out[out != 0], 2 * still[out != 0])


def test_gradients_of_the_expansion_are_the_published_ones(shared):
    n = 0
    for case, x in cases(shared, "deen", "expand"):
        out, made = case["outputs"], Expansion(x["map"].shape[1], 0.0).double()
        for b, (wide, up) in enumerate(zip(made.wide, made.up, strict=True), 1):
            for d, layer in enumerate(wide, 1):
                layer.weight.data.copy_(x[f"branch{b}.dilation{d}"])
            up.weight.data.copy_(x[f"branch{b}.up.weight"][..., None, None])
            up.bias.data.copy_(x[f"branch{b}.up.bias"])
        image = x["map"].requires_grad_()
        found = made(image)
        (found * probe(found.shape)).sum().backward()
        same(image.grad, out["gradient_map"], 1e-8)
        for d in (1, 3):
            same(made.wide[0][d - 1].weight.grad, out[f"gradient_branch1.dilation{d}"], 1e-8)
        same(made.up[1].weight.grad, out["gradient_branch2.up.weight"], 1e-8)
        n += 1
    assert n == 2


# In a network


def network(backbone="thin", specific=1, **options):
    torch.manual_seed(0)
    return TwoStreamNet(
        5, backbone, **{"attention": False, "pooling": "avg"} | options, specific_stages=specific,
        change=diverse_expansion, head=Branches,
    )  # fmt: skip


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("backbone", ["thin", "resnet18"])
def test_aggregated_stages_are_the_plain_ones_at_first(backbone, training):
    torch.manual_seed(0)
    net = load_backbone(backbone, "none").train(training)
    plain, changed = ([list(s) for s in stages(net, False, 1)] for _ in range(2))
    diverse_expansion(changed, dropout=0.0)
    x = torch.randn(2, 3, 67, 35)  # of odd size at each stage
    for i, stage in enumerate(changed):
        wraps = isinstance(stage[0], Aggregation)
        assert wraps == (i in (1, 2, 3)) and len(stage) == len(plain[i]) + (i == 3)
        assert not wraps or stage[0].stage is plain[i][0]
        expected, found = (nn.Sequential(*s).train(training)(x) for s in (plain[i], stage))
        assert torch.equal(found[: len(x)], expected) and len(found) == len(x) * (3 if i == 3 else 1)
        x = expected


@pytest.mark.parametrize("backbone", ["thin", "resnet18", "resnet50", "wide_resnet50_2"])
def test_widths_and_strides_are_those_of_the_backbone(backbone):
    with torch.device("meta"):
        by_stage = stages(load_backbone(backbone, "none"), False, 1)
        diverse_expansion(by_stage)
    wide = {"thin": (24, 24, 48, 96), "resnet18": (64, 64, 128, 256)}.get(backbone, (64, 256, 512, 1024))
    for at, step in ((1, 1), (2, 2), (3, 2)):
        made, low, high = by_stage[at][0], wide[at - 1], wide[at]
        assert (made.norm.num_features, made.key.in_channels) == (high, low)
        assert made.key.stride[0] == made.back.stride[0] == step
        own = sum(p.numel() for n, p in made.named_parameters() if not n.startswith("stage."))
        half = low // 2
        four = low * (high + 1) + 2 * low * (low + 1) + high * (low + 1) + 2 * high
        assert own == four + half * (high + 1) + 2 * half * (low + 1) + high * (half + 1) + 2 * high
    expansion = by_stage[3][-1]
    c, quarter = wide[3], wide[3] // 4
    assert sum(p.numel() for p in expansion.parameters()) == 2 * (27 * c * quarter + c * quarter + c)
    assert not any(getattr(m, "fast", False) for m in (by_stage[1][0], expansion))


@pytest.mark.parametrize("specific", [0, 1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"last_stride": 2, "attention": True}])
def test_a_network_gives_one_row_for_each_image(specific, options):
    net = network(specific=specific, **options)
    images, modality = torch.randn(5, 3, 64, 32), torch.tensor([1, 0, 0, 1, 0])
    out = net(images, modality)
    assert out.pooled[0].shape == out.features.shape == (5, 3 * 192) and net.widths == [net.dim] == [3 * 192]
    assert out.local[0].shape == (5, 3, 192) and out.logits.shape == (5, 3, 5)
    (out.logits.square().sum() + out.pooled[0].sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    net.eval()
    for norm in (m for m in net.modules() if isinstance(m, Aggregation)):
        nn.init.normal_(norm.norm.weight)
        nn.init.normal_(norm.at_norm.weight)
    whole = net(images, modality)
    alone = [net(images[i : i + 1], modality[i : i + 1]) for i in range(5)]
    for found in ("features", "logits"):
        one_by_one = torch.cat([getattr(x, found) for x in alone])
        torch.testing.assert_close(one_by_one, getattr(whole, found), rtol=1e-4, atol=1e-5)


def test_rates_of_aggregation_and_expansion_are_slow_and_of_the_head_fast():
    net = network()
    fast = {id(p) for p in net.fresh_parameters()}
    assert fast == {id(p) for p in net.head.parameters()}


# The head


@pytest.mark.parametrize("place", ["pooled", "neck"])
@pytest.mark.parametrize("shared_neck", [True, False])
def test_branches_read_thirds_of_the_rows(place, shared_neck):
    torch.manual_seed(0)
    made = Branches(4, 5, Mean(), place=place, shared_neck=shared_neck).double()
    nn.init.normal_(made.neck.weight, 1, 0.2)
    maps = torch.randn(12, 4, 3, 2, dtype=torch.float64)
    out = made(maps, torch.arange(4) % 2)
    pooled = maps.mean((2, 3))
    weight = made.neck.weight.detach()
    for i, b in product(range(4), range(3)):
        group = pooled if shared_neck else pooled[4 * b : 4 * b + 4]
        scale = weight if shared_neck else weight[4 * b : 4 * b + 4]
        row = pooled[4 * b + i]
        behind = scale * (row - group.mean(0)) / (group.var(0, correction=0) + made.neck.eps).sqrt()
        local = row if place == "pooled" else behind
        for found, expected in (
            (out.local[0][i, b], local),
            (out.pooled[0][i, 4 * b : 4 * b + 4], local),
            (out.features[i, 4 * b : 4 * b + 4], behind / behind.norm()),
            (out.logits[i, b], made.classifier.weight @ behind),
        ):
            torch.testing.assert_close(found, expected)
    assert made.fast and made.widths == [12] and made.dim == 12 and made.classifier.bias is None
    assert not made.neck.bias.requires_grad


class Mean(nn.Module):
    def forward(self, maps):
        return maps.mean((2, 3))


def test_cosines_are_means_of_those_of_the_branches():
    torch.manual_seed(0)
    out = Branches(4, 5, Mean()).eval()(torch.randn(9, 4, 3, 2), torch.tensor([0, 1, 0]))
    torch.testing.assert_close(out.features.norm(dim=1), torch.full((3,), math.sqrt(3)))


def test_the_mean_over_branches_is_the_loss_of_three_times_the_rows():
    torch.manual_seed(0)
    made, labels = Branches(4, 5, Mean()), torch.tensor([3, 0, 3, 1])
    maps, modality = torch.randn(12, 4, 3, 2), torch.arange(4) % 2
    rows = made.eval().classifier(made.neck(maps.mean((2, 3))))
    expected = nn.functional.cross_entropy(rows, labels.repeat(3))
    assert identity(made(maps, modality).logits, labels, modality, smoothing=0.0).item() / 3 == pytest.approx(
        expected.item(), rel=1e-6
    )


def test_what_is_pooled_of_half_precision_goes_on_in_single():
    torch.manual_seed(0)
    made, maps = Branches(4, 5, Mean()).eval(), torch.randn(12, 4, 9, 5).bfloat16()
    out, local = made(maps, torch.arange(4) % 2), maps.mean((2, 3)).float().unflatten(0, (3, 4)).transpose(0, 1)
    assert torch.equal(out.local[0], local) and out.features.dtype == out.logits.dtype == torch.float32
    behind = local / math.sqrt(1 + made.neck.eps)
    torch.testing.assert_close(out.logits, behind @ made.classifier.weight.mT)


def test_nothing_reads_a_number_from_the_device():
    modality = torch.arange(8) % 2
    with torch.device("meta"):
        made, maps = Branches(48, 5, Mean()), torch.empty(24, 48, 9, 4, dtype=torch.bfloat16)
    out = made(maps, modality)
    assert out.features.shape == (8, 144) and out.features.dtype == out.local[0].dtype == torch.float32
    for loss in LOSSES:
        assert loss(out.pooled[0], torch.arange(8) // 4, modality, local=out.local[0]).is_meta
