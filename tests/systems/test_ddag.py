"""DDAG: the graph loss beside loops over pairs, part attention beside loops over parts, and the gradients of both."""

import math

import numpy as np
import pytest
import torch
from golden import cases, probe, same
from test_losses import batch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vtlib.losses import identity
from vtlib.systems.ddag import GraphAttention, PartAttention

CLASSES = 4
COUNTS = [[(2, 3), (1, 1), (3, 1)], [(1, 0), (0, 2), (4, 1), (1, 1)], [(2, 2), (2, 2)], [(1, 0)]]


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def elu(v):
    return v if v > 0 else math.exp(v) - 1


def softmax(values):
    top = [math.exp(v - max(values)) for v in values]
    return [t / sum(top) for t in top]


def layer(x, y, weight, pair):
    """Rows of one layer of attention over images of the same identity; pair: its two halves one after the other."""
    h = [[dot(row, weight[:, k]) for k in range(weight.shape[1])] for row in x]
    found = []
    for i in range(len(x)):
        near = [j for j in range(len(x)) if y[j] == y[i]]
        scores = [dot(pair, [*h[i], *h[j]]) for j in near]
        alpha = softmax([s if s > 0 else 0.2 * s for s in scores])
        found.append([sum(a * h[j][k] for a, j in zip(alpha, near, strict=True)) for k in range(weight.shape[1])])
    return found


def loop(x, y, made):
    """The loss from the weights of a GraphAttention."""
    heads = [layer(x, y, w, p.ravel()) for w, p in zip(made.weight.numpy(), made.pairs.numpy(), strict=True)]
    hidden = [[elu(v) for head in heads for v in head[i]] for i in range(len(x))]
    logits = layer(hidden, y, made.last[0].numpy(), made.last_pairs[0].numpy().ravel())
    return sum(-math.log(softmax([elu(v) for v in row])[i]) for row, i in zip(logits, y, strict=True)) / len(y)


def graph(seed=0, width=6, **options):
    torch.manual_seed(seed)
    made = GraphAttention(CLASSES, width, **{"heads": 3, "hidden": 5} | options).double().eval()
    return made.requires_grad_(False)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("counts", COUNTS)
def test_graph_is_its_loop_over_pairs(counts, seed):
    features, labels, modality = batch(counts, seed=seed, scale=2.0)
    made = graph(seed)
    value = made(features, labels, modality)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(loop(features.numpy(), labels.tolist(), made), abs=1e-10)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    assert made(features[order], labels[order], modality[order]).item() == pytest.approx(value.item(), abs=1e-12)
    assert made(features, labels, 1 - modality).item() == value.item()


def test_graph_by_hand():
    # h = x; e_j = a2 x_j with e_2 - e_1 = ln 3, so alpha = 1/4, 3/4 and both images give 1/4 + 9/4 = 2.5; classes
    # 2.5 and ELU(-2.5). The scores of the last layer are the same for both, so that nothing is added there.
    made = GraphAttention(2, 1, heads=1, hidden=1).double().eval().requires_grad_(False)
    made.weight.fill_(1)
    made.pairs.copy_(torch.tensor([[[0.0], [math.log(3) / 2]]], dtype=torch.float64))
    made.last.copy_(torch.tensor([[[1.0, -1]]]))
    drawn = torch.tensor([[1.0], [3]], dtype=torch.float64), torch.tensor([0, 0]), torch.tensor([0, 1])
    assert made(*drawn).item() == pytest.approx(math.log1p(math.exp(math.exp(-2.5) - 1 - 2.5)), abs=1e-12)
    assert made(*drawn).item() == pytest.approx(0.0322554, abs=1e-6)
    # all scores negative: a fifth of them counts, e_2 - e_1 = -0.2 ln 81 / 2 = -0.4 ln 3
    made.pairs.copy_(torch.tensor([[[0.0], [-math.log(3)]]], dtype=torch.float64))
    near = 1 / (1 + 3**-0.4)
    middle = near + 3 * (1 - near)
    expected = math.log1p(math.exp(math.exp(-middle) - 1 - middle))
    assert made(*drawn).item() == pytest.approx(expected, abs=1e-12)


def test_weights_of_zero_know_nothing():
    made = graph()
    made.last.zero_()
    assert made(*batch(COUNTS[0])).item() == pytest.approx(math.log(CLASSES), abs=1e-12)


def test_dropout_acts_in_training_alone():
    drawn, made = batch(COUNTS[0]), graph(dropout=0.5)
    still = made(*drawn)
    assert torch.equal(still, made(*drawn)) and not torch.equal(still, made.train()(*drawn))
    made.dropout = 0.0
    assert torch.equal(still, made(*drawn))


def test_gradients_by_differences_of_features_and_weights():
    features, labels, modality = batch(COUNTS[0], dimension=3, seed=2)
    made = graph(width=3, heads=2, hidden=2)
    names, values = zip(*made.named_parameters(), strict=True)

    def value(x, *weights):
        return torch.func.functional_call(made, dict(zip(names, weights, strict=True)), (x, labels, modality))

    torch.autograd.gradcheck(value, [x.detach().clone().requires_grad_() for x in (features, *values)], atol=1e-6)


def test_gradients_of_the_graph_are_the_published_ones(shared):
    n = 0
    for case, x in cases(shared, "ddag", "graph"):
        s, out, width = case["settings"], case["outputs"]["as_coded"], x["features"].shape[1]
        made = GraphAttention(s["classes"], width, heads=s["heads"], hidden=s["width"]).double().eval()
        names = [f"head{i}" for i in range(s["heads"])]
        made.weight.data.copy_(torch.stack([x[f"{name}.weight"] for name in names]))
        made.pairs.data.copy_(torch.stack([x[f"{name}.pair"].view(2, -1) for name in names]))
        made.last.data[0], made.last_pairs.data[0] = x["last.weight"], x["last.pair"].view(2, -1)
        labels = torch.tensor(s["labels"])
        made(x["features"], labels, torch.zeros_like(labels)).backward()
        for i, name in enumerate(names):
            same(made.weight.grad[i], out[f"gradient_{name}.weight"], 1e-8)
            same(made.pairs.grad[i].view(-1, 1), out[f"gradient_{name}.pair"], 1e-8)
        same(made.last.grad[0], out["gradient_last.weight"], 1e-8)
        same(made.last_pairs.grad.view(-1, 1), out["gradient_last.pair"], 1e-8)
        n += 1
    assert n == 2


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that an operator gives."""

    most = 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        out = call(*args, **kwargs or {})
        given = [x for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, torch.Tensor)]
        self.most = max(self.most, *(x.numel() for x in given), 0)
        return out


def test_no_pair_of_images_has_a_feature_of_its_own():
    n, width, heads, hidden = 40, 12, 3, 50
    made = GraphAttention(CLASSES, width, heads=heads, hidden=hidden)
    labels = torch.arange(n) % CLASSES
    with Largest() as largest:
        made(torch.randn(n, width), labels, labels % 2).backward()
    assert heads * n * hidden <= largest.most < n * n * hidden / 2


def test_weight_in_an_epoch():
    made = GraphAttention(CLASSES, 3, hidden=2)
    assert made.factor(0, None) == 0 and made.factor(1, 7.0) == 1 / 8 and made.factor(5, 0.0) == 1
    assert made.fast and {p.shape for p in made.parameters()} == {(4, 3, 2), (4, 2, 2), (1, 8, 4), (1, 2, 4)}


def test_what_the_graph_refuses():
    for options, sentence in (
        ({"heads": 0}, "^heads must be a whole number, from 1 to 64, not 0$"),
        ({"hidden": 2.5}, r"^hidden must be a whole number, from 1 to .*, not 2\.5$"),
        ({"dropout": 1.5}, r"^dropout must be a number, from 0 to 1, not 1\.5$"),
    ):
        with pytest.raises(ValueError, match=sentence):
            GraphAttention(CLASSES, 3, **options)
    features, labels, modality = batch(COUNTS[0])
    with pytest.raises(ValueError, match="modality has the value 2: 0 is visible and 1 is thermal"):
        graph()(features, labels, modality + 1)
    for moved, named in ((labels + 3, "3 to 5"), (labels - 1, "-1 to 1"), (labels * 0 - 100, "-100 to -100")):
        with pytest.raises(ValueError, match=f"^labels are {named}: with 4 classes they must be 0 to 3$"):
            graph()(features, moved, modality)
    for parts in (0, -2):
        with pytest.raises(ValueError, match=f"^parts must be a whole number, from 1 to 64, not {parts}$"):
            PartAttention.check(parts=parts)


# Part attention


def head(channels=5, parts=3, classes=CLASSES, seed=0):
    """A head whose scales, gates and statistics are none of those that it starts with."""
    torch.manual_seed(seed)
    made = PartAttention(channels, classes, Mean(), parts=parts).double().requires_grad_(False)
    made.theta.normal_()
    for norm in (made.neck, made.norm):
        for x in (norm.weight, norm.running_mean):
            x.normal_(1, 0.3)
        norm.running_var.uniform_(0.5, 2)
    return made


class Mean(nn.Module):
    def forward(self, maps):
        return maps.mean((2, 3))


def parts_of(image, parts):
    """Means (parts) of rows from floor(k h / parts) to ceil((k + 1) h / parts), of an image (C, h, w)."""
    h = image.shape[1]
    bounds = [(k * h // parts, -(-(k + 1) * h // parts)) for k in range(parts)]
    return [[float(channel[a:b].mean()) for channel in image] for a, b in bounds]


def context(image, made):
    """c (C,) of one image."""
    x = parts_of(image, len(made.theta))
    u, v, w = (
        [[dot(row, part) + b for row, b in zip(m.weight.tolist(), m.bias.tolist(), strict=True)] for part in x]
        for m in (made.u, made.v, made.w)
    )
    found = [0.0] * len(image)
    for gate, query in zip(softmax(made.theta.tolist()), u, strict=True):
        for a, value in zip(softmax([dot(query, key) for key in v]), w, strict=True):
            found = [f + gate * a * c for f, c in zip(found, value, strict=True)]
    return found


def normed(row, norm):
    """An evaluation's batch normalisation of one row."""
    numbers = [x.tolist() for x in (norm.running_mean, norm.running_var, norm.weight)]
    return [g * (x - m) / math.sqrt(v + norm.eps) for x, m, v, g in zip(row, *numbers, strict=True)]


@pytest.mark.parametrize(("height", "parts"), [(6, 3), (7, 3), (2, 3), (5, 1), (9, 4)])
def test_part_attention_is_its_loop_over_parts(height, parts):
    made = head(parts=parts).eval()
    maps = torch.randn(3, 5, height, 2, dtype=torch.float64)
    out = made(maps, torch.tensor([0, 1, 0]))
    for i, image in enumerate(maps.numpy()):
        pooled = [float(c.mean()) for c in image]
        plain = normed(pooled, made.neck)
        features = normed([p + c for p, c in zip(plain, context(image, made), strict=True)], made.norm)
        for found, expected in ((out.pooled[0][i], pooled), (out.features[i], features)):
            assert found.tolist() == pytest.approx(expected, abs=1e-10)
        for found, row in zip(out.logits[i], (plain, features), strict=True):
            assert found.tolist() == pytest.approx([dot(row, w) for w in made.classifier.weight.tolist()], abs=1e-10)
    assert out.local == (None,) and out.logits.shape == (3, 2, CLASSES)
    alone = torch.cat([made(maps[i : i + 1], torch.tensor([1])).features for i in range(3)])
    torch.testing.assert_close(alone, out.features)


def test_gates_are_equal_at_first_and_no_attention_is_the_mean():
    torch.manual_seed(0)
    made, maps = PartAttention(5, CLASSES, Mean()).double(), torch.randn(2, 5, 6, 2, dtype=torch.float64)
    assert torch.equal(made.theta, torch.full((3,), 1 / 3, dtype=made.theta.dtype).float().double())
    x = made.parts(maps)[..., 0].mT
    mixed = (made.u(x) @ made.v(x).mT).softmax(2) @ made.w(x)
    torch.testing.assert_close(made.context(maps), mixed.mean(1))
    for m in (made.u, made.v):
        nn.init.zeros_(m.weight)
        nn.init.zeros_(m.bias)
    torch.testing.assert_close(made.context(maps), made.w(x.mean(1)))


def test_part_attention_by_hand():
    made = PartAttention(1, 1, Mean(), parts=2).double().requires_grad_(False)
    for m, weight in ((made.u, 0.0), (made.v, 1.0), (made.w, 2.0)):
        m.weight.fill_(weight)
        m.bias.fill_(1.0)
    maps = torch.tensor([1.0, 1 + math.log(3)], dtype=torch.float64).view(1, 1, 2, 1)
    # u = 1, so alpha is the softmax of the parts: 1/4, 3/4; values 3 and 3 + 2 ln 3
    assert made.context(maps).item() == pytest.approx(3 + 1.5 * math.log(3), abs=1e-7)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_part_attention_are_the_published_ones(shared, training):
    n = 0
    for case, x in cases(shared, "ddag", "part_attention"):
        out, own = case["outputs"]["train" if training else "eval"], case["outputs"]["own_loop"]
        made = PartAttention(x["map"].shape[1], 2, Mean(), parts=case["settings"]["parts"]).double()
        layers = {"query": made.u, "key": made.v, "value": made.w}
        for name, m in layers.items():
            m.weight.data.copy_(x[f"{name}.weight"])
            m.bias.data.copy_(x[f"{name}.bias"])
        made.theta.data.copy_(x["gate"])
        for kind, place in (("gamma", made.norm.weight), ("mean", made.norm.running_mean)):
            place.data.copy_(x[f"norm.{kind}"])
        made.norm.running_var.copy_(x["norm.variance"])
        same(made.parts(x["map"])[..., 0].mT, own["parts"])
        maps, feature = (x[name].clone().requires_grad_() for name in ("map", "feature"))
        found = made.train(training).norm(feature + made.context(maps))
        (found * probe(found.shape)).sum().backward()
        for grad, name in ((maps.grad, "map"), (feature.grad, "feature"), (made.theta.grad, "gate")):
            same(grad, out[f"gradient_{name}"], 1e-8)
        for name, m in layers.items():
            same(m.weight.grad[..., None, None], out[f"gradient_{name}.weight"], 1e-8)
        n += 1
    assert n == 2


def test_one_classifier_reads_both_and_shifts_stay_zero():
    made = PartAttention(6, CLASSES, Mean()).double()
    assert made.fast and made.widths == [6] and made.dim == 6 and made.classifier.bias is None
    maps = torch.randn(8, 6, 6, 2, dtype=torch.float64)
    out = made(maps, torch.arange(8) % 2)
    labels = torch.arange(8) % CLASSES
    identity(out.logits, labels, labels % 2, smoothing=0.0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters() if p.requires_grad)
    assert [n for n, p in made.named_parameters() if not p.requires_grad] == ["neck.bias", "norm.bias"]
    assert not made.neck.bias.any() and not made.norm.bias.any()
    plain = out.logits[:, 0] - made.classifier(made.neck(out.pooled[0]))
    assert plain.abs().max() < 1e-12


def test_maps_of_half_precision_are_computed_in_single():
    made, maps = head().float().eval(), torch.randn(4, 5, 7, 3).bfloat16()
    whole, single = (made(x, torch.arange(4) % 2) for x in (maps, maps.float()))
    assert torch.equal(whole.features, single.features) and torch.equal(whole.pooled[0], single.pooled[0])
    made, (features, labels, modality) = graph().float(), batch(COUNTS[0])
    with torch.autocast("cpu", torch.bfloat16):
        value = made(features.bfloat16(), labels, modality)
    assert value.item() == made(features.bfloat16().float(), labels, modality).item() and value.dtype == torch.float32


def test_neither_reads_a_number_from_the_device():
    with torch.device("meta"):
        made, maps = PartAttention(48, CLASSES, Mean()), torch.empty(8, 48, 9, 4, dtype=torch.bfloat16)
        loss, features = GraphAttention(CLASSES, 48), torch.empty(8, 48)
    modality = torch.arange(8) % 2
    out = made(maps, modality)
    assert out.features.shape == (8, 48) and out.features.dtype == out.logits.dtype == torch.float32
    assert loss(features, torch.arange(8) % CLASSES, modality).is_meta
    assert sum(p.numel() for p in loss.parameters()) == 4 * (48 + 2) * 512 + (2048 + 2) * CLASSES
