"""Experiment: strict fields, one-sentence errors with the nearest name, and a run id that follows results alone."""

import json

import pytest

from vtlib import config
from vtlib.config import (
    NOT_HASHED,
    PROFILES,
    Experiment,
    documented,
    experiment,
    of_parameters,
    parameters,
    resolve_profile,
)
from vtlib.methods import METHODS


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("method", METHODS)
def test_every_profile_and_method_makes_an_experiment_that_survives_json(profile, method):
    made = experiment(profile, method)
    again = Experiment(**json.loads(made.model_dump_json()))
    assert again == made and again.run_id == made.run_id and len(made.run_id) == 12


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"epoch": 3}, "unknown field 'epoch': did you mean 'epochs'?"),
        ({"losses.cmdc.wieght": 2.0}, "unknown argument of loss cmdc 'wieght': did you mean 'weight'?"),
        ({"losses.cmcd.weight": 2.0}, "unknown loss 'cmcd': did you mean 'cmdc'?"),
        ({"epochs": "3"}, "epochs: Input should be a valid integer (given: '3')"),
        ({"epochs": True}, "epochs: "),
        ({"epochs": -1}, "epochs: "),
        ({"dataset": "sysy"}, "dataset: unknown layout 'sysy': did you mean 'sysu'?"),
        ({"dataset": 3}, "dataset: unknown layout 3"),
        ({"dataset": "folder"}, "data: the layout 'folder' has no set of its own: name one, as data=PATH"),
        ({"dataset": "folder", "data": ""}, "data: the layout 'folder' has no set of its own"),
        ({"dataset": "floder"}, "dataset: unknown layout 'floder': did you mean 'folder'?"),
        ({"losses": {}}, "losses is empty: name at least one of id, "),
        ({"losses.cmdc.weight": float("nan")}, "losses.cmdc.weight must be a finite number"),
        ({"losses.cmdc.margin": float("inf")}, "losses.cmdc.margin must be a finite number"),
        ({"lr": float("inf")}, "lr must be a finite number"),
        (
            {"losses.margin_mmd": {"weight": 1.0, "kernels": 0}},
            "losses.margin_mmd.kernels must be a whole number, ",
        ),
        ({"seed": 20250101120000123}, "seed: Input should be less than 2147483648"),
        ({"device": "gpu"}, "device: unknown device 'gpu': "),
        ({"device": "coda:1"}, "device: unknown device 'coda:1': did you mean 'cuda:1'?"),
        ({"images_per_identity": 10**12}, "images_per_identity: Input should be less than or equal to 1000"),
        ({"specific_stages": 5}, "specific_stages: Input should be 0, 1, 2, 3 or 4"),
        ({"precision": "bf17"}, "precision: Input should be 'float32' or 'bf16'"),
        ({"losses": {"cmdc": {"margin": 0.3}}}, "loss cmdc needs a weight"),
        ({"losses.cmdc.on": "nek"}, "unknown value of losses.cmdc.on 'nek': did you mean 'neck'?"),
        ({"losses.cmdc.on": "stripes"}, "losses.cmdc.on=stripes needs a network with parts"),
        ({"losses.cmdc.normalise": 1.0}, "losses.cmdc.normalise must be true or false, not 1.0"),
        ({"losses.id.on": "neck"}, "losses.id reads the logits of the classifiers"),
        ({"losses.cmdc": 3.0}, "losses.cmdc: "),
        ({"losses.cmdc.weight.x": 3.0}, "losses.cmdc.weight is a value"),
        ({"pooling": "max"}, "pooling: "),
        ({"losses.cmdc.margin": "wide"}, "losses.cmdc.margin must be of type float, not 'wide'"),
        ({"losses.cmdc.hinge": 1.0}, "losses.cmdc.hinge must be of type bool, not 1.0"),
        (
            {"losses.margin_mmd": {"weight": 1.0, "kernels": 2.5}},
            "losses.margin_mmd.kernels must be of type int, not 2.5",
        ),
        (
            {"losses.adaptive_weighting": {"weight": 1.0, "relation": "i2c"}},
            "unknown value of losses.adaptive_weighting.relation 'i2c': did you mean",
        ),
        (
            {"losses.multi_constraint": {"weight": 1.0, "local": 1.0}},
            "unknown argument of loss multi_constraint 'local'",
        ),
        ({"parts": [{"stripes": 6, "width": 64}]}, "parts.0.share: Field required"),
        ({"parts": [{"stripes": 6, "width": 64, "share": 1.0, "wide": 1}]}, "parts.0.wide: Extra inputs"),
        (
            {"parts": [{"stripes": n, "width": 8, "share": 1.0} for n in (4, 6)]},
            "an input 96 pixels high gives a map of 6 rows, which 4 and 6 stripes do not divide: try 192",
        ),
        ({"losses": {"pml:TripletMarginLos": {"weight": 1.0}}}, "unknown class of pytorch_metric_learning.losses"),
        (
            {"losses": {"pml:TripletMarginLoss": {"weight": 1.0, "margn": 1.0}}},
            "unknown argument of TripletMarginLoss 'margn': did you mean 'margin'?",
        ),
        ({"losses": {"pml:ArcFaceLoss": {"weight": 1.0}}}, "loss pml:ArcFaceLoss refuses a batch: "),
    ],
)
def test_a_wrong_field_is_one_sentence(overrides, sentence):
    with pytest.raises(ValueError) as error:
        experiment("quick", "cmdc", **overrides)
    assert str(error.value).startswith(sentence) and "\n" not in str(error.value)


def test_a_profile_or_method_that_is_no_text_is_named():
    with pytest.raises(ValueError, match="unknown method"):
        experiment("quick", [])
    with pytest.raises(ValueError, match="unknown profile"):
        experiment({})
    with pytest.raises(ValueError, match="unknown profile"):
        resolve_profile({})


def test_unknown_profile_and_method_name_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'quick'"):
        experiment("quik")
    with pytest.raises(ValueError, match="did you mean 'dpan_cmdc'"):
        experiment("quick", "dpan_cmcd")
    with pytest.raises(ValueError, match="did you mean 'auto'"):
        resolve_profile("atuo")


def test_run_id_follows_every_field_that_changes_the_result_and_no_other():
    base = experiment("cpu", "cmdc")
    assert base.but(method="renamed", device="cpu").run_id == base.run_id
    assert base.but(**{"losses.cmdc.weight": 3}).run_id == base.run_id  # 3 is 3.0
    changed = {
        "seed": 5, "dataset": "folder", "data": "x", "split": 2, "train_on": "train+val", "validation_identities": 3,
        "height": 64, "width": 32, "backbone": "resnet18", "weights": "w.pt", "attention": True,
        "attention_reduction": 8, "pooling": "avg", "gem_p": 2.0, "last_stride": 2,
        "losses": {"id": {"weight": 1.0}}, "over_parts": "mean", "schedule": "s2",
        "parts": [{"stripes": 3, "width": 8, "share": 1.0}],
        "epochs": 3, "steps_per_epoch": 7, "identities_per_batch": 6, "images_per_identity": 8, "lr": 0.01,
        "backbone_lr_factor": 0.5, "momentum": 0.8, "nesterov": True, "weight_decay": 0.0, "warmup_epochs": 1,
        "milestones": [1, 2, 3], "gamma": 0.5, "pad": 1, "flip": 0.1, "erase": 0.5, "trials": 3,
        "tested": "val", "validate_every": 7,
        "precision": {"bf16": "float32", "float32": "bf16"}[base.precision], "sync_bn": False, "specific_stages": 3,
        "modules": {"non_local": {}}, "views": {"grey": {}}, "colours_visible": "grey", "colours_thermal": "caj",
        "optimizer": "adam", "flip_test": True, "erase_in": "thermal",
    }  # fmt: skip
    assert set(changed) == set(Experiment.model_fields) - NOT_HASHED
    ids = {base.but(**{name: value}).run_id for name, value in changed.items()}
    assert len(ids | {base.run_id}) == len(changed) + 1


def test_building_an_experiment_changes_no_entry():
    before = json.dumps([METHODS, PROFILES])
    experiment("quick", "cmdc", **{"losses.cmdc.weight": 9.0, "losses.id.smoothing": 0.2})
    assert json.dumps([METHODS, PROFILES]) == before


def test_methods_are_those_of_table_3():
    base, full = experiment("paper", "baseline"), experiment("paper", "dpan_cmdc")
    assert set(base.losses) == {"id", "batch_hard_triplet"} and not base.attention
    place = {"on": "neck", "normalise": True}
    assert full.losses["cmdc"] == {"weight": 3.0, "margin": 0.3} | place and full.attention
    assert (full.lr, full.epochs, full.milestones, full.height, full.width) == (0.1, 60, (20, 50), 288, 144)


def test_every_field_says_what_it_is():
    assert list(documented()) == list(Experiment.model_fields)
    assert "0 in the one-stream network" in documented()["specific_stages"]


@pytest.mark.parametrize("native", ["bf16", "float32"])
def test_parameters_give_the_very_experiment_back_on_a_machine_of_any_precision(monkeypatch, native):
    for where in (
        {"dataset": "folder", "data": "x"},
        {"data": "synvt_sysu_quick,yaw=1.0"},
        {"dataset": "regdb", "split": 3},
    ):
        wanted = experiment("quick", "cmdc", lr=0.5, **where)
        given = json.loads(json.dumps(parameters(wanted)))
        assert set(given) - {"data"} == {"profile", "method", "dataset", "seed", "overrides"}
        monkeypatch.setenv("VTLIB_PRECISION", native)
        assert of_parameters(given) == wanted
        monkeypatch.delenv("VTLIB_PRECISION")


def test_stored_fields_of_an_older_version_have_their_names_of_today():
    now = experiment("quick", "cmdc_awl", tuned=False)
    term = now.losses["adaptive_cmdc"]
    old = now.model_dump() | {"schedule": "hc_tri", "losses": {"id": now.losses["id"], "cmdc": term | {"bound": "awl"}}}
    assert config.Experiment(**config.upgraded(old, "float32")) == now
    plain = experiment("quick", "cmdc", tuned=False)
    old = plain.model_dump() | {"losses": {"id": plain.losses["id"], "cmdc": plain.losses["cmdc"] | {"bound": "hard"}}}
    assert config.Experiment(**config.upgraded(old, "float32")) == plain
