"""The store of results: done means metrics.json, nothing finished is lost, redone or read when it is stale."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from vtlib import device, evaluate, protocols, runs, train
from vtlib.config import experiment
from vtlib.data import datasets
from vtlib.suite import compare, embeddings, transfer


@pytest.fixture(scope="module")
def done(home):
    return runs.run(experiment("quick", "cmdc", device="cpu"))


def test_a_run_has_all_its_files_and_metrics_say_where_they_come_from(done):
    names = {p.name for p in done.folder.iterdir()}
    assert names - {"searched"} == {
        *("experiment.json", "history.jsonl", "features.safetensors", "model.safetensors", "metrics.json")
    }
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
    assert done.metrics["finished"] in said and f"delete {done.folder} to make it anew" in said


def test_stored_features_give_the_stored_metrics_and_the_stored_network_gives_the_features(done):
    f = done.features
    permutations = datasets.sysu_permutations(datasets.locate(done.experiment.data) / "exp" / "rand_perm_cam.mat")
    again = evaluate.sysu(f["features"], f["pid"], f["cam"], f["number"], permutations=permutations, trials=2)
    stored = done.trials("sysu all 1-shot official")
    np.testing.assert_allclose(again[runs.METRICS], stored[runs.METRICS], atol=1e-12)
    table, store = runs.load_data(done.experiment)
    features = runs.features_of(done.net(), table[table.split == "test"], store)
    torch.testing.assert_close(features, f["features"], atol=1e-5, rtol=1e-5)
    norms = features.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("broken_at", ["fit", "features_of", "write_tensors"])
def test_killed_anywhere_it_is_not_done_and_goes_on(home, monkeypatch, broken_at):
    wanted = experiment("quick", "baseline", seed={"fit": 11, "features_of": 12, "write_tensors": 13}[broken_at])
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
    runs.load_data(wanted)  # a process looks at a set once, and whenever it is loaded
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
    runs.load_data(wanted)
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
    assert set(transfer.transfer(run, shared / "realdata" / "kaist_ped")) == {"folder v2t", "folder t2v"}


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


def test_equal_draws_are_one_draw_and_no_spread(done):
    frame = runs.collect([done]).set_index("protocol")
    ten, one = frame.loc["sysu all 10-shot official"], frame.loc["sysu all 1-shot official"]
    assert ten.trials == 1 and ten[[f"{m}_sd" for m in runs.METRICS]].isna().all()  # test people have ten images
    assert one.trials == 2 and one[[f"{m}_sd" for m in runs.METRICS]].notna().all()


def test_transfer_to_a_real_folder_leaves_out_the_same_instant(done, shared):
    root = shared / "realdata" / "kaist_ped"
    network, histograms = (transfer.transfer(done, root, histograms=h) for h in (False, True))
    assert set(network) == set(histograms) == {"folder v2t", "folder t2v"}
    # identities 16 to 32 have one image each way, of one instant: no match is left, so they are no queries
    assert 0 < network["folder v2t"].queries.item() < 39 and network["folder t2v"].queries.item() < 69
    assert histograms["folder t2v"].rank1.item() > 1 / 32


def test_shown_searches_are_real_rows(done):
    table, store = runs.load_data(done.experiment)
    found = embeddings.examples(done.embedded(), store, queries=3, top=4)
    assert found["found"].shape == found["right"].shape == (3, 4) and len(found["names"]) == 3
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


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe\x00", b"[]"])
@pytest.mark.parametrize(
    "name", ["metrics.json", "experiment.json", "history.jsonl", "features.safetensors", "model.safetensors"]
)
def test_a_broken_file_of_a_run_is_named_and_nothing_is_lost(home, done, name, content):
    path = done.folder / name
    before = path.read_bytes()
    if name == "history.jsonl" and not content:
        return  # no epochs
    path.write_bytes(content)
    try:
        with pytest.raises(ValueError) as error:
            again = runs.run(done.experiment)
            (again.metrics, again.history, again.features, again.net())
        text = str(error.value)
        assert str(path) in text and f"delete the folder {done.folder}" in text and "\n" not in text
    finally:
        path.write_bytes(before)
    assert runs.run(done.experiment).metrics == done.metrics


def stop_after_an_epoch(wanted, monkeypatch):
    """Leave the run of an experiment behind its first checkpoint."""
    real = train.checkpoint

    def stop(*given):
        real(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            runs.run(wanted)


def flipped(content):
    return content[:9000] + bytes([content[9000] ^ 1]) + content[9001:]


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:9999],
    "one byte short": lambda content: content[:-1],
    "a bit flipped": flipped,
    "a block of zeros": lambda content: content[:4096] + bytes(4096) + content[8192:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_checkpoint_is_named_and_training_begins_anew(home, monkeypatch, capsys, damage):
    wanted = experiment("quick", "baseline", seed=31, epochs=1)
    stop_after_an_epoch(wanted, monkeypatch)
    folder = home / "results" / "quick" / "runs" / wanted.run_id
    path = folder / "checkpoint.pt"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    whole = runs.run(wanted)
    assert f"{path} cannot be read" in capsys.readouterr().err and len(whole.history) == 1
    shutil.rmtree(folder)


def test_a_run_of_before_is_read_and_the_precision_of_before_is_that_of_its_metrics(done):
    path = done.folder / "experiment.json"
    before = json.loads(path.read_text())
    fields = {k: v for k, v in before.items() if k != "specific_stages"} | {"one_stream": False, "precision": "auto"}
    path.write_text(json.dumps(fields))
    try:
        assert runs.load(done.folder).experiment.run_id == done.experiment.run_id and runs.is_current(done)
        path.write_text(json.dumps(fields | {"one_stream": True}))
        assert runs.load(done.folder).experiment.specific_stages == 0 and not runs.is_current(done)
        path.write_text(json.dumps(fields | {"metric_on": "features"}))
        places = {name: term.get("on") for name, term in runs.load(done.folder).experiment.losses.items()}
        assert places == {"id": None} | dict.fromkeys([name for name in before["losses"] if name != "id"], "neck")
        path.write_text(json.dumps(fields | {"colour": "red"}))
        with pytest.raises(ValueError, match=r"experiment\.json is of another version of this code \(colour: "):
            runs.load(done.folder)
    finally:
        path.write_text(json.dumps(before))


def test_precision_is_settled_before_a_run_has_its_id(monkeypatch):

    ids = {}
    for native in ("bf16", "float32"):
        monkeypatch.setattr(device, "native_precision", lambda name, native=native: native)
        ids[native] = experiment("quick", "cmdc").run_id
        assert experiment("quick", "cmdc", precision="auto").run_id == ids[native]
        assert experiment("quick", "cmdc", precision=native).precision == native
    assert ids["bf16"] != ids["float32"]
    monkeypatch.undo()
    assert experiment("quick", "cmdc", precision="float32").run_id == ids["float32"]


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_a_device_that_is_not_here_stops_before_the_data_is_opened(home, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runs, "load_data", lambda e, **k: pytest.fail("data was opened"))
    with pytest.raises(ValueError, match=f"device={name}: this machine has no GPU that torch can use"):
        runs.run(experiment("quick", "cmdc", seed=77, device=name))


@pytest.mark.parametrize("dataset", ["sysu", "regdb"])
def test_finished_runs_are_shown_without_a_second_look_at_any_image(home, dataset, monkeypatch):
    splits = (1, 2) if dataset == "regdb" else (1,)
    finished = [runs.run(experiment("quick", "cmdc", device="cpu", dataset=dataset, split=split)) for split in splits]
    protocol = next(iter(finished[0].metrics["protocols"]))
    for run in finished:
        run.queries(protocol)
    for memory in (runs._loaded, runs._stores, runs._kept):  # as in a new process
        memory.clear()
    opened, looked_at = Counter(), Counter()

    def note(event, arguments):  # an audit hook stays: it counts for good, and this test reads it now
        if event == "open" and str(arguments[0]).endswith((".jpg", ".bmp")):
            opened[str(arguments[0])] += 1

    def stat(path, *args, real=os.stat, **options):
        if str(path).endswith((".jpg", ".bmp")):
            looked_at[str(path)] += 1
        return real(path, *args, **options)

    sys.addaudithook(note)
    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(protocols.Embedded, "ranked", lambda *a: pytest.fail("searched again"))
    for _ in range(3):
        for run in finished:
            assert runs.run(run.experiment).queries(protocol).shape[0] == run.trials(protocol).queries.iloc[0]
            table, store = runs.load_data(run.experiment, anew=False)
            assert len(table) <= len(store.pixels) and (table.split == "test").any()
    assert not opened and looked_at and set(looked_at.values()) == {1}


def test_what_was_searched_is_read_to_the_last_bit_and_searched_again_after_a_change(done, tmp_path, monkeypatch):
    run = runs.Run(done.experiment, shutil.copytree(done.folder, tmp_path / "run"))
    protocol, searched, real = "sysu all 1-shot official", [], protocols.Embedded.queries
    monkeypatch.setattr(protocols.Embedded, "queries", lambda *a: searched.append(1) or real(*a))
    file = run.folder / "searched" / "sysu_all_1-shot_official.json"

    def again():
        runs._kept.clear()
        return run.queries(protocol)

    first = real(run.embedded(protocols.named(protocol)), protocols.named(protocol), len(run.trials(protocol)))
    file.unlink(missing_ok=True)
    assert again().equals(first) and again().equals(first) and len(searched) == 1
    file.write_text(file.read_text()[:9])
    assert again().equals(first) and len(searched) == 2
    os.utime(run.folder / "features.safetensors", (1, 1))
    assert again().equals(first) and len(searched) == 3
    monkeypatch.setattr(runs, "code_digest", lambda: "of a changed metric")
    assert again().equals(first) and len(searched) == 4
    shutil.rmtree(file.parent)
    file.parent.write_text("a file: nothing can be written below it")
    assert again().equals(first) and again().equals(first) and len(searched) == 6


def folder_of_images(root, csv="", people=8):
    from PIL import Image

    for m, modality in enumerate(("Visible", "Thermal")):
        for pid in range(1, people + 1):
            (root / modality / str(pid)).mkdir(parents=True)
            for k in range(3):
                pixels = np.random.default_rng([m, pid, k]).integers(0, 99, (48, 24, 3), np.uint8)
                pixels[: 5 * pid] += 100  # a shape of the person's own, in both modalities
                Image.fromarray(pixels).save(root / modality / str(pid) / f"{k}.png")
    if csv:
        (root / "split.csv").write_text("id,split\n" + csv)
    return root


def test_ones_own_loss_has_an_interval_and_a_verdict_on_ones_own_folder(home, tmp_path):
    csv = "".join(f"{pid},{'train' if pid < 5 else 'test'}\n" for pid in range(1, 9))
    where = {"dataset": "folder", "data": str(folder_of_images(tmp_path / "mine", csv)), "identities_per_batch": 4}
    ours, base = ([runs.run(experiment("quick", m, seed=s, **where)) for s in (0, 1)] for m in ("mc", "baseline"))
    assert ours[0].experiment.validation_identities == 0
    gain = compare.gains(compare.differences(ours, base, "folder v2t"))["rank1"]
    assert gain.pairs == 2 and gain.low <= gain.gain <= gain.high and compare.verdict(gain) in compare.VERDICTS
    assert runs.chance(ours[0], "folder v2t").rank1 == pytest.approx(1 / 4)  # of four people
    assert set(transfer.by_query(ours[0].embedded(protocols.named("folder v2t"))).direction) == {"v2t", "t2v"}


@pytest.mark.parametrize(
    ("csv", "fields", "sentence"),
    [
        ("1,train\n2,train\n3,train\n4,train\n", {}, "nobody is in split 'test'"),
        ("1,test\n2,test\n3,test\n4,test\n", {}, "nobody is in split 'train'"),
        ("", {}, "nobody is in split 'train'"),
        ("1,train\n2,train\n3,test\n4,test\n", {}, "set identities_per_batch to 2 or lower"),
    ],
)
def test_a_set_on_which_nothing_can_be_trained_or_tested_stops_before_any_step(
    home, tmp_path, monkeypatch, csv, fields, sentence
):
    monkeypatch.setattr(train, "fit", lambda *a, **k: pytest.fail("trained"))
    root = folder_of_images(tmp_path / "mine", csv, people=4)
    with pytest.raises(ValueError, match=sentence) as error:
        runs.run(experiment("quick", "baseline", dataset="folder", data=str(root), **fields))
    assert "\n" not in str(error.value)
    if not csv:
        wanted = experiment("quick", "identity", dataset="folder", data=str(root), epochs=0)
        monkeypatch.undo()
        assert set(runs.run(wanted).metrics["protocols"]) == {"folder v2t", "folder t2v"}  # it can be searched


def test_runs_of_a_machine_with_another_precision_are_read_by_one_variable(home, done, monkeypatch, capsys):
    for precision in ("bf16", "float32"):
        monkeypatch.setenv("VTLIB_PRECISION", precision)
        assert experiment("quick", "cmdc").precision == precision
    (other,) = runs.in_other_precision(done.experiment)
    monkeypatch.setattr(runs, "make", lambda e, folder: None)
    runs.run(other)
    said = f"run {done.experiment.run_id} is this one in {done.experiment.precision}: VTLIB_PRECISION="
    assert said in capsys.readouterr().out
    monkeypatch.setenv("VTLIB_PRECISION", "bf17")
    with pytest.raises(ValueError, match="VTLIB_PRECISION=bf17: unknown precision 'bf17': did you mean 'bf16'"):
        experiment("quick", "cmdc")


def test_words_are_no_code():
    source = '"""Room."""\n\nX = "# no comment"  # why\n\n\ndef f():\n    """What."""\n    # because\n    return X\n'
    assert runs.without_words(source) == 'X = "# no comment"\ndef f():\n    return X'
    assert runs.code_digest() != runs.code_digest(runs.TRAINING_CODE)


def test_epochs_of_other_training_code_are_not_gone_on_with(home, monkeypatch):
    wanted = experiment("quick", "baseline", seed=32)
    stop_after_an_epoch(wanted, monkeypatch)
    monkeypatch.setattr(runs, "code_digest", lambda names=runs.RESULT_CODE: f"of an edited loss, {len(names)}")
    trained, epoch = [], train.train_epoch
    monkeypatch.setattr(train, "train_epoch", lambda *a: trained.append(a[4]) or epoch(*a))
    runs.run(wanted)
    assert trained == [0, 1] and set(runs.TRAINING_CODE) < set(runs.RESULT_CODE)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"weights": "/nowhere/w.pth"}, "weights file /nowhere/w.pth does not exist"),
        ({"weights": "imagenet"}, "the thin backbone has no ImageNet weights"),
        ({"backbone": "resnet5000"}, "backbone 'resnet5000' is not known"),
        ({"backbone": "resnet18"}, "weights=synvt is made for thin and resnet50, not for resnet18"),
        ({"attention": True, "attention_reduction": 5}, "attention_reduction 5 does not divide the 24 channels"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov=true needs a momentum above 0"),
    ],
)
def test_a_network_that_cannot_be_built_stops_before_the_data_is_opened(home, monkeypatch, fields, sentence):
    monkeypatch.setattr(runs, "load_data", lambda e, **k: pytest.fail("data was opened"))
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        runs.run(experiment("quick", "baseline", seed=78, **fields))


def test_weights_broken_by_the_last_step_are_not_stored(home):
    wanted = experiment("quick", "identity", seed=79, lr=1e30, epochs=1, steps_per_epoch=1)
    with pytest.raises(FloatingPointError, match=r"are not finite.* lower lr"):
        runs.run(wanted)
    assert not (home / "results" / "quick" / "runs" / wanted.run_id / "metrics.json").exists()
    net = train.make_net(wanted.but(weights="none"), 2)
    train.stop_if_broken(net, 0)
    net.classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="weights are not finite after epoch 1: lower lr"):
        train.stop_if_broken(net, 0)


@pytest.mark.parametrize("lacks", ["protocols", "data_digest", "precision", "finished"])
def test_metrics_without_what_they_must_have_are_named(done, lacks):
    path = done.folder / "metrics.json"
    before = path.read_text()
    path.write_text(json.dumps({k: v for k, v in json.loads(before).items() if k != lacks}))
    try:
        with pytest.raises(ValueError, match=f"not whole \\(no {lacks} in it\\): delete the folder"):
            runs.run(done.experiment).metrics  # noqa: B018
    finally:
        path.write_text(before)


def test_features_without_what_they_must_have_are_named(done, tmp_path):
    from safetensors.torch import save_file

    folder = shutil.copytree(done.folder, tmp_path / "run")
    for broken in (
        {k: v for k, v in done.features.items() if k != "pid"},
        {**done.features, "pid": done.features["pid"][:3]},
    ):
        save_file(broken, folder / "features.safetensors")
        with pytest.raises(ValueError, match=r"features\.safetensors is not whole"):
            runs.Run(done.experiment, folder).features  # noqa: B018
    for name in ("experiment.json", "history.jsonl"):
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"experiment\.json is missing: delete the folder"):
        runs.load(folder)
    with pytest.raises(FileNotFoundError, match=r"history\.jsonl is missing: delete the folder"):
        runs.Run(done.experiment, folder).history  # noqa: B018
