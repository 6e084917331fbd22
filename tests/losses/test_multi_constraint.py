"""Losses of Ling et al. 2021 and its rivals: loop oracles, hand-made numbers, gradients, invariances, error texts."""

import math
from itertools import combinations, product

import numpy as np
import oracles
import pytest
import torch
from test_losses import OPTIONS as FIRST_OPTIONS
from test_losses import batch, on_line, ragged
from torch.nn import functional

from vtlib import losses
from vtlib.systems import LOSSES

RELATIONS, MININGS = ("i2i", "c2i", "c2c"), ("awl", "ms", "none")
LOCAL = ("hetero_center_triplet", "multi_constraint")  # take local; {"local": S} below stands for a tensor (N, S, 4)
EUCLIDEAN = [  # one entry a loss
    ("batch_hard_triplet", {"cross_modality": True}),
    ("hetero_center", {}),
    ("hetero_center_triplet", {}),
    ("hetero_center_triplet", {"local": 3}),
    ("center_metric", {}),
    ("margin_mmd", {"margin": 0.5}),
]
COSINE = [  # one entry a loss and relation
    ("multi_similarity", {}),
    ("multi_similarity", {"cross_modality": False}),
    ("adaptive_weighting", {"relation": "i2i"}),
    ("adaptive_weighting", {"relation": "c2i"}),
    ("adaptive_weighting", {"relation": "c2c"}),
    ("multi_constraint", {}),
    ("multi_constraint", {"local": 2}),
]
EACH = [*EUCLIDEAN, *COSINE]
OPTIONS = [
    ("batch_hard_triplet", {"cross_modality": False}),
    ("batch_hard_triplet", {"cross_modality": True}),
    ("batch_hard_triplet", {"cross_modality": True, "margin": 0.0}),
    ("batch_hard_triplet", {"cross_modality": True, "margin": 2.5}),
    ("hetero_center", {}),
    ("hetero_center", {"margin": 2.5}),
    ("hetero_center_triplet", {}),
    ("hetero_center_triplet", {"margin": 0.0}),
    ("hetero_center_triplet", {"margin": 2.5}),
    *(("hetero_center_triplet", {"local": s}) for s in (1, 3, 6)),
    ("hetero_center_triplet", {"local": 3, "local_weight": 0.0}),
    ("hetero_center_triplet", {"local": 6, "local_weight": 0.4, "margin": 1.1}),
    ("hetero_center_triplet", {"local": 6, "local_weight": 0.4, "over_stripes": "mean"}),
    ("center_metric", {}),
    ("center_metric", {"margin": 0.0}),
    ("center_metric", {"margin": 2.5}),
    ("center_metric", {"instance_weight": 0.0}),
    ("center_metric", {"instance_weight": 2.5, "margin": 1.2}),
    *(("margin_mmd", {"margin": m, "kernels": k}) for m, k in product((0.0, 0.5), (1, 2, 5, 6))),
    ("margin_mmd", {}),
    ("margin_mmd", {"margin": 3.0}),
    *(("multi_similarity", {"mining": m, "cross_modality": c}) for m, c in product(MININGS, (True, False))),
    *(
        ("multi_similarity", {"mining": m, "cross_modality": c, "mining_margin": 0.4, "alpha": 5.0, "beta": 20.0})
        for m, c in product(MININGS[:2], (True, False))
    ),
    ("multi_similarity", {"threshold": 0.2}),
    ("multi_similarity", {"threshold": 0.8, "cross_modality": False}),
    ("multi_similarity", {"mining_margin": -0.1}),
    *(
        ("adaptive_weighting", {"relation": r, "mining": m, "weighting": w})
        for r, m, w in product(RELATIONS, MININGS, (True, False))
    ),
    *(("adaptive_weighting", {"relation": r, "detach_weights": False}) for r in RELATIONS),
    *(("adaptive_weighting", {"relation": r, "mining_margin": 0.0, "threshold": 0.3}) for r in RELATIONS),
    *(("adaptive_weighting", {"relation": r, "mining": "ms", "mining_margin": 0.5}) for r in RELATIONS),
    *(("multi_constraint", {"mining": m, "weighting": w}) for m, w in product(MININGS, (True, False))),
    *(("multi_constraint", {"local": s}) for s in (1, 3, 6)),
    ("multi_constraint", {"local": 3, "mining": "ms", "weighting": False}),
    *(
        ("multi_constraint", {"alpha": a, "beta": b, "omega": o, "local": 2})
        for a, b, o in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2.0, 0.3, 0.7))
    ),
    ("multi_constraint", {"detach_weights": False, "mining_margin": 0.05, "threshold": 0.7}),
]
W_P, W_N = 5.0, 1.5  # Eq. 10 at S = 0.5, used when there is no weighting


def label_of(value):
    """Test names that show the options."""
    return ",".join(f"{k}={v}" for k, v in value.items()) or "default" if isinstance(value, dict) else str(value)


def structured(drawn, seed=0, pull=1.0, gap=0.8):
    """The batch with its identities pulled apart by `pull` and its modalities by `gap`, so that mining has a choice."""
    features, labels, modality = drawn
    rng = np.random.default_rng(500 + seed)
    _, index = torch.unique(labels, return_inverse=True)
    places = torch.from_numpy(rng.normal(size=(int(index.max()) + 1, features.shape[1])))
    sides = torch.from_numpy(rng.normal(size=(2, features.shape[1])))
    return features + pull * places[index] + gap * sides[modality], labels, modality


BALANCED = [batch([(k, k)] * p, seed=p + k) for p, k in ((2, 1), (2, 2), (4, 3))]
BALANCED += [structured(batch([(k, k)] * p, seed=p + k), seed=p) for p, k in ((2, 2), (3, 4), (6, 2))]
RAGGED = [ragged(seed) for seed in range(3)] + [structured(ragged(seed), seed=seed) for seed in range(3, 7)]


def options(given, drawn, seed=0):
    """The options with "local": S replaced by a tensor (N, S, 4) whose stripes have the batch's structure."""
    if not isinstance(given.get("local"), int):
        return given
    features, labels, modality = drawn
    stripes = []
    for s in range(given["local"]):
        noise = torch.from_numpy(np.random.default_rng([seed, s]).normal(size=(len(labels), 4)))
        stripes.append(structured((noise, labels, modality), seed=10 * seed + s)[0])
    return {**given, "local": torch.stack(stripes, dim=1).to(features.dtype)}


def oracle(name, features, labels, modality, **given):
    """The oracle of the loss `name` on the same batch and options, tensors turned into float64 arrays."""
    given = {k: v.detach().double().numpy() if torch.is_tensor(v) else v for k, v in given.items()}
    x, y, m = features.detach().double().numpy(), labels.numpy(), modality.numpy()
    if name == "id":
        return oracles.identity(x, y, **given)
    return getattr(oracles, name)(x, y, m, **given)


def check_by_hand(name, drawn, expected, **given):
    """The loss and its oracle both give the number derived in the comment."""
    assert oracle(name, *drawn, **given) == pytest.approx(expected, abs=1e-12)
    assert LOSSES[name](*drawn, **given).item() == pytest.approx(expected, abs=1e-10)


def check_against_oracle(name, given, drawn, seed):
    given = options(given, drawn, seed)
    assert LOSSES[name](*drawn, **given).item() == pytest.approx(oracle(name, *drawn, **given), abs=1e-10)


def value_and_gradients(name, drawn, **given):
    """Value, gradient on the features, gradient on local (None without)."""
    features = drawn[0].detach().clone().requires_grad_()
    if "local" in given:
        given["local"] = given["local"].detach().clone().requires_grad_()
    value = LOSSES[name](features, *drawn[1:], **given)
    value.backward()
    grad = features.grad if features.grad is not None else torch.zeros_like(features)
    return value.detach(), grad, given["local"].grad if "local" in given else None


# Oracles.


@pytest.mark.parametrize("seed", range(len(BALANCED)))
@pytest.mark.parametrize("name, given", OPTIONS, ids=label_of)
def test_equals_oracle_on_balanced_batches(name, given, seed):
    check_against_oracle(name, given, BALANCED[seed], seed)


@pytest.mark.parametrize("seed", range(len(RAGGED)))
@pytest.mark.parametrize("name, given", OPTIONS, ids=label_of)
def test_equals_oracle_on_ragged_batches(name, given, seed):
    check_against_oracle(name, given, RAGGED[seed], seed)


@pytest.mark.parametrize("scale", [0.02, 30.0])
@pytest.mark.parametrize("name, given", EACH, ids=label_of)
def test_equals_oracle_at_other_scales(name, given, scale):
    features, labels, modality = structured(ragged(7), seed=7)
    drawn = (scale * features, labels, modality)
    given = options(given, drawn, 7)
    expected = oracle(name, *drawn, **given)
    assert LOSSES[name](*drawn, **given).item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_options_change_the_oracles_value():
    """The batches above tell the options apart: no two minings, relations or weightings agree on all of them."""
    for name, choices in (
        ("adaptive_weighting", {"relation": RELATIONS, "mining": MININGS, "weighting": (True, False)}),
        ("multi_similarity", {"mining": MININGS, "cross_modality": (True, False)}),
    ):
        given = [dict(zip(choices, c, strict=True)) for c in product(*choices.values())]
        values = [[oracle(name, *drawn, **g) for drawn in BALANCED + RAGGED] for g in given]
        for (one, first), (other, second) in combinations(zip(given, values, strict=True), 2):
            assert max(abs(a - b) for a, b in zip(first, second, strict=True)) > 1e-3, (one, other)


def test_multi_similarity_of_one_pool_needs_no_modality():
    """An image alone with its label has no positive, and is a negative of the others all the same."""
    drawn = structured(batch([(3, 0), (0, 2), (2, 2), (1, 0)], seed=3), seed=1)
    for mining in MININGS:
        check_against_oracle("multi_similarity", {"cross_modality": False, "mining": mining}, drawn, 0)


@pytest.mark.parametrize("stripes", [1, 3, 6])
@pytest.mark.parametrize("smoothing", [0.1, 0.0, 0.4])
def test_identity_of_several_classifiers(stripes, smoothing):
    for seed in range(3):
        _, labels, modality = ragged(seed)
        logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(labels), stripes, 6)))
        expected = oracle("id", logits, labels, modality, smoothing=smoothing)
        found = LOSSES["id"](logits, labels, modality, smoothing=smoothing).item()
        assert found == pytest.approx(expected, abs=1e-10)
        one_by_one = sum(LOSSES["id"](logits[:, s], labels, modality, smoothing=smoothing) for s in range(stripes))
        assert found == pytest.approx(one_by_one.item(), abs=1e-12)


def test_identity_of_several_classifiers_gradient():
    _, labels, modality = ragged(3)
    logits = torch.from_numpy(np.random.default_rng(3).normal(size=(len(labels), 2, 5))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSSES["id"](x, labels, modality), logits, atol=1e-7)


# Hand-made numbers.


def test_identity_of_several_classifiers_by_hand():
    # C = 2, zeta = 0.1, true class 1. Classifier 1, logits (0, ln 3): p = (1/4, 3/4), -0.95 ln(3/4) - 0.05 ln(1/4).
    # Classifier 2, logits (0, 0): ln 2 whatever q. Their sum; the mean over two such samples is the same.
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0]]] * 2, dtype=torch.float64)
    expected = -0.95 * math.log(0.75) - 0.05 * math.log(0.25) + math.log(2)
    check_by_hand("id", (logits, torch.tensor([1, 1]), torch.tensor([0, 1])), expected)


def test_triplet_across_modalities_by_hand():
    # Identity 5: visible 0 and 1, thermal 3. Identity 9: visible 4, thermal 10. Anchor: farthest positive, nearest
    # negative of the other modality.  0: 3, 10;  1: 2, 9;  3: 3, 1;  4: 6, 1;  10: 6, 9.
    # margin 0.3: 0 + 0 + 2.3 + 5.3 + 0 = 7.6 over 5. margin 5: 0 + 0 + 7 + 10 + 2 = 19 over 5.
    # One pool and margin 5: 0: 3, 4;  1: 2, 3;  3: 3, 1;  4: 6, 1;  10: 6, 7: 4 + 4 + 7 + 10 + 4 = 29 over 5.
    drawn = on_line((0, 5, 0), (1, 5, 0), (3, 5, 1), (4, 9, 0), (10, 9, 1))
    check_by_hand("batch_hard_triplet", drawn, 7.6 / 5, cross_modality=True)
    check_by_hand("batch_hard_triplet", drawn, 19 / 5, cross_modality=True, margin=5.0)
    check_by_hand("batch_hard_triplet", drawn, 29 / 5, margin=5.0)


def test_hetero_center_by_hand():
    # Identity 1: visible 0 and 2 (centre 1), thermal 4: squared 9. Identity 2: visible 10, thermal 11 and 12 (11.5):
    # 2.25. Mean 5.625. margin 3 leaves 6 and 0.
    drawn = on_line((0, 1, 0), (2, 1, 0), (4, 1, 1), (10, 2, 0), (11, 2, 1), (12, 2, 1))
    check_by_hand("hetero_center", drawn, 5.625)
    check_by_hand("hetero_center", drawn, 3.0, margin=3.0)


def line_of_centres():
    """Identity 1: visible 0 and 2 (centre 1), thermal 3 and 5 (centre 4). Identity 2: visible 10, thermal 7."""
    return on_line((0, 1, 0), (2, 1, 0), (3, 1, 1), (5, 1, 1), (10, 2, 0), (7, 2, 1))


def test_hetero_center_triplet_by_hand():
    # Centre, distance to its positive, to its nearest negative: 1: 3, 6;  4: 3, 3;  10: 3, 6;  7: 3, 3.
    # margin 0.3: 0, 0.3, 0, 0.3 -> 0.15. margin 4: 1, 4, 1, 4 -> 2.5
    drawn = line_of_centres()
    check_by_hand("hetero_center_triplet", drawn, 0.15)
    check_by_hand("hetero_center_triplet", drawn, 2.5, margin=4.0)
    # Stripes at x, 2x and 5: doubled distances 6, 12 and 6, 6 give 0.15 again; distances 0 and 0 give the margin 0.3.
    local = torch.stack([drawn[0], 2 * drawn[0], 0 * drawn[0] + 5], dim=1)
    check_by_hand("hetero_center_triplet", drawn, 0.15 + 0.15 + 0.15, local=local[:, :2])
    check_by_hand("hetero_center_triplet", drawn, 0.15 + 0.5 * (0.15 + 0.15), local=local[:, :2], local_weight=0.5)
    found = LOSSES["hetero_center_triplet"](*drawn, local=local).item()
    assert found == pytest.approx(0.15 + 0.15 + 0.15 + 0.3, abs=1e-5)


def test_center_metric_by_hand():
    # Between the centres: identity 1 |1 - 4| = 3, identity 2 |10 - 7| = 3, nearest of other identities 7 - 4 = 3 for
    # both: the margin 0.3 is left. Samples to their own centre: 1, 1, 1, 1, 0, 0: mean 2/3.
    drawn = line_of_centres()
    check_by_hand("center_metric", drawn, 0.3 + 2 / 3)
    check_by_hand("center_metric", drawn, 0.3 + 1 / 3, instance_weight=0.5)
    check_by_hand("center_metric", drawn, 2.0, instance_weight=0.0, margin=2.0)
    # Thermal 7 -> 8: between 3 and 2, nearest 4: terms -0.7 and -1.7 at margin 0.3; 0.5 and 0 at margin 1.5.
    drawn = on_line((0, 1, 0), (2, 1, 0), (3, 1, 1), (5, 1, 1), (10, 2, 0), (8, 2, 1))
    check_by_hand("center_metric", drawn, 2 / 3)
    check_by_hand("center_metric", drawn, 2 / 3 + 0.25, margin=1.5)


def test_margin_mmd_by_hand():
    # Identity 1, one image each: the bandwidth is their squared distance, whatever it is, so with 5 kernels
    # k(x, y) = e^-4 + e^-2 + e^-1 + e^-1/2 + e^-1/4 (bandwidth times 1/4, 1/2, 1, 2, 4) and MMD^2 = 5 + 5 - 2 k.
    # Identity 2: both images on one place: 0. Mean over both identities.
    cross = sum(math.exp(-e) for e in (4, 2, 1, 0.5, 0.25))
    drawn = on_line((0, 1, 0), (2, 1, 1), (3, 2, 0), (3, 2, 1))
    check_by_hand("margin_mmd", drawn, (10 - 2 * cross) / 2)
    check_by_hand("margin_mmd", drawn, 0.0, margin=6.5)  # 10 - 2 * 1.907 = 6.19
    # Visible 0 and 2, thermal 1: ordered pairs sum to 2 * (4 + 1 + 1) = 12, bandwidth 12 / (9 - 3) = 2. One kernel:
    # k(0, 2) = e^-2, k(0, 1) = k(2, 1) = e^-1/2; means (2 + 2 e^-2) / 4, 1, e^-1/2. MMD^2 = 0.355.
    drawn = on_line((0, 1, 0), (2, 1, 0), (1, 1, 1))
    one = 0.5 + 0.5 * math.exp(-2) + 1 - 2 * math.exp(-0.5)
    check_by_hand("margin_mmd", drawn, one, margin=0.3, kernels=1)
    check_by_hand("margin_mmd", drawn, 0.0, margin=0.4, kernels=1)
    # Two kernels, bandwidths 1 and 2: the first gives e^-4 and e^-1.
    narrow = 0.5 + 0.5 * math.exp(-4) + 1 - 2 * math.exp(-1)
    check_by_hand("margin_mmd", drawn, one + narrow, margin=0.3, kernels=2)


def at_angles(*rows):
    """Points in the plane: rows (degrees, length, label, modality). The cosine is that of the angle between."""
    degrees, lengths, labels, modality = zip(*rows, strict=True)
    angle, length = (torch.tensor(v, dtype=torch.float64) for v in (degrees, lengths))
    angle = torch.deg2rad(angle)
    places = torch.stack([length * angle.cos(), length * angle.sin()], dim=1)
    return places, torch.tensor(labels), torch.tensor(modality)


def figure_4():
    """Identity 1: a at 0 (visible), p at 30 degrees (thermal). Identity 2: nv at 40 (visible), nt at 90 (thermal).

    a's nearest negative is nt (90 degrees away), its positive p is nearer by far: MS mining drops (a, p), the pair with
    the red border. p's nearest visible negative nv is only 10 degrees away, nearer than a: ours keeps it.
    """
    return at_angles((0, 2, 1, 0), (30, 0.5, 1, 1), (40, 3, 2, 0), (90, 1, 2, 1))


C10, C30, C40, C50 = (math.cos(math.radians(d)) for d in (10, 30, 40, 50))


def pulled(weight, *kept):
    """log[1 + sum exp(-weight (S - 0.5))]"""
    return math.log(1 + sum(math.exp(-weight * (s - 0.5)) for s in kept))


def pushed(weight, *kept):
    """log[1 + sum exp(weight (S - 0.5))]"""
    return math.log(1 + sum(math.exp(weight * (s - 0.5)) for s in kept))


def test_pairs_of_figure_4():
    # S(a, p) = C30, S(a, nt) = 0, S(nv, p) = C10, S(nv, nt) = C50; 0.87, 0, 0.98, 0.64; m = 0.2.
    # Ours, visible anchors: (a, p) 0.87 < S(p, nv) + m kept; (nv, nt) 0.64 < S(nt, a) + m = 0.2 not;
    #   (a, nt) 0 > S(nt, nv) - m = 0.44 not; (nv, p) 0.98 > S(p, a) - m = 0.67 kept.
    # MS, visible anchors: (a, p) 0.87 < S(a, nt) + m = 0.2 not; (nv, nt) 0.64 < S(nv, p) + m kept;
    #   (a, nt) 0 > S(a, p) - m not; (nv, p) 0.98 > S(nv, nt) - m = 0.44 kept.
    similarity, labels = [[C30, 0.0], [C10, C50]], [1, 2]
    assert oracles.kept_pairs(similarity, labels, labels, "awl", 0.2) == [([0], []), ([], [0])]
    assert oracles.kept_pairs(similarity, labels, labels, "ms", 0.2) == [([], []), ([1], [0])]
    assert oracles.kept_pairs(similarity, labels, labels, "none", 0.2) == [([0], [1]), ([1], [0])]


def test_adaptive_weighting_of_figure_4_by_hand():
    # Kept, ours: visible anchors a: p; nv: negative p (C = 2). Thermal anchors, the same table read by columns:
    #   (p, a) 0.87 < S(a, nt) + m = 0.2 not; (nt, nv) 0.64 < S(nv, p) + m kept; (p, nv) 0.98 > S(nv, nt) - m kept;
    #   (nt, a) 0 > S(a, p) - m not; so p: negative nv; nt: nv (C = 2).
    # Kept, MS: visible anchors nv: nt, negative p (C = 1). Thermal anchors p: (p, a) 0.87 < S(p, nv) + m kept,
    #   (p, nv) 0.98 > S(p, a) - m kept; nt: (nt, nv) 0.64 < S(nt, a) + m not, (nt, a) 0 > S(nt, nv) - m not (C = 1).
    drawn = figure_4()
    for weighting in (True, False):
        wp = [10 / (1 + math.exp((s - 0.5) / 0.5)) if weighting else W_P for s in (C30, C50, 0.0)]
        wn = [3 / (1 + math.exp(-(s - 0.5) / 0.5)) if weighting else W_N for s in (C10, 0.0)]
        p30, p50 = pulled(wp[0], C30), pulled(wp[1], C50)
        n10, n90 = pushed(wn[0], C10), pushed(wn[1], 0.0)
        ours = ((p30 + n10) / 2 + (n10 + p50) / 2) / 2
        ms = ((p50 + n10) / 1 + (p30 + n10) / 1) / 2
        every = ((p30 + n90 + p50 + n10) / 2 + (p30 + n10 + p50 + n90) / 2) / 2
        for relation in RELATIONS:  # with one image each a centre is its image
            for mining, expected in (("awl", ours), ("ms", ms), ("none", every)):
                given = {"relation": relation, "mining": mining, "weighting": weighting}
                check_by_hand("adaptive_weighting", drawn, expected, **given)


def test_multi_similarity_of_figure_4_by_hand():
    # m = 0.1 instead of 0.2 keeps the same pairs (0.87 < 0.1 and 0.64 < 0.1 not, 0 > 0.54 not, ...).
    drawn = figure_4()
    p30, p50 = pulled(2, C30) / 2, pulled(2, C50) / 2
    n10, n90 = pushed(50, C10) / 50, pushed(50, 0.0) / 50
    check_by_hand("multi_similarity", drawn, (p50 + n10 + p30 + n10) / 2)
    check_by_hand("multi_similarity", drawn, ((p30 + n10) / 2 + (n10 + p50) / 2) / 2, mining="awl")
    check_by_hand("multi_similarity", drawn, (p30 + n90 + p50 + n10) / 2, mining="none")


def test_multi_similarity_of_one_pool_by_hand():
    # Angles 0 and 30 (identity 1), 40 and 90 (identity 2); m = 0.05. MS mining, anchor by anchor:
    #   0: positive 0.87 < max(C40, 0) + m = 0.82 not; negatives 0.77, 0 > 0.87 - m not.
    #   30: positive C30 < C10 + m kept; negatives C10 = 0.98 > 0.87 - m kept, C60 = 0.5 not.
    #   40: positive C50 < C10 + m kept; negatives C40 = 0.77, C10 > 0.64 - m, both kept.
    #   90: positive C50 = 0.64 < C60 + m = 0.55 not; negatives 0, 0.5 > 0.64 - m = 0.59 not.      C = 2
    # Ours asks the same of the other end of the pair, so it keeps the pairs turned round:
    #   0: positive 30, negative 40;  30: negative 40;  40: negative 30;  90: positive 40.          C = 4
    drawn, given = figure_4(), {"cross_modality": False, "mining_margin": 0.05}
    p30, p50 = pulled(2, C30) / 2, pulled(2, C50) / 2
    n10, n40, both = pushed(50, C10) / 50, pushed(50, C40) / 50, pushed(50, C10, C40) / 50
    check_by_hand("multi_similarity", drawn, (p30 + n10 + p50 + both) / 2, **given)
    check_by_hand("multi_similarity", drawn, (p30 + n40 + n10 + n10 + p50) / 4, mining="awl", **given)


def test_multi_similarity_of_an_image_alone_by_hand():
    # Identity 1 at 0, alone; identity 2 at 10 and 50 degrees; m = 0.1. An image is not its own positive: 0 has none, so
    # its near negative (C10 = 0.98, above S(0, 0) - m) is not bounded and not kept. MS mining:
    #   10: positive C40 = 0.77 < C10 + m kept, negative C10 > C40 - m kept; 50: positive C40 < C50 + m = 0.74 not,
    #   negative C50 = 0.64 > C40 - m = 0.67 not. C = 1. Ours, turned round: 50: positive 10; 0: negative 10. C = 2
    drawn = at_angles((0, 1, 1, 0), (10, 2, 2, 1), (50, 1, 2, 0))
    kept = pulled(2, C40) / 2 + pushed(50, C10) / 50
    check_by_hand("multi_similarity", drawn, kept, cross_modality=False)
    check_by_hand("multi_similarity", drawn, kept / 2, cross_modality=False, mining="awl")


def three_axes():
    """Identity 1: visible (4, 0, 0) and (0, 3, 0), thermal (1, 0, 0). Identity 2: visible (0, 0, 1), thermal (0, 1, 1).

    The visible centre of 1 is (2, 1.5, 0), of length 2.5: with the thermal samples its cosines are 0.8 and 0.6 h,
    h = 1 / sqrt(2). (Were the features normalised first, they would be h and 1/2.) The other centres are samples.
    """
    rows = [(4, 0, 0), (0, 3, 0), (1, 0, 0), (0, 0, 1), (0, 1, 1)]
    return torch.tensor(rows, dtype=torch.float64), torch.tensor([1, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 0, 1])


def relations_by_hand(mining):
    """(I2I, C2I, C2C) of three_axes without weighting."""
    h, p, n = math.sqrt(0.5), W_P, W_N
    # S of visible x1, x2, x3 with thermal t1, t2: x1 (1, 0), x2 (0, h), x3 (0, h). Centre c1 (0.8, 0.6 h), c2 = x3.
    if mining == "none":
        to_samples = (pulled(p, 1, 0) + pushed(n, 0) + pulled(p, h) + pushed(n, 0, h)) / 2  # anchors t1, t2
        from_samples = (pulled(p, 1) + pushed(n, 0) + pulled(p, 0) + pushed(n, h) + pulled(p, h) + pushed(n, 0)) / 3
        from_centres = (pulled(p, 0.8) + pushed(n, 0.6 * h) + pulled(p, h) + pushed(n, 0)) / 2  # both directions
        return (from_samples + to_samples) / 2, (from_centres + to_samples) / 2, from_centres
    if mining == "awl":
        # C2I, centre anchors c1, c2 on t1, t2: t1: 0.8 < S(t1, c2) + m = 0.2 not; t2: h < 0.6 h + m = 0.62 not;
        #   (c1, t2): 0.42 > h - m = 0.51 not; (c2, t1): 0 > 0.8 - m not. Nothing kept: 0.
        # Thermal centre anchors t1, t2 on x: (t1, x1) 1 < S(x1, t2) + m = 0.2 not; (t1, x2) 0 < h + m kept;
        #   (t2, x3) h < 0.2 not; (t1, x3) 0 > h - m not; (t2, x1) 0 > 1 - m not; (t2, x2) h > 0 - m kept. C = 2.
        to_samples = (pulled(p, 0) + pushed(n, h)) / 2
        # I2I, anchors x on t1, t2: (x1, t1) 1 < S(t1, x3) + m = 0.2 not; (x2, t1) 0 < 0.2 kept;
        #   (x3, t2) h < S(t2, x2) + m = h + 0.2 kept; t2's lowest is S(t2, x3) = h: (x1, t2) 0 > h - m not,
        #   (x2, t2) h > h - m kept; t1's lowest is S(t1, x2) = 0: (x3, t1) 0 > 0 - m kept. C = 2.
        from_samples = (pulled(p, 0) + pushed(n, h) + pulled(p, h) + pushed(n, 0)) / 2
        # C2C: t1: 0.8 < 0.2 not; t2: h < 0.6 h + m not; negatives 0.6 h > h - m and 0 > 0.6 not. Thermal anchors:
        #   c1: 0.8 < 0.6 h + m = 0.62 not; c2: h < 0.2 not; (t2, c1) 0.42 > 0.8 - m not; (t1, c2) 0 > h - m not.
        return (from_samples + to_samples) / 2, (0 + to_samples) / 2, 0.0
    # MS. C2I and C2C, anchors c1: 0.8 < 0.6 h + m not, 0.6 h > 0.8 - m not; c2: h < 0.2 not, 0 > h - m not.
    # Thermal centre anchors on x: t1: (1 < 0.2 not) 0 < 0.2 kept; negative 0 > 0 - m kept. t2: h < h + m kept;
    #   negatives h > h - m kept, 0 not. C = 2. C2C: nothing, as ours (t1: 0.8 < 0.2, t2: h < 0.6 h + m).
    to_samples = (pulled(p, 0) + pushed(n, 0) + pulled(p, h) + pushed(n, h)) / 2
    # I2I, anchors x1: 1 < 0.2 not, 0 > 0.8 not; x2: 0 < h + m kept, h > 0 - m kept; x3: h < 0.2, 0 > h - m not. C = 1.
    from_samples = pulled(p, 0) + pushed(n, h)
    return (from_samples + to_samples) / 2, (0 + to_samples) / 2, 0.0


@pytest.mark.parametrize("mining", MININGS)
def test_relations_by_hand(mining):
    drawn, terms = three_axes(), relations_by_hand(mining)
    for relation, expected in zip(RELATIONS, terms, strict=True):
        check_by_hand("adaptive_weighting", drawn, expected, relation=relation, mining=mining, weighting=False)
    given = {"mining": mining, "weighting": False}
    check_by_hand("multi_constraint", drawn, 0.5 * terms[0] + terms[1] + 0.2 * terms[2], **given)
    check_by_hand("multi_constraint", drawn, 3 * terms[2], alpha=0, beta=0, omega=3, **given)
    # Two stripes: the features, and them with t2 on t1's place: S of c1 with t1, t2 0.8, 0.8; of c2 0, 0. All pairs:
    # both directions have the same four. Ours, visible anchors: c1: 0.8 < S(t1, c2) + m = 0.2 not, negative
    #   0.8 > S(t2, c2) - m kept; c2: 0 < S(t2, c1) + m kept, negative 0 > S(t1, c1) - m = 0.6 not. Thermal anchors:
    #   t1: 0.8 < S(c1, t2) + m = 1 kept, 0 > S(c2, t2) - m kept; t2: 0 < 0 + m kept, 0.8 > S(c1, t1) - m kept. C = 2.
    # MS, visible: c1: 0.8 < 0.8 + m and 0.8 > 0.8 - m; c2: 0 < 0 + m and 0 > 0 - m: all kept. Thermal: t1: 0.8 < 0.2
    #   and 0 > 0.6 not; t2: 0 < 0.8 + m and 0.8 > 0 - m kept, C = 1.
    p0, p8, n0, n8 = pulled(W_P, 0), pulled(W_P, 0.8), pushed(W_N, 0), pushed(W_N, 0.8)
    every = (p0 + p8 + n0 + n8) / 2
    stripe = {"none": every, "awl": ((n8 + p0) / 2 + every) / 2, "ms": (every + p0 + n8) / 2}[mining]
    moved = drawn[0].clone()
    moved[4] = moved[2]
    check_by_hand("adaptive_weighting", (moved, *drawn[1:]), stripe, relation="c2c", **given)
    expected = 0.5 * terms[0] + terms[1] + 0.2 * (terms[2] + stripe) / 2
    check_by_hand("multi_constraint", drawn, expected, local=torch.stack([drawn[0], moved], dim=1), **given)


def test_weights_of_equation_10():
    """The slope on S tells the weight: dL/dS = -W_p sigmoid(-W_p (S - 0.5)), W_n sigmoid(W_n (S - 0.5)), W constant."""

    def slopes(s, **given):
        # One image each on four planes' axes: only S(a, p) = s of identity 1 and S(b, p) = s of a negative move.
        # Every pair is in both directions, each with C = 2 anchors: L = 1/2 sum over the four pairs, so dL/dS halves.
        positive = torch.tensor(s, dtype=torch.float64, requires_grad=True)
        negative = torch.tensor(s, dtype=torch.float64, requires_grad=True)
        axes, zero = torch.eye(4, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
        thermal = axes[0] * 1.0
        rest = (1 - positive**2).sqrt()
        mine = torch.stack([positive, rest, zero, zero])
        other = torch.stack([negative, zero, (1 - negative**2).sqrt(), zero])
        features = torch.stack([mine, thermal, other, axes[3]])
        labels, modality = torch.tensor([1, 1, 2, 2]), torch.tensor([0, 1, 0, 1])
        LOSSES["adaptive_weighting"](features, labels, modality, mining="none", **given).backward()
        return positive.grad.item() * 2, negative.grad.item() * 2

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    for given in ({}, {"weighting": False}, {"detach_weights": False}):
        assert slopes(0.5, **given) == pytest.approx((-5 / 2, 1.5 / 2), abs=1e-10)
    for s in (-0.4, 0.0, 0.2, 0.8):
        wp, wn = 10 * sigmoid(-(s - 0.5) / 0.5), 3 * sigmoid((s - 0.5) / 0.5)
        expected = -wp * sigmoid(-wp * (s - 0.5)), wn * sigmoid(wn * (s - 0.5))
        assert slopes(s) == pytest.approx(expected, abs=1e-10)
        plain = -5 * sigmoid(-5 * (s - 0.5)), 1.5 * sigmoid(1.5 * (s - 0.5))
        assert slopes(s, weighting=False) == pytest.approx(plain, abs=1e-10)
    assert slopes(0.1)[0] < slopes(0.1, weighting=False)[0] < 0  # a far positive is pulled harder
    assert 0 < slopes(0.1)[1] < slopes(0.1, weighting=False)[1]  # a far negative is pushed less
    # Not detached, the weight's own slope joins: d/dS [W_p (S - 0.5)] = W_p - W_p (1 - W_p / 10) / 0.5 * (S - 0.5)
    s, wp = 0.2, 10 * sigmoid(0.6)
    slope = wp - wp * (1 - wp / 10) / 0.5 * (s - 0.5)
    expected = -slope * sigmoid(-wp * (s - 0.5))
    assert slopes(s, detach_weights=False)[0] == pytest.approx(expected, abs=1e-10)


def test_weight_of_the_oracle():
    assert (oracles.positive_weight(0.5), oracles.negative_weight(0.5)) == (5, 1.5)


def test_threshold_leaves_the_weights_alone():
    # All pairs at S = 0.5 (directions d + e_k of equal length): W stays 5 and 1.5 at threshold 0.3, so with two
    # anchors a direction, one positive and one negative each: log[1 + exp(-5 * 0.2)] + log[1 + exp(1.5 * 0.2)].
    features = torch.eye(5, dtype=torch.float64)[:4] + torch.eye(5, dtype=torch.float64)[4]
    drawn = features, torch.tensor([1, 1, 2, 2]), torch.tensor([0, 1, 0, 1])
    expected = math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(0.3))
    check_by_hand("adaptive_weighting", drawn, expected, threshold=0.3, mining="none")


# Structure.


@pytest.mark.parametrize("mining", MININGS)
def test_relations_meet(mining):
    """One image each: the three relations are one. C2C is I2I on the centres."""
    loss = LOSSES["adaptive_weighting"]
    drawn = structured(batch([(1, 1)] * 5, seed=31), seed=31)
    values = [loss(*drawn, relation=r, mining=mining).item() for r in RELATIONS]
    assert values == pytest.approx([values[0]] * 3, abs=1e-12)
    features, labels, modality = structured(ragged(32), seed=32)
    rows = [(i, m) for i in labels.unique() for m in (0, 1)]
    means = torch.stack([features[(labels == i) & (modality == m)].mean(dim=0) for i, m in rows])
    who, side = torch.tensor([i for i, _ in rows]), torch.tensor([m for _, m in rows])
    expected = loss(means, who, side, relation="i2i", mining=mining).item()
    found = loss(features, labels, modality, relation="c2c", mining=mining).item()
    assert found == pytest.approx(expected, abs=1e-12)


def test_local_goes_where_it_should():
    drawn = structured(ragged(33), seed=33)
    features = drawn[0]
    triplet, multi, single = (LOSSES[n] for n in ("hetero_center_triplet", "multi_constraint", "adaptive_weighting"))
    plain = triplet(*drawn).item()
    assert triplet(*drawn, local=features[:, None]).item() == pytest.approx(2 * plain, abs=1e-12)
    assert triplet(*drawn, local=features[:, None], local_weight=0.0).item() == pytest.approx(plain, abs=1e-12)
    assert multi(*drawn, local=features[:, None]).item() == pytest.approx(multi(*drawn).item(), abs=1e-12)
    thrice = features[:, None].repeat(1, 3, 1)  # a sum over stripes triples, a mean does not
    assert triplet(*drawn, local=thrice).item() == pytest.approx(4 * plain, abs=1e-12)
    assert multi(*drawn, local=thrice).item() == pytest.approx(multi(*drawn).item(), abs=1e-12)
    terms = [single(*drawn, relation=r).item() for r in RELATIONS]
    expected = 0.5 * terms[0] + 1.0 * terms[1] + 0.2 * terms[2]
    assert multi(*drawn).item() == pytest.approx(expected, abs=1e-12)
    # Without C2C nothing flows into local; with C2C alone nothing into the features
    local = options({"local": 3}, drawn)["local"]
    _, grad, local_grad = value_and_gradients("multi_constraint", drawn, local=local, omega=0.0)
    assert grad.abs().sum() > 0 and (local_grad is None or not local_grad.any())
    _, grad, local_grad = value_and_gradients("multi_constraint", drawn, local=local, alpha=0.0, beta=0.0)
    assert not grad.any() and local_grad.abs().sum() > 0


# Gradients.

GRADCHECK = [
    *(entry for entry in EUCLIDEAN if entry[0] != "margin_mmd"),
    ("hetero_center", {"margin": 0.5}),
    ("hetero_center_triplet", {"margin": 2.5, "local": 2}),
    ("center_metric", {"margin": 2.5}),
    ("center_metric", {"instance_weight": 0.0, "margin": 2.5}),
    *(("multi_similarity", {"mining": m, "cross_modality": c}) for m, c in product(MININGS, (True, False))),
    *(
        ("adaptive_weighting", {"relation": r, "mining": m, "detach_weights": False})
        for r, m in product(RELATIONS, MININGS)
    ),
    *(("adaptive_weighting", {"relation": r, "weighting": False}) for r in RELATIONS),
    ("multi_constraint", {"detach_weights": False}),
    ("multi_constraint", {"detach_weights": False, "local": 2}),
    ("multi_constraint", {"weighting": False, "local": 2, "mining": "ms"}),
]


@pytest.mark.parametrize("name, given", GRADCHECK, ids=label_of)
def test_gradcheck(name, given):
    drawn = structured(batch([(2, 2), (1, 3), (2, 1)], dimension=4, seed=8), seed=8, pull=0.7)
    features, labels, modality = drawn
    given = options(given, drawn, 8)
    assert LOSSES[name](*drawn, **given).item() > 0.01  # or the gradient says nothing
    inputs = [features.requires_grad_()]
    if "local" in given:
        inputs.append(given.pop("local").requires_grad_())

    def loss(x, local=None):
        return LOSSES[name](x, labels, modality, **given, **({} if local is None else {"local": local}))

    assert torch.autograd.gradcheck(loss, inputs, atol=1e-7)


def with_constant_weights(features, labels, modality, relation, mining, weighting, threshold=0.5):
    """Eq. 11 pair by pair: pairs from the oracle's mining, the weights plain numbers that carry no gradient."""

    def side(m, as_centres):
        if not as_centres:
            return features[modality == m], labels[modality == m]
        means = [features[(labels == i) & (modality == m)].mean(dim=0) for i in labels.unique()]
        return torch.stack(means), labels.unique()

    value = 0.0
    for m in (0, 1):
        anchors, own = side(m, relation != "i2i")
        candidates, other = side(1 - m, relation == "c2c")
        similarity = functional.normalize(anchors, dim=1) @ functional.normalize(candidates, dim=1).T
        terms = []
        for a, (kept_p, kept_n) in enumerate(
            oracles.kept_pairs(similarity.tolist(), own.tolist(), other.tolist(), mining, 0.2)
        ):
            pull, push = 1.0, 1.0
            for p in kept_p:
                weight = oracles.positive_weight(similarity[a, p].item()) if weighting else W_P
                pull = pull + torch.exp(-weight * (similarity[a, p] - threshold))
            for n in kept_n:
                weight = oracles.negative_weight(similarity[a, n].item()) if weighting else W_N
                push = push + torch.exp(weight * (similarity[a, n] - threshold))
            if kept_p or kept_n:
                terms.append(sum(torch.log(t) for t in (pull, push) if torch.is_tensor(t)))
        value = value + sum(terms) / max(len(terms), 1)
    return value / 2


@pytest.mark.parametrize("weighting", [True, False])
@pytest.mark.parametrize("relation, mining", [*product(RELATIONS, MININGS)])
def test_detached_weights_are_constants_for_the_gradient(relation, mining, weighting):
    given = {"relation": relation, "mining": mining, "weighting": weighting}
    for seed in (41, 42):
        drawn = structured(ragged(seed), seed=seed, pull=0.7)
        features = drawn[0].clone().requires_grad_()
        expected = with_constant_weights(features, *drawn[1:], **given)
        expected.backward()
        value, grad, _ = value_and_gradients("adaptive_weighting", drawn, **given)  # detached by default
        assert value.item() == pytest.approx(expected.item(), abs=1e-10)
        torch.testing.assert_close(grad, features.grad, atol=1e-10, rtol=0)
        same, free, _ = value_and_gradients("adaptive_weighting", drawn, detach_weights=False, **given)
        assert same.item() == pytest.approx(expected.item(), abs=1e-12)
        assert torch.allclose(free, grad, atol=1e-6) is not weighting


@pytest.mark.parametrize("stripes", [None, 3])
def test_multi_constraint_gradient_with_detached_weights(stripes):
    drawn = structured(ragged(43), seed=43, pull=0.7)
    given = options({"local": stripes}, drawn, 43) if stripes else {}
    features = drawn[0].clone().requires_grad_()
    local = given["local"].clone().requires_grad_() if stripes else None
    terms = [with_constant_weights(features, *drawn[1:], r, "awl", True) for r in ("i2i", "c2i")]
    parts = [local[:, s] for s in range(stripes)] if stripes else [features]
    between = sum(with_constant_weights(part, *drawn[1:], "c2c", "awl", True) for part in parts) / len(parts)
    (0.5 * terms[0] + terms[1] + 0.2 * between).backward()
    _, grad, local_grad = value_and_gradients("multi_constraint", drawn, **given)
    torch.testing.assert_close(grad, features.grad, atol=1e-10, rtol=0)
    if stripes:
        torch.testing.assert_close(local_grad, local.grad, atol=1e-10, rtol=0)


@pytest.mark.parametrize("margin, kernels", [(0.0, 5), (1.4, 5), (0.5, 2), (0.2, 1)])
def test_margin_mmd_gradient_with_a_constant_bandwidth(margin, kernels):
    for seed in (44, 45):
        drawn = structured(ragged(seed), seed=seed)
        x, labels, modality = drawn[0].clone().requires_grad_(), *drawn[1:]
        terms = []
        for i in labels.unique():
            groups = [x[(labels == i) & (modality == m)] for m in (0, 1)]
            rows = torch.cat(groups).detach()
            spread = (rows[:, None] - rows[None]).square().sum().item() / (len(rows) ** 2 - len(rows))

            def kernel(a, b, spread=spread):
                squared = (a[:, None] - b[None]).square().sum(dim=-1)
                return sum(torch.exp(-squared / (spread * 2.0 ** (i - kernels // 2))) for i in range(kernels)).mean()

            value = kernel(groups[0], groups[0]) + kernel(groups[1], groups[1]) - 2 * kernel(*groups)
            terms.append(value if value > margin else 0 * value)
        expected = sum(terms) / len(terms)
        expected.backward()
        value, grad, _ = value_and_gradients("margin_mmd", drawn, margin=margin, kernels=kernels)
        assert value.item() == pytest.approx(expected.item(), abs=1e-10) and value > 0
        torch.testing.assert_close(grad, x.grad, atol=1e-10, rtol=0)


# Invariances.


@pytest.mark.parametrize("name, given", EACH, ids=label_of)
class TestInvariance:
    def test_row_order_does_not_matter(self, name, given):
        drawn = features, labels, modality = structured(ragged(11, low=2), seed=11)
        given = options(given, drawn)
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
        moved = {k: v[order] if torch.is_tensor(v) else v for k, v in given.items()}
        one, grad, local_grad = value_and_gradients(name, drawn, **given)
        other, moved_grad, moved_local = value_and_gradients(
            name, (features[order], labels[order], modality[order]), **moved
        )
        assert one.item() == pytest.approx(other.item(), abs=1e-12)
        torch.testing.assert_close(grad[order], moved_grad, atol=1e-12, rtol=0)
        if local_grad is not None:
            torch.testing.assert_close(local_grad[order], moved_local, atol=1e-12, rtol=0)

    def test_modality_swap(self, name, given):
        for seed in (12, 13):
            drawn = features, labels, modality = structured(ragged(seed), seed=seed)
            given_now = options(given, drawn)
            one, grad, _ = value_and_gradients(name, drawn, **given_now)
            other, swapped, _ = value_and_gradients(name, (features, labels, 1 - modality), **given_now)
            assert one.item() == pytest.approx(other.item(), abs=1e-12)
            torch.testing.assert_close(grad, swapped, atol=1e-12, rtol=0)

    @pytest.mark.parametrize("names", [(3, 1, 2, 0), (-5, 4_000_000_000, 0, 77)])
    def test_identity_numbers_do_not_matter(self, name, given, names):
        counts = [(2, 3), (4, 2), (1, 2), (3, 5)]
        drawn = features, labels, modality = structured(batch(counts), seed=14)
        given = options(given, drawn)
        renamed = torch.tensor(names)[labels]
        expected = LOSSES[name](*drawn, **given).item()
        assert LOSSES[name](features, renamed, modality, **given).item() == pytest.approx(expected, abs=1e-12)

    def test_batch_is_left_alone(self, name, given):
        drawn = structured(ragged(15), seed=15)
        given = options(given, drawn)
        tensors = [*drawn, *(v for v in given.values() if torch.is_tensor(v))]
        before = [t.clone() for t in tensors]
        LOSSES[name](*drawn, **given)
        assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))

    def test_scalar_of_the_features_kind(self, name, given):
        for dtype in (torch.float32, torch.float64):
            features, labels, modality = structured(ragged(16), seed=16)
            drawn = features.to(dtype), labels, modality
            value, grad, _ = value_and_gradients(name, drawn, **options(given, drawn))
            assert value.shape == () and value.dtype == dtype and grad.dtype == dtype
            assert value > 0 and grad.isfinite().all() and grad.any()


@pytest.mark.parametrize("name, given", [entry for entry in COSINE if "local" not in entry[1]], ids=label_of)
def test_length_does_not_matter_to_cosines(name, given):
    drawn = features, labels, modality = structured(ragged(17), seed=17)
    expected = LOSSES[name](*drawn, **given).item()
    assert LOSSES[name](37.5 * features, labels, modality, **given).item() == pytest.approx(expected, abs=1e-12)
    lengths = torch.from_numpy(np.random.default_rng(3).uniform(0.1, 8, size=(len(labels), 1)))
    each = LOSSES[name](lengths * features, labels, modality, **given).item()
    if name == "multi_similarity" or given.get("relation") == "i2i":
        assert each == pytest.approx(expected, abs=1e-12)
    else:  # a centre is the mean of the features as they are
        assert abs(each - expected) > 1e-6


@pytest.mark.parametrize("name, given", [entry for entry in EUCLIDEAN if "local" not in entry[1]], ids=label_of)
def test_rotation_and_translation(name, given):
    features, labels, modality = structured(ragged(18), seed=18)
    rotation = torch.linalg.qr(torch.from_numpy(np.random.default_rng(4).normal(size=(6, 6))))[0]
    moved = features @ rotation + torch.arange(6.0, dtype=torch.float64)
    expected = LOSSES[name](features, labels, modality, **given).item()
    assert LOSSES[name](moved, labels, modality, **given).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    "name, margin, power",
    [
        ("batch_hard_triplet", 0.3, 1),
        ("hetero_center", 0.5, 2),
        ("hetero_center_triplet", 0.3, 1),
        ("center_metric", 0.3, 1),
        ("margin_mmd", 0.5, 0),
    ],
)
def test_scaling(name, margin, power):
    """Features times s: distances times s, squared distances times s squared, MMD with its own bandwidth unchanged."""
    features, labels, modality = structured(ragged(19), seed=19)
    given = {"cross_modality": True} if name == "batch_hard_triplet" else {}
    expected = 3**power * LOSSES[name](features, labels, modality, margin=margin, **given).item()
    found = LOSSES[name](3 * features, labels, modality, margin=margin * 3**power, **given).item()
    assert found == pytest.approx(expected, rel=1e-10) and found > 0


# Hard inputs.

HARD = [
    ("batch_hard_triplet", {"cross_modality": True, "margin": 5.0}),
    ("hetero_center", {}),
    ("hetero_center_triplet", {"margin": 5.0, "local": 2}),
    ("center_metric", {"margin": 5.0}),
    ("margin_mmd", {}),
    ("margin_mmd", {"margin": 0.0}),
    *(("multi_similarity", {"mining": m, "cross_modality": c}) for m, c in product(MININGS, (True, False))),
    *(("adaptive_weighting", {"relation": r, "mining": m}) for r, m in product(RELATIONS, MININGS)),
    *(("adaptive_weighting", {"relation": r, "detach_weights": False}) for r in RELATIONS),
    ("multi_constraint", {"local": 2}),
]


def affected(case, labels, modality):
    """Rows of a hard case."""
    if case == "a sample":
        return torch.where(labels == 0)[0][:1]
    if case == "two samples":
        return torch.stack([torch.where(labels == i)[0][0] for i in (0, 1)])
    return torch.where(
        {
            "a group": (labels == 0) & (modality == 1),
            "an identity": labels == 0,
            "two identities": labels < 2,
            "all": labels >= 0,
        }[case]
    )[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["a sample", "two samples", "a group", "an identity", "two identities", "all"])
@pytest.mark.parametrize("name, given", HARD, ids=label_of)
def test_rows_of_zeros(name, given, case, dtype):
    """ReLU can kill a stripe or a whole feature: the cosine of a zero row counts as 0 and its slope stays small."""
    features, labels, modality = structured(batch([(2, 2), (2, 3), (1, 2)], seed=51), seed=51)
    features = features.clamp(min=0)
    dead = affected(case, labels, modality)
    features[dead] = 0
    drawn = features.to(dtype), labels, modality
    given = options(given, drawn, 51)
    if "local" in given:
        given["local"] = given["local"].clamp(min=0)
        given["local"][dead, 0] = 0
    value, *grads = value_and_gradients(name, drawn, **given)
    assert value.item() == pytest.approx(oracle(name, *drawn, **given), abs=1e-4 if dtype == torch.float32 else 1e-5)
    for grad in grads:
        assert grad is None or (grad.isfinite().all() and grad.abs().max() < 1e3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["two samples", "a group", "an identity", "two identities", "all"])
@pytest.mark.parametrize("name, given", HARD, ids=label_of)
def test_coinciding_samples(name, given, case, dtype):
    """A distance of 0 under a root, a bandwidth of 0, cosines of 1: no slope becomes NaN or infinite."""
    features, labels, modality = structured(batch([(2, 2)] * 3, seed=52), seed=52)
    same = affected(case, labels, modality)
    features[same] = features[same[0]].clone()
    drawn = features.to(dtype), labels, modality
    given = options(given, drawn, 52)
    if "local" in given:
        given["local"][same] = given["local"][same[0]].clone()
    value, *grads = value_and_gradients(name, drawn, **given)
    assert value.item() == pytest.approx(oracle(name, *drawn, **given), abs=1e-4)
    for grad in grads:
        assert grad is None or (grad.isfinite().all() and grad.abs().max() < 100)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize(
    "name, given",
    [
        *((name, {**given, **({"mining": m} if m else {})}) for name, given in COSINE for m in (None, "ms", "none")),
        *EUCLIDEAN,
    ],
    ids=label_of,
)
def test_float32_is_near_float64(name, given, kind):
    """Pooled ResNet features: 2,048 values, not negative; long next to their differences (dense) or half zeros."""
    latent, labels, modality = structured(batch([(4, 4)] * 8, seed=53), seed=53, pull=0.6, gap=0.6)
    features = latent @ torch.from_numpy(np.random.default_rng(53).normal(size=(6, 2048)))
    features = (1 + 0.1 * features if kind == "dense" else 0.2 * features).clamp(min=0)
    drawn = features, labels, modality
    given = dict(given)
    if "local" in given:
        given["local"] = torch.stack(features.chunk(given["local"] * 2, dim=1)[: given["local"]], dim=1)
    expected = LOSSES[name](*drawn, **given).item()
    halved = {k: v.float() if torch.is_tensor(v) else v for k, v in given.items()}
    found = LOSSES[name](features.float(), labels, modality, **halved).item()
    assert expected > 0 and found == pytest.approx(expected, rel=1e-4)


def zero_keeps_its_graph(name, drawn, **given):
    """Loss 0 exactly, gradient there and 0 exactly."""
    features = drawn[0].clone().requires_grad_()
    value = LOSSES[name](features, *drawn[1:], **given)
    assert value.requires_grad and value.shape == () and value.item() == 0
    value.backward()
    assert torch.equal(features.grad, torch.zeros_like(features))
    assert oracle(name, *drawn, **given) == 0


@pytest.mark.parametrize(
    "name, given",
    [
        ("batch_hard_triplet", {"cross_modality": True}),
        ("hetero_center", {"margin": 0.5}),
        ("hetero_center_triplet", {}),
        ("center_metric", {"instance_weight": 0.0}),
        ("margin_mmd", {"margin": 9.0}),
        *(("multi_similarity", {"mining": m, "cross_modality": c}) for m, c in product(MININGS[:2], (True, False))),
        *(("adaptive_weighting", {"relation": r, "mining": m}) for r, m in product(RELATIONS, MININGS[:2])),
        ("multi_constraint", {}),
    ],
    ids=label_of,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_keeps_its_graph(name, given, dtype):
    """Tight identities on axes of their own: no hinge is active and no pair is mined."""
    _, labels, modality = batch([(2, 2), (3, 2), (2, 4)], names=(4, 8, 15), seed=1)
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(len(labels), 16)))
    features = torch.eye(16, dtype=torch.float64)[labels] * 100 + 0.01 * noise
    zero_keeps_its_graph(name, (features.to(dtype), labels, modality), **given)


def test_zero_keeps_its_graph_with_local():
    _, labels, modality = batch([(2, 2), (3, 2), (2, 4)], names=(4, 8, 15), seed=1)
    features = torch.eye(16, dtype=torch.float64)[labels]
    for name in LOCAL:
        local = features[:, None].repeat(1, 3, 1)
        value, grad, local_grad = value_and_gradients(name, (features, labels, modality), local=local)
        assert value.item() == 0 and not grad.any() and not local_grad.any() and grad.isfinite().all()


def test_zero_without_any_positive_keeps_its_graph():
    """One image of each identity in one pool: no positive, so MS mining and ours bound nothing and keep nothing."""
    drawn = batch([(1, 0), (0, 1), (1, 0), (0, 1)], seed=54)
    for mining in ("ms", "awl"):
        zero_keeps_its_graph("multi_similarity", drawn, cross_modality=False, mining=mining)


def test_zero_where_both_modalities_coincide():
    _, labels, modality = batch([(2, 2), (3, 2), (2, 4)], seed=1)
    features = torch.eye(16, dtype=torch.float64)[labels]
    zero_keeps_its_graph("hetero_center", (features, labels, modality))
    value, grad, _ = value_and_gradients("center_metric", (features, labels, modality))
    assert value.item() == pytest.approx(0, abs=1e-5) and grad.isfinite().all() and grad.abs().max() < 1


@pytest.mark.parametrize("margin", [0.0, 1.4])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_margin_mmd_of_coinciding_rows_is_zero(dtype, scale, margin):
    """Bandwidth 0: the identity contributes 0, not what rounding leaves of it over what rounding leaves of the rows."""
    _, labels, modality = batch([(3, 2), (2, 5), (1, 2)], seed=1)
    places = torch.from_numpy(np.random.default_rng(5).normal(scale=scale, size=(3, 64)))
    zero_keeps_its_graph("margin_mmd", (places[labels].to(dtype), labels, modality), margin=margin)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name, given", [*FIRST_OPTIONS, *OPTIONS], ids=label_of)
def test_broken_features_show_in_the_loss(name, given, bad):
    """Training stops at a loss that is not finite, so no mask or hinge may swallow one broken number."""
    if name == "id" and bad == -math.inf and given.get("smoothing") == 0.0:
        pytest.skip("a class that cannot be is no fault without smoothing")
    for row in (0, -1):
        features, labels, modality = batch([(3, 2), (2, 4), (2, 2)], seed=23)
        features[row, 1] = bad
        assert not LOSSES[name](features, labels, modality, **options(given, (features, labels, modality))).isfinite()


@pytest.mark.parametrize("name", LOCAL)
def test_broken_stripes_show_in_the_loss(name):
    drawn = batch([(3, 2), (2, 4), (2, 2)], seed=24)
    given = options({"local": 3}, drawn)
    given["local"][2, 1, 0] = math.nan
    assert not LOSSES[name](*drawn, **given).isfinite()


@pytest.mark.parametrize("name, given", [*FIRST_OPTIONS, *EACH], ids=label_of)
@pytest.mark.parametrize("power", [-80, 70])
def test_features_of_any_size_in_float32(name, given, power):
    """Squares overflow beyond 2^63 and vanish below 2^-74; what has the unit of features scales with them."""
    if name in ("id", "center_constraint", "hetero_center"):
        pytest.skip("logits have no free scale, and a loss in squared units overflows itself")
    features, labels, modality = batch([(3, 2), (2, 4), (2, 2)], seed=25)
    given = options(given, (features, labels, modality))
    plain = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    lengths = (
        "batch_hard_triplet",
        "cmdc",
        "adaptive_cmdc",
        "hetero_center_triplet",
        "center_metric",
    )  # the others have no unit
    unit = 2.0**power if name in lengths else 1.0
    scaled = {k: v * 2.0**power if isinstance(v, torch.Tensor) else v for k, v in plain.items()}
    if unit != 1:
        plain["margin"] = given.get("margin", 0.3)
        scaled["margin"] = plain["margin"] * unit
    expected = LOSSES[name](features.float(), labels, modality, **plain) * unit
    assert torch.equal(LOSSES[name](features.float() * 2.0**power, labels, modality, **scaled), expected)


# Error texts.

NEEDS_BOTH = [entry for entry in EACH if entry[1].get("cross_modality", True)]
NEEDS_TWO = [entry for entry in EACH if entry[0] not in ("hetero_center", "margin_mmd")]


@pytest.mark.parametrize("counts", [(2, 0), (0, 3), (1, 0)])
@pytest.mark.parametrize("name, given", NEEDS_BOTH, ids=label_of)
def test_names_the_identity_without_a_modality(name, given, counts):
    drawn = batch([(2, 2), counts, (2, 2)], names=(11, 7301, 12))
    with pytest.raises(ValueError, match="7301"):
        LOSSES[name](*drawn, **options(given, drawn))


@pytest.mark.parametrize("name, given", NEEDS_TWO, ids=label_of)
def test_a_single_identity_is_named(name, given):
    drawn = batch([(3, 3)], names=(-4242,))
    with pytest.raises(ValueError, match="-4242"):
        LOSSES[name](*drawn, **options(given, drawn))


@pytest.mark.parametrize("name", ["hetero_center", "margin_mmd"])
def test_a_single_identity_is_enough(name):
    check_against_oracle(name, {}, batch([(3, 2)], names=(-4242,), seed=2), 0)


@pytest.mark.parametrize(
    "name, given",
    [
        ("multi_similarity", {"mining": "hardest!"}),
        ("multi_similarity", {"mining": "hardest!", "cross_modality": False}),
        ("adaptive_weighting", {"mining": "hardest!"}),
        ("adaptive_weighting", {"relation": "hardest!"}),
        ("multi_constraint", {"mining": "hardest!"}),
    ],
    ids=label_of,
)
def test_an_unknown_choice_is_named(name, given):
    with pytest.raises(ValueError, match="hardest!"):
        LOSSES[name](*BALANCED[1], **given)


@pytest.mark.parametrize(
    "name, given, text",
    [
        ("id", {"smoothing": -0.1}, "smoothing must be a number, from 0 to 1, not -0.1"),
        ("id", {"smoothing": 1.5}, "smoothing must be a number, from 0 to 1, not 1.5"),
        ("batch_hard_triplet", {"margin": math.nan}, "margin must be a number, finite, not nan"),
        ("batch_hard_triplet", {"margin": "0.3"}, "margin must be a number, finite, not '0.3'"),
        ("batch_hard_triplet", {"cross_modality": 1}, "cross_modality must be true or false, not 1"),
        ("cmdc", {"margin": math.inf}, "margin must be a number, finite, not inf"),
        ("cmdc", {"margin": 10**400}, "margin must be a number, finite, not 1000"),
        ("cmdc", {"margin": True}, "margin must be a number, finite, not True"),
        ("cmdc", {"hinge": None}, "hinge must be true or false, not None"),
        ("hetero_center", {"margin": None}, "margin must be a number, finite, not None"),
        ("hetero_center_triplet", {"local_weight": -1}, "local_weight must be a number, finite and at least 0, not -1"),
        ("hetero_center_triplet", {"over_stripes": "max"}, "over_stripes 'max' is not known: choose one of sum, mean"),
        ("center_metric", {"instance_weight": -1.0}, "instance_weight must be a number, finite and at least 0, not"),
        ("margin_mmd", {"kernels": 0}, "kernels must be a whole number, from 1 to 100, not 0"),
        ("margin_mmd", {"kernels": -3}, "kernels must be a whole number, from 1 to 100, not -3"),
        ("margin_mmd", {"kernels": 2.0}, "kernels must be a whole number, from 1 to 100, not 2.0"),
        ("margin_mmd", {"kernels": 5000}, "kernels must be a whole number, from 1 to 100, not 5000"),
        ("multi_similarity", {"alpha": 0}, "alpha must be a number, finite and above 0, not 0"),
        ("multi_similarity", {"beta": -2.0}, "beta must be a number, finite and above 0, not -2.0"),
        ("adaptive_weighting", {"threshold": math.nan}, "threshold must be a number, finite, not nan"),
        ("adaptive_weighting", {"mining": ["ms"]}, "mining ['ms'] is not known: choose one of ms, awl, none"),
        ("multi_constraint", {"omega": -0.2}, "omega must be a number, finite and at least 0, not -0.2"),
        ("multi_constraint", {"mining_margin": [0.2]}, "mining_margin must be a number, finite, not [0.2]"),
        ("multi_constraint", {"local": [[1.0]]}, "local must be a tensor of floating-point numbers, not list"),
        ("multi_constraint", {"local": torch.zeros(3, 2, 4)}, "local is (3, 2, 4): it must be (N, S, d) with the N = "),
        ("multi_constraint", {"local": torch.zeros(3, 4)}, "local is (3, 4): it must be (N, S, d) with the N = "),
    ],
    ids=label_of,
)
def test_a_wrong_argument_is_one_sentence(name, given, text):
    with pytest.raises(ValueError) as error:
        LOSSES[name](*BALANCED[1], **given)
    assert str(error.value).startswith(text) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", list(LOSSES))
def test_an_unknown_argument_is_named(name):
    batch_of = (4, 6) if isinstance(LOSSES[name], type) else BALANCED[1]  # classes and columns, for one that learns
    with pytest.raises(TypeError, match="marginn"):
        LOSSES[name](*batch_of, marginn=0.3)


def test_numbers_of_numpy_and_learnable_numbers_are_numbers():
    expected = losses.cmdc(*BALANCED[1], margin=0.5)
    learnable = torch.tensor(0.5, requires_grad=True)
    for margin in (np.float32(0.5), np.float64(0.5), learnable):
        assert losses.cmdc(*BALANCED[1], margin=margin).item() == pytest.approx(expected.item())
    losses.cmdc(*BALANCED[1], margin=learnable).backward()
    assert learnable.grad is not None


# An independent reference.


def metric_learning(*parts):
    return [pytest.importorskip(f"pytorch_metric_learning.{part}") for part in parts]


def split(features, labels, modality):
    """[(anchors, their labels, candidates, their labels)] of both directions."""
    sides = [(features[modality == m], labels[modality == m]) for m in (0, 1)]
    return [(*sides[0], *sides[1]), (*sides[1], *sides[0])]


def selected(indices):
    """C: anchors that the miner gives a positive or a negative."""
    return len(torch.cat([indices[0], indices[2]]).unique())


@pytest.mark.parametrize(
    "given",
    [{}, {"alpha": 5.0, "beta": 20.0, "threshold": 0.3}, {"mining_margin": 0.4}, {"mining_margin": 0.02}],
    ids=label_of,
)
@pytest.mark.parametrize("cross_modality", [True, False])
def test_multi_similarity_equals_pytorch_metric_learning(cross_modality, given):
    """PML averages over all anchors, Eq. 7 over the C selected: its value times N / C, in each direction."""
    others, miners = metric_learning("losses", "miners")
    miner = miners.MultiSimilarityMiner(epsilon=given.get("mining_margin", 0.1))
    loss = others.MultiSimilarityLoss(given.get("alpha", 2.0), given.get("beta", 50.0), given.get("threshold", 0.5))
    fewer = 0
    for seed in range(4):
        drawn = structured(ragged(seed, low=2), seed=60 + seed, pull=1.5)
        x, labels, modality = drawn[0].clone().requires_grad_(), *drawn[1:]
        if cross_modality:
            expected = 0.0
            for anchors, own, candidates, other in split(x, labels, modality):
                pairs = miner(anchors, own, candidates, other)
                count = selected(pairs)
                fewer += len(own) - count
                expected = expected + loss(anchors, own, pairs, candidates, other) * len(own) / count / 2
        else:
            pairs = miner(x, labels)
            fewer += len(labels) - selected(pairs)
            expected = loss(x, labels, pairs) * len(labels) / selected(pairs)
        expected.backward()
        value, grad, _ = value_and_gradients(
            "multi_similarity", drawn, mining="ms", cross_modality=cross_modality, **given
        )
        assert value.item() == pytest.approx(expected.item(), abs=1e-8)
        torch.testing.assert_close(grad, x.grad, atol=1e-8, rtol=0)
    assert fewer > 0 or given.get("mining_margin") == 0.4  # C differs from N in some batch


def test_triplet_across_modalities_equals_pytorch_metric_learning():
    distances, others, miners, reducers = metric_learning("distances", "losses", "miners", "reducers")
    euclidean = distances.LpDistance(normalize_embeddings=False)
    loss = others.TripletMarginLoss(margin=0.3, distance=euclidean, reducer=reducers.MeanReducer())
    miner = miners.BatchHardMiner(distance=euclidean)
    for seed in range(4):
        drawn = ragged(seed)
        x, labels, modality = drawn[0].clone().requires_grad_(), *drawn[1:]
        expected = 0.0
        for anchors, own, candidates, other in split(x, labels, modality):
            triplets = miner(anchors, own, candidates, other)
            expected = expected + loss(anchors, own, triplets, candidates, other) * len(own) / len(labels)
        expected.backward()
        value, grad, _ = value_and_gradients("batch_hard_triplet", drawn, cross_modality=True)
        assert value.item() == pytest.approx(expected.item(), abs=1e-8)
        torch.testing.assert_close(grad, x.grad, atol=1e-8, rtol=0)
