"""DFE: both alignments of stripes beside loops on ragged batches, by hand, and what leaves them as they are."""

import math

import numpy as np
import oracles
import pytest
import torch
from test_losses import batch, on_line, ragged

from vtlib.systems.dfe import correlation_alignment, distribution_alignment

BOTH = (distribution_alignment, correlation_alignment)
FORMS = [(distribution_alignment, {}), (correlation_alignment, {}), (correlation_alignment, {"form": "pearson"})]


def stripes(features, labels, modality, count=2):
    """The batch, and its features cut into stripes as the argument `local`."""
    return (features, labels, modality), {"local": features.unflatten(1, (count, -1))}


def on_one_stripe(*rows):
    return stripes(*on_line(*rows), count=1)


def gaussians(a, b, width, kernels):
    square = oracles.distance(a, b) ** 2
    return sum(math.exp(-square / (width * 2.0 ** (i - kernels // 2))) for i in range(kernels))


def mean_square(x):
    """Over pairs of different rows."""
    return sum(oracles.distance(a, b) ** 2 for a in x for b in x) / (len(x) * (len(x) - 1))


def loop_of_distribution(x, y, m, kernels=5, held=None):
    """x (N, S, d); held: other stripes, whose bandwidths are taken."""
    total = 0.0
    for s in range(x.shape[1]):
        width = mean_square((x if held is None else held)[:, s])
        side = [[row for row, n in zip(x[:, s], m, strict=True) if n == k] for k in (0, 1)]
        for k, sign in (((0, 0), 1), ((1, 1), 1), ((0, 1), -2)):
            pairs = [gaussians(a, b, width, kernels) for a in side[k[0]] for b in side[k[1]]]
            total += sign * sum(pairs) / len(pairs)
    return total / x.shape[1]


def covariance(rows, j, k):
    mean = oracles.mean_vector(rows)
    return sum((r[j] - mean[j]) * (r[k] - mean[k]) for r in rows) / (len(rows) - 1)


def loop_of_coral(x, y, m):
    total, d = 0.0, x.shape[2]
    for s in range(x.shape[1]):
        side = [[row for row, n in zip(x[:, s], m, strict=True) if n == k] for k in (0, 1)]
        for j in range(d):
            for k in range(d):
                total += (covariance(side[0], j, k) - covariance(side[1], j, k)) ** 2
    return total / (4 * d * d) / x.shape[1]


def loop_of_pearson(x, y, m):
    values = []
    for s in range(x.shape[1]):
        centre = oracles.centres(x[:, s], y, m)
        for k in range(x.shape[2]):
            pairs = [(centre[i, 0][k], centre[i, 1][k]) for i in sorted(set(y))]
            between = covariance(pairs, 0, 1) / math.sqrt(covariance(pairs, 0, 0) * covariance(pairs, 1, 1))
            values.append(1 - between)
    return sum(values) / len(values)


LOOPS = [
    (distribution_alignment, {}, loop_of_distribution),
    (distribution_alignment, {"kernels": 1}, loop_of_distribution),
    (distribution_alignment, {"kernels": 4}, loop_of_distribution),
    (correlation_alignment, {}, lambda *drawn: loop_of_coral(*drawn)),
    (correlation_alignment, {"form": "pearson"}, lambda *drawn, form: loop_of_pearson(*drawn)),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("call", "given", "loop"), LOOPS)
def test_equals_loops_on_ragged_batches_in_any_order(call, given, loop, seed):
    drawn, cut = stripes(*ragged(seed, scale=3.0), count=3)
    y, m = drawn[1].tolist(), drawn[2].tolist()
    value = call(*drawn, **cut, **given).item()
    assert value == pytest.approx(loop(cut["local"].numpy(), y, m, **given), abs=1e-9)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    moved = drawn[0][order], 90 - 7 * drawn[1][order], drawn[2][order]
    assert call(*moved, local=cut["local"][order], **given).item() == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize(("call", "given"), FORMS)
def test_is_the_mean_over_stripes(call, given):
    drawn, cut = stripes(*batch([(3, 2), (2, 2), (1, 3)], seed=3), count=3)
    each = [call(*drawn, local=cut["local"][:, [s]], **given).item() for s in range(3)]
    assert call(*drawn, **cut, **given).item() == pytest.approx(np.mean(each), abs=1e-12)
    assert call(7 * drawn[0].flip(0), *drawn[1:], **cut, **given) == call(*drawn, **cut, **given)  # features: unused


def test_distribution_by_hand():
    # one image each, at 0 and 1: the mean squared distance is 1, and the value 2 (1 - exp(-1)) for each kernel
    drawn, cut = on_one_stripe((0, 1, 0), (1, 1, 1))
    assert distribution_alignment(*drawn, **cut, kernels=1).item() == pytest.approx(1.264241, abs=1e-6)
    five = sum(2 - 2 * math.exp(-1 / w) for w in (0.25, 0.5, 1, 2, 4))
    assert distribution_alignment(*drawn, **cut).item() == pytest.approx(five, abs=1e-12)
    # visible 0 and 2, thermal 2 and 2: squares 4 in 6 of 12 pairs, so a width of 2 and k = exp(-2) for the far pairs
    drawn, cut = on_one_stripe((0, 1, 0), (2, 1, 0), (2, 1, 1), (2, 1, 1))
    far = math.exp(-2)
    expected = (2 + 2 * far) / 4 + 1 - 2 * (2 + 2 * far) / 4
    assert distribution_alignment(*drawn, **cut, kernels=1).item() == pytest.approx(expected, abs=1e-12)


def test_correlation_by_hand():
    # variances 2 and 8, d = 1: (2 - 8)^2 / 4 = 9. The centres of identities 1, 2 run from 0 to 2 and from 4 to 0
    drawn, cut = on_one_stripe((0, 1, 0), (2, 2, 0), (4, 1, 1), (0, 2, 1))
    assert correlation_alignment(*drawn, **cut).item() == pytest.approx(9, abs=1e-12)
    assert correlation_alignment(*drawn, **cut, form="pearson").item() == pytest.approx(2, abs=1e-12)
    # centres 0, 1, 2 and 0, 2, 1: their correlation is 1/2
    drawn, cut = on_one_stripe((0, 1, 0), (1, 2, 0), (2, 3, 0), (0, 1, 1), (2, 2, 1), (1, 3, 1))
    assert correlation_alignment(*drawn, **cut, form="pearson").item() == pytest.approx(0.5, abs=1e-12)


def alike(seed=0):
    """Visible stripes (12, 2, 5), and labels and modality of a batch of two such halves."""
    v = torch.randn(12, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return v, torch.arange(4).repeat_interleave(3).repeat(2), torch.arange(2).repeat_interleave(12)


@pytest.mark.parametrize(("call", "given"), FORMS)
def test_equal_modalities_are_aligned(call, given):
    v, labels, modality = alike()
    local = v.repeat(2, 1, 1).requires_grad_()
    value = call(local[:, 0], labels, modality, local=local, **given)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12) and local.grad.abs().max() < 1e-12


def test_moved_and_doubled_modalities():
    v, labels, modality = alike()
    v = v - v.mean(0)
    for t, coral in ((v + 3, 0.0), (2 * v, sum(9 * torch.cov(v[:, s].T).square().sum() / 200 for s in (0, 1)))):
        local = torch.cat([v, t])
        drawn = (local[:, 0], labels, modality), {"local": local}
        assert distribution_alignment(*drawn[0], **drawn[1]) > 0.05
        assert correlation_alignment(*drawn[0], **drawn[1]).item() == pytest.approx(float(coral), abs=1e-12)
        assert correlation_alignment(*drawn[0], **drawn[1], form="pearson").item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("call", "given"), FORMS)
def test_only_pearson_knows_identities_and_none_which_modality_is_which(call, given):
    v, labels, modality = alike()
    local = torch.cat([v, 1.5 * alike(1)[0]])
    value = call(local[:, 0], labels, modality, local=local, **given).item()
    assert call(local[:, 0], labels, 1 - modality, local=local, **given).item() == pytest.approx(value, abs=1e-12)
    other = torch.cat([labels[:12], labels[12:].roll(2)])
    moved = call(local[:, 0], other, modality, local=local, **given).item()
    assert (moved == pytest.approx(value, abs=1e-12)) is not bool(given)


@pytest.mark.parametrize(("call", "given", "power"), [(*f, p) for f, p in zip(FORMS, (0, 4, 0), strict=True)])
def test_scaling(call, given, power):
    drawn, cut = stripes(*ragged(5))
    value = call(*drawn, **cut, **given).item()
    assert call(*drawn, local=1e-3 * cut["local"] + 0.2, **given).item() == pytest.approx(1e-3**power * value, rel=1e-6)


def test_the_bandwidth_is_a_constant_for_the_gradient():
    drawn, cut = stripes(*batch([(1, 2), (2, 1)], dimension=4, seed=6))
    local, small = cut["local"].requires_grad_(), 1e-6
    distribution_alignment(*drawn, local=local).backward()
    held = local.detach().numpy().copy()
    for at in np.ndindex(held.shape):
        ends = []
        for step in (small, -small):
            moved = held.copy()
            moved[at] += step
            ends.append(loop_of_distribution(moved, drawn[1].tolist(), drawn[2].tolist(), held=held))
        assert local.grad[at].item() == pytest.approx((ends[0] - ends[1]) / (2 * small), abs=1e-7)


@pytest.mark.parametrize("form", ["coral", "pearson"])
def test_gradients_of_the_correlations_by_differences(form):
    drawn, cut = stripes(*batch([(2, 1), (1, 2), (2, 2)], dimension=4, seed=6))
    call = lambda x: correlation_alignment(*drawn, local=x, form=form)  # noqa: E731
    torch.autograd.gradcheck(call, cut["local"].requires_grad_())


@pytest.mark.parametrize("call", BOTH)
def test_stripes_that_are_all_the_same_give_zero_with_a_graph(call):
    local = torch.full((4, 2, 3), 0.7, requires_grad=True)
    value = call(local[:, 0], torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), local=local)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6) and local.grad.isfinite().all()


def test_pearson_of_a_coordinate_that_one_modality_keeps_constant_and_of_any_size():
    _, labels, modality = alike()
    local = torch.randn(24, 2, 5, generator=torch.Generator().manual_seed(3))
    value = correlation_alignment(local[:, 0], labels, modality, local=local, form="pearson").item()
    for scale in (1e-12, 1e12):
        found = correlation_alignment(local[:, 0], labels, modality, local=scale * local, form="pearson").item()
        assert found == pytest.approx(value, rel=1e-5)
    local[:12, 0, 0] = 0
    value = correlation_alignment(local[:, 0], labels, modality, local=local.requires_grad_(), form="pearson")
    value.backward()
    assert value.isfinite() and local.grad.abs().max() < 1


def test_what_they_refuse():
    drawn, cut = stripes(*batch([(2, 2), (2, 0)], names=(4, 6)))
    for call in BOTH:
        with pytest.raises(ValueError, match="identity 6 has no thermal image"):
            call(*drawn, **cut)
        with pytest.raises(ValueError, match="it must be \\(N, S, d\\)"):
            call(*drawn, local=drawn[0])
    for kernels in (0, 2.5):
        with pytest.raises(ValueError, match="kernels must be a whole number"):
            distribution_alignment(*drawn, **cut, kernels=kernels)
    with pytest.raises(ValueError, match="form 'deep' is not known: choose one of coral, pearson"):
        correlation_alignment(*drawn, **cut, form="deep")
    with pytest.raises(ValueError, match="identity 4 is alone"):
        correlation_alignment(*stripes(*batch([(2, 2)], names=(4,)))[0], local=torch.ones(4, 2, 3))
