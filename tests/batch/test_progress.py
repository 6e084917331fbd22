"""What a call says while it works: the order of results with measured times, and what runs, is done and is left."""

import io
import json
import time

import pytest

from vtlib.batch import graph, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def plan(home, tmp_path, monkeypatch):
    """A plan of quick without any output, in a folder of its own."""
    monkeypatch.setenv("VTLIB_RESULTS", str(tmp_path))
    (tmp_path / "quick" / "jobs").mkdir(parents=True)
    return graph.plan("quick", ["20_ablation", "22_convergence"])


def record(plan, name, started, **more):
    path = f"{plan['results']}/jobs/{name}.json"
    with open(path, "w") as file:
        json.dump({"started": started, "state": "failed", "reason": "killed"} | more, file)


def trains(plan):
    return [name for name, job in plan["jobs"].items() if job["rule"] == "train"]


def test_the_first_table_comes_first_with_its_time_where_jobs_were_measured(plan):
    todo = progress.to_make(plan)
    assert todo == list(plan["jobs"])
    assert progress.order(plan, todo, 2) == "first S1.T3, then S1.F5"
    first, *others = trains(plan)
    record(plan, first, 1.0, state="ran", seconds=120)
    rest = [name for name in todo if name != first]  # 4 runs of two minutes, two at a time
    assert progress.order(plan, rest, 2).startswith("first S1.T3 after about 4 min, then S1.F5 after about")
    probed = dict.fromkeys(others, 3600.0)
    with open(f"{plan['results']}/probe.json", "w") as file:
        json.dump({"runs": probed}, file)
    assert progress.order(plan, rest, 2).startswith("first S1.T3 after about 4.0 h")


def test_data_is_no_job_where_every_run_is_done(plan, tmp_path):
    for job in plan["jobs"].values():
        if job["rule"] == "train":
            (path := tmp_path / "quick" / job["output"]).parent.mkdir(parents=True)
            path.write_text("{}")
    assert progress.to_make(plan) == ["20_ablation", "22_convergence"]


def test_the_time_that_is_left_is_that_of_finished_jobs_of_this_call(plan):
    (one, two, three, *_), watch = trains(plan), progress.Watch(plan, 2)
    record(plan, one, watch.start - 60, state="ran", seconds=1)  # of an earlier call
    assert watch.look() == [] and watch.left(watch.start) is None
    record(plan, one, watch.start + 1, state="ran", seconds=100)
    record(plan, two, watch.start + 1)
    ((name, line),) = watch.look()
    assert name == one and line == f"1 of {len(watch.todo)}: {plan['jobs'][one]['what']}: took 2 min"
    assert list(watch.running) == [two] and watch.look() == []
    others = len(watch.todo) - 2
    assert watch.left(watch.start + 51) == pytest.approx((others * 100 + 50) / 2)
    assert "now: " in watch.line(200) and len(watch.line(40)) < 40
    record(plan, three, watch.start + 1, reason="no memory", seconds=3)
    assert watch.look()[0][1].endswith("FAILED: no memory")


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_one_line_on_a_terminal_and_a_line_a_job_elsewhere(plan, monkeypatch, kind):
    monkeypatch.setattr(progress, "EVERY", 0.02)
    out, (one, two, *_) = kind(), trains(plan)
    with progress.said(plan, 2, out) as watch:
        record(plan, one, watch.start + 1, state="ran", seconds=7)
        record(plan, two, watch.start + 1, reason="no memory", seconds=7)
        record(plan, "20_ablation", watch.start + 1, state="ran", seconds=7)
        time.sleep(0.5)
    text, lasting = (
        out.getvalue(),
        [line for line in out.getvalue().splitlines() if ": took" in line or "FAILED" in line],
    )
    if kind is Terminal:
        assert len(lasting) == 2 and text.count("\n") == 2  # the failure, and the notebook to look at
        assert text.count("\r") > 5 and text.endswith("\r\x1b[K") and "3 of 10 done" in text
    else:
        assert len(lasting) == 3 and text.count("\n") == 3 and "\r" not in text and "\x1b" not in text
