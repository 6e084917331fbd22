"""MSR: heads of two modalities and the losses that tie them, beside loops on ragged batches and by hand."""

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from test_losses import batch, on_line, ragged
from torch import nn

from vtlib.losses import identity
from vtlib.systems.msr import ModalityHeads, euclidean_constraint, within_modality_triplet

POOL = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def loop_of_constraint(x, y, m, of_centres=False):
    if of_centres:
        total, people = 0.0, sorted(set(y))
        for i in people:
            v, t = (oracles.mean_vector([x[r] for r in range(len(y)) if (y[r], m[r]) == (i, k)]) for k in (0, 1))
            total += oracles.distance(v, t) ** 2
        return total / len(people) / 2
    squares = []
    for a in range(len(y)):
        for b in range(len(y)):
            if m[a] == 0 and m[b] == 1 and y[a] == y[b]:
                squares.append(oracles.distance(x[a], x[b]) ** 2)
    return sum(squares) / len(squares) / 2


def loop_of_triplet(x, y, m, margin=0.3):
    total = 0.0
    for side in (0, 1):
        rows = [r for r in range(len(y)) if m[r] == side]
        total += oracles.batch_hard_triplet([x[r] for r in rows], [y[r] for r in rows], margin=margin)
    return total


LOOPS = [
    (euclidean_constraint, {}, loop_of_constraint),
    (euclidean_constraint, {"of_centres": True}, loop_of_constraint),
    (within_modality_triplet, {}, loop_of_triplet),
    (within_modality_triplet, {"margin": 2.5}, loop_of_triplet),
]


@pytest.mark.parametrize("scale", [0.02, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("call", "given", "loop"), LOOPS)
def test_equals_loops_on_ragged_batches_in_any_order(call, given, loop, seed, scale):
    x, y, m = ragged(seed, low=2, scale=scale)
    value = call(x, y, m, **given).item()
    assert value == pytest.approx(loop(x.numpy(), y.tolist(), m.tolist(), **given), rel=1e-10, abs=1e-10)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    assert call(x[order], 90 - 7 * y[order], m[order], **given).item() == pytest.approx(value, rel=1e-12)
    assert call(x, y, 1 - m, **given).item() == pytest.approx(value, rel=1e-12)
    assert call(x + 3, y, m, **given).item() == pytest.approx(value, rel=1e-9)  # differences alone count


@pytest.mark.parametrize(("call", "given"), [case[:2] for case in LOOPS])
def test_gradients_by_differences(call, given):
    x, y, m = batch([(2, 3), (3, 2), (2, 2)], dimension=4, seed=7)
    torch.autograd.gradcheck(lambda x: call(x, y, m, **given), x.requires_grad_())


def test_constraint_by_hand():
    # (0, 0) and (3, 4) are 5 apart: 25 / 2
    x, y, m = torch.tensor([[0.0, 0], [3, 4]]), torch.tensor([0, 0]), torch.tensor([0, 1])
    assert euclidean_constraint(x, y, m).item() == pytest.approx(12.5)
    # visible 0 and 2, thermal 4: pairs 16 and 4, mean 10; centres 1 and 4. Identity 2: visible 9, thermal 9
    drawn = on_line((0, 1, 0), (2, 1, 0), (4, 1, 1), (9, 2, 0), (9, 2, 1))
    assert euclidean_constraint(*drawn).item() == pytest.approx((16 + 4 + 0) / 3 / 2)
    assert euclidean_constraint(*drawn, of_centres=True).item() == pytest.approx((9 + 0) / 2 / 2)


@pytest.mark.parametrize("of_centres", [False, True])
def test_constraint_holds_people_apart_and_is_zero_where_modalities_agree(of_centres):
    people = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, y, m = ragged(1)
    y = y % 3
    x = people[y].requires_grad_()
    value = euclidean_constraint(x, y, m, of_centres=of_centres)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12) and x.grad.abs().max() < 1e-9
    x, y, m = batch([(2, 2), (2, 2)], seed=3)
    moved = x.clone().requires_grad_()
    euclidean_constraint(moved, y, m, of_centres=of_centres).backward()
    other = torch.where((y == 1)[:, None], 5 * x + 1, x).requires_grad_()
    euclidean_constraint(other, y, m, of_centres=of_centres).backward()
    torch.testing.assert_close(moved.grad[y == 0], other.grad[y == 0])


def test_pairs_also_hold_a_person_together():
    # the mean over pairs is the distance of the centres and the scatter inside each modality
    x, y, m = batch([(3, 4)], seed=5)
    v, t = x[m == 0], x[m == 1]
    scatter = sum((a - a.mean(0)).square().sum(1).mean() for a in (v, t)) / 2
    centres = euclidean_constraint(x, y, m, of_centres=True)
    assert euclidean_constraint(x, y, m).item() == pytest.approx((centres + scatter).item(), rel=1e-10)


def test_triplet_by_hand():
    # visible: identity 1 at 0, 1 and 2 at 4, 6: hinges of margin 3.5 are 1 + 3.5 - 4, 1 + 3.5 - 3, 2 + 3.5 - 3 and 0.5
    # thermal: 1 at 0, 1 and 2 at 100, 101: none
    rows = (0, 1, 0), (1, 1, 0), (4, 2, 0), (6, 2, 0), (0, 1, 1), (1, 1, 1), (100, 2, 1), (101, 2, 1)
    value = within_modality_triplet(*on_line(*rows), margin=3.5).item()
    assert value == pytest.approx((0.5 + 1.5 + 2.5 + 0.5) / 4, abs=1e-12)


def test_triplet_reads_no_distance_between_modalities():
    x, y, m = ragged(2, low=2)
    alone = within_modality_triplet(x, y, m, margin=2.0)
    for factor, shift in ((1000.0, 0.0), (1.0, 50.0)):
        far = torch.where((m == 1)[:, None], factor * x + shift, x)
        thermal, before = (
            oracles.batch_hard_triplet(a[m == 1].numpy(), y[m == 1].numpy(), margin=2.0) for a in (far, x)
        )
        found = within_modality_triplet(far, y, m, margin=2.0)
        assert (found - thermal).item() == pytest.approx((alone - before).item(), rel=1e-9)


def test_shut_hinges_are_zero_with_a_graph():
    drawn = on_line(*[(100.0 * i + k, i, m) for i in (1, 2) for m in (0, 1) for k in (0, 1)])
    value = within_modality_triplet(drawn[0].requires_grad_(), *drawn[1:])
    value.backward()
    assert value.item() == 0 and not drawn[0].grad.any()


def test_what_the_losses_refuse():
    for given in ({}, {"of_centres": True}):
        with pytest.raises(ValueError, match="identity 6 has no thermal image"):
            euclidean_constraint(*batch([(2, 2), (2, 0)], names=(4, 6)), **given)
    with pytest.raises(ValueError, match="identity 6 lacks an image of a modality or view, has one alone"):
        within_modality_triplet(*batch([(2, 2), (2, 1)], names=(4, 6)))
    with pytest.raises(ValueError, match=r"identity 4 lacks .*or nobody beside it"):
        within_modality_triplet(*batch([(2, 2)], names=(4,)))
    with pytest.raises(ValueError, match="of_centres must be true or false"):
        euclidean_constraint(*batch([(2, 2)]), of_centres=1)


# The head


def head(channels=8, classes=4, width=5, seed=0):
    torch.manual_seed(seed)
    return ModalityHeads(channels, classes, POOL, width=width)


def maps(count, channels=8, seed=1):
    return torch.randn(count, channels, 3, 2, generator=torch.Generator().manual_seed(seed))


MIXED = torch.tensor([1, 0, 1, 0, 0, 1, 1])


def test_each_image_passes_its_own_modality():
    made, x = head(), maps(7)
    for norm in made.norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    out, pooled = made(x, MIXED), POOL(x)
    assert out.pooled[0] is out.features and out.local == (None,) and made.widths == [5] and made.dim == 5
    for m in (0, 1):  # in training the statistics are those of the modality
        h = pooled[m == MIXED] @ made.maps[m].weight.T
        h = F.batch_norm(h, None, None, made.norms[m].weight, made.norms[m].bias, training=True)
        torch.testing.assert_close(out.features[m == MIXED], h)
        torch.testing.assert_close(out.logits[m == MIXED, 1], h @ made.own[m].weight.T)
        torch.testing.assert_close(out.logits[m == MIXED, 0], h @ made.classifier.weight.T)


def test_rows_in_any_order_and_one_modality_alone():
    made, x = head(), maps(7)
    order = torch.tensor([3, 6, 0, 2, 5, 1, 4])
    for training in (True, False):
        made.train(training)
        whole, moved = made(x, MIXED), made(x[order], MIXED[order])
        torch.testing.assert_close(moved.features, whole.features[order])
        torch.testing.assert_close(moved.logits, whole.logits[order])
        for m in (0, 1):
            before = {k: v.clone() for k, v in made.norms[1 - m].state_dict().items()}
            alone = made(x[m == MIXED], MIXED[m == MIXED])
            torch.testing.assert_close(alone.features, whole.features[m == MIXED])
            torch.testing.assert_close(alone.logits, whole.logits[m == MIXED])
            assert all(torch.equal(v, before[k]) for k, v in made.norms[1 - m].state_dict().items())


def test_a_classifier_learns_from_its_own_modality():
    made, labels = head(), torch.arange(7) % 4
    for m in (0, 1):
        made.zero_grad()
        out = made(maps(7), MIXED)
        F.cross_entropy(out.logits[m == MIXED, 1], labels[m == MIXED]).backward()
        assert made.own[m].weight.grad.any() and made.maps[m].weight.grad.any()
        for other in (made.classifier, made.own[1 - m], made.maps[1 - m], made.norms[1 - m]):
            assert other.weight.grad is None or not other.weight.grad.any()


def test_equal_halves_do_not_know_the_modality():
    made, x = head().eval(), maps(7)
    for pair in (made.maps, made.norms, made.own):
        pair[1].load_state_dict(pair[0].state_dict())
    a, b = made(x, MIXED), made(x, 1 - MIXED)
    torch.testing.assert_close(a.features, b.features)
    torch.testing.assert_close(a.logits, b.logits)


def test_identity_of_both_classifiers():
    made, x, labels = head(), maps(8), torch.arange(8) % 4
    for modality, equal in ((torch.tensor([0, 1] * 4), True), (torch.tensor([0, 0, 1] + [1] * 5), False)):
        logits = made(x, modality).logits.detach()
        logits = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
        found = identity(logits, labels, modality, smoothing=0.0)
        shared, own = logits.unbind(1)
        means = [F.cross_entropy(own[modality == m], labels[modality == m]) for m in (0, 1)]
        expected = F.cross_entropy(shared, labels) + sum(means) / 2
        assert torch.allclose(found, expected) is equal


def test_size_and_start():
    with torch.device("meta"):
        made = ModalityHeads(2048, 395, POOL)
    assert made.fast and sum(p.numel() for p in made.parameters()) == 2 * 2048 * 512 + 2 * 2 * 512 + 3 * 395 * 512
    made = head(64, 50, 64)
    for layer in (made.classifier, *made.own):
        assert layer.bias is None and layer.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert head().double()(maps(7).double(), MIXED).logits.dtype == torch.float64
    assert made(maps(7, 64).bfloat16(), MIXED).features.dtype == torch.float32
