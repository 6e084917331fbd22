"""Equal tuning: the same trials for every method, on validation people, and no test person's image in them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from vtlib import config, launch, methods, runs, train, tuning
from vtlib.config import experiment
from vtlib.suite import items


def test_every_method_has_the_same_trials():
    def fake(wanted):
        return [float(len(e.run_id) + e.lr) for e in wanted]

    found = tuning.tried(["identity", "cmdc", "parts_mc"], "cpu", fake)
    of = {m: [e for name, e, _ in found if name == m] for m in ("identity", "cmdc", "parts_mc")}
    assert {m: len(trials) for m, trials in of.items()} == {"identity": 6, "cmdc": 8, "parts_mc": 6}
    rates = {m: [(e.lr, e.backbone_lr_factor) for e in trials[:6]] for m, trials in of.items()}
    assert all(r == list(tuning.RATES) for r in rates.values())
    weights = [e.losses["cmdc"]["weight"] for e in of["cmdc"][6:]]
    assert sorted(weights) == pytest.approx(sorted(3.0 * f for f in tuning.WEIGHTS if f != 1))
    assert {(e.lr, e.backbone_lr_factor) for e in of["cmdc"][6:]} == {(0.1, 0.2)}  # the best of the six
    assert all(e.tested == "val" and e.seed == 0 and e.steps_per_epoch == 40 for _, e, _ in found)
    made = tuning.table(found)
    assert made.groupby("method").chosen.sum().tolist() == [1, 1, 1] and made.recipe.sum() == 3


def test_a_trial_reads_no_test_person(home):
    """Other pixels of the test people change nothing: neither the network nor what is measured."""
    trial = tuning.trial("quick", "cmdc", (0.05, 1.0))
    table, store = runs.load_data(trial)
    whole, _ = runs.load_data(experiment("quick", "cmdc"))
    test = set(whole.pid[whole.split == "test"])
    assert (
        test
        and not test & set(table.pid)
        and set(table.pid[table.split == "test"]) == set(table.pid[table.split == "val"])
    )
    done = runs.run(trial)
    assert set(done.metrics["protocols"]) == {"val v2t", "val t2v"} and not test & set(done.features["pid"].tolist())
    assert done.trials("val t2v").mAP.item() == pytest.approx(done.history.val_mAP.iloc[-1], abs=1e-4)  # other batches
    pixels = np.array(store.pixels)
    pixels[whole.index[whole.split == "test"]] = 0

    folder = home / "without"
    folder.mkdir()
    net = train.fit(trial, table, pixels, folder)
    assert all(torch.equal(v, done.net().state_dict()[k]) for k, v in net.state_dict().items())


def test_trials_are_runs_and_their_choice_is_written_whole(home, capsys, monkeypatch):
    monkeypatch.setattr(tuning, "RATES", ((0.01, 1.0), (0.02, 1.0)))
    out = home / "tuned.json"
    assert launch.main(["tune", "identity", "--profile", "quick", "--out", str(out)]) == 0
    kept = json.loads(out.read_text())
    assert len(kept["trials"]) == 2 and set(kept["chosen"]) == {"identity"} and kept["facts"]["precision"]
    assert all((home / "results" / "quick" / "runs" / t["run_id"] / "metrics.json").is_file() for t in kept["trials"])
    assert launch.main(["tune", "identiti", "--profile", "quick"]) == 1
    assert "did you mean 'identity'" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted(config.TUNED.glob("*.json")), ids=lambda p: p.stem)
def test_what_ships_is_what_its_trials_choose_and_what_experiments_have(file):
    kept, made = json.loads(file.read_text()), tuning.shipped(file.stem)
    assert kept["profile"] == file.stem and set(kept["chosen"]) == set(items.methods_of_tables()) <= set(
        methods.METHODS
    )
    assert file.stat().st_size < 100_000
    for name, of in made.groupby("method"):
        best = of[of.chosen]
        assert len(best) == 1 and best.val_mAP.item() == of.val_mAP.max() and of.recipe.sum() <= 1
        tuned, plain = experiment(file.stem, name), experiment(file.stem, name, tuned=False)
        assert (tuned.lr, tuned.backbone_lr_factor) == (best.lr.item(), best.backbone_lr_factor.item())
        assert plain.but(**kept["chosen"][name]) == tuned and tuned.tested == "test"
        scaled = [n for n in plain.losses if n in tuning.SCALED]
        for loss in scaled:
            assert tuned.losses[loss]["weight"] == pytest.approx(
                plain.losses[loss]["weight"] * best.weight.item(), rel=1e-3
            )
        assert len(of) == len(tuning.RATES) + (len(tuning.WEIGHTS) - 1) * bool(scaled)


def test_every_metric_loss_is_tried_in_both_places(home, capsys, monkeypatch):
    found = tuning.both_places("cmdc", "cpu", (0, 1))
    assert list(found) == ["pooled", "pooled, length 1", "neck", "neck, length 1"]
    assert {(e.losses["cmdc"]["on"], e.losses["cmdc"]["normalise"]) for of in found.values() for e in of} == {
        (place, short) for place in ("pooled", "neck") for short in (False, True)
    }
    assert all([e.seed for e in of] == [0, 1] and {e.tested for e in of} == {"val"} for of in found.values())
    plain, tuned = experiment("cpu", "mc", tuned=False), experiment("cpu", "mc")
    assert {p: of[0].lr for p, of in tuning.both_places("mc", "cpu").items()} == {"pooled": plain.lr, "neck": tuned.lr}
    assert plain.lr != tuned.lr and not tuning.both_places("identity", "cpu")
    monkeypatch.setattr(tuning, "trained", lambda e: None if e.seed == 2 else runs.run(e))
    assert launch.main(["tune", "awl", "--places", "--profile", "quick"]) == 0
    made = pd.read_csv(home / "results" / "quick" / "places.csv")
    assert made.place.tolist() == ["pooled", "neck"] and made.own.tolist() == [False, True]
    assert set(made.seeds) == {2} and made.val_mAP.between(0, 100).all() and "places.csv" in capsys.readouterr().out


def test_a_method_whose_trials_all_break_takes_the_first():
    found = tuning.tried(
        ["identity", "mc"],
        "cpu",
        lambda wanted: [float("nan") if "multi_constraint" in e.losses else 1.0 for e in wanted],
    )
    made = tuning.table(found)
    assert made.groupby("method").chosen.sum().tolist() == [1, 1] and made[made.chosen].lr.tolist() == [0.005, 0.005]


def test_tuned_is_true_or_false():
    with pytest.raises(ValueError, match="tuned must be true or false, not 'no'"):
        experiment("quick", "cmdc", tuned="no")
    assert config.chosen("paper") == {}
