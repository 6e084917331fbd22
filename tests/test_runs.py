"""The store of results: done means metrics.json, nothing finished is lost, redone or read when it is stale."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from vtlib import datasets, evaluate, runs, train
from vtlib.config import experiment


@pytest.fixture(scope="module")
def done(home):
    return runs.run(experiment("quick", "cmdc", device="cpu"))


def test_a_run_has_all_its_files_and_metrics_say_where_they_come_from(done):
    names = {p.name for p in done.folder.iterdir()}
    assert names == {"experiment.json", "history.jsonl", "features.safetensors", "model.safetensors", "metrics.json"}
    m = done.metrics
    assert {"versions", "device", "commit", "seed", "train_seconds", "data_digest", "protocols", "finished"} <= set(m)
    assert m["run_id"] == done.folder.name == done.experiment.run_id and len(m["data_digest"]) == 64
    wanted = {f"sysu {mode} 1-shot {g}" for mode in ("all", "indoor") for g in ("official", "community")}
    assert wanted <= set(m["protocols"])


def test_a_finished_run_is_loaded_not_repeated(done, monkeypatch):
    monkeypatch.setattr(train, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert runs.run(done.experiment).metrics == done.metrics


def test_a_run_of_other_code_is_loaded_and_said_to_be(done, monkeypatch):
    assert done.metrics["code_digest"] == runs.code_digest() and runs.other_code(done) == ""
    monkeypatch.setattr(runs, "code_digest", lambda: "of a changed loss")
    said = runs.other_code(done)
    assert done.metrics["finished"] in said and f"delete {done.folder} to train anew" in said


def test_stored_features_give_the_stored_metrics_and_the_stored_network_gives_the_features(done):
    f = done.features
    permutations = datasets.sysu_permutations(datasets.locate(done.experiment.data) / "exp" / "rand_perm_cam.mat")
    again = evaluate.sysu(f["features"], f["pid"], f["cam"], f["number"], permutations=permutations, trials=2)
    stored = done.trials("sysu all 1-shot official")
    np.testing.assert_allclose(again[runs.METRICS], stored[runs.METRICS], atol=1e-12)
    table, store = runs.load_data(done.experiment)
    features = runs.extract(done.net(), table[table.split == "test"], store)
    torch.testing.assert_close(features, f["features"], atol=1e-5, rtol=1e-5)
    norms = features.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("broken_at", ["fit", "extract", "protocol_tables"])
def test_killed_anywhere_it_is_not_done_and_goes_on(home, monkeypatch, broken_at):
    wanted = experiment("quick", "baseline", seed={"fit": 11, "extract": 12, "protocol_tables": 13}[broken_at])
    owner = train if broken_at == "fit" else runs
    real, calls = getattr(owner, broken_at), []

    def stop(*args, **kwargs):
        if broken_at == "fit":

            def interrupt(row):
                raise KeyboardInterrupt

            kwargs["on_epoch"] = interrupt
            return real(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, broken_at, stop)
        with pytest.raises(KeyboardInterrupt):
            runs.run(wanted)
    folder = home / "results" / "quick" / "runs" / wanted.run_id
    assert not (folder / "metrics.json").exists() and (folder / "checkpoint.pt").is_file()
    real_epoch = train.train_epoch
    monkeypatch.setattr(train, "train_epoch", lambda *a: calls.append(1) or real_epoch(*a))
    assert runs.run(wanted).metrics["run_id"] == wanted.run_id
    assert len(calls) == (1 if broken_at == "fit" else 0)  # of two epochs only what was missing
    assert not (folder / "checkpoint.pt").exists()


def test_two_processes_make_one_run(home, monkeypatch):
    wanted, calls, real = experiment("quick", "dpan", seed=21), [], runs.make
    monkeypatch.setattr(runs, "make", lambda *a: calls.append(1) or real(*a))
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(runs.run, [wanted, wanted])
    assert calls == [1] and a.metrics == b.metrics


def test_a_run_of_changed_data_or_fields_is_set_aside_never_read_never_deleted(home):
    source = home / "data" / "synvt_sysu_quick"
    copy = home / "data" / "copy"
    shutil.copytree(source, copy)
    wanted = experiment("quick", "cmdc", data="copy", epochs=1)
    first = runs.run(wanted).metrics
    image = next(copy.glob("cam1/*/*.jpg"))
    shutil.copyfile(next(copy.glob("cam2/*/*.jpg")), image)
    second = runs.run(wanted).metrics
    assert second["data_digest"] != first["data_digest"]
    (kept,) = (home / "results" / "quick" / "runs").glob(f"{wanted.run_id}-before-*/metrics.json")
    assert json.loads(kept.read_text())["data_digest"] == first["data_digest"]
    shutil.rmtree(copy)
    assert runs.run(wanted).metrics == second  # results may travel without their data


def test_a_run_of_other_lists_or_permutations_is_not_current_nor_its_checkpoint_used(home):
    copy = home / "data" / "lists"
    shutil.copytree(home / "data" / "synvt_sysu_quick", copy)
    wanted = experiment("quick", "cmdc", data="lists", epochs=1)
    mat = copy / "exp" / "rand_perm_cam.mat"
    aside = mat.rename(copy / "aside.mat")
    without = runs.run(wanted)
    assert not any("official" in name for name in without.metrics["protocols"])
    aside.rename(mat)
    assert "sysu all 1-shot official" in runs.run(wanted).metrics["protocols"]
    before = runs.load_data(wanted)[1].digest
    train_ids, test_ids = copy / "exp" / "train_id.txt", copy / "exp" / "test_id.txt"
    a, b = train_ids.read_text(), test_ids.read_text()
    train_ids.write_text(b), test_ids.write_text(a)  # the same images, other people tested
    assert runs.load_data(wanted)[1].digest != before
    exchanged = runs.run(wanted)
    assert set(exchanged.features["pid"].tolist()) == {int(p) for p in a.split(",")}
    shutil.rmtree(copy)


def test_transfer_of_a_run_of_another_regdb_split(home, shared):
    run = runs.run(experiment("quick", "baseline", dataset="regdb", split=2))
    assert set(runs.transfer(run, shared / "realdata" / "kaist_ped")) == {"folder v2t", "folder t2v"}


def test_regdb_gives_both_directions(home):
    run = runs.run(experiment("quick", "baseline", dataset="regdb"))
    assert set(run.metrics["protocols"]) == {"regdb v2t", "regdb t2v"}
    assert run.history.val_cmdc.notna().all()  # training identities held out


def test_collect_is_tidy_and_means_the_trials(done):
    frame = runs.collect([done])
    assert len(frame) == len(done.metrics["protocols"])
    row = frame[frame.protocol == "sysu all 1-shot official"].iloc[0]
    trials = done.trials("sysu all 1-shot official")
    assert row.mAP == pytest.approx(trials.mAP.mean()) and row.trials == len(trials) == 2
    with pytest.raises(ValueError, match="has no protocol 'sysu'"):
        runs.collect([done], "sysu")


def test_transfer_to_a_real_folder_leaves_out_the_same_instant(done, shared):
    root = shared / "realdata" / "kaist_ped"
    network, histograms = (runs.transfer(done, root, histograms=h) for h in (False, True))
    assert set(network) == set(histograms) == {"folder v2t", "folder t2v"}
    # identities 16 to 32 have one image each way, of one instant: no match is left, so they are no queries
    assert 0 < network["folder v2t"].queries.item() < 39 and network["folder t2v"].queries.item() < 69
    assert histograms["folder t2v"].rank1.item() > 1 / 32


def test_hardest_searches_are_real_rows(done):
    found = runs.hardest(done, queries=3, top=4)
    assert found["found"].shape == found["right"].shape == (3, 4) and len(found["names"]) == 3
    table = runs.load_data(done.experiment)[0]
    assert (table.modality[found["queries"]] == 1).all() and (table.modality[found["found"].ravel()] == 0).all()
    pids = table.pid.to_numpy()
    np.testing.assert_array_equal(found["right"], pids[found["found"]] == pids[found["queries"]][:, None])


def test_a_missing_data_set_is_one_sentence_before_any_work(home):
    command = [sys.executable, "-m", "vtlib.launch", "train", "profile=quick", "data=nowhere"]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 1 and "nowhere" in out.stderr and len(out.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("dataset", ["sysu", "regdb"])
def test_single_queries_give_the_stored_metrics(home, dataset):
    run = runs.run(experiment("quick", "cmdc", device="cpu", dataset=dataset))
    for protocol in run.metrics["protocols"]:
        each = run.queries(protocol)
        assert len(each) == run.trials(protocol).queries.iloc[0] and each.row.is_unique
        np.testing.assert_allclose(each[runs.METRICS].mean(), run.trials(protocol)[runs.METRICS].mean(), atol=1e-9)
        assert each is runs.Run(run.experiment, run.folder).queries(protocol)  # once in a process
    with pytest.raises(ValueError, match="has no protocol"):
        run.queries("sysu nowhere")


def test_features_that_are_not_the_metrics_own_are_refused(home, done, tmp_path):
    folder = shutil.copytree(done.folder, tmp_path / "run")
    stored = json.loads((folder / "metrics.json").read_text())
    for trial in stored["protocols"]["sysu all 1-shot official"]:
        trial["mAP"] += 0.01
    (folder / "metrics.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="does not give the sysu all 1-shot official"):
        runs.Run(done.experiment, folder).queries("sysu all 1-shot official")


def test_a_run_of_no_epochs_is_the_network_as_it_starts(home):
    wanted = experiment("quick", "identity", epochs=0, device="cpu")
    run = runs.run(wanted)
    assert run.history.empty and run.metrics["train_seconds"] == 0 and run.metrics["protocols"]
    start = train.make_net(wanted, run.net().num_classes).state_dict()
    assert all(torch.equal(start[name], value) for name, value in run.net().state_dict().items())
    assert runs.run(wanted).metrics == run.metrics and not (run.folder / "checkpoint.pt").exists()
