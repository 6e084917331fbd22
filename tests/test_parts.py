"""Part heads: shapes, which stripe sees what, an explicit reference, losses over heads, recipes, a run."""

import re
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from vtlib import objective, runs, train
from vtlib.backbones import thin_resnet
from vtlib.config import Experiment, experiment
from vtlib.data.batches import Batches
from vtlib.methods import METHODS
from vtlib.model import GeM, PartHead, TwoStreamNet
from vtlib.systems import LOSSES

S2, SIX = ((3, 512, 0.6), (6, 256, 0.4)), ((6, 256, 1.0),)
IMAGES = torch.rand(6, 3, 96, 48, generator=torch.Generator().manual_seed(0))
MODALITY = torch.tensor([0, 1, 0, 1, 1, 0])
WITH_PARTS = [name for name, entry in METHODS.items() if entry.get("parts")]
RECIPE = (
    "epochs", "steps_per_epoch", "identities_per_batch", "images_per_identity", "lr", "backbone_lr_factor", "momentum",
    "nesterov", "weight_decay", "schedule", "warmup_epochs", "milestones", "gamma", "pad", "flip", "erase", "gem_p",
    "over_parts", "last_stride", "height", "width", "backbone", "weights", "train_on",
)  # fmt: skip


def net(parts, **options):
    torch.manual_seed(0)
    return TwoStreamNet(5, "thin", attention=False, parts=parts, **options)


def head(stripes=3, width=4, pool=None, channels=8):
    """A small part head whose norm is not the fresh one: weights, biases and running statistics drawn."""
    torch.manual_seed(1)
    made = PartHead(channels, stripes, width, 5, pool or GeM(3.0))
    for tensor in (made.norm.weight.data, made.norm.running_var):
        tensor.uniform_(0.5, 1.5)
    for tensor in (made.norm.bias.data, made.norm.running_mean, made.classifier.bias.data):
        tensor.normal_()
    made.classifier.weight.data.normal_()
    return made


def maps(rows=6, channels=8, count=7):
    return torch.rand(count, channels, rows, 3, generator=torch.Generator().manual_seed(2))


def parts_of(*made):
    """The field `parts` of an experiment from (stripes, width, share)."""
    return [{"stripes": s, "width": w, "share": share} for s, w, share in made]


# What a head computes.


@pytest.mark.parametrize("parts", [S2, SIX])
def test_shapes(parts):
    made = net(parts)
    out = made(IMAGES, MODALITY)
    assert [tuple(x.shape) for x in out.pooled] == [(6, s * w) for s, w, _ in parts]
    assert [tuple(x.shape) for x in out.local] == [(6, s, w) for s, w, _ in parts]
    assert all(torch.equal(x, local.flatten(1)) for x, local in zip(out.pooled, out.local, strict=True))
    assert out.logits.shape == (6, sum(s for s, _, _ in parts), 5)
    assert out.features.shape == (6, made.dim) == (6, sum(s * w for s, w, _ in parts))
    assert made.widths == [s * w for s, w, _ in parts]
    assert not hasattr(made, "neck") and not hasattr(made, "classifier")  # nothing that never learns


def test_logits_of_the_heads_stand_one_after_another():
    made = net(S2).eval()
    out, maps_ = made(IMAGES, MODALITY), made.shared(made.streams(IMAGES, MODALITY))
    torch.testing.assert_close(out.logits, torch.cat([h(maps_)[2] for h in made.heads], 1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stripes", [1, 2, 3, 6])
def test_a_stripe_sees_its_own_rows_and_no_other(stripes, training):
    made, x, tall = head(stripes).train(training), maps(), 6 // stripes
    made.norm.momentum = 0.0  # the second call finds the statistics of the first
    _, local, logits = made(x)
    for s in range(stripes):  # stripe 0 is the top
        changed = x.clone()
        changed[:, :, s * tall : (s + 1) * tall] += torch.rand(
            7, 8, tall, 3, generator=torch.Generator().manual_seed(s)
        )
        _, other_local, other_logits = made(changed)
        for before, after in ((local, other_local), (logits, other_logits)):
            differs = [not torch.equal(before[:, i], after[:, i]) for i in range(stripes)]
            assert differs == [i == s for i in range(stripes)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pool", [GeM(3.0), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())], ids=["gem", "avg"])
def test_equals_a_convolution_a_norm_and_a_classifier_for_every_stripe(pool, training):
    stripes, width = 3, 4
    made, x = head(stripes, width, pool).train(training), maps()
    mine, reference = (x.clone().requires_grad_() for _ in range(2))
    layers, expected = [], []
    for s, rows in enumerate(reference.chunk(stripes, dim=2)):
        convolution, norm = nn.Conv2d(8, width, 1, bias=False), nn.BatchNorm2d(width)
        classifier, part = nn.Linear(width, 5), slice(s * width, (s + 1) * width)
        convolution.weight.data = made.reduce.weight.data[s, :, :, None, None].clone()
        classifier.weight.data = made.classifier.weight.data[s].clone()
        classifier.bias.data = made.classifier.bias.data[s, 0].clone()
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).data = getattr(made.norm, name).data[part].clone()
        norm.train(training)
        pooled = pool(rows)[:, :, None, None]
        feature = functional.relu(norm(convolution(pooled)))[:, :, 0, 0]
        layers.append((convolution, norm, classifier))
        expected.append((feature, classifier(feature)))
    whole, local, logits = made(mine)
    features, scores = (torch.stack(each, 1) for each in zip(*expected, strict=True))
    torch.testing.assert_close(local, features)
    torch.testing.assert_close(whole, features.flatten(1))
    torch.testing.assert_close(logits, scores)

    weights = torch.randn(7, stripes, 5, generator=torch.Generator().manual_seed(3))
    ((logits * weights).sum() + whole.square().sum()).backward()
    ((scores * weights).sum() + features.square().sum()).backward()
    torch.testing.assert_close(mine.grad, reference.grad, atol=1e-4, rtol=1e-3)
    close = {"atol": 1e-4, "rtol": 1e-3}
    for s, (convolution, norm, classifier) in enumerate(layers):
        part = slice(s * width, (s + 1) * width)
        torch.testing.assert_close(made.reduce.weight.grad[s], convolution.weight.grad[:, :, 0, 0], **close)
        torch.testing.assert_close(made.norm.weight.grad[part], norm.weight.grad, **close)
        torch.testing.assert_close(made.norm.bias.grad[part], norm.bias.grad, **close)
        torch.testing.assert_close(made.norm.running_mean[part], norm.running_mean)
        torch.testing.assert_close(made.norm.running_var[part], norm.running_var)
        torch.testing.assert_close(made.classifier.weight.grad[s], classifier.weight.grad, **close)
        torch.testing.assert_close(made.classifier.bias.grad[s, 0], classifier.bias.grad, **close)


@pytest.mark.parametrize("parts", [S2, SIX, ((2, 8, 0.3), (3, 4, 1.0), (1, 16, 2.0))])
def test_retrieval_feature_is_the_normalised_features_times_their_shares(parts):
    out = net(parts).eval()(IMAGES, MODALITY)
    expected = [
        share * x / x.square().sum(1, keepdim=True).sqrt() for x, (_, _, share) in zip(out.pooled, parts, strict=True)
    ]
    torch.testing.assert_close(out.features, torch.cat(expected, 1))
    length = sum(share**2 for _, _, share in parts) ** 0.5
    torch.testing.assert_close(out.features.norm(dim=1), torch.full((6,), length))


def test_rows_keep_their_order():
    made, order = net(S2).eval(), torch.tensor([5, 3, 1, 0, 2, 4])
    out, other = made(IMAGES, MODALITY), made(IMAGES[order], MODALITY[order])
    torch.testing.assert_close(other.features, out.features[order])
    torch.testing.assert_close(other.logits, out.logits[order])
    for a, b in zip((*other.pooled, *other.local), (*out.pooled, *out.local), strict=True):
        torch.testing.assert_close(a, b[order])
    for m in (0, 1):
        rows = m == MODALITY
        torch.testing.assert_close(made(IMAGES[rows], MODALITY[rows]).features, out.features[rows])


def test_heads_learn_at_the_full_rate():
    made = experiment("quick", "parts_mc", backbone_lr_factor=0.1)
    network = train.make_net(made, 5)
    slow, fast = train.make_optimizer(made, network, objective.make_losses(made, network)).param_groups
    assert (slow["factor"], fast["factor"]) == (0.1, 1.0)
    names = {id(p): n for n, p in network.named_parameters()}
    assert {names[id(p)] for p in fast["params"]} == {n for n in names.values() if n.startswith("heads.")}
    assert {names[id(p)] for p in slow["params"]} == {n for n in names.values() if not n.startswith("heads.")}
    per_head = {"reduce.weight", "norm.weight", "norm.bias", "classifier.weight", "classifier.bias"}
    assert {n for n in names.values() if n.startswith("heads.")} == {f"heads.{h}.{n}" for h in (0, 1) for n in per_head}


# Every method.


PLAIN = [m for m in METHODS if not experiment("quick", m).modules and not experiment("quick", m).views]


@pytest.mark.parametrize("method", PLAIN)  # those of other networks and batches are in tests/systems
def test_every_method_gives_a_finite_loss_and_all_that_can_learn_a_gradient(method):
    made = experiment("quick", method)
    network = train.make_net(made, 4)
    losses = objective.make_losses(made, network)
    labels, modality = torch.arange(4).repeat_interleave(2).repeat(2), torch.arange(2).repeat_interleave(8)
    images = torch.rand(16, 3, made.height, made.width, generator=torch.Generator().manual_seed(4))
    out = network(images, modality)
    assert len(out.pooled) == max(1, len(made.parts)) and (out.logits.ndim == 3) == bool(made.parts)
    terms = objective.loss_terms(made, losses, out, labels, modality)
    assert terms.shape == (len(made.losses),) and terms.isfinite().all() and (terms >= 0).all()
    weights = torch.tensor([term["weight"] for term in made.losses.values()])
    (terms * weights).sum().backward()
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            assert name == "neck.bias" and parameter.grad is None
            continue
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        behind_alpha = re.match(r"specific\.[01]\.5\.[bcd]\.", name)  # attention starts as the identity
        assert bool(parameter.grad.any()) == (not behind_alpha), name


# Heights that do not divide.


def test_a_height_that_does_not_divide_is_named_by_the_experiment_and_by_the_network():
    text = "an input 100 pixels high gives a map of 7 rows, which 3 and 6 stripes do not divide: try 96"
    with pytest.raises(ValueError) as error:
        experiment("quick", "parts", height=100)
    assert str(error.value) == text
    with pytest.raises(ValueError) as error:
        net(S2)(torch.rand(2, 3, 100, 48), torch.tensor([0, 1]))
    assert str(error.value) == text
    assert experiment("quick", "baseline", height=100).height == 100  # without parts every height will do


@pytest.mark.parametrize("last_stride", [1, 2])
@pytest.mark.parametrize("backbone", ["thin", "resnet18", "resnet50"])
def test_the_experiment_knows_the_rows_of_the_map(backbone, last_stride):
    with torch.device("meta"):
        made = TwoStreamNet(2, backbone, attention=False, last_stride=last_stride, parts=[(1, 4, 1.0)]).eval()
        for height in (16, 17, 31, 32, 33, 90, 96, 97, 112, 113, 128, 129, 256, 288, 384):
            rows = made.shared(made.specific[0](torch.empty(1, 3, height, 16))).shape[2]
            fields = {"backbone": backbone, "last_stride": last_stride, "height": height}
            assert experiment("quick", "identity", parts=parts_of((rows, 4, 1.0)), **fields).parts[0].stripes == rows
            with pytest.raises(ValueError, match=f"{height} pixels high gives a map of {rows} rows"):
                experiment("quick", "identity", parts=parts_of((rows + 1, 4, 1.0)), **fields)


@pytest.mark.parametrize("stripes", [(6,), (3, 6), (4, 6), (5,), (8,)])
@pytest.mark.parametrize("last_stride", [1, 2])
def test_the_height_to_try_fits(stripes, last_stride):
    parts, wrong = parts_of(*((s, 4, 1.0) for s in stripes)), 0
    for height in (*range(17, 130, 9), 144, 224, 256, 288, 300, 384):
        try:
            experiment("quick", "identity", parts=parts, height=height, last_stride=last_stride)
        except ValueError as error:
            wrong += 1
            (near,) = re.findall(r": try (\d+)$", str(error))
            experiment("quick", "identity", parts=parts, height=int(near), last_stride=last_stride)
    assert wrong


# Half precision.


@pytest.mark.parametrize("p", [1.0, 3.0, 10.0])
def test_gem_in_half_precision_is_finite(p):
    for dtype in (torch.bfloat16, torch.float16):
        for scale in (1e-2, 1.0, 60.0):
            x = (scale * maps()).to(dtype).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16):
                value = GeM(p)(x)
            value.float().sum().backward()
            assert value.isfinite().all() and x.grad.isfinite().all()
            torch.testing.assert_close(value.float(), GeM(p)(x.detach().double()).float(), rtol=1e-3, atol=1e-5)


def test_parts_in_half_precision_are_finite():
    made = net(S2, gem_p=10.0)
    with torch.autocast("cpu", torch.bfloat16):
        out = made(IMAGES, MODALITY)
    (out.logits.float().square().sum() + out.features.float().sum()).backward()
    assert out.features.isfinite().all() and out.logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize("value", [2e-6, 1e-5, 2e-5])
def test_gem_of_values_near_zero_has_a_finite_gradient(value):
    x = torch.full((1, 1, 2, 2), value, requires_grad=True)
    GeM(10.0)(x).sum().backward()
    assert x.grad.isfinite().all()


# Losses over heads.


def terms_of(made, network, out):
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    modality = torch.tensor([0, 1] * 3)
    return objective.loss_terms(made, objective.make_losses(made, network), out, labels, modality)


def test_over_parts_is_a_sum_or_a_mean():
    losses = {name: {"weight": 1.0} for name in ("id", "cmdc", "multi_constraint", "hetero_center_triplet")}
    made = experiment("quick", "parts", losses=losses, over_parts="sum")
    network = train.make_net(made, 5).eval()
    with torch.no_grad():
        out = network(IMAGES, MODALITY)
    total, mean = (terms_of(made.but(over_parts=how), network, out) for how in ("sum", "mean"))
    torch.testing.assert_close(total[0], mean[0] * 9)  # classifiers
    torch.testing.assert_close(total[1:3], mean[1:3] * 2)  # heads
    labels, modality = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1] * 3)
    each = torch.stack([functional.cross_entropy(out.logits[:, s], labels, label_smoothing=0.1) for s in range(9)])
    torch.testing.assert_close(total[0], each.sum())
    heads = list(zip(out.pooled, out.local, strict=True))
    torch.testing.assert_close(total[1], sum(LOSSES["cmdc"](x, labels, modality) for x, _ in heads))
    mc = sum(LOSSES["multi_constraint"](x, labels, modality, local=local) for x, local in heads)
    torch.testing.assert_close(total[2], mc)
    plain = LOSSES["hetero_center_triplet"]
    whole = [plain(x, labels, modality) for x, _ in heads]
    stripes = [torch.stack([plain(s, labels, modality) for s in local.unbind(1)]) for _, local in heads]
    torch.testing.assert_close(total[3], sum(w + s.sum() for w, s in zip(whole, stripes, strict=True)))
    torch.testing.assert_close(mean[3], sum(w + s.mean() for w, s in zip(whole, stripes, strict=True)) / 2)


def test_over_parts_changes_nothing_without_parts():
    made = experiment("quick", "cmdc")
    network = train.make_net(made, 5).eval()
    with torch.no_grad():
        out = network(IMAGES, MODALITY)
    total, mean = (terms_of(made.but(over_parts=how), network, out) for how in ("sum", "mean"))
    assert torch.equal(total, mean)


def test_a_loss_gets_the_stripes_only_if_it_takes_them(monkeypatch):
    seen = {"cmdc": [], "multi_constraint": []}

    def without(features, labels, modality, *, margin=0.3):
        seen["cmdc"].append((tuple(features.shape), "nothing"))
        return features.sum()

    def taking(features, labels, modality, *, local=None):
        seen["multi_constraint"].append((tuple(features.shape), None if local is None else tuple(local.shape)))
        return features.sum()

    monkeypatch.setitem(LOSSES, "cmdc", without)
    monkeypatch.setitem(LOSSES, "multi_constraint", taking)
    losses = {"id": {"weight": 1.0}, "cmdc": {"weight": 1.0}, "multi_constraint": {"weight": 1.0}}
    wanted = {
        "parts": [((6, 1536), (6, 3, 512)), ((6, 1536), (6, 6, 256))],
        "identity": [((6, thin_resnet().fc.in_features), None)],
        "neck": [((6, 3072), None)],  # what is searched with has no stripes
        "stripes": [((6, 512), None)] * 3 + [((6, 256), None)] * 6,
    }
    for kind, calls in wanted.items():
        method = kind if kind in METHODS else "parts"
        there = {"on": kind} if kind not in METHODS else {}
        placed = {name: term if name == "id" else term | there for name, term in losses.items()}
        made = experiment("quick", method, losses=placed)
        network = train.make_net(made, 5)
        terms_of(made, network, network(IMAGES, MODALITY))
        assert seen["multi_constraint"] == calls and seen["cmdc"] == [(shape, "nothing") for shape, _ in calls]
        seen["multi_constraint"].clear(), seen["cmdc"].clear()


@pytest.mark.parametrize("method", ["parts_mc", "dpan_cmdc"])
@pytest.mark.parametrize("pooling", ["gem", "avg"])
def test_maps_are_bf16_under_autocast_and_what_is_pooled_and_the_losses_float32(method, pooling):
    made = experiment("quick", method, pooling=pooling)
    network = train.make_net(made, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert network.shared(network.streams(IMAGES, MODALITY)).dtype == torch.bfloat16
        out = network(IMAGES, MODALITY)
    tensors = [*out.pooled, *(x for x in out.local if x is not None), out.features, out.logits]
    assert {x.dtype for x in tensors} == {torch.float32}
    terms = terms_of(made, network, out)
    assert terms.dtype == torch.float32 and terms.isfinite().all()


# Schedule and recipes.


def test_schedule_s2_divides_by_ten_after_every_eighth():
    made = experiment("paper", "parts_mc")
    assert (made.schedule, made.epochs, made.lr) == ("s2", 80, 0.01)
    rates = [train.learning_rate(made, epoch) for epoch in range(80)]
    np.testing.assert_allclose(rates, [0.01 / 10 ** (epoch // 10) for epoch in range(80)])
    short = made.but(epochs=8)
    np.testing.assert_allclose([train.learning_rate(short, e) for e in range(8)], [0.01 / 10**e for e in range(8)])
    warm = made.but(warmup_epochs=5, milestones=[1, 2], gamma=0.5)  # of the other schedule
    assert train.learning_rate(warm, 0) == 0.01 and train.learning_rate(warm, 79) == rates[79]


@pytest.mark.parametrize(("dataset", "p", "k"), [("sysu", 6, 8), ("regdb", 8, 4)])
def test_recipe_of_s2_on_paper(dataset, p, k):
    of_s2 = [name for name, entry in METHODS.items() if entry["recipe"] == "s2"]
    assert {"identity", "mc", "parts", "parts_mc", "awl", "ms_loss", "triplet_loss"} <= set(of_s2)
    for name in of_s2:
        made = experiment("paper", name, dataset=dataset)
        assert (made.identities_per_batch, made.images_per_identity) == (p, k)
        assert (made.lr, made.epochs, made.schedule) == (0.01, 80, "s2")
    other = experiment("paper", "dpan_cmdc", dataset=dataset)
    assert (other.lr, other.epochs, other.schedule, other.identities_per_batch) == (0.1, 60, "steps", 8)


def test_an_override_wins_over_a_recipe():
    made = experiment("paper", "parts_mc", lr=0.3, epochs=5, **{"losses.id.smoothing": 0.2})
    assert (made.lr, made.epochs, made.losses["id"]["smoothing"], made.identities_per_batch) == (0.3, 5, 0.2, 6)


@pytest.mark.parametrize(("profile", "dataset"), [*product(("quick", "cpu", "gpu"), ("sysu", "regdb"))])
def test_elsewhere_all_methods_share_one_recipe_before_tuning(profile, dataset):
    assert set(RECIPE) <= set(Experiment.model_fields)
    apart = ("caj", "bdtr_k1", "deen")  # whose idea is in the images, the batch, or the mean over embeddings
    made = [experiment(profile, name, dataset=dataset, tuned=False) for name in METHODS if name not in apart]
    assert len({tuple(getattr(e, field) for field in RECIPE) for e in made}) == 1
    weights = {e.method: e.losses["id"] for e in made}
    assert {name for name, term in weights.items() if term != {"smoothing": 0.1, "weight": 1.0}} == {"xiv", "hat"}


def test_methods_of_s2_have_its_heads():
    for name in ("parts", "parts_mc", "parts_cmdc"):
        made = experiment("paper", name)
        assert [(p.stripes, p.width, p.share) for p in made.parts] == list(S2)
    assert [(p.stripes, p.width, p.share) for p in experiment("paper", "hc_tri").parts] == list(SIX)
    assert set(WITH_PARTS) == {"parts", "parts_mc", "parts_cmdc", "hc_tri", "hetero_center", "dfe"}


# A run.


@pytest.fixture(scope="module")
def done(home):
    return runs.run(experiment("quick", "parts_mc", device="cpu"))


def test_the_stored_network_gives_the_stored_features(done):
    table, store = runs.load_data(done.experiment)
    network = done.net()
    assert len(network.heads) == 2 and network.num_classes == table[table.split == "train"].pid.nunique()
    features = runs.features_of(network, table[table.split == "test"], store)
    assert features.shape[1] == 3072
    torch.testing.assert_close(features, done.features["features"], atol=1e-5, rtol=1e-5)


def test_the_quick_set_has_the_ten_shot_protocol(done):
    for mode in ("all", "indoor"):
        trials = done.trials(f"sysu {mode} 10-shot official")
        assert len(trials) == done.experiment.trials and trials[runs.METRICS].notna().all(axis=None)
        one = done.trials(f"sysu {mode} 1-shot official")
        assert trials.gallery.eq(10 * one.gallery).all()


def test_history_has_the_terms_and_validation(done):
    assert {"id", "multi_constraint", "val_cmdc", "val_mAP"} <= set(done.history)
    assert np.isfinite(done.history.to_numpy(dtype=float)).all()


def test_validation_reduces_heads_as_training_does(home):
    table, store = runs.load_data(experiment("quick", "parts_cmdc"))
    val = table[table.split == "val"]
    found = {}
    for rule in ("sum", "mean"):
        made = experiment("quick", "parts_cmdc", over_parts=rule, device="cpu")
        batches = Batches(val, store.pixels, "cpu")
        found[rule] = train.validate(made, train.make_net(made, 5), val, batches)["val_cmdc"]
    assert found["sum"] == pytest.approx(2 * found["mean"])  # two heads
