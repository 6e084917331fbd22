"""Losses of systems beside loops that are written from their equations, and small cases by hand."""

import math

import numpy as np
import oracles
import pytest
import torch
from test_losses import batch, called, on_line, ragged

from vtlib.losses.geometry import pairwise_distance, unit
from vtlib.systems import LOSSES, ddag, mac, sim


def rows_of(labels, modality):
    """(identity, modality) -> rows."""
    return {
        (i, m): [r for r in range(len(labels)) if (labels[r], modality[r]) == (i, m)]
        for i in set(labels)
        for m in (0, 1)
    }


def of_length_one(x):
    return np.array([row / math.sqrt(sum(v * v for v in row)) for row in x])


def contrastive(x, y, m, margin=0.5):
    x, same, others = of_length_one(x), [], []
    for i in range(len(y)):
        for j in range(len(y)):
            if m[i] == 0 and m[j] == 1:
                d = oracles.distance(x[i], x[j])
                (same if y[i] == y[j] else others).append(d * d if y[i] == y[j] else max(0.0, margin - d) ** 2)
    return (np.mean(same) + np.mean(others)) / 4


def euclidean_constraint(x, y, m):
    pairs = [(i, j) for i in range(len(y)) for j in range(len(y)) if y[i] == y[j] and m[i] == 0 and m[j] == 1]
    return sum(oracles.distance(x[i], x[j]) ** 2 for i, j in pairs) / len(pairs) / 2


def within_modality_triplet(x, y, m, margin=0.3):
    total = 0.0
    for side in (0, 1):
        rows = [r for r in range(len(y)) if m[r] == side]
        values = []
        for a in rows:
            near = max(oracles.distance(x[a], x[p]) for p in rows if p != a and y[p] == y[a])
            far = min(oracles.distance(x[a], x[n]) for n in rows if y[n] != y[a])
            values.append(max(0.0, margin + near - far))
        total += sum(values) / len(values)
    return total


def modality_kl(x, y, m):
    """The batch serves as logits."""
    total, rows = 0.0, rows_of(y, m)
    for i in set(y):
        q = []
        for side in (0, 1):
            soft = [[math.exp(v) / sum(math.exp(u) for u in x[r]) for v in x[r]] for r in rows[i, side]]
            q.append(oracles.mean_vector(soft))
        total += sum((a - b) * (math.log(a) - math.log(b)) for a, b in zip(*q, strict=True)) / 2
    return total / len(set(y))


def similarity_preserving(x, y, m, scale=16.0, gamma=2.0):
    x, total, ids, rows = of_length_one(x), 0.0, sorted(set(y)), rows_of(y, m)
    for r in range(len(y)):
        profile = []
        for side in (m[r], 1 - m[r]):
            cosines = []
            for j in ids:
                centre = oracles.mean_vector([x[s] for s in rows[j, side] if s != r])
                cosines.append(
                    sum(a * b for a, b in zip(x[r], centre, strict=True)) / math.sqrt(sum(c * c for c in centre))
                )
            top = [math.exp(scale * c) for c in cosines]
            profile.append([t / sum(top) for t in top])
        same, across = profile
        k = ids.index(y[r])
        focus = (1 - across[k]) ** gamma
        kl = sum(p * (math.log(p) - math.log(q)) for p, q in zip(same, across, strict=True))
        total += -math.log(same[k]) - focus * math.log(across[k]) + focus * kl
    return total / len(y)


ORACLES = {f.__name__: f for f in (
    contrastive, euclidean_constraint, within_modality_triplet, modality_kl, similarity_preserving
)}  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ORACLES)
def test_a_loss_is_its_loop(name, seed):
    features, labels, modality = ragged(seed, low=2)
    expected = ORACLES[name](features.numpy(), labels.tolist(), modality.tolist())
    assert called(name)(features, labels, modality).item() == pytest.approx(expected, abs=1e-10)


# some of the weights, bandwidths or distances of these are constants for the gradient
HELD = {"adaptive_cmdc", "centre_pull_mining", "distribution_alignment", "margin_mmd", "modality_classifiers"}
HELD |= {"similarity_preserving", "tri_directional"}


@pytest.mark.parametrize("name", sorted(LOSSES.maps[0].keys() - HELD))
def test_gradients_by_differences(name):
    features, labels, modality = batch([(2, 2), (2, 3), (3, 2)], dimension=6, seed=7)
    call = called(name)
    torch.autograd.gradcheck(lambda x: call(x, labels, modality), features.requires_grad_(), atol=1e-6)


@pytest.mark.parametrize("form", ["coral", "pearson"])
def test_correlation_alignment_by_loops(form):
    features, labels, modality = ragged(5, low=2)
    local = features.unflatten(1, (2, 3))
    found = LOSSES["correlation_alignment"](features, labels, modality, local=local, form=form).item()
    rows, expected = rows_of(labels.tolist(), modality.tolist()), []
    for s in range(2):
        x = local[:, s].numpy()
        if form == "coral":
            v, t = (np.cov(x[modality == m], rowvar=False) for m in (0, 1))
            expected.append(((v - t) ** 2).sum() / (4 * 3**2))
        else:
            ids = sorted(set(labels.tolist()))
            v, t = (np.array([oracles.mean_vector(x[rows[i, m]]) for i in ids]) for m in (0, 1))
            expected.append(np.mean([1 - np.corrcoef(v[:, k], t[:, k])[0, 1] for k in range(3)]))
    assert found == pytest.approx(np.mean(expected), abs=1e-10)


def test_alignment_of_equal_and_of_moved_modalities():
    labels, modality = torch.arange(4).repeat_interleave(3).repeat(2), torch.arange(2).repeat_interleave(12)
    v = torch.randn(12, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t, zero in ((v, (True, True)), (v + 3, (False, True)), (2 * v, (False, False))):
        local = torch.cat([v, t])
        values = [
            LOSSES[n](local[:, 0], labels, modality, local=local).item()
            for n in ("distribution_alignment", "correlation_alignment")
        ]
        assert [abs(x) < 1e-12 for x in values] == list(zero)
    covariance = torch.cov(v[:, 0].T)
    assert values[1] == pytest.approx(9 * covariance.square().sum().item() / (4 * 25))


# By hand, as the descriptions of the systems have it.


def test_weighted_regularised_triplet_by_hand():
    drawn = on_line((0, 1, 0), (1, 1, 1), (3, 2, 0), (5, 2, 1))
    loss = LOSSES["weighted_regularised_triplet"]
    assert loss(*drawn).item() == pytest.approx(0.255486769, abs=1e-8)
    assert loss(*drawn, include_anchor=True).item() == pytest.approx(0.207013736, abs=1e-8)
    assert loss(*drawn, include_anchor=True, squared=True).item() == pytest.approx(0.168636094, abs=1e-8)
    small = drawn[0] * 1e-9, *drawn[1:]
    assert loss(*small).item() == pytest.approx(math.log(2), abs=1e-8)


def test_bidirectional_ranking_by_hand():
    angles = torch.tensor([0.0, 90.0, 60.0, 180.0], dtype=torch.float64).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], 1)
    drawn = features, torch.tensor([1, 2, 1, 2]), torch.tensor([0, 0, 1, 1])
    assert LOSSES["bidirectional_ranking"](*drawn).item() == pytest.approx(1.189468691, abs=1e-8)
    assert LOSSES["bidirectional_ranking"](5 * features, *drawn[1:]).item() == pytest.approx(1.189468691, abs=1e-8)
    apart = torch.tensor([[1.0, 0], [-1, 0], [1, 0.01], [-1, 0.01]], dtype=torch.float64, requires_grad=True)
    value = LOSSES["bidirectional_ranking"](apart, *drawn[1:])
    value.backward()
    assert value.item() == 0


def test_euclidean_constraint_by_hand():
    features = torch.tensor([[0.0, 0], [3, 4]])
    drawn = features, torch.tensor([0, 0]), torch.tensor([0, 1])
    assert LOSSES["euclidean_constraint"](*drawn).item() == pytest.approx(12.5)
    assert LOSSES["euclidean_constraint"](*drawn, of_centres=True).item() == pytest.approx(12.5)


def test_modality_kl_by_hand():
    logits = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    drawn = torch.zeros(2, 3), torch.tensor([0, 0]), torch.tensor([0, 1])
    assert LOSSES["modality_kl"](*drawn, logits=logits).item() == pytest.approx(0.4394, abs=1e-4)
    assert LOSSES["modality_kl"](*drawn, logits=logits.flip(0)).item() == pytest.approx(0.4394, abs=1e-4)


def test_tri_directional_by_hand():
    # a at 0 (V), 2 (T), 0.2 (grey); b at 1, 0.5, 1.1
    features = torch.tensor([0, 1, 2, 0.5, 0.2, 1.1], dtype=torch.float64)[:, None]
    drawn = features, torch.tensor([0, 1] * 3), torch.tensor([0, 0, 1, 1, 0, 0])
    source = torch.tensor([-1, -1, -1, -1, 0, 1])
    options = {"source": source, "regulariser": 0.0}
    assert LOSSES["tri_directional"](*drawn, weighting=False, **options).item() == pytest.approx(1.45)
    weighted = LOSSES["tri_directional"](*drawn, **options).item()
    assert weighted == pytest.approx(2.2097, abs=1e-4)
    whole = LOSSES["tri_directional"](*drawn, source=source, regulariser=1.0).item()
    assert whole - weighted == pytest.approx(2.60)


def test_centre_pull_mining_by_hand():
    v0, t0, v, t = (torch.tensor(x, dtype=torch.float64) for x in ((0, 4), (1, 6), (2, 3), (1.5, 4.5)))
    local = torch.stack([torch.cat([v0, t0]), torch.cat([v, t]), torch.cat([v, t])], 1)[..., None]
    drawn = local[:, 0], torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    assert LOSSES["centre_pull_mining"](*drawn, local=local).item() == pytest.approx(2 * 1.15)
    ones = torch.tensor([[1.0, 0]]).expand(3, 2).expand(4, 3, 2)
    assert LOSSES["branch_orthogonality"](*drawn, local=ones).item() == pytest.approx(1 / 3)


def test_centre_triplet_tells_true_distances_from_exchanged_norms():
    features = torch.tensor([[1.0], [2.5], [0], [3], [1], [2.5]], dtype=torch.float64)
    source = torch.tensor([-1, -1, -1, -1, 0, 1])
    drawn = features, torch.tensor([0, 1] * 3), torch.tensor([0, 0, 1, 1, 0, 0])
    assert LOSSES["centre_triplet"](*drawn, source=source).item() == 0  # exchanged norms would give 1.5


def test_specific_classifiers_learn_from_their_own_modality():
    features, labels, modality = batch([(2, 2), (2, 2)], dimension=4, seed=3)
    made = mac.ModalityClassifiers(4, 4, ensemble=False, collaboration_weight=0.0).double()
    logits = (features @ torch.randn(4, 4, dtype=torch.float64)).requires_grad_()
    visible = modality == 0
    rows = torch.cat([features[visible], features[~visible].detach()])
    made(rows, torch.cat([labels[visible], labels[~visible]]), modality.sort().values, logits=logits).backward()
    assert made.weight.grad[0].any() and made.weight.grad[1].any() and logits.grad is None
    made = mac.ModalityClassifiers(4, 4).double()
    torch.nn.init.normal_(made.weight)
    with torch.no_grad():
        made.weight[1] = made.weight[0]
    equal = features @ made.weight[0].T
    shared = LOSSES["id"](equal, labels, modality, smoothing=0.0)
    own = sum(
        LOSSES["id"](equal[modality == m], labels[modality == m], modality[modality == m], smoothing=0.0)
        for m in (0, 1)
    )
    assert made(features, labels, modality, logits=equal).item() == pytest.approx((own + shared).item())


def test_graph_attention_knows_no_other_person():
    features, labels, _ = batch([(2, 2), (2, 2), (2, 2)], dimension=4, names=(0, 1, 2), seed=3)
    made = ddag.GraphAttention(3, 4, heads=2, hidden=3).double().eval()
    apart = labels[:, None] != labels
    one = made.layer(features, made.weight, made.pairs, apart)
    moved = features.clone()
    moved[labels == 2] += 5
    other = made.layer(moved, made.weight, made.pairs, apart)
    assert torch.equal(one[:, labels < 2], other[:, labels < 2]) and not torch.equal(one, other)
    equal = features[labels.clone()]
    h = equal @ made.weight
    alike = made.layer(equal[:1].expand(4, -1), made.weight, made.pairs, torch.zeros(4, 4, dtype=torch.bool))
    torch.testing.assert_close(alike, h[:, :1].expand(-1, 4, -1))


def test_losses_say_what_they_lack():
    features, labels, modality = batch([(2, 2), (2, 2)], dimension=6, seed=1)
    none = torch.full((len(labels),), -1)
    for name in ("tri_directional", "centre_triplet", "within_view_triplet", "homogeneous_invariance"):
        with pytest.raises(ValueError, match="the batch has none: set views"):
            LOSSES[name](features, labels, modality, source=none)
    lone = batch([(1, 1), (1, 1)], dimension=6, seed=1)
    with pytest.raises(ValueError, match="set leave_out=false"):
        LOSSES["similarity_preserving"](*lone)
    assert LOSSES["similarity_preserving"](*lone, leave_out=False).isfinite()
    with pytest.raises(ValueError, match="heads must be a whole number"):
        LOSSES["graph_attention"](3, 4, heads=0)


# SIM


def test_sim_treats_queries_alone_and_ranks_by_neighbours():
    g = torch.Generator().manual_seed(0)
    query, gallery = (torch.randn(n, 8, generator=g, dtype=torch.float64) for n in (5, 30))
    whole = sim.sim(query, gallery, sim.SYSU)
    torch.testing.assert_close(sim.sim(query[:2], gallery, sim.SYSU), whole[:2], rtol=0, atol=1e-12)
    order = torch.randperm(30, generator=g)
    torch.testing.assert_close(sim.sim(query, gallery[order], sim.SYSU), whole[:, order])
    assert whole.min() >= 0 and whole.max() <= 1
    itself = sim.Setting(0.0, 1, 3, 0.3, neighbours=1)
    plain = pairwise_distance(unit(query), unit(gallery))
    torch.testing.assert_close(sim.sim(query, gallery, itself, mutual=False), plain)
    with pytest.raises(ValueError, match="NaN or infinite"):
        sim.sim(query, gallery * torch.nan, sim.SYSU)


def test_similarity_graph_of_three_by_hand():
    inside = torch.tensor([[0.0, 0.1, 5], [0.1, 0, 5], [5, 5, 0]])
    found = sim.similarity_graph(torch.tensor([[1.0, 2, 9]]), inside, lam=1.0, k=2)
    torch.testing.assert_close(found, torch.tensor([[1.55, 1.55, 6.5]]))
