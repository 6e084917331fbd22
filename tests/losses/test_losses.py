"""Losses against the loop oracles, hand-made numbers, invariances, gradients and error texts."""

import math
import re
from contextlib import suppress

import numpy as np
import oracles
import pytest
import torch
from torch.nn import functional

from vtlib import losses
from vtlib.config import asked
from vtlib.losses.contract import SCALE, Range, at_least_single
from vtlib.losses.geometry import pairwise_distance, squared_distance, unit
from vtlib.systems import LOSSES

METRIC = ("batch_hard_triplet", "cmdc", "center_constraint")  # take features; identity takes logits
OPTIONS = [
    ("id", {}),
    ("id", {"smoothing": 0.0}),
    ("id", {"smoothing": 0.4}),
    ("batch_hard_triplet", {}),
    ("batch_hard_triplet", {"margin": 0.0}),
    ("batch_hard_triplet", {"margin": 2.5}),
    ("cmdc", {}),
    ("cmdc", {"margin": 1.7}),
    ("cmdc", {"hinge": False}),
    ("cmdc", {"hinge": False, "margin": 0.0}),
    ("adaptive_cmdc", {}),
    ("adaptive_cmdc", {"hinge": False, "margin": 0.1}),
    ("center_constraint", {}),
]


def batch(counts, dimension=6, seed=0, names=None, scale=1.0):
    """Random features (N, D) float64, labels (N,), modality (N,), rows shuffled; counts = [(visible, thermal), ...]."""
    rng = np.random.default_rng(seed)
    names = range(len(counts)) if names is None else names
    rows = [(i, m) for i, pair in zip(names, counts, strict=True) for m in (0, 1) for _ in range(pair[m])]
    labels, modality = torch.tensor(rows)[rng.permutation(len(rows))].T.contiguous()
    return torch.from_numpy(scale * rng.normal(size=(len(rows), dimension))), labels, modality


def ragged(seed, low=1, **given):
    """A batch of 3 to 5 identities with low to 6 images each of each modality."""
    rng = np.random.default_rng(1000 + seed)
    return batch(rng.integers(low, 7, size=(rng.integers(3, 6), 2)).tolist(), seed=seed, **given)


def oracle(name, features, labels, modality, **given):
    """The oracle of the loss `name` on the same batch."""
    x, y = features.detach().double().numpy(), labels.numpy()
    if name == "id":
        return oracles.identity(x, y, **given)
    if name == "batch_hard_triplet":
        return oracles.batch_hard_triplet(x, y, **given)
    return getattr(oracles, name)(x, y, modality.numpy(), **given)


def on_line(*rows):
    """A batch of points on a line: rows (place, label, modality)."""
    place, labels, modality = zip(*rows, strict=True)
    return torch.tensor(place, dtype=torch.float64)[:, None], torch.tensor(labels), torch.tensor(modality)


@pytest.mark.parametrize("name, given", OPTIONS)
def test_equals_oracle_on_balanced_batches(name, given):
    for seed, (p, k) in enumerate([(2, 1), (2, 2), (4, 3), (6, 4)]):
        drawn = batch([(k, k)] * p, seed=seed)
        assert LOSSES[name](*drawn, **given).item() == pytest.approx(oracle(name, *drawn, **given), abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name, given", OPTIONS)
def test_equals_oracle_on_ragged_batches(name, given, seed):
    drawn = ragged(seed)
    assert LOSSES[name](*drawn, **given).item() == pytest.approx(oracle(name, *drawn, **given), abs=1e-10)


@pytest.mark.parametrize("scale", [0.02, 30.0])
@pytest.mark.parametrize("name", METRIC)
def test_equals_oracle_at_other_scales(name, scale):
    drawn = ragged(7, scale=scale)
    assert LOSSES[name](*drawn).item() == pytest.approx(oracle(name, *drawn), rel=1e-10, abs=1e-10)


def test_triplet_needs_no_modality():
    """Both modalities are pooled: an identity seen in one modality only has positives all the same."""
    drawn = batch([(3, 0), (0, 2), (2, 2)], seed=3)
    expected = oracle("batch_hard_triplet", *drawn)
    assert losses.batch_hard_triplet(*drawn).item() == pytest.approx(expected, abs=1e-10)


def test_identity_by_hand():
    # C = 2, zeta = 0.1: q = 0.95 on the true class, 0.05 on the other. Logits (0, ln 3): p = (1/4, 3/4).
    # True class 1: -0.95 ln(3/4) - 0.05 ln(1/4). True class 0: -0.95 ln(1/4) - 0.05 ln(3/4). Mean:
    # -(ln 3/4 + ln 1/4) / 2.
    logits = torch.tensor([[0.0, math.log(3)]] * 2, dtype=torch.float64)
    modality = torch.tensor([0, 1])
    one = losses.identity(logits[:1], torch.tensor([1]), modality[:1])
    both = losses.identity(logits, torch.tensor([1, 0]), modality)
    assert one.item() == pytest.approx(-0.95 * math.log(0.75) - 0.05 * math.log(0.25), abs=1e-12)
    assert both.item() == pytest.approx(-0.5 * (math.log(0.75) + math.log(0.25)), abs=1e-12)


def test_identity_is_cross_entropy_with_smoothing():
    logits, labels, modality = ragged(2)
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert losses.identity(logits, labels, modality).item() == pytest.approx(expected.item(), abs=1e-12)
    plain = functional.cross_entropy(logits, labels)
    assert losses.identity(logits, labels, modality, smoothing=0.0).item() == pytest.approx(plain.item(), abs=1e-12)


def test_triplet_by_hand():
    # Identity 5 at 0 (visible) and 3 (thermal), identity 9 at 4 (visible) and 10 (thermal).
    # anchor 0: positive 3, negative 4: 3 - 4 + 0.3 < 0 -> 0;  anchor 3: 3, 1 -> 2.3;
    # anchor 4: positive 6, negative 1 -> 5.3;                 anchor 10: 6, 7 -> 0.   Mean (2.3 + 5.3) / 4 = 1.9
    drawn = on_line((0, 5, 0), (3, 5, 1), (4, 9, 0), (10, 9, 1))
    assert losses.batch_hard_triplet(*drawn).item() == pytest.approx(1.9, abs=1e-12)
    # margin 2 brings in the two others: (3 - 4 + 2) + (3 - 1 + 2) + (6 - 1 + 2) + (6 - 7 + 2) = 1 + 4 + 7 + 1
    assert losses.batch_hard_triplet(*drawn, margin=2.0).item() == pytest.approx(13 / 4, abs=1e-12)


def test_cmdc_by_hand():
    # Identity 1: visible 0 and 2 (centre 1), thermal 3 and 5 (centre 4). Upper: max(|0-4|, |5-1|, ...) = 4.
    # Identity 2: visible 10 (centre 10), thermal 7 (centre 7). Upper: |10 - 7| = 3.
    # Lower for both: the nearest centres of different identities, 4 and 7: 3.
    # margin 0.3: identity 1 gives 4 - 3 + 0.3 = 1.3, identity 2 gives 3 - 3 + 0.3 = 0.3. Mean 0.8
    drawn = on_line((0, 1, 0), (2, 1, 0), (3, 1, 1), (5, 1, 1), (10, 2, 0), (7, 2, 1))
    assert losses.cmdc(*drawn).item() == pytest.approx(0.8, abs=1e-12)
    # margin -0.5: 0.5 and -0.5, so the hinge leaves 0.5 / 2; without it they cancel
    assert losses.cmdc(*drawn, margin=-0.5).item() == pytest.approx(0.25, abs=1e-12)
    assert losses.cmdc(*drawn, margin=-0.5, hinge=False).item() == pytest.approx(0.0, abs=1e-12)


def test_cmdc_bounds_cross_modality_positives():
    # Each sample sits on its own centre, so only the other modality's centre gives an upper bound:
    # identity 1 at 0 and 2 (upper 2), identity 2 at 9 and 10 (upper 1), lower 9 - 2 = 7. 2 - 7 + 6 = 1, 1 - 7 + 6 = 0
    drawn = on_line((0, 1, 0), (2, 1, 1), (9, 2, 0), (10, 2, 1))
    assert losses.cmdc(*drawn, margin=6.0).item() == pytest.approx(0.5, abs=1e-12)


def test_center_constraint_by_hand():
    # Identity 1: visible 0 and 2 (1 from their centre, squared 1 + 1), thermal 3, 3 and 6 (centre 4: 1 + 1 + 4).
    # Identity 2: visible 5 and thermal 8, alone with their centres. Half the mean over 7 samples: 8 / 14
    drawn = on_line((0, 1, 0), (2, 1, 0), (3, 1, 1), (3, 1, 1), (6, 1, 1), (5, 2, 0), (8, 2, 1))
    assert losses.center_constraint(*drawn).item() == pytest.approx(4 / 7, abs=1e-12)


def test_triplet_equals_pytorch_metric_learning():
    """Same value and gradient as PML on the joint batch, its distance unnormalised and its mean over all anchors."""
    distances, others, miners, reducers = (
        pytest.importorskip(f"pytorch_metric_learning.{part}") for part in ("distances", "losses", "miners", "reducers")
    )
    euclidean = distances.LpDistance(normalize_embeddings=False)
    theirs = others.TripletMarginLoss(margin=0.3, distance=euclidean, reducer=reducers.MeanReducer())
    hardest = miners.BatchHardMiner(distance=euclidean)
    for seed in range(4):
        features, labels, modality = ragged(seed, low=2)
        ours_in, theirs_in = (features.clone().requires_grad_() for _ in range(2))
        expected = theirs(theirs_in, labels, hardest(theirs_in, labels))
        found = losses.batch_hard_triplet(ours_in, labels, modality)
        found.backward()
        expected.backward()
        assert found.item() == pytest.approx(expected.item(), abs=1e-10)
        torch.testing.assert_close(ours_in.grad, theirs_in.grad, atol=1e-10, rtol=0)


@pytest.mark.parametrize("hinge", [True, False])
def test_cmdc_gradient_of_the_active_pair(hinge):
    # The line of test_cmdc_by_hand: identity 1's upper bound is |0 - 4| or |5 - 1|, a tie; 5.5 instead of 5 breaks it:
    # thermal centre 4.25, upper |5.5 - 1| = 4.5, lower 7 - 4.25 = 2.75, terms 2.05 and 3 - 2.75 + 0.3 = 0.55, mean 1.3.
    # d/dx of 1/2 [(t2 - (v1+v2)/2) + (v3 - t3) + 2 ((t1+t2)/2 - t3)] with v visible, t thermal
    features, labels, modality = on_line((0, 1, 0), (2, 1, 0), (3, 1, 1), (5.5, 1, 1), (10, 2, 0), (7, 2, 1))
    features.requires_grad_()
    value = losses.cmdc(features, labels, modality, hinge=hinge)
    value.backward()
    assert value.item() == pytest.approx(1.3, abs=1e-12)
    expected = torch.tensor([-0.25, -0.25, 0.5, 1.0, 0.5, -1.5], dtype=torch.float64)[:, None]
    torch.testing.assert_close(features.grad, expected)


# their modalities have weights, or views, of their own
ONE_SIDED = (
    "centre_triplet",
    "homogeneous_invariance",
    "modality_classifiers",
    "tri_directional",
    "within_view_triplet",
)


def called(name):
    """A loss as a function of a batch alone: what else it asks for is made of the features, its weights of a seed."""
    made, wanted = LOSSES[name], asked(LOSSES[name], needed=True)

    def call(features, labels, modality, **options):
        given, batch, loss = {}, (features, labels, modality), made
        plain = isinstance(features, torch.Tensor) and features.is_floating_point() and features.ndim == 2
        if isinstance(made, type):
            torch.manual_seed(0)
            width = features.shape[1] if plain and features.shape[1] else 6
            loss = made(width, width, **options).eval()
            loss, options = loss.to(features.device, at_least_single(features).dtype) if plain else loss, {}
        if "local" in wanted:
            width = features.shape[-1] // 3 * 3 if plain else 0
            given["local"] = features[:, :width].unflatten(1, (3, -1)) if width else torch.ones(1, 3, 2)
        if "logits" in wanted:
            given["logits"] = at_least_single(features) if plain else features
        if "source" in wanted:
            given["source"] = torch.full((len(features),), -1)
            with suppress(Exception):  # a wrong batch goes as it is to the loss, which says what is wrong
                batch, given["source"] = with_view(*batch)
        return loss(*batch, **options, **given)

    return call


def with_view(features, labels, modality):
    """The batch and behind it an image of a view for each visible one, and the source of each row."""
    assert features.ndim == 2 and len(features) == len(labels) == len(modality) > 0
    visible = (torch.as_tensor(modality).double() == 0).nonzero()[:, 0]
    features = torch.cat([features, features[visible.to(features.device)].flip(1)])
    labels, modality = (torch.cat([torch.as_tensor(x), torch.as_tensor(x)[visible]]) for x in (labels, modality))
    return (features, labels, modality), torch.cat([torch.full((len(features) - len(visible),), -1), visible])


@pytest.mark.parametrize("name", list(LOSSES))
class TestContract:
    """What every entry of LOSSES keeps; the batch serves as logits and as features (6 columns, labels 0 to 3)."""

    def test_scalar_finite_with_gradient(self, name):
        for dtype in (torch.float32, torch.float64):
            features, labels, modality = batch([(3, 3)] * 4, seed=5)
            features = features.to(dtype).requires_grad_()
            value = called(name)(features, labels, modality)
            value.backward()
            assert value.shape == () and value.dtype == dtype and value.isfinite()
            assert value >= 0 or name == "branch_orthogonality"  # a dot product
            assert features.grad.isfinite().all() and features.grad.abs().sum() > 0

    def test_it_runs_where_the_features_are_on_a_device_and_the_labels_on_the_cpu(self, name):
        features, labels, modality = batch([(3, 3)] * 4, seed=5)
        try:
            value = called(name)(features.float().to("meta"), labels, modality)
        except (RuntimeError, NotImplementedError) as error:
            repair = "make masks on the CPU and send them over with to_device_of(mask, features); read no value"
            pytest.fail(f"loss {name} fails on a GPU ({error}): {repair}")
        assert value.is_meta and value.shape == ()

    def test_row_order_does_not_matter(self, name):
        features, labels, modality = ragged(11, low=2)
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
        first, second = features.clone().requires_grad_(), features[order].requires_grad_()
        one = called(name)(first, labels, modality)
        other = called(name)(second, labels[order], modality[order])
        one.backward()
        other.backward()
        assert one.item() == pytest.approx(other.item(), abs=1e-12)
        torch.testing.assert_close(first.grad[order], second.grad)

    def test_batch_is_left_alone(self, name):
        drawn = ragged(12, low=2)
        before = [t.clone() for t in drawn]
        called(name)(*drawn)
        assert all(torch.equal(a, b) for a, b in zip(before, drawn, strict=True))

    def test_modality_swap(self, name):
        if name in ONE_SIDED:
            pytest.skip("it treats visible and thermal images in different ways")
        features, labels, modality = ragged(13, low=2)
        expected = called(name)(features, labels, modality).item()
        assert called(name)(features, labels, 1 - modality).item() == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, name, dtype):
        """Norms of 450, whose squares float16 does not have."""
        features, labels, modality = batch([(3, 3)] * 4, dimension=2048, seed=5, scale=10.0)
        features = features.to(dtype).requires_grad_()
        value = called(name)(features, labels, modality)
        expected = called(name)(features.detach().float(), labels, modality)
        assert value.dtype == torch.float32 and torch.equal(value, expected)
        value.backward()
        assert features.grad.dtype == dtype and features.grad.isfinite().all()

    def test_autocast_does_not_reach_into_it(self, name):
        features, labels, modality = batch([(3, 3)] * 4, dimension=64, seed=6)
        features, far = features.float(), 100.0
        expected = called(name)(features + far, labels, modality)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(called(name)(features + far, labels, modality), expected)

    @pytest.mark.parametrize(
        "write",
        [
            lambda x: x.tolist(),
            lambda x: x.numpy(),
            lambda x: x.int(),
            lambda x: x.half(),
            lambda x: x.double(),
        ],
        ids=["list", "NumPy", "int32", "float16", "float64"],
    )
    def test_labels_and_modality_may_be_written_otherwise(self, name, write):
        features, labels, modality = ragged(14, low=2)
        expected = called(name)(features, labels, modality)
        assert torch.equal(called(name)(features, write(labels), write(modality)), expected)
        assert torch.equal(called(name)(features, labels, modality == 1), expected)

    @pytest.mark.parametrize(
        "change, text",
        [
            (lambda x, y, m: (x.numpy(), y, m), "features must be a tensor of floating-point numbers, not ndarray"),
            (lambda x, y, m: (x.long(), y, m), "features must be a tensor of floating-point numbers, not torch.int64"),
            (lambda x, y, m: (x[0], y, m), "features, labels, modality are (6,), "),
            (lambda x, y, m: (x[:, :0], y, m), "features, labels, modality are "),
            (lambda x, y, m: (x[:0], y[:0], m[:0]), "features, labels, modality are (0, 6), (0,), (0,): they must be "),
            (lambda x, y, m: (x, y[1:], m), "features, labels, modality are "),
            (lambda x, y, m: (x, y, m[:, None]), "features, labels, modality are "),
            (lambda x, y, m: (x, y, 0), "features, labels, modality are "),
            (lambda x, y, m: (x, y + 0.5, m), "labels has the value "),
            (lambda x, y, m: (x, y / torch.zeros(len(y)), m), "labels has the value "),
            (lambda x, y, m: (x, y + 2.0**53, m), "labels has the value "),
            (lambda x, y, m: (x, y.float() + 2.0**24, m), "labels has the value 16777"),
            (lambda x, y, m: (x, [str(i) for i in y], m), "labels must be a tensor of whole numbers, not list"),
            (lambda x, y, m: (x, None, m), "labels must be a tensor of whole numbers, not NoneType"),
            (lambda x, y, m: (x, y, m + 1), "modality has the value 2: 0 is visible and 1 is thermal"),
            (lambda x, y, m: (x, y, m - 1), "modality has the value -1: 0 is visible and 1 is thermal"),
            (lambda x, y, m: (x, y, m * 0.5), "modality has the value 0.5: give whole numbers"),
        ],
    )
    def test_a_wrong_batch_is_one_sentence(self, name, change, text):
        with pytest.raises(ValueError) as error:
            called(name)(*change(*ragged(15, low=2)))
        assert str(error.value).startswith(text) and "\n" not in str(error.value)


def test_required_names():
    assert {"id", "batch_hard_triplet", "cmdc", "center_constraint"} <= set(LOSSES)


STAMPS = (20230405123456788, 20230405123456789, 20230405123456790, 20230405123456787)  # one number in float64


@pytest.mark.parametrize("names", [(3, 1, 2, 0), (-5, 4_000_000_000, 0, 77), (10, 11, 12, 13), STAMPS])
@pytest.mark.parametrize("name", METRIC)
def test_identity_numbers_do_not_matter(name, names):
    counts = [(2, 3), (4, 2), (2, 2), (3, 5)]
    expected = LOSSES[name](*batch(counts)).item()
    assert LOSSES[name](*batch(counts, names=names)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", METRIC)
def test_rotation_and_translation(name):
    features, labels, modality = ragged(21, low=2)
    rotation = torch.linalg.qr(torch.from_numpy(np.random.default_rng(4).normal(size=(6, 6))))[0]
    moved = features @ rotation + torch.arange(6.0, dtype=torch.float64)
    expected = LOSSES[name](features, labels, modality).item()
    assert LOSSES[name](moved, labels, modality).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name, given, power", [*zip(METRIC, (0.3, 0.3, 0), (1, 1, 2), strict=True)])
def test_scaling(name, given, power):
    """Distances times s and the margin times s give s times the loss; the squared distances give s squared."""
    features, labels, modality = ragged(22, low=2)
    plain, scaled = ({"margin": given * s} if given else {} for s in (1, 3))
    expected = 3**power * LOSSES[name](features, labels, modality, **plain).item()
    found = LOSSES[name](3 * features, labels, modality, **scaled).item()
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", METRIC)
def test_zero_keeps_its_graph(name):
    """Tight, far identities (for the centre constraint: samples on their centre): loss 0 and gradient 0, no error."""
    _, labels, modality = batch([(2, 2), (3, 2), (2, 4)], names=(4, 8, 15), seed=1)
    features = torch.eye(16, dtype=torch.float64)[labels] * 100
    if name != "center_constraint":  # spread far below the distance between identities
        features = features + 0.01 * torch.from_numpy(np.random.default_rng(0).normal(size=features.shape))
    value = LOSSES[name](features.requires_grad_(), labels, modality)
    value.backward()
    assert value.item() == 0 and torch.equal(features.grad, torch.zeros_like(features))


def test_cmdc_without_hinge_is_negative_when_separated():
    # Spread 0 around places 0 and 10, so every term is 0 - 10 + 0.3
    drawn = on_line((0, 1, 0), (0, 1, 1), (10, 2, 0), (10, 2, 1))
    assert losses.cmdc(*drawn, hinge=False).item() == pytest.approx(-9.7, abs=1e-5)


@pytest.mark.parametrize("name, given", [o for o in OPTIONS if o[0] != "adaptive_cmdc"])
def test_gradcheck(name, given):
    features, labels, modality = batch([(2, 2), (1, 3), (2, 1)], dimension=4, seed=8)
    assert torch.autograd.gradcheck(
        lambda x: LOSSES[name](x, labels, modality, **given), features.requires_grad_(), atol=1e-7
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", [{}, {"margin": 5.0}])
@pytest.mark.parametrize("name", METRIC)
@pytest.mark.parametrize("case", ["two samples", "one identity", "two identities", "all"])
def test_gradient_is_finite_at_distance_zero(case, name, given, dtype):
    """Coinciding samples put a distance of 0 under the root; its slope there must not become NaN or infinite."""
    features, labels, modality = batch([(2, 2)] * 3, seed=9)
    same = {
        "two samples": torch.tensor([torch.where(labels == i)[0][0].item() for i in (0, 1)]),
        "one identity": torch.where(labels == 0)[0],
        "two identities": torch.where(labels < 2)[0],
        "all": torch.arange(len(labels)),
    }[case]
    features[same] = features[same[0]].clone()
    features = features.to(dtype).requires_grad_()
    value = LOSSES[name](features, labels, modality, **({} if name == "center_constraint" else given))
    value.backward()
    expected = oracle(name, features, labels, modality, **({} if name == "center_constraint" else given))
    assert value.item() == pytest.approx(expected, abs=1e-4)
    assert features.grad.isfinite().all() and features.grad.abs().max() < 100


@pytest.mark.parametrize("name", METRIC)
def test_float32_is_near_float64(name):
    """Pooled ResNet features: 2,048 values of mean 1, not negative, so long next to their differences."""
    features, labels, modality = batch([(4, 4)] * 8, dimension=2048, seed=10)
    features = (1 + 0.5 * features).clamp(min=0)
    expected = LOSSES[name](features, labels, modality).item()
    assert LOSSES[name](features.float(), labels, modality).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("counts", [(2, 0), (0, 3)])
def test_cmdc_names_the_identity_without_a_modality(counts):
    drawn = batch([(2, 2), counts, (2, 2)], names=(11, 7301, 12))
    with pytest.raises(ValueError, match="7301"):
        losses.cmdc(*drawn)


@pytest.mark.parametrize("name", ["batch_hard_triplet", "cmdc"])
def test_a_single_identity_is_named(name):
    drawn = batch([(3, 3)], names=(-4242,))
    with pytest.raises(ValueError, match="-4242"):
        LOSSES[name](*drawn)


@pytest.mark.parametrize("counts", [(1, 0), (0, 1)])
def test_triplet_names_the_identity_with_one_sample(counts):
    drawn = batch([(2, 2), counts, (2, 2)], names=(11, 7301, 12))
    with pytest.raises(ValueError, match="7301"):
        losses.batch_hard_triplet(*drawn)


def test_arguments_can_be_tried_without_a_batch():
    LOSSES["margin_mmd"].check(margin=1.0, kernels=3)
    with pytest.raises(ValueError, match=r"^kernels must be a whole number, from 1 to 100, not 0$"):
        LOSSES["margin_mmd"].check(kernels=0)


def test_an_own_loss_takes_the_contract():
    @losses.loss(temperature=Range(0, above=True))
    def own(features, labels, modality, *, temperature: float = 0.1):
        """Its first line."""
        assert features.dtype == torch.float32 and labels.dtype == modality.dtype == torch.int64
        return features.sum() / temperature

    assert own.__doc__ == "Its first line." and own(torch.ones(2, 3).half(), [0, 1], [0, 1]).item() == pytest.approx(60)
    with pytest.raises(ValueError, match=r"^temperature must be a number, finite and above 0, not 0$"):
        own(torch.ones(2, 3), [0, 1], [0, 1], temperature=0)


@pytest.mark.parametrize("labels", [[-1, 0, 1, 2], [0, 1, 2, 6], [-100, 0, 1, 2]])  # -100 is what torch leaves out
def test_identity_names_labels_that_are_no_class(labels):
    with pytest.raises(ValueError, match=f"^labels are {min(labels)} to {max(labels)}: with 6 classes .* 0 to 5$"):
        losses.identity(torch.zeros(4, 6), torch.tensor(labels), torch.tensor([0, 0, 1, 1]))


# Sizes of numbers.


@pytest.mark.parametrize("power", [-120, -90, 70, 110])
def test_distances_of_any_size(power):
    """In float32 squares overflow beyond 2^63 and vanish below 2^-74; times a power of two every digit stays."""
    features = ragged(16)[0].float()
    plain = pairwise_distance(features, features[:3])
    assert plain.max() > 1
    found = pairwise_distance(features * 2.0**power, features[:3] * 2.0**power)
    assert torch.equal(found, plain * 2.0**power)
    axes = 1e20 * torch.eye(2)
    assert pairwise_distance(axes, axes).flatten().tolist() == pytest.approx([0, 2**0.5 * 1e20, 2**0.5 * 1e20, 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_distances_of_broken_rows_are_nan(bad):
    features = ragged(17)[0]
    features[1, 2] = bad
    for other in (features, ragged(18)[0]):
        assert pairwise_distance(features, other)[1].isnan().all()
        assert squared_distance(features, other)[1].isnan().all()
    assert unit(features)[1].isnan().any() and unit(features)[[0, 2]].isfinite().all()


def test_unit_rows_of_any_size():
    features = ragged(19)[0].float()
    expected = functional.normalize(features)
    sizes = 2.0 ** torch.linspace(-115, 115, len(features)).round()[:, None]
    assert torch.equal(unit(features), expected)
    assert torch.equal(unit(features * sizes), expected)
    assert torch.equal(unit(torch.zeros(2, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (lambda x: x.square().sum(1), "loss mine gave a tensor of shape (8,), not one number as a tensor: end it with"),
        (lambda x: x.sum().item(), "loss mine gave a float, not one number as a tensor"),
        (lambda x: torch.tensor(x.sum().item()), "loss mine gave a number without a gradient: no .item()"),
        (lambda x: x.detach().sum(), "loss mine gave a number without a gradient"),
    ],
)
def test_what_a_loss_of_ones_own_gives_is_checked(body, sentence):
    @losses.loss()
    def mine(features, labels, modality):
        return body(features)

    features = torch.randn(8, 4, requires_grad=True)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        mine(features, torch.arange(4).repeat(2), torch.arange(2).repeat_interleave(4))
    with torch.no_grad():
        losses.loss()(lambda features, labels, modality: features.sum())(
            features, torch.arange(4).repeat(2), torch.arange(2).repeat_interleave(4)
        )


def test_the_decorator_names_what_it_cannot_check():
    with pytest.raises(ValueError, match="@loss of mine: unknown argument 'temprature': did you mean 'temperature'"):

        @losses.loss(temprature=SCALE)
        def mine(features, labels, modality, *, temperature: float = 1.0):
            return features.sum()

    with pytest.raises(ValueError, match=r"loss mine: scale must stand behind the \*"):

        @losses.loss()
        def mine(features, labels, modality, scale: float = 1.0):
            return features.sum()
