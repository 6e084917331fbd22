"""Starts: people that no other set shows, no pair across modalities, a file that says how it was made."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vtlib import backbones, launch, pretrain, runs, synvt, train
from vtlib.common import results_root
from vtlib.config import experiment
from vtlib.data import datasets
from vtlib.synvt import CAMERAS, PRESETS

SMALL = replace(PRESETS["synvt_start"], identities=(20, 8, 2), images=2)


@pytest.fixture
def small(home, monkeypatch):
    """A start of seconds: its experiment, on a few people."""
    monkeypatch.setitem(PRESETS, "synvt_start_tiny", SMALL)
    return pretrain.STARTS["thin"].but(
        data="synvt_start_tiny", epochs=2, steps_per_epoch=2, milestones=[1], identities_per_batch=4
    )


@pytest.mark.parametrize("name", ["synvt_start", "synvt_start_full"])
def test_nobody_of_a_start_is_in_another_set_or_seen_by_both_modalities(name):
    spec = PRESETS[name]
    assert all(spec.seed != other.seed for key, other in PRESETS.items() if not key.startswith("synvt_start"))
    plan = synvt.structure(spec)
    seen = [
        {pid for cam, counts in plan.counts.items() for pid in counts if CAMERAS["sysu"][cam].modality == m}
        for m in (0, 1)
    ]
    assert not seen[0] & seen[1] and abs(len(seen[0]) - len(seen[1])) <= 1
    assert seen[0] | seen[1] == set(range(1, sum(spec.identities) + 1))


def test_redress_changes_colours_and_heats_with_the_image_and_nothing_else():
    plain, spec = (replace(SMALL, redress=flag, apart=False, nuisance=0.0) for flag in (False, True))
    body = synvt.shape(spec, 1)
    for cam, surface in ((1, synvt.colours), (3, synvt.heats)):
        views = [synvt.scene(spec, body, (1, cam, n)) for n in (1, 2)]
        a, b = (surface(spec, 1, body, *view.dress) for view in views)
        a, b = (x if cam == 3 else x.base for x in (a, b))
        assert not np.allclose(a, b)
        kept = [synvt.scene(plain, body, (1, cam, n)) for n in (1, 2)]
        assert all(view.dress == () for view in kept)
        for view, same in zip(views, kept, strict=True):
            assert view.yaw == same.yaw and view.phase == same.phase and view.occluder == same.occluder
    assert synvt.factors(spec, [(1, 1, 1)]) == synvt.factors(plain, [(1, 1, 1)])


def test_a_start_is_made_says_how_and_both_streams_begin_with_it(small, tmp_path, capsys):
    file = pretrain.make("thin", tmp_path / "start.safetensors", small)
    text = pretrain.describe(file)
    assert "thin, 2 epochs on synvt_start_tiny" in text and "at rank 1 in" in text
    net, state = train.make_net(experiment("quick", "dpan", weights=str(file)), 5), load_file(file)
    for stream in net.specific:
        assert torch.equal(stream[0].weight, state["conv1.weight"])
        assert torch.equal(stream[4][0].conv2.weight, state["layer1.0.conv2.weight"])
        assert torch.equal(stream[1].running_mean, state["bn1.running_mean"])
    assert torch.equal(net.shared[2][0].conv1.weight, state["layer4.0.conv1.weight"])
    assert not torch.equal(state["conv1.weight"], train.make_net(small, 5).shared[0].weight)  # it has learned
    assert launch.main(["weights", "describe", "thin", str(file)]) == 0 and text in capsys.readouterr().out


def test_a_stopped_start_goes_on_to_the_same_file(small, tmp_path):
    whole = pretrain.make("thin", tmp_path / "whole.safetensors", small)
    folder = results_root() / "cpu" / "weights" / small.run_id

    class Stop(Exception):
        pass

    def stop(row):
        raise Stop

    table, store = pretrain.people(small)
    with pytest.raises(Stop):
        train.fit(small, table, store.pixels, folder, origin=pretrain.origin(small, store), on_epoch=stop)
    assert (folder / "checkpoint.pt").is_file()
    again = pretrain.make("thin", tmp_path / "again.safetensors", small)
    first, second = load_file(whole), load_file(again)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_batches_of_a_start_are_of_one_kind_of_camera_for_each_person(small):
    table, _ = pretrain.people(small)
    cameras = table.cam.isin([3, 6])
    assert (cameras.groupby(table.pid).nunique() == 1).all() and cameras.nunique() == 2
    assert set(table.modality) == {0, 1} and set(table.split) == {"train", "val"}


def test_the_thin_start_ships_is_small_and_is_what_synvt_names():
    file = backbones.weights_file("thin", "synvt")
    assert file.parent.name == "weights" and file.stat().st_size <= 5_000_000
    assert f"on {pretrain.STARTS['thin'].data} " in pretrain.describe(file)
    net = backbones.load_backbone("thin", "synvt")
    assert torch.equal(net.conv1.weight, load_file(file)["conv1.weight"])


def test_a_large_start_that_is_missing_is_one_sentence(home):
    with pytest.raises(FileNotFoundError, match=r"python -m vtlib\.launch weights make resnet50"):
        backbones.load_backbone("resnet50", "synvt")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (["make", "thn"], "unknown start 'thn': did you mean 'thin'?"),
        (["describe", "thin", "{other}"], "does not say how it was made"),
        (["describe", "thin", "{nothing}"], "nothing.safetensors"),
    ],
)
def test_wrong_calls_are_one_sentence(home, tmp_path, capsys, call, sentence):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    names = {n: str(tmp_path / f"{n}.safetensors") for n in ("other", "nothing")}
    assert launch.main(["weights", *(c.format(**names) for c in call)]) == 1
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1


def test_one_stream_reads_both_modalities_with_the_same_weights():
    net = train.make_net(experiment("quick", "baseline", specific_stages=0), 5).eval()
    x = torch.randn(2, 3, 96, 48)
    both = [net(x, torch.full((2,), m)).features for m in (0, 1)]
    assert torch.equal(*both) and not any(name.startswith("specific.1") for name in net.state_dict())


def test_a_run_of_no_epochs_is_the_start_itself_and_a_changed_start_is_seen(small, tmp_path, home):
    file = tmp_path / "start.safetensors"
    net = train.make_net(small, 3)
    save_file(pretrain.as_resnet(net), file)
    wanted = experiment("quick", "identity", weights=str(file), epochs=0)
    done = runs.run(wanted)
    table, store = runs.load_data(wanted)
    test = table[table.split == "test"]
    assert torch.allclose(
        done.features["features"], runs.features_of(train.make_net(wanted, 9), test, store), atol=1e-6
    )
    assert len(done.history) == 0 and runs.is_current(done)
    state = load_file(file)
    save_file({**state, "conv1.weight": state["conv1.weight"] + 1}, file)
    assert not runs.is_current(done)
    again = runs.run(wanted)
    assert not torch.allclose(again.features["features"], done.features["features"])


def test_a_set_made_before_a_field_came_is_still_the_same_set(home, tmp_path):
    spec = replace(PRESETS["synvt_sysu_quick"], identities=(2, 1, 1), images=1, gallery_images=0)
    root = synvt.make(spec, tmp_path / "old", workers=1, progress=False)
    record = json.loads((root / "synvt.json").read_text())
    for name in ("redress", "apart"):
        del record["spec"][name]
    (root / "synvt.json").write_text(json.dumps(record))
    assert synvt.make(spec, root, workers=1, progress=False) == root
    assert len(datasets.read("sysu", root)) == 24
