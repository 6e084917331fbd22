"""The graph on profile quick: real runs, which are killed and continued; and runs of a second, also on Slurm."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from vtlib import config, pretrain, runs
from vtlib.batch import forkserver, graph, job, resources
from vtlib.methods import METHODS
from vtlib.suite import items

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path for path in graph.NOTEBOOKS.glob("[0-9]*.ipynb") if path != graph.TRAIN)
CALL = [sys.executable, "-m", "vtlib.launch", "all", "--profile", "quick", "--jobs", "2"]


def test_every_experiment_is_said_in_parameters_of_the_train_notebook():
    for profile in config.PROFILES:
        for experiment in items.experiments(profile, items.ITEMS):
            parameters = json.loads(json.dumps(config.parameters(experiment)))  # as papermill and plan.json hand it on
            assert config.of_parameters(parameters) == experiment
    odd = config.experiment("paper", "margin_mmd", dataset="regdb", losses={"id": {"weight": 1.0}}, epochs=3)
    assert config.parameters(odd)["overrides"] == {
        "losses": {"id": {"weight": 1.0}},
        "epochs": 3,
        "precision": odd.precision,  # in every job: the machine that runs it may have another one of its own
    }


def test_a_notebook_needs_the_runs_of_what_it_states():
    jobs = graph.jobs("quick", [])
    runs = {e.run_id for e in items.experiments("quick", items.ITEMS)}
    assert {name for name, job in jobs.items() if job["rule"] == "train"} == runs
    assert jobs["20_ablation"]["needs"] == outputs(items.experiments("quick", ["S1.T3"]))
    assert set(jobs["33_mining_and_weighting"]["needs"]) == set(outputs(items.experiments("quick", ["S2.T5", "S2.F4"])))
    notebooks = [job["output"] for name, job in jobs.items() if job["rule"] == "notebook" and name != "90_report"]
    assert set(jobs["90_report"]["needs"]) == set(notebooks)
    assert list(jobs)[-1] == "90_report"
    for name, methods in {
        "40_tsne": {"baseline", "identity", "parts_mc"},
        "41_synvt": {"baseline", "identity", "parts_mc"},
    }.items():
        assert {jobs[run.split("/")[1]]["parameters"]["method"] for run in jobs[name]["needs"]} == methods
    assert set(graph.jobs("quick", ["S1.F5"])) == {
        *(e.run_id for e in items.experiments("quick", ["S1.F5"])),
        *config.DATA["quick"].values(),
    }
    with pytest.raises(ValueError, match="did you mean 'S1"):
        graph.jobs("quick", ["S1.T33"])


@pytest.mark.parametrize("profile", ["quick", "cpu", "gpu"])
def test_the_first_papers_ablation_is_first_and_each_notebook_follows_its_last_run(profile):
    jobs = graph.jobs(profile, [])
    outputs_of = [job["output"] for job in jobs.values()]
    first = [name for name, job in jobs.items() if job["rule"] == "train"][: len(jobs["20_ablation"]["needs"])]
    assert {f"runs/{name}/metrics.json" for name in first} == set(jobs["20_ablation"]["needs"])
    shown = [name for name, job in jobs.items() if job["rule"] == "notebook"]
    assert shown[0] == "20_ablation" and shown[-1] == "90_report"
    assert shown.index("30_comparison") > max(shown.index(n) for n in ("21_lambda_sweep", "22_convergence"))
    for n, (name, one) in enumerate(jobs.items()):
        assert all(outputs_of.index(need) < n for need in one["needs"]), f"{name} comes before what it needs"
        if one["rule"] == "notebook":
            between = outputs_of[1 + max(map(outputs_of.index, one["needs"])) : n]
            assert all(output.startswith("notebooks/") for output in between), f"{name} waits for {between}"
    sets = [name for name, job in jobs.items() if job["rule"] == "data"]
    assert list(jobs).index(sets[1]) > list(jobs).index("20_ablation")  # RegDB's layout is not drawn before


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if not p.name.startswith(graph.LAST)], ids=lambda p: p.stem)
def test_every_table_that_a_notebook_names_in_quotes_is_among_its_needs(path):
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    quoted = set(re.findall(r"""["']([A-Z]\w*\.[TF]\d+)["']""", "\n".join(cells)))
    needs = graph.stated_needs(path, [graph.ALL_RUNS, *items.ITEMS, *METHODS])
    assert quoted <= set(needs) and quoted <= set(items.ITEMS) and len(set(needs)) == len(needs)
    written = {key for key, item in items.ITEMS.items() if item.notebook == path.stem}
    assert written <= set(needs)


def test_missing_unknown_and_all_needs(tmp_path, monkeypatch):
    path, names = tmp_path / "20_mine.ipynb", ["T1", "T2", graph.ALL_RUNS]
    for metadata in ({}, {"vtlib": {}}, {"vtlib": None}, {"vtlib": {"needs": "T1"}}):
        path.write_text(json.dumps({"metadata": metadata, "cells": []}))
        with pytest.raises(ValueError, match=r"20_mine\.ipynb does not state what it needs: add \"vtlib\": {\"needs\""):
            graph.stated_needs(path, names)
    path.write_text(json.dumps({"metadata": {"vtlib": {"needs": ["T2", "TT1"]}}, "cells": []}))
    unknown = r"20_mine\.ipynb needs an unknown table, figure or method 'TT1': did you mean 'T1'"
    with pytest.raises(ValueError, match=unknown):
        graph.stated_needs(path, names)
    path.write_text(json.dumps({"metadata": {"vtlib": {"needs": [graph.ALL_RUNS, "S1.T3"]}}, "cells": []}))
    monkeypatch.setattr(graph, "NOTEBOOKS", tmp_path)
    jobs = graph.jobs("quick", [])
    assert jobs["20_mine"]["needs"] == [job["output"] for job in jobs.values() if job["rule"] == "train"]


def test_an_unknown_profile_leaves_no_folder(home, tmp_path, monkeypatch):
    monkeypatch.setenv("VTLIB_RESULTS", str(tmp_path))
    with pytest.raises(ValueError, match="unknown profile 'quik': did you mean 'quick'"):
        graph.run("quik")
    assert not list(tmp_path.iterdir())


def test_the_paper_profile_draws_nothing(home):
    jobs = graph.jobs("paper", [], absent=True)
    assert "41_synvt" not in jobs and "notebooks/41_synvt.json" not in jobs["90_report"]["needs"]


def test_runs_wait_for_a_start_that_does_not_ship_and_it_is_made_once(home, tmp_path, monkeypatch):
    monkeypatch.setenv("VTLIB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("VTLIB_DATA", str(tmp_path / "data"))
    plan = graph.plan("gpu", ["S1.T3"])
    file, jobs = tmp_path / "data" / "weights" / "synvt_resnet50.safetensors", plan["jobs"]
    assert Path(jobs["resnet50"]["file"]) == file
    for e in items.experiments("gpu", ["S1.T3"]):
        assert jobs[e.run_id]["needs"] == [f"data/{e.data}.json", "data/resnet50.json"]
    assert not [other for other in graph.jobs("cpu", ["S1.T3"]).values() if other["rule"] == "weights"]  # it ships
    calls = []

    def make(backbone, target):
        calls.append(backbone)
        target.parent.mkdir(parents=True)
        target.write_text("")

    monkeypatch.setattr(pretrain, "make", make)
    stamp = tmp_path / "results" / "gpu" / jobs["resnet50"]["output"]
    stamp.parent.mkdir()  # as Snakemake does
    for _ in range(2):
        job.make(tmp_path / "results" / "gpu" / "plan.json", "resnet50")
        assert json.loads(stamp.read_text()) == {"file": str(file)} and calls == ["resnet50"]
        graph.up_to_date(plan)
        assert not stamp.exists()  # the next call looks at the file again


def outputs(experiments):
    return [f"runs/{e.run_id}/metrics.json" for e in experiments]


def start(*more, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen([*CALL, *more], cwd=ROOT, **pipes, **options)


def end(process, code=0):
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == code, printed[-5000:]
    return printed


def wait_for(condition, process):
    while not (value := condition()) and process.poll() is None:
        time.sleep(0.05)
    assert value, process.communicate()[0]
    return value


def rows(results):
    with (results / "summary.csv").open() as handle:
        return {row["name"]: row for row in csv.DictReader(handle)}


def test_killed_runs_go_on_and_a_finished_tree_is_quick(home, tmp_path, monkeypatch):
    monkeypatch.setenv("VTLIB_RESULTS", str(tmp_path))
    results, target = tmp_path / "quick", "22_convergence"
    process = start(target)
    finished = wait_for(lambda: list(results.glob("runs/*/metrics.json")), process)
    psutil.Process(
        process.pid
    ).kill()  # its jobs end with it; an ordinary job lives on, and the next call waits for its lock
    process.wait()
    before = {path: path.read_text() for path in finished}

    printed = end(start(target))
    assert {path: path.read_text() for path in before} == before, "a finished run was repeated"
    summary = rows(results)
    assert {row["state"] for row in summary.values()} == {"ran", "cached"} and summary[target]["state"] == "ran"
    assert "S1.F5: " in printed and "2 runs at a time" in printed
    page = results / "report" / "index.html"
    assert printed.rstrip().endswith(f"every table and figure: {page}") and "1 of 19 tables and" in page.read_text()
    for name in {name for name, row in summary.items() if row["rule"] == "train" and row["state"] == "ran"}:
        assert float(summary[name]["seconds"]) > 0 and float(summary[name]["GB"]) > 0.1
        book = results / "runs" / name / "10_train.ipynb"
        assert f"run {name}" in book.read_text() and summary[name]["notebook"] == str(book)
    before = {path: path.read_text() for path in results.glob("runs/*/metrics.json")}
    assert len(before) == 2

    then = time.monotonic()
    printed = end(start(target))
    took = time.monotonic() - then
    assert "0 ran, 3 cached, 0 failed" in printed
    assert took < 10 or os.getloadavg()[0] > os.cpu_count(), f"{took:.0f} s on a finished tree"
    table, plan = results / "report" / "S1.F5.csv", graph.plan("quick", [target])
    kept, stamp = table.read_text(), results / "notebooks" / f"{target}.json"
    table.write_text("written by a call of the notebook with other parameters")
    assert target not in graph.up_to_date(plan, dry=True) and stamp.is_file()
    table.write_text(kept)
    assert target in graph.up_to_date(plan)
    (results / "notebooks" / f"{target}.json").write_text('{"key": "of other code"}')
    monkeypatch.setattr(graph, "work", lambda plan, left, *more: pytest.fail(f"to make: {left}"))
    with pytest.raises(pytest.fail.Exception, match=r"to make: \['22_convergence'\]"):  # the notebook alone, no run
        graph.run("quick", [target])


TINY = """
import json, os, time
from pathlib import Path

jobs = json.loads(Path("plan.json").read_text())["jobs"]
mine = {"profile": profile, "method": method, "dataset": dataset, "seed": seed, "overrides": overrides}
output = next((Path(job["output"]) for job in jobs.values() if job.get("parameters") == mine), Path("view.txt"))
with Path("begun.txt").open("a") as log:
    print(method or "-", os.getpid(), file=log, flush=True)
time.sleep(float(os.environ.get("TINY_SECONDS", 0)))
assert method != "dpan", "told to fail"
part = output.with_suffix(".tmp")
part.write_text('{"protocols": {}}')
part.rename(output)
"""


@pytest.fixture
def tiny(home, tmp_path, monkeypatch):
    """A results folder whose plan executes TINY instead of S1.T3's runs and of 20_ablation; method dpan fails."""
    monkeypatch.setenv("VTLIB_RESULTS", str(tmp_path / "results"))
    plan = graph.plan("quick", ["20_ablation"])
    write_notebook(tmp_path / "tiny.ipynb", "profile = method = dataset = ''\nseed, overrides = 0, {}", TINY)
    plan["jobs"] = {name: one for name, one in plan["jobs"].items() if one["rule"] != "data"}
    for one in plan["jobs"].values():
        one |= {"source": str(tmp_path / "tiny.ipynb"), "writes": []}
        one["needs"] = [need for need in one["needs"] if not need.startswith("data/")]
    results = Path(plan["results"])
    (results / "plan.json").write_text(json.dumps(plan))
    return results


def test_a_state_file_that_is_cut_is_made_again_or_named(home, tmp_path, monkeypatch):
    monkeypatch.setenv("VTLIB_RESULTS", str(tmp_path))
    plan, path = graph.plan("quick", ["20_ablation"]), tmp_path / "quick" / "plan.json"
    for text in ("", path.read_text()[:99], "[]"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"plan\.json cannot be read .*: give the command again"):
            job.make(path, "20_ablation")
        assert graph.plan("quick", ["20_ablation"]) == plan
    files = [tmp_path / "quick" / one["output"] for one in plan["jobs"].values() if one["rule"] != "data"]
    for file in files:  # of runs, and a notebook's
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    assert graph.up_to_date(plan, dry=True) == set() and all(file.is_file() for file in files)
    assert graph.up_to_date(plan) == set() and not any(file.exists() for file in files)
    record = tmp_path / "quick" / "jobs" / "20_ablation.json"
    record.parent.mkdir()
    record.write_text('{"state": "ra')
    assert graph.summary(plan, set(), time.time())[-1]["state"] == "not run"


def test_a_job_that_says_something_and_leaves_no_record_has_failed(home, tmp_path, monkeypatch):
    monkeypatch.setenv("VTLIB_RESULTS", str(tmp_path))
    plan, start = graph.plan("quick", ["20_ablation"]), time.time()
    log = tmp_path / "quick" / "jobs" / "20_ablation.log"
    log.parent.mkdir()
    log.write_bytes(b"Traceback\nvtlib: there is no Python \xff here\n\n")
    last = graph.summary(plan, set(), start)[-1]
    assert last["state"] == "failed" and last["reason"].startswith("there is no Python")
    os.utime(log, (start - 60, start - 60))  # of an earlier call
    assert graph.summary(plan, set(), start)[-1]["reason"].startswith("needs identity on")


def test_a_file_system_without_locks_has_one_graph_too(tmp_path, monkeypatch):
    import filelock

    def refuse(self, *args, **kwargs):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    for _ in range(2):
        refused = pytest.raises(RuntimeError, match=f"process {os.getpid()} works on")
        with graph.alone(tmp_path), refused, graph.alone(tmp_path):
            pytest.fail("two at a time")


def test_a_run_is_looked_at_again_once_after_its_data_was_written_anew(home, tmp_path, monkeypatch):
    monkeypatch.setenv("VTLIB_RESULTS", str(tmp_path))
    plan, looked_at = graph.plan("quick", ["S1.F5"]), []
    monkeypatch.setattr(runs, "is_done", lambda run: looked_at.append(run.experiment.run_id) or True)
    trained = {name: one for name, one in plan["jobs"].items() if one["rule"] == "train"}
    for one in trained.values():
        (metrics := tmp_path / "quick" / one["output"]).parent.mkdir(parents=True)
        metrics.write_text("{}")
        os.utime(metrics, (1, 1))  # older than the set
    for _ in range(2):
        graph.recheck(plan)
        assert looked_at == list(trained)


def test_sockets_lie_where_they_can(tmp_path, monkeypatch):
    monkeypatch.setattr(forkserver.tempfile, "gettempdir", lambda: str(long))
    (long := tmp_path / ("long" * 30)).mkdir()
    with forkserver.socket_folder() as (folder, sockets):
        assert sockets and folder.startswith("/tmp/")
    monkeypatch.setattr(forkserver, "holds_sockets", lambda folder: False)  # then by ports
    with forkserver.socket_folder() as (folder, sockets):
        assert not sockets and Path(folder).is_dir()
    assert not Path(folder).exists()


def write_notebook(path, *cells):
    """A notebook of some cells, the first of which has the parameters."""
    cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def test_a_killed_kernel_is_one_sentence_and_the_notebook_is_kept(tmp_path, monkeypatch):
    cells = "x = 0", "print('as far', 'as this')", "import os\nos.kill(os.getpid(), 9)"
    path = write_notebook(tmp_path / "a {b}.ipynb", *cells)
    monkeypatch.setattr(forkserver, "holds_sockets", lambda folder: False)  # by ports, as on Windows
    with pytest.raises(RuntimeError, match="its kernel was killed; mostly that is for want of memory") as stop:
        job.execute(path, tmp_path / "out {c}.ipynb", {"x": 1})
    assert "\n" not in str(stop.value) and "as far as this" in (tmp_path / "out {c}.ipynb").read_text()


def begun(results):
    log = results / "begun.txt"
    return [line.split() for line in log.read_text().splitlines()] if log.is_file() else []


def only_baseline(results):
    """Reduce the plan to one run, and the notebook that reads it."""
    plan = json.loads((results / "plan.json").read_text())
    kept = {n: j for n, j in plan["jobs"].items() if j["what"].split()[0] in ("baseline", "20_ablation")}
    kept["20_ablation"]["needs"] = [j["output"] for j in kept.values() if j["rule"] == "train"]
    (results / "plan.json").write_text(json.dumps(plan | {"jobs": kept}))


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_failed_run_leaves_the_others_going_and_is_in_the_table(tiny):
    printed = end(start("20_ablation", "--dry-run"))
    assert ": baseline on synvt_sysu_quick, seed 0" in printed and ": 20_ablation" in printed and not begun(tiny)

    printed = end(start("20_ablation"), code=1)
    assert "quick: 5 runs, 0 done; 1 notebooks, 0 done\nfirst S1.T3; " in printed and "Select jobs" not in printed
    assert "dpan on synvt_sysu_quick, seed 0: FAILED: " in printed and ": baseline on" in printed
    page = (tiny / "report" / "index.html").read_text()
    assert "4 of 5 runs done; dpan on synvt_sysu_quick, seed 0 failed: " in page and "told to fail" in page
    order = [name for name, _ in begun(tiny)]
    wanted = [job["what"].split()[0] for job in json.loads((tiny / "plan.json").read_text())["jobs"].values()]
    assert [wanted.index(name) for name in order[::2]] == sorted(wanted.index(name) for name in order[::2])
    by_method = {row["what"].split()[0]: row for row in rows(tiny).values()}
    states = {name: row["state"] for name, row in by_method.items()}
    assert states.pop("dpan") == "failed" and states.pop("20_ablation") == "not run" and set(states.values()) == {"ran"}
    assert by_method["20_ablation"]["reason"] == "needs dpan on synvt_sysu_quick, seed 0"
    failed = by_method["dpan"]
    assert "AssertionError: told to fail" in failed["reason"] and Path(failed["notebook"]).is_file()
    line = next(line for line in printed.splitlines() if line.startswith("dpan on"))
    assert "told to fail" in line and failed["notebook"] in line
    assert not (tiny / "runs" / failed["name"] / "metrics.json").exists()
    printed = end(start("20_ablation"), code=1)  # only the failed run is tried again
    assert "1 failed" in printed and f"{len(states)} cached" in printed
    assert [name for name, _ in begun(tiny)].count("baseline") == 1


def test_ctrl_c_stops_within_seconds_and_the_same_command_goes_on(tiny, monkeypatch):
    monkeypatch.setenv("TINY_SECONDS", "60")
    # tests that a shell runs in the background inherit an ignored Ctrl-C: a terminal's program does not
    process = start("20_ablation", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_for(lambda: len(begun(tiny)) == 2, process)
    plan = (tiny / "plan.json").read_bytes()
    with pytest.raises(RuntimeError, match=f"process {process.pid} works on"):
        graph.run("quick", ["S1.F5"])
    assert graph.run("quick", ["S1.F5"], dry=True) == 0
    assert (tiny / "plan.json").read_bytes() == plan  # the jobs that run read it
    with pytest.raises(ValueError, match="has no job 'another': a later call has made another plan"):
        job.make(tiny / "plan.json", "another")
    then = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert "the same command goes on from there" in end(process, code=130)
    assert time.monotonic() - then < 15
    assert not any(alive(int(pid)) for _, pid in begun(tiny))
    monkeypatch.setenv("TINY_SECONDS", "0")
    end(start("20_ablation"), code=1)
    assert {row["state"] for row in rows(tiny).values()} == {"ran", "failed", "not run"}


def test_no_name_of_a_folder_and_no_setting_of_a_user_reaches_a_job(tiny, tmp_path, monkeypatch):
    """The paths of results, interpreter and checkout have every odd sign; each of the variables would stop a job."""
    only_baseline(tiny)
    odd = tmp_path / 'it\'s a {name}, {{x}} $HOME "q" é & #1e3=true; %20'
    odd.mkdir()
    for name in ("vtlib", "notebooks"):
        shutil.copytree(ROOT / name, odd / name)
    (odd / "venv").symlink_to(sys.prefix)
    python = odd / "venv" / "bin" / Path(sys.executable).name
    (tmp_path / "jupyter" / "kernels" / "python3").mkdir(parents=True)
    kernel = {"argv": ["/bin/false"], "display_name": "of another Python", "language": "python"}
    (tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json").write_text(json.dumps(kernel))
    (tmp_path / "ipython" / "profile_default" / "startup").mkdir(parents=True)
    (tmp_path / "ipython" / "profile_default" / "startup" / "first.py").write_text("open = None")
    (tmp_path / "start.py").write_text("open = None")
    (long := tmp_path / ("long" * 30)).mkdir()
    monkeypatch.setenv("VTLIB_RESULTS", str(odd / "results"))
    plan = json.loads((tiny / "plan.json").read_text())
    cell = "print('é', __import__('matplotlib').get_backend()); time.sleep("
    source = (tmp_path / "tiny.ipynb").read_text().replace("time.sleep(", cell)
    (odd / "tiny.ipynb").write_text(source, encoding="utf-8")
    jobs = {name: one | {"source": str(odd / "tiny.ipynb")} for name, one in plan["jobs"].items()}
    call = "import sys; from vtlib.batch import graph; print(graph.plan('quick', ['20_ablation'])['key'])"
    key = subprocess.run([python, "-c", call], cwd=odd, capture_output=True, text=True, check=True).stdout.strip()
    results = odd / "results" / "quick"
    places = {"key": key, "results": str(results), "root": str(odd / "results")}
    (results / "plan.json").write_text(json.dumps(plan | places | {"jobs": jobs}))
    (results / "json.py").write_text("raise SystemExit('a module of the folder that jobs run in')")
    settings = {
        "JUPYTER_PATH": tmp_path / "jupyter",
        "JUPYTER_RUNTIME_DIR": "/dev/null/jupyter",
        "IPYTHONDIR": tmp_path / "ipython",
        "PYTHONSTARTUP": tmp_path / "start.py",
        "PYTHONOPTIMIZE": "2",
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": "nowhere",
        "LC_ALL": "C",
        "MPLBACKEND": "nonsense",
        "SNAKEMAKE_PROFILE": "nowhere",
        "HOME": "/dev/null/home",
        "XDG_CACHE_HOME": "/dev/null/cache",
        "TMPDIR": long,
        "COLUMNS": "5",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    command = [python, *CALL[1:], "20_ablation"]
    call = subprocess.run(command, cwd=odd, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    assert call.returncode == 0, call.stdout[-2000:] + call.stderr[-3000:]
    assert "2 ran, 0 cached, 0 failed" in call.stdout and (results / "begun.txt").read_text().count("baseline") == 1
    (book,) = results.glob("runs/*/10_train.ipynb")
    printed = "".join(output.get("text", "") for output in nbformat.read(book, 4).cells[-1].outputs)
    assert "é module://matplotlib_inline.backend_inline" in printed


def test_the_same_snakefile_on_a_real_slurm(tiny, monkeypatch):
    slurm = [str(ROOT / "tests" / "batch" / "slurm.sh")]
    up = subprocess.run([*slurm, "start"], capture_output=True, text=True)
    if up.returncode:
        subprocess.run([*slurm, "stop"])
        pytest.skip(f"no Slurm here: {up.stdout.strip()}")
    only_baseline(tiny)
    process = None
    try:
        monkeypatch.setenv("TINY_SECONDS", "3")
        often = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]
        process = start("--cluster", "slurm", "20_ablation", "--", *often, "--set-threads", "train=1")
        ((_, pid),) = wait_for(lambda: begun(tiny), process)
        os.kill(int(pid), signal.SIGKILL)  # the first job dies, and is tried again
        printed = end(process)
        assert "Trying to restart job" in printed and "2 ran, 0 cached, 0 failed" in printed
        assert [line[0] for line in begun(tiny)] == ["baseline", "baseline", "-"]
    finally:
        if process:
            process.kill()
        subprocess.run([*slurm, "stop"])


def test_on_a_gpu_the_first_run_is_made_alone(tiny, monkeypatch):
    calls = []
    monkeypatch.setattr(resources, "places", lambda peak: 3 if calls else resources.UNKNOWN)
    monkeypatch.setattr(graph, "snakemake", lambda *arguments: calls.append(arguments) or 0)
    plan = graph.plan("quick", ["20_ablation"])
    assert "3 runs at a time" in graph.work(plan, list(plan["jobs"]), 0, "", False, [])[1]
    (_, first, alone, _), (_, rest, together, options) = calls
    assert first == [next(iter(plan["jobs"].values()))["output"]] and rest == []
    assert alone["threads"] == resources.cores() and together["threads"] == max(1, resources.cores() // 3)
    assert "gpu=3" in options


def test_a_kernel_has_the_package_of_its_own_checkout(tmp_path):
    shutil.copytree(graph.PACKAGE, tmp_path / "vtlib")
    call = "import json, pathlib, sys; from vtlib.batch import job; path = pathlib.Path('book.ipynb')\n"
    call += "job.execute(path, path, {}); print(json.loads(path.read_text())['cells'][0]['outputs'][0]['text'][0])"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import vtlib; print(vtlib.__file__)")])
    nbformat.write(book, tmp_path / "book.ipynb")
    environment = graph.environment() | {"PYTHONPATH": str(tmp_path)}
    process = subprocess.run(
        [sys.executable, "-c", call], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert process.stdout.strip() == str(tmp_path / "vtlib" / "__init__.py"), process.stderr
