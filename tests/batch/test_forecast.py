"""The forecast of a profile: faults are named before any work; hours and disk space are checked as sums."""

import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from vtlib import config, launch, runs, train
from vtlib.batch import forecast
from vtlib.config import experiment
from vtlib.data import check, datasets, images
from vtlib.suite import items


@pytest.fixture
def paper(home, tmp_path, monkeypatch):
    """The paper profile at the size of a toy, on copies of the quick sets that stand where the real sets would."""
    monkeypatch.setenv("VTLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VTLIB_RESULTS", str(tmp_path / "results"))
    for layout, name in config.DATA["paper"].items():
        root = tmp_path / "data" / name
        shutil.copytree(home / "data" / config.DATA["quick"][layout], root)
        counts = check.check(layout, root, published=False).set_index("item").found
        monkeypatch.setitem(check.PUBLISHED, layout, {k: counts[k] for k in check.PUBLISHED[layout]})
    small = config.PROFILES["quick"] | {"weights": "none", "train_on": "train+val", "trials": 10}
    monkeypatch.setitem(config.PROFILES, "paper", small)
    own = {"S1.T1": {"main": True}, "S1.T2": {"on": "regdb"}}  # without the systems that S1 compares with
    rows = {key: items.measured("Baseline", "DPAN+CMDC", **of) for key, of in own.items()}
    monkeypatch.setattr(items, "ITEMS", {key: items.ITEMS[key]._replace(rows=rows[key]) for key in own})
    monkeypatch.setattr(forecast, "PROBE", 0.0)  # the commonest shape alone, two steps of it
    return tmp_path


def test_the_plan_states_runs_hours_and_disk_and_starts_nothing(paper, capsys):
    assert launch.main(["plan", "--profile", "paper", "--jobs", "2"]) == 0
    printed = capsys.readouterr().out
    assert "paper: 22 runs, 0 finished, 22 to make" in printed
    assert (
        "SYSU-MM01: 2 runs to make; 496 visible, 176 thermal images" in printed and "RegDB: 20 runs to make" in printed
    )
    assert printed.count("NOT the real set") == 2  # whatever the folders are called
    assert "disk: results 0." in printed and "decoded images 0." in printed and "GB free" in printed
    assert "2 runs at a time" in printed and "(132 steps" in printed  # 22 runs, 2 epochs, 3 steps
    assert "1 of 2 kinds measured, the rest scaled" in printed
    assert not (paper / "results" / "paper" / "runs").exists()


def test_a_second_plan_opens_no_image_and_times_nothing_again(paper, capsys, monkeypatch):
    assert forecast.state("paper") == ["sysu", "regdb"]
    first = capsys.readouterr().out
    monkeypatch.setattr(forecast, "check_set", lambda *a, **k: pytest.fail("opened again"))
    monkeypatch.setattr(forecast, "probe", lambda *a: pytest.fail("timed again"))
    forecast.state("paper")
    again = capsys.readouterr().out
    assert [x for x in again.splitlines() if x.startswith("time")] == [
        x for x in first.splitlines() if x.startswith("time")
    ]


def test_a_changed_file_is_checked_again(paper):
    forecast.state("paper")
    next((paper / "data" / "SYSU-MM01" / "cam3").glob("*/*.jpg")).write_bytes(b"no image")
    with pytest.raises(
        ValueError, match=r"SYSU-MM01 in .*: unreadable images: found 1, expected 0: cam3/.*take it from"
    ):
        forecast.state("paper")


def test_every_fault_has_its_sentence_and_nothing_is_timed(paper, capsys, monkeypatch):
    monkeypatch.setattr(forecast, "probe", lambda *a: pytest.fail("timed"))
    next((paper / "data" / "RegDB" / "Thermal").glob("*/*.bmp")).write_bytes(b"")
    (paper / "data" / "SYSU-MM01" / "exp" / "test_id.txt").unlink()
    assert launch.main(["plan", "--profile", "paper"]) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "data/README.md" in line]
    assert any("unreadable splits: found 1, expected 0" in x and "test_id.txt is missing" in x for x in lines)
    assert any("RegDB in" in x and "unreadable images: found 1" in x for x in lines)


def test_one_of_two_sets_is_enough_and_none_is_not(paper, capsys):
    shutil.rmtree(paper / "data" / "RegDB")
    assert forecast.state("paper") == ["sysu"]
    printed = capsys.readouterr().out
    assert "left out: 20 runs need RegDB: no data set 'RegDB'" in printed and "12 steps" in printed
    shutil.rmtree(paper / "data" / "SYSU-MM01")
    assert launch.main(["plan", "--profile", "paper"]) == 1
    assert "2 runs need SYSU-MM01: no data set" in (error := capsys.readouterr().err) and "20 runs need RegDB" in error


def test_a_finished_profile_needs_nothing(paper, capsys, monkeypatch):
    for e in items.experiments("paper", items.ITEMS):
        folder = paper / "results" / "paper" / "runs" / e.run_id
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("{}")
    for what in ("check", "works", "speed", "weight_faults"):
        monkeypatch.setattr(forecast, what, lambda *a, what=what: [] if what == "weight_faults" else pytest.fail(what))
    shutil.rmtree(paper / "data")  # results may travel without their data
    assert forecast.state("paper") == ["sysu", "regdb"]
    assert "22 runs, 22 finished, 0 to make" in capsys.readouterr().out


def test_weights_that_cannot_be_had_stop_the_plan(paper, monkeypatch):
    monkeypatch.setitem(config.PROFILES, "paper", config.PROFILES["paper"] | {"weights": "imagenet"})
    with pytest.raises(ValueError, match="the thin backbone has no ImageNet weights"):
        forecast.state("paper")

    def no_network(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr("torchvision.models.get_model", no_network)
    monkeypatch.setitem(config.PROFILES, "paper", config.PROFILES["paper"] | {"backbone": "resnet18"})
    with pytest.raises(
        ValueError, match=r"weights of resnet18 could not be downloaded.*put the file into .*checkpoints"
    ):
        forecast.state("paper")


def test_a_full_disk_stops_the_plan_before_anything_is_decoded(paper, monkeypatch):
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda place: SimpleNamespace(free=10_000_000))
    monkeypatch.setattr(images, "_build", lambda *a: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"GB are needed on the disk of .*, 0\.0 GB are free: clear some"):
        forecast.state("paper")


def test_disk_is_what_a_run_leaves(home):
    e = experiment("quick", "parts_mc", dataset="regdb", device="cpu", seed=77)
    work = forecast.works([e])[e.run_id]
    run, sizes = runs.run(e), {}
    for path in run.folder.iterdir():
        sizes[path.name] = path.stat().st_size
    kept = sizes["model.safetensors"] + sizes["features.safetensors"]
    assert work.kept == pytest.approx(kept, rel=0.02)  # names and shapes stand in the files too
    table, _ = runs.load_data(e)
    parts = train.make_parts(e, table.pid[table.split == "train"].nunique(), "cpu")
    for p in parts["net"].parameters():
        p.grad = torch.zeros_like(p)
    parts["optimizer"].step()
    train.checkpoint(run.folder, parts, [], "")
    assert work.passing == pytest.approx(2 * (run.folder / "checkpoint.pt").stat().st_size, rel=0.05)
    (run.folder / "checkpoint.pt").unlink()


def test_steps_and_images_are_those_of_the_run(home):
    e = experiment("quick", "cmdc", steps_per_epoch=0)
    work, (table, _) = forecast.works([e])[e.run_id], runs.load_data(e)
    counts = table.split.value_counts()
    larger = table[table.split == "train"].modality.value_counts().max()
    assert work.steps == 2 * (larger // (4 * 2)) and work.images == counts["test"] + 2 * counts["val"]


class Clock:
    """A clock that only call() and wait() move: the first call takes 10 s, the others 1 s each, waiting 0.5 s."""

    def __init__(self):
        self.now, self.calls = 0.0, 0

    def __call__(self):
        return self.now

    def call(self):
        self.calls += 1
        self.now += 10.0 if self.calls == 1 else 1.0

    def wait(self, out):
        self.now += 0.5


def test_timing_leaves_out_the_warm_up_and_keeps_to_its_budget():
    clock = Clock()
    assert forecast.timed(clock.call, clock.wait, budget=30.0, clock=clock) == pytest.approx((12 * 1.0 + 0.5) / 12)
    assert clock.calls == 2 + 12 and clock.now <= 30.0  # 12 s are over after two, and a call with its wait takes 1.5
    clock = Clock()
    assert forecast.timed(clock.call, clock.wait, budget=5.0, clock=clock) == 1.5 and clock.calls == 2
    clock = Clock()
    forecast.timed(clock.call, clock.wait, budget=1e9, most=7, clock=clock)
    assert clock.calls == 2 + 7


def test_hours_are_steps_times_seconds_and_images_times_seconds(home, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(forecast.resources, "cores", lambda: 8)
    slow, fast = (experiment("quick", m) for m in ("dpan_cmdc", "cmdc"))
    work = {e.run_id: forecast.Work(steps, 100, 0, 0) for e, steps in ((slow, 3600), (fast, 7200))}
    speed = forecast.Speed(
        {forecast.fields_of(slow, forecast.SHAPE): 4.0, forecast.fields_of(fast, forecast.SHAPE): 1.0}, 2, 36.0
    )
    text = forecast.hours([slow, fast], work, speed, jobs=4)
    # (3600 * 4 + 7200) s and 200 * 36 s on two threads, of eight cores
    assert "about 2.0 h of all 8 cores" in text
    assert "training 1.5 h (10,800 steps" in text and "images 30.0 min" in text
    gpu = {"device": "cuda: a card"}
    monkeypatch.setattr(forecast, "environment", lambda *arguments: gpu)
    assert "about 8.0 h of cuda: a card, one run after the other" in forecast.hours([slow, fast], work, speed, jobs=4)


def test_shapes_beyond_the_budget_are_scaled_by_images(home, tmp_path, monkeypatch):
    todo = [
        experiment("quick", "cmdc"),
        experiment("quick", "cmdc", identities_per_batch=8),
        experiment("quick", "dpan"),
    ]
    work = {e.run_id: forecast.Work(steps, 0, 0, 0) for e, steps in zip(todo, (10, 1, 5), strict=True)}
    probed, now = [], iter([0.0, 0.0, 50.0, 61.0, 0.0])
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(
        forecast, "probe", lambda e, budget: probed.append((e.method, budget)) or (2.0 * len(probed), 0.1)
    )
    speed = forecast.speed(tmp_path, todo, work)
    assert probed == [("cmdc", 20.0), ("dpan", 5.0)] and speed.measured == 2
    small, large, other = (forecast.fields_of(e, forecast.SHAPE) for e in todo)
    assert speed.steps == {small: 2.0, other: 4.0, large: 32 * 2 * (2.0 + 4.0) / (2 * 16 * 2)} and speed.image == 0.1
    assert set(json.loads((tmp_path / "probe.json").read_text())["probe"]["steps"]) == {small, other}
    assert forecast.speed(tmp_path, todo, work) == speed and len(probed) == 2  # the third is not tried again


def test_results_and_decoded_images_on_one_disk_are_added_up(paper, monkeypatch):
    e = items.experiments("paper", ["S1.T1"])[0]
    table = datasets.read("sysu", paper / "data" / "SYSU-MM01")
    decoded, kept, passing = len(table) * 3 * e.height * e.width, 10**8, 10**7
    for free, fits in ((decoded + kept + 2 * passing, True), (decoded + kept + 2 * passing - 1, False)):
        monkeypatch.setattr(forecast.shutil, "disk_usage", lambda place, free=free: SimpleNamespace(free=free))
        with nullcontext() if fits else pytest.raises(ValueError, match="are needed on the disk"):
            assert "results 0.1 GB" in forecast.disk([e], {e.run_id: forecast.Work(0, 0, kept, passing)}, jobs=2)
