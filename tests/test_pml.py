"""Losses of pytorch-metric-learning in an experiment, ours in its form, and what happens without the library."""

import builtins
import inspect
import subprocess
import sys

import pytest
import torch
from test_losses import batch
from torch import nn

from vtlib import objective, pml, runs, train
from vtlib.backbones import thin_resnet
from vtlib.config import asked, experiment
from vtlib.launch import pairs
from vtlib.systems import LOSSES

distances, theirs, miners, reducers = (
    pytest.importorskip(f"pytorch_metric_learning.{part}") for part in ("distances", "losses", "miners", "reducers")
)
MS = {"weight": 1.0, "alpha": 2.0, "miner": {"name": "MultiSimilarityMiner", "epsilon": 0.1}}
ARC = {"weight": 0.1, "cross_modality": False}
QUIET = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "ignore:__array_wrap__")  # PML's own
IDENTITY = {"id": {"weight": 1.0}}
WIDTH, THIN = 6, thin_resnet().fc.in_features

# Every class of pytorch_metric_learning.losses stands in one of these; arguments where a class has no defaults.
ACROSS = {
    "AngularLoss", "CircleLoss", "ContrastiveLoss", "GeneralizedLiftedStructureLoss",
    "IntraPairVarianceLoss", "LiftedStructureLoss", "MarginLoss", "MultiSimilarityLoss", "NCALoss", "NTXentLoss",
    "SignalToNoiseRatioContrastiveLoss", "SupConLoss", "ThresholdConsistentMarginLoss", "TripletMarginLoss",
    "TupletMarginLoss",
}  # fmt: skip
CLASS_WEIGHTS = {
    "ArcFaceLoss", "CosFaceLoss", "LargeMarginSoftmaxLoss", "NormalizedSoftmaxLoss", "P2SGradLoss", "ProxyAnchorLoss",
    "ProxyNCALoss", "SoftTripleLoss", "SphereFaceLoss", "SubCenterArcFaceLoss",
}  # fmt: skip
ONE_POOL = CLASS_WEIGHTS | {
    "FastAPLoss", "HistogramLoss", "InstanceLoss", "NPairsLoss", "PNPLoss", "RankedListLoss", "SmoothAPLoss",
}  # fmt: skip
ARGUMENTS = {"RankedListLoss": {"margin": 0.5, "Tn": 1.0}}
CANNOT = {  # class: (arguments, why)
    "BaseMetricLossFunction": ({}, "abstract"),
    "GenericPairLoss": ({"mat_based_loss": True}, "abstract"),
    "BaseLossWrapper": ({}, "wraps another loss object"),
    "CrossBatchMemory": ({}, "wraps another loss object"),
    "MultipleLosses": ({}, "wraps other loss objects: name each as a term of its own"),
    "SelfSupervisedLoss": ({}, "wraps another loss object, and labels are the row numbers"),
    "ManifoldLoss": ({"l": 4.0}, "takes no labels: its proxies are drawn from the batch"),
    "VICRegLoss": ({}, "takes no labels: row i of ref_emb is the partner of row i"),
    "DynamicSoftMarginLoss": ({}, "its histogram keeps the last step's graph: the second backward pass raises"),
}
MINERS = {
    "AngularMiner", "BatchEasyHardMiner", "BatchHardMiner", "DistanceWeightedMiner", "HDCMiner",
    "MultiSimilarityMiner", "PairMarginMiner", "TripletMarginMiner", "UniformHistogramMiner",
}  # fmt: skip
NO_MINERS = {"BaseMiner": "abstract", "EmbeddingsAlreadyPackagedAsTriplets": "reads no labels: rows are triplets"}


def classes(module):
    return {n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, nn.Module)}


def with_terms(terms, **fields):
    """A quick experiment of the identity loss and these terms."""
    return experiment("quick", "baseline", losses=IDENTITY | terms, device="cpu", **fields)


def sentence(call, *arguments, **options):
    """The text of the ValueError, which must be one line."""
    with pytest.raises(ValueError) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def sides(features, labels, modality):
    return [(features[modality == m], labels[modality == m]) for m in (0, 1)]


@pytest.fixture(scope="module")
def data(home):
    return runs.load_data(experiment("quick", "baseline", device="cpu"))


def fit(made, data, folder, **options):
    folder.mkdir(exist_ok=True)
    return train.fit(made, data[0], data[1].pixels, folder, origin="same", **options)


def final(folder):
    """Every tensor of a checkpoint by name: network, losses, momentum of the optimizer."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    momentum = {f"optimizer.{k}": v["momentum_buffer"] for k, v in state["optimizer"]["state"].items()}
    return {f"{part}.{k}": v for part in ("net", "losses") for k, v in state[part].items()} | momentum


# In an experiment.


def test_a_method_with_their_loss_trains_and_is_evaluated(home):
    done = runs.run(with_terms({"pml:MultiSimilarityLoss": MS}))
    assert done.history["pml:MultiSimilarityLoss"].gt(0).all() and done.history.grad_norm.gt(0).all()
    assert done.trials("sysu all 1-shot official").mAP.between(0, 1).all()
    assert runs.Run(done.experiment, done.folder).net().dim == THIN  # the stored network needs no loss


def test_the_command_line_names_it_as_the_module_says():
    text = 'losses.pml:MultiSimilarityLoss={"weight": 1, "miner": {"name": "MultiSimilarityMiner", "epsilon": 0.1}}'
    assert text in pml.__doc__
    made = experiment("quick", "baseline", **pairs([text, "losses.pml:MultiSimilarityLoss.miner.epsilon=0.2"]))
    term = objective.make_losses(made, train.make_net(made, 4))["pml:MultiSimilarityLoss"][0]
    assert isinstance(term.loss, theirs.MultiSimilarityLoss) and term.miner.epsilon == 0.2


def test_options_are_part_of_the_run_id():
    ids = {
        with_terms({"pml:MultiSimilarityLoss": MS | change}).run_id
        for change in ({}, {"alpha": 3.0}, {"miner": "MultiSimilarityMiner"}, {"cross_modality": False})
    }
    assert len(ids) == 4


def test_it_learns_on_both_kinds_of_network_and_features():
    """Part heads have one loss each, of the head's own width; on=neck has one, on=stripes one of each stripe."""
    parts = [{"stripes": 2, "width": 4, "share": 1.0}, {"stripes": 3, "width": 8, "share": 0.5}]
    for place, fields, widths in (
        ("pooled", {}, [THIN]),
        ("neck", {}, [THIN]),
        ("pooled", {"parts": parts}, [8, 24]),
        ("neck", {"parts": parts}, [32]),
        ("stripes", {"parts": parts}, [4, 4, 8, 8, 8]),
    ):
        made = with_terms({"pml:ArcFaceLoss": ARC | {"on": place}}, attention=False, **fields)
        net = train.make_net(made, 5)
        losses = objective.make_losses(made, net)
        assert [tuple(loss.loss.W.shape) for loss in losses["pml:ArcFaceLoss"]] == [(w, 5) for w in widths]
        labels, modality = torch.arange(4).repeat(2), torch.arange(2).repeat_interleave(4)
        terms = objective.loss_terms(made, losses, net(torch.rand(8, 3, 96, 48), modality), labels, modality)
        assert terms.shape == (2,)
        terms.sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in losses.parameters())


# Loss against the library called by hand.


@pytest.mark.parametrize("counts", [[(3, 3)] * 3, [(2, 4), (3, 1), (1, 2)]], ids=["balanced", "ragged"])
def test_a_loss_is_theirs_both_ways_and_averaged(counts):
    drawn = batch(counts, dimension=WIDTH, seed=4)
    x = drawn[0].clone().requires_grad_()
    (v, v_labels), (t, t_labels) = sides(x, *drawn[1:])
    loss, miner = theirs.MultiSimilarityLoss(alpha=3.0), miners.MultiSimilarityMiner(epsilon=0.3)
    forth = loss(v, v_labels, miner(v, v_labels, t, t_labels), t, t_labels)
    back = loss(t, t_labels, miner(t, t_labels, v, v_labels), v, v_labels)
    expected = (forth + back) / 2
    expected.backward()
    options = {"alpha": 3.0, "miner": {"name": "MultiSimilarityMiner", "epsilon": 0.3}}
    made, own = pml.Loss("pml:MultiSimilarityLoss", options, 3, WIDTH), drawn[0].clone().requires_grad_()
    value = made(own, *drawn[1:])
    value.backward()
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(own.grad, x.grad)
    assert not torch.isclose(forth, back)  # averaging is seen
    without = pml.Loss("pml:MultiSimilarityLoss", {"alpha": 3.0}, 3, WIDTH)(*drawn)
    torch.testing.assert_close(
        without, (loss(v, v_labels, None, t, t_labels) + loss(t, t_labels, None, v, v_labels)) / 2
    )
    assert not torch.isclose(without, value)  # mining is seen


def test_one_pool_is_theirs_on_the_whole_batch():
    features, labels, modality = drawn = batch([(2, 3), (3, 2), (2, 2)], dimension=WIDTH, seed=5)
    loss, miner = theirs.TripletMarginLoss(margin=0.4), miners.BatchHardMiner()
    options = {"margin": 0.4, "cross_modality": False, "miner": "BatchHardMiner"}
    made = pml.Loss("pml:TripletMarginLoss", options, 3, WIDTH)
    torch.testing.assert_close(made(*drawn), loss(features, labels, miner(features, labels)))
    torch.testing.assert_close(made(features, labels, 1 - modality), made(*drawn))  # modality is not looked at
    plain = pml.Loss("pml:TripletMarginLoss", {"margin": 0.4, "cross_modality": False}, 3, WIDTH)
    torch.testing.assert_close(plain(*drawn), loss(features, labels))


def test_equal_labels_of_both_sides_are_not_taken_for_the_same_rows():
    """PML leaves out the diagonal where ref_labels is labels: the two sides must be tensors of their own."""
    features, labels, modality = batch([(2, 2)] * 3, dimension=WIDTH, seed=6)
    order = torch.argsort(labels + 10 * modality)  # both sides have the same labels in the same order
    drawn = features[order], labels[order], modality[order]
    (v, a), (t, b) = sides(*drawn)
    assert torch.equal(a, b)
    similarity = nn.functional.normalize(v) @ nn.functional.normalize(t).T
    same = a[:, None] == b
    pull = (1 - similarity[same]).relu().mean()
    push = similarity[~same].relu()
    given = {"pos_margin": 1.0, "neg_margin": 0.0, "distance": "CosineSimilarity"}
    made = pml.Loss("pml:ContrastiveLoss", given, 3, WIDTH)
    torch.testing.assert_close(made(*drawn), pull + push[push > 0].mean())  # symmetric, so both ways are equal


PART_OPTIONS = [
    ("distance", "LpDistance", distances.LpDistance, {}),
    ("distance", {"name": "LpDistance", "normalize_embeddings": False, "p": 1.0}, distances.LpDistance, {"p": 1}),
    ("distance", {"name": "SNRDistance"}, distances.SNRDistance, {}),
    ("miner", "BatchHardMiner", miners.BatchHardMiner, {}),
    ("miner", {"name": "TripletMarginMiner", "margin": 0.7, "type_of_triplets": "hard"}, miners.TripletMarginMiner,
     {"margin": 0.7, "type_of_triplets": "hard"}),
    ("reducer", "MeanReducer", reducers.MeanReducer, {}),
    ("reducer", {"name": "ThresholdReducer", "low": 0.1}, reducers.ThresholdReducer, {"low": 0.1}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "given", "wanted", "attributes"), PART_OPTIONS)
def test_parts_by_name_or_with_arguments(kind, given, wanted, attributes):
    made = with_terms({"pml:TripletMarginLoss": {"weight": 1.0, kind: given}})
    options = {k: v for k, v in made.losses["pml:TripletMarginLoss"].items() if k != "weight"}
    loss = pml.Loss("pml:TripletMarginLoss", options, 4, WIDTH)
    found = loss.miner if kind == "miner" else getattr(loss.loss, kind)
    assert type(found) is wanted
    for name, value in attributes.items():
        assert getattr(found, name) == value
    if kind == "distance":
        assert found.normalize_embeddings == (given if isinstance(given, dict) else {}).get(
            "normalize_embeddings", True
        )
    features, labels, modality = drawn = batch([(2, 2)] * 3, dimension=WIDTH, seed=7)
    by_hand = {} if kind == "miner" else {kind: found}
    (v, a), (t, b) = sides(features, labels, modality)
    plain, mine = theirs.TripletMarginLoss(**by_hand), loss.miner or (lambda *rows: None)
    expected = (plain(v, a, mine(v, a, t, b), t, b) + plain(t, b, mine(t, b, v, a), v, a)) / 2
    torch.testing.assert_close(loss(*drawn), expected)


def test_parts_of_parts_and_regularizers():
    given = {"name": "BatchHardMiner", "distance": {"name": "LpDistance", "normalize_embeddings": False}}
    loss = pml.Loss("pml:TripletMarginLoss", {"miner": given}, 4, WIDTH)
    assert loss.miner.distance.normalize_embeddings is False
    for kind, options in (("embedding", {}), ("weight", {"cross_modality": False})):
        name = "pml:ArcFaceLoss" if kind == "weight" else "pml:ContrastiveLoss"
        given = options | {f"{kind}_regularizer": {"name": "LpRegularizer", "p": 1.0}, f"{kind}_reg_weight": 0.5}
        drawn, state = batch([(2, 2)] * 3, dimension=WIDTH, seed=8), torch.get_rng_state()
        values = []
        for o in (options, given):
            torch.set_rng_state(state)
            values.append(pml.Loss(name, o, 3, WIDTH)(drawn[0].float(), *drawn[1:]))
        assert values[1] > values[0]


# Every class of the library.


def built(name, options, num_classes=5):
    torch.manual_seed(0)
    return pml.Loss(f"pml:{name}", options, num_classes, WIDTH)


def test_every_class_of_theirs_is_accounted_for():
    assert classes(theirs) == ACROSS | ONE_POOL | set(CANNOT)
    assert classes(miners) == MINERS | set(NO_MINERS)


def trains(name, options):
    """Three steps with new batches: finite, and everything that can learn, learns."""
    loss, layer = built(name, options), nn.Linear(WIDTH, WIDTH)
    learns = [*loss.parameters(), *layer.parameters()]
    before = [p.detach().clone() for p in learns]
    optimizer = torch.optim.SGD(learns, lr=0.1)
    for seed in range(3):
        features, labels, modality = batch([(3, 3)] * 5, dimension=WIDTH, seed=seed)
        value = loss(layer(features.float()), labels, modality)
        assert value.shape == () and value.isfinite()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert all(p.isfinite().all() and not torch.equal(p, b) for p, b in zip(learns, before, strict=True))
    return loss


@QUIET
@pytest.mark.parametrize("cross_modality", [True, False])
@pytest.mark.parametrize("name", sorted(ACROSS | ONE_POOL))
def test_every_plain_loss_can_be_named(name, cross_modality):
    options = ARGUMENTS.get(name, {}) | ({} if cross_modality else {"cross_modality": False})
    term = {f"pml:{name}": {"weight": 1.0, **options}}
    if cross_modality and name in ONE_POOL:
        text = sentence(with_terms, term)
        assert text.startswith(f"loss pml:{name} refuses a batch: ") and "cross_modality=false" in text
        return
    with_terms(term)
    loss = trains(name, options)
    assert bool(list(loss.parameters())) == (name in CLASS_WEIGHTS)


@pytest.mark.parametrize("name", CANNOT)
def test_the_few_that_cannot_be_named_are_one_sentence(name):
    options = CANNOT[name][0]
    for mode in ({}, {"cross_modality": False}):
        assert name in sentence(with_terms, {f"pml:{name}": {"weight": 1.0, **options, **mode}})


@pytest.mark.parametrize("cross_modality", [True, False])
@pytest.mark.parametrize("name", sorted(MINERS))
def test_every_miner_can_be_named(name, cross_modality):
    for loss in ("TripletMarginLoss", "ContrastiveLoss"):  # of triplets, of pairs
        options = {"miner": name} | ({} if cross_modality else {"cross_modality": False})
        with_terms({f"pml:{loss}": {"weight": 1.0, **options}})
        made = built(loss, options)
        assert type(made.miner).__name__ == name
        trains(loss, options)


@pytest.mark.parametrize("name", NO_MINERS)
def test_the_two_that_are_no_miners_are_one_sentence(name):
    for mode in ({}, {"cross_modality": False}):
        assert "refuses a batch" in sentence(
            with_terms, {"pml:TripletMarginLoss": {"weight": 1.0, "miner": name, **mode}}
        )


@QUIET
@pytest.mark.parametrize("name", sorted(ACROSS | ONE_POOL))
def test_default_arguments_written_out_change_nothing(name):
    """Numbers reach the class as it wants them, whether it counts with them or not, though a field holds floats."""
    mode = {} if name in ACROSS else {"cross_modality": False}
    defaults = {
        p.name: p.default if isinstance(p.default, (bool, str)) else float(p.default)
        for c in reversed(getattr(theirs, name).__mro__)  # a class's own default wins
        if c not in (nn.Module, object)
        for p in inspect.signature(c).parameters.values()
        if isinstance(p.default, (bool, int, float, str)) and p.name not in ("collect_stats", "mat_based_loss")
    }
    drawn = batch([(3, 3)] * 4, dimension=WIDTH, seed=9)
    features = drawn[0].float()
    values = []
    for options in (ARGUMENTS.get(name, {}) | mode, defaults | ARGUMENTS.get(name, {}) | mode):
        made = with_terms({f"pml:{name}": {"weight": 1.0, **options}}).losses[f"pml:{name}"]
        loss = built(name, {k: v for k, v in made.items() if k != "weight"})
        torch.manual_seed(1)
        values.append(loss(features, *drawn[1:]))
    assert torch.equal(*values)


# Class weights.


def test_class_weights_learn_and_are_in_optimizer_and_checkpoint(data, tmp_path):
    made = with_terms({"pml:ArcFaceLoss": ARC}, epochs=2)
    net = train.make_net(made, 12)
    losses = objective.make_losses(made, net)
    (start,) = losses.parameters()
    assert start.shape == (THIN, 12)
    slow, fast = train.make_optimizer(made, net, losses).param_groups
    assert any(p is start for p in fast["params"]) and not any(p is start for p in slow["params"])
    start = start.detach().clone()
    fit(made, data, tmp_path / "a")
    state = final(tmp_path / "a")
    learned = state["losses.pml:ArcFaceLoss.0.loss.W"]
    assert learned.isfinite().all() and not torch.equal(learned, start)
    assert len([k for k in state if k.startswith("optimizer.")]) == len(slow["params"]) + len(fast["params"])


def test_interrupted_with_class_weights_it_ends_bit_equal(data, tmp_path):
    made = with_terms({"pml:ArcFaceLoss": ARC, "pml:TripletMarginLoss": {"weight": 1.0, "triplets_per_anchor": 4.0}})
    made = made.but(epochs=3)

    def interrupt(row):
        raise KeyboardInterrupt

    fit(made, data, tmp_path / "whole")
    (tmp_path / "stopped").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fit(made, data, tmp_path / "stopped", on_epoch=interrupt)
    torch.rand(7)  # nothing may depend on what ran before
    again = []
    fit(made, data, tmp_path / "stopped", on_epoch=again.append)
    assert [row["epoch"] for row in again] == [2, 3]
    whole, stopped = final(tmp_path / "whole"), final(tmp_path / "stopped")
    assert whole.keys() == stopped.keys() and all(torch.equal(whole[k], stopped[k]) for k in whole)


def test_checking_an_experiment_leaves_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with_terms({"pml:ArcFaceLoss": ARC, "pml:MultiSimilarityLoss": MS})
    sentence(with_terms, {"pml:ArcFaceLoss": {"weight": 1.0}})
    assert torch.equal(torch.rand(4), expected)


# Refusals.


TRIPLET = "pml:TripletMarginLoss"


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ({"pml:TripletMarginLos": {}}, "class of pytorch_metric_learning.losses 'TripletMarginLos': did you mean '"),
        ({TRIPLET: {"margn": 1.0}}, "unknown argument of TripletMarginLoss 'margn': did you mean 'margin'?"),
        ({TRIPLET: {"embedding_size": 7.0}}, "unknown argument of TripletMarginLoss 'embedding_size'"),
        ({TRIPLET: {"miner": "BatchHardMinr"}}, "learning.miners 'BatchHardMinr': did you mean 'BatchHardMiner'?"),
        ({TRIPLET: {"miner": {"name": "AngularMiner", "angel": 9.0}}}, "AngularMiner 'angel': did you mean 'angle'?"),
        ({TRIPLET: {"miner": {"epsilon": 0.1}}}, 'miner must be the name of a class or {"name": class, ...}, not'),
        ({TRIPLET: {"distance": "LpDistanc"}}, "learning.distances 'LpDistanc': did you mean 'LpDistance'?"),
        ({TRIPLET: {"distance": {"name": "LpDistance", "pow": 2.0}}}, "of LpDistance 'pow': did you mean 'power'?"),
        ({TRIPLET: {"reducer": "MeanReduce"}}, "learning.reducers 'MeanReduce': did you mean 'MeanReducer'?"),
        ({TRIPLET: {"cross_modality": "no"}}, "losses.pml:TripletMarginLoss.cross_modality must be true or false"),
        ({TRIPLET: {"cross_modality": 0.0}}, "losses.pml:TripletMarginLoss.cross_modality must be true or false"),
        ({TRIPLET: {"margin": "wide"}}, "loss pml:TripletMarginLoss refuses a batch: "),
        ({"pml:ArcFaceLoss": {}}, "refuses a batch: ref_emb is not supported for this loss function; with cross_"),
        ({"pml:ArcFaceLoss": ARC | {"margin": "a"}}, "ArcFaceLoss: "),
        ({"pml:CircleLoss": {"distance": "LpDistance"}}, "CircleLoss: "),
        ({"pml:RankedListLoss": {}}, "RankedListLoss: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_before_any_work(terms, text):
    assert text in sentence(with_terms, {name: {"weight": 1.0, **term} for name, term in terms.items()})


def test_a_term_without_a_weight():
    assert "loss pml:TripletMarginLoss needs a weight" in sentence(with_terms, {TRIPLET: {"margin": 0.3}})


WRONG = [
    ({"miner": 3.0}, "a number where a name belongs"),
    ({"distance": True}, "a truth value where a name belongs"),
    ({"miner": {"name": {}}}, "a group where a name belongs"),
    ({"triplets_per_anchor": "some"}, "PML's own text has several lines"),
]


@pytest.mark.parametrize(("options", "what"), WRONG, ids=[what for _, what in WRONG])
def test_odd_values_are_one_sentence_too(options, what):
    sentence(with_terms, {TRIPLET: {"weight": 1.0, **options}})


@pytest.mark.parametrize("name", ["BaseLossWrapper", "CrossBatchMemory", "SelfSupervisedLoss"])
def test_a_wrapped_loss_by_name_is_one_sentence_too(name):
    sentence(with_terms, {f"pml:{name}": {"weight": 1.0, "loss": "ContrastiveLoss"}})


def test_a_number_of_classes_is_refused_the_network_has_it():
    assert "num_classes" in sentence(with_terms, {"pml:ArcFaceLoss": ARC | {"num_classes": 3.0}})


# Without the library.


def test_without_the_library_the_sentence_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def none_of_it(name, *arguments, **options):
        if name.startswith("pytorch_metric_learning"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments, **options)

    for name in [n for n in sys.modules if n.startswith("pytorch_metric_learning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", none_of_it)
    monkeypatch.setattr(pml, "import_module", none_of_it)
    text = sentence(with_terms, {"pml:TripletMarginLoss": {"weight": 1.0}})
    assert text == "TripletMarginLoss needs pytorch-metric-learning: pip install pytorch-metric-learning"
    experiment("quick", "dpan_mc")  # all else works
    assert pml.in_their_form(LOSSES["cmdc"])(*batch([(2, 0)] * 2)[:2], None, *batch([(2, 0)] * 2)[:2]).isfinite()


@pytest.mark.slow
def test_the_library_is_imported_only_where_it_is_asked_for():
    code = (
        "import sys, vtlib, vtlib.config, vtlib.train\n"
        "vtlib.config.experiment('quick', 'parts_mc')\n"
        "print([m for m in sys.modules if m.startswith('pytorch_metric_learning')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (out.returncode, out.stdout.strip()) == (0, "[]"), out.stderr


# Ours in their form.


POOL = [("batch_hard_triplet", {}), ("multi_similarity", {"cross_modality": False})]  # need one modality only
EVERY = [
    (name, {})
    for name in LOSSES
    if name != "id" and not isinstance(LOSSES[name], type) and not asked(LOSSES[name], needed=True)
]  # those that a batch is enough for


@pytest.mark.parametrize(("name", "options"), [*EVERY, ("cmdc", {"margin": 0.9, "hinge": False}), POOL[1]])
def test_ours_called_as_theirs(name, options):
    loss = LOSSES[name]
    (v, a), (t, b) = sides(*batch([(2, 3), (3, 2), (4, 2)], dimension=WIDTH, seed=11))
    v, t = v.requires_grad_(), t.requires_grad_()
    value = pml.in_their_form(loss, **options)(v, a, ref_emb=t, ref_labels=b)
    value.backward()
    x, m = torch.cat([v.detach(), t.detach()]).requires_grad_(), torch.tensor([0] * len(a) + [1] * len(b))
    direct = loss(x, torch.cat([a, b]), m, **options)
    direct.backward()
    assert torch.equal(value, direct) and torch.equal(torch.cat([v.grad, t.grad]), x.grad)


@pytest.mark.parametrize(("name", "options"), POOL)
def test_ours_of_one_pool_needs_no_references(name, options):
    features, labels, _ = batch([(2, 2)] * 3, dimension=WIDTH, seed=12)
    value = pml.in_their_form(LOSSES[name], **options)(features, labels)
    assert torch.equal(value, LOSSES[name](features, labels, torch.zeros_like(labels), **options))


def test_ours_stand_beside_theirs_in_one_loop():
    (v, a), (t, b) = sides(*batch([(2, 2)] * 3, dimension=WIDTH, seed=13))
    layer = nn.Linear(WIDTH, WIDTH).double()
    terms = [
        theirs.TripletMarginLoss(),
        pml.in_their_form(LOSSES["cmdc"], margin=0.5),
        pml.in_their_form(LOSSES["multi_constraint"]),
    ]
    values = [term(layer(v), a, ref_emb=layer(t), ref_labels=b) for term in terms]
    values += [term(layer(v), a, None, layer(t), b) for term in terms]  # and by position
    sum(values).backward()
    for one, other in zip(values[:3], values[3:], strict=True):
        torch.testing.assert_close(one, other)
    assert layer.weight.grad.isfinite().all() and layer.weight.grad.abs().sum() > 0


def test_ours_in_their_form_say_what_is_wrong():
    (v, a), (t, b) = sides(*batch([(2, 2)] * 3, dimension=WIDTH, seed=14))
    call = pml.in_their_form(LOSSES["cmdc"])
    assert sentence(call, v, a, (a, a, a), t, b) == "cmdc mines its own pairs: leave indices_tuple out"
    for one in ({"ref_emb": t}, {"ref_labels": b}):
        assert "give both or none" in sentence(call, v, a, **one)
    assert "has no thermal image" in sentence(call, v, a)
    assert "must be (N, D)" in sentence(call, v, a[:-1], ref_emb=t, ref_labels=b)
