"""What acts in a step: against plain loops, on hand-made features, and without a trace in the training."""

import math

import oracles
import pandas as pd
import pytest
import torch

from vtlib import mechanisms, objective, runs, train
from vtlib.config import arguments, experiment
from vtlib.systems import LOSSES

LABELS, MODALITY = torch.arange(3).repeat_interleave(4), torch.tensor([0, 0, 1, 1] * 3)


def features(width=6, seed=0):
    return torch.randn(12, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", ["batch_hard_triplet", "cmdc", "hetero_center_triplet", "center_metric"])
def test_hinges_add_up_to_the_loss(name):
    """The mean of the terms [margin + near - far]_+ is the loss, or its hinged part, so near and far are its own."""
    x = features()
    found = mechanisms.looked_at(name, {"margin": 1.0}, x, LABELS, MODALITY)
    assert 0 < found["active"] <= 1 and found["near"] > 0 and found["far"] > 0 and found["spread"] > 0
    always = mechanisms.looked_at(name, {"margin": 1e3}, x, LABELS, MODALITY)
    assert always["active"] == 1  # then the loss is linear: margin + near - far
    extra = {"instance_weight": 0.0} if name == "center_metric" else {}
    value = LOSSES[name](x, LABELS, MODALITY, margin=1e3, **extra)
    assert value.item() == pytest.approx((1e3 + found["near"] - found["far"]).item())
    assert mechanisms.looked_at(name, {"margin": -1e3}, x, LABELS, MODALITY)["active"] == 0


@pytest.mark.parametrize("mining", ["ms", "awl", "none"])
def test_kept_pairs_are_those_of_a_plain_loop(mining):
    x = features()
    found = mechanisms.looked_at("adaptive_weighting", {"mining": mining, "mining_margin": 0.1}, x, LABELS, MODALITY)
    kept = {"positive": [], "negative": []}
    for anchors, of_anchors, candidates, of_candidates in oracles.directions(x.tolist(), LABELS, MODALITY):
        similarity = [[oracles.cosine(a, c) for c in candidates] for a in anchors]
        found_pairs = oracles.kept_pairs(similarity, of_anchors, of_candidates, mining, 0.1)
        for a, (positives, negatives) in enumerate(found_pairs):
            same = sum(c == of_anchors[a] for c in of_candidates)
            kept["positive"].append((len(positives), same))
            kept["negative"].append((len(negatives), len(of_candidates) - same))
    for kind, of in kept.items():
        assert found[f"kept_{kind}"].item() == pytest.approx(sum(n for n, _ in of) / sum(m for _, m in of))


def test_equal_features_are_idle():
    x = torch.ones(12, 4) + 1e-4 * features(4).float()
    found = mechanisms.looked_at("multi_constraint", {}, x, LABELS, MODALITY)
    assert found["kept_positive"] == found["kept_negative"] == 1 and found["weights"] < 1e-3 and found["spread"] < 1e-3


def test_stripes_are_read_by_the_relation_of_centres():
    local = torch.stack([features(4, seed) for seed in (1, 2)], 1)
    only = {"alpha": 0.0, "beta": 0.0, "omega": 1.0}
    found = mechanisms.looked_at("multi_constraint", only, features(), LABELS, MODALITY, local)
    each = [mechanisms.looked_at("multi_constraint", only, x, LABELS, MODALITY) for x in local.unbind(1)]
    assert found["positive"].item() == pytest.approx(sum(e["positive"].item() for e in each) / 2)


def test_shares_of_the_gradient_are_those_of_each_term():
    net = torch.nn.Linear(3, 2)
    x = torch.randn(5, 3)
    terms = torch.stack([net(x).square().mean(), net(x).mean()])
    weights = torch.tensor([2.0, 0.5])
    shares = mechanisms.shares_of_gradient(terms, weights, net)
    lengths = []
    for term, weight in ((net(x).square().mean(), 2.0), (net(x).mean(), 0.5)):
        grads = torch.autograd.grad(weight * term, list(net.parameters()))
        lengths.append(math.sqrt(sum(g.square().sum().item() for g in grads)))
    assert shares.tolist() == pytest.approx([v / sum(lengths) for v in lengths])
    terms.sum().backward()  # the graph is still there


def test_looking_changes_no_training_and_a_history_has_what_acts(home, monkeypatch):
    made = experiment("quick", "dpan_cmdc", seed=11, losses={**experiment("quick", "dpan_cmdc").losses})
    seen = runs.run(made)
    columns = {"attention.alpha", "attention.share", "attention.entropy", "id.gradient", "cmdc.gradient", "cmdc.active"}
    assert columns <= set(seen.history) and seen.history[["id.gradient", "cmdc.gradient"]].sum(axis=1).tolist() == (
        pytest.approx([1.0] * len(seen.history))
    )
    assert (seen.history["attention.entropy"] <= 1).all()
    table, store = runs.load_data(made)
    monkeypatch.setattr(mechanisms, "of_step", lambda *given: {})
    monkeypatch.setattr(mechanisms, "shares_of_gradient", lambda *given: None)
    folder = home / "unseen"
    folder.mkdir()
    net = train.fit(made, table, store.pixels, folder)
    for name, tensor in seen.net().state_dict().items():
        assert torch.equal(net.state_dict()[name].cpu(), tensor), name


class Stub:
    def __init__(self, method, history, **fields):
        self.experiment, self.history = experiment("quick", method, tuned=False, **fields), pd.DataFrame(history)


@pytest.mark.parametrize(
    ("better", "over", "history", "words"),
    [
        (
            "dpan",
            "baseline",
            {"attention.share": [0.001, 0.004], "attention.alpha": [0.01, 0.02]},
            "at most 0.4% of its norm",
        ),
        ("dpan", "baseline", {"attention.share": [0.001, 0.2]}, ""),
        ("awl", "identity", {"adaptive_weighting.gradient": [0.001, 0.002]}, "at most 0.2% of the gradient"),
        ("awl", "identity", {"adaptive_weighting.gradient": [0.5, 0.001]}, ""),
        (
            "awl",
            "awl_ms_mining",
            {"adaptive_weighting.kept_positive": [1.0], "a.kept_negative": [0.999]},
            "drops more than",
        ),
        ("awl", "awl_ms_mining", {"adaptive_weighting.kept_positive": [1.0], "a.kept_negative": [0.5]}, ""),
        ("awl", "awl_unweighted", {"adaptive_weighting.weights": [0.001]}, "differ by at most 0.1%"),
        ("awl", "identity", {}, ""),  # of an older version: nobody looked
        ("dpan_cmdc", "baseline", {"attention.share": [0.0], "cmdc.gradient": [0.5]}, ""),  # one of two acted
    ],
)
def test_a_comparison_whose_mechanism_was_idle_says_so(better, over, history, words):
    found = mechanisms.idle([Stub(better, history)], [Stub(over, history)])
    assert (words in found and found) if words else found == ""


def test_what_a_comparison_is_about():
    def about(better, over):
        return mechanisms.tested(experiment("quick", better), experiment("quick", over))

    assert about("dpan", "baseline") == {"attention"} and about("cmdc", "baseline") == {"cmdc"}
    assert about("awl", "awl_ms_mining") == {"mining"} and about("awl", "awl_unweighted") == {"weighting"}
    assert about("mc", "mc_i2i_c2i") == {"multi_constraint"} and about("dpan_cmdc", "baseline") == {"attention", "cmdc"}


def test_a_term_reads_its_place_and_at_length_1():
    made = experiment("quick", "parts_mc")
    net = train.make_net(made, 5)
    out = net(torch.rand(4, 3, 96, 48), torch.tensor([0, 1, 0, 1]))
    shapes = {"pooled": [(4, 1536), (4, 1536)], "neck": [(4, 3072)], "stripes": [(4, 512)] * 3 + [(4, 256)] * 6}
    for place, wanted in shapes.items():
        found = objective.read(out, {"on": place, "normalise": True})
        assert [tuple(x.shape) for x, _ in found] == wanted and objective.widths(net, {"on": place}) == [
            w for _, w in wanted
        ]
        for x, _ in found:
            torch.testing.assert_close(x.norm(dim=1)[x.norm(dim=1) > 0], torch.ones(4)[x.norm(dim=1) > 0])
    assert arguments({"weight": 1.0, "on": "neck", "normalise": True, "margin": 0.3}) == {"margin": 0.3}
