"""The graph of a profile: which jobs there are, what each waits for, and what became of them.

Snakemake runs the graph (Snakefile beside this file), each job in a process of its own (job.py). The files under
results/<profile>/: plan.json, the jobs; jobs/<name>.json, the last record of a job, and jobs/<name>.log, what it
printed; notebooks/<name>.json, the stamp of an executed notebook; summary.csv, one row for each job of the last call;
report/index.html, the page of all tables and figures (suite/index.py).
A run is done when its metrics.json exists, a notebook when its stamp fits all that the notebook was made from.
"""

import csv
import logging
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NotRequired, TypedDict

from .. import files
from ..common import NOTEBOOKS, data_root, results_root, shown, unknown
from ..files import digest, read_json, remembered, write_json
from ..suite import index
from . import forkserver, progress, resources

PACKAGE = Path(__file__).parents[1]
TRAIN = NOTEBOOKS / "10_train.ipynb"  # executed once for each run; all other notebooks show results
FIRST = "S1.T3"  # the item whose runs are made first: it says whether the first paper's main claim holds
LAST = "9"  # a notebook whose name starts with this reads all other notebooks' tables, so it runs after them
ALL_RUNS = "*"  # the entry of a notebook's needs that stands for all runs
PUT_BACK = "put the notebook back, as by git checkout"  # end of the sentence on a notebook that cannot be read
COLUMNS = ("what", "state", "seconds", "GB", "GPU GB", "notebook", "reason", "name", "rule")
# Variables whose names start so change how Python, Jupyter or Snakemake work. Jobs do not see them, except those of
# KEPT, which say where packages lie.
HABITS = ("PYTHON", "JUPYTER", "IPYTHON", "IPYKERNEL", "JPY_", "MPLBACKEND", "SNAKEMAKE_PROFILE")
KEPT = ("PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONUSERBASE", "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX")
KEPT += ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONHASHSEED")
# What Snakemake shares between processes: everything but its cache of sources, which lies in the home folder, and that
# may not be writable.
SHARED = ("persistence", "input-output", "software-deployment", "sources", "storage-local-copies")
DRAWN = "41_synvt"  # it shows sets that the project draws itself; profile `paper` has real sets alone


class Job(TypedDict):
    """One job. All paths but `source` and `file` are relative to the profile's results folder."""

    rule: str  # rule of the Snakefile: data, weights, train or notebook
    what: str  # what the job makes, in words; of rule data the name of the set
    output: str  # the file that the job writes last: when it exists, the job is done
    needs: list[str]  # outputs of other jobs, which have to be done before
    target: bool  # whether the call asked for this job, and not only another job that needs it
    data: NotRequired[str]  # train: name of the data set
    backbone: NotRequired[str]  # weights: name of the network that is pre-trained,
    file: NotRequired[str]  # and the file that its weights are written to
    source: NotRequired[str]  # train, notebook: the notebook to execute,
    parameters: NotRequired[dict]  # its parameters,
    notebook: NotRequired[str]  # and its executed copy
    writes: NotRequired[list[str]]  # notebook: the tables that it writes


class Plan(TypedDict):
    """The content of plan.json. Paths are absolute, because jobs run in another folder."""

    key: str  # digest of all that the plan was made from
    profile: str
    results: str  # the profile's results folder
    file: str  # name of this file in that folder
    data: str  # folder of all data sets
    root: str  # folder of all results
    jobs: dict[str, Job]  # by name, in the order in which they are started; each comes after those that it needs
    items: dict[str, dict]  # every table and figure: its title, its notebook, and the outputs of its runs


def plan(profile: str, targets: Iterable[str] = (), name: str = "plan.json") -> Plan:
    """The jobs of some targets, written as plan.json, or read from it where it fits.

    A plan of the same code, notebooks and folders is read and not made again, except on profile `paper`, whose plan
    depends on which data sets there are.
    Args: profile; targets: tables, figures ("S1.T3") or notebooks ("20_ablation"), none: all; name: of the file.
    Raises: as jobs().
    """
    roots = {"data": str(data_root()), "root": str(results_root())}
    precision = os.environ.get("VTLIB_PRECISION", "")
    results = results_root() / profile
    key = digest([*code(), *sorted(NOTEBOOKS.glob("*.ipynb"))], [profile, sorted(targets), roots, precision])
    if profile != "paper" and (old := remembered(results / name)).get("key") == key:
        return old
    new = {"key": key, "profile": profile, "results": str(results), "file": name, **roots}
    new |= {"jobs": jobs(profile, list(targets)), "items": shown_items(profile)}
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / name, new)
    return new


def code() -> list[Path]:
    """The files of the package that a result may depend on."""
    return sorted([*PACKAGE.rglob("*.py"), *PACKAGE.glob("weights/*"), *PACKAGE.glob("tuned/*")])


def jobs(profile: str, targets: list[str], *, absent: bool = False) -> dict[str, Job]:
    """The jobs of some targets and all jobs that these need, by name, in the order in which they should be done.

    That is: FIRST, then the other items as the papers have them, those of one notebook together; a data set right
    before the first run on it, and a notebook right behind the last run that it shows.

    An item that a target names has its longer rows. Args: profile; targets: as plan(); absent: also runs whose data set
    is not there. Raises: ValueError for an unknown profile or target, or a notebook that does not state its needs.
    """
    from .. import config
    from ..methods import METHODS
    from ..suite import items

    config.resolve_profile(profile)  # raises for an unknown one
    notebooks = {path.stem: path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) if path != TRAIN}
    if profile == "paper":
        notebooks.pop(DRAWN)
    for target in targets:
        if target not in items.ITEMS and target not in notebooks:
            raise ValueError(unknown("table, figure or notebook", target, [*items.ITEMS, *notebooks]))
    books = list(dict.fromkeys(items.ITEMS[key].notebook for key in (FIRST, *items.ITEMS)))
    keys = sorted(items.ITEMS, key=lambda key: books.index(items.ITEMS[key].notebook))
    by_name, runs_of = {}, {ALL_RUNS: []}  # jobs; and outputs of runs, by entry of a notebook's needs
    longer = {key for key, item in items.ITEMS.items() if key in targets or item.notebook in targets}
    for e in items.experiments(profile, keys, absent=absent, longer=longer):
        needs, output, parameters = [f"data/{e.data}.json"], f"runs/{e.run_id}/metrics.json", config.parameters(e)
        by_name.setdefault(e.data, {"rule": "data", "what": e.data, "output": needs[0], "needs": []})
        if e.weights == "synvt" and (file := weights(e.backbone)):
            needs.append(f"data/{e.backbone}.json")
            start = {"what": f"weights of {e.backbone}", "backbone": e.backbone, "file": file}
            by_name[e.backbone] = {"rule": "weights", "output": needs[1], "needs": [], **start}
        changed = {k.removeprefix("losses."): v for k, v in parameters["overrides"].items() if k != "precision"}
        extra = "".join(f", {k} {v}" for k, v in changed.items())
        what = {"what": f"{e.method} on {e.data}, seed {e.seed}{extra}", "data": e.data}
        to_execute = executed(TRAIN, parameters, f"runs/{e.run_id}/{TRAIN.name}")
        by_name[e.run_id] = {"rule": "train", "output": output, "needs": needs, **what, **to_execute}
        for entry in (ALL_RUNS, e.method):
            runs_of.setdefault(entry, []).append(output)
    for item in items.ITEMS:
        needed = items.experiments(profile, [item], absent=absent, longer=longer)
        runs_of[item] = [by_name[e.run_id]["output"] for e in needed]
    for name, path in notebooks.items():
        if name.startswith(LAST):
            needs = [f"notebooks/{other}.json" for other in notebooks if not other.startswith(LAST)]
        else:
            entries = stated_needs(path, [ALL_RUNS, *items.ITEMS, *METHODS])
            needs = list(dict.fromkeys(run for entry in entries for run in runs_of.get(entry, [])))
        by_name[name] = {
            "rule": "notebook",
            "what": name,
            "output": f"notebooks/{name}.json",
            "needs": needs,
            "writes": [f"report/{key}.csv" for key, item in items.ITEMS.items() if item.notebook == name],
            **executed(path, {"profile": profile}, f"notebooks/{name}.ipynb"),
        }
    outputs = {file for t in targets for file in runs_of.get(t, [f"notebooks/{t}.json"])}
    for job in by_name.values():
        job["target"] = job["output"] in outputs or (not targets and job["rule"] in ("train", "notebook"))
    needed, found = set(), {job["output"] for job in by_name.values() if job["target"]}
    while found - needed:  # the needs of the targets, then the needs of these, until there are no more
        needed |= found
        found = {file for job in by_name.values() if job["output"] in needed for file in job["needs"]}
    return in_order({name: job for name, job in by_name.items() if job["output"] in needed})


def shown_items(profile: str) -> dict[str, dict]:
    """Plan.items: of each table and figure its title, its notebook and the outputs of its runs."""
    from ..suite import items

    found = {}
    for key, item in items.ITEMS.items():
        ids = [e.run_id for e in items.experiments(profile, [key])]
        runs = [f"runs/{run_id}/metrics.json" for run_id in ids]
        found[key] = {"title": item.title, "notebook": item.notebook, "runs": runs}
    return found


def in_order(by_name: dict[str, Job]) -> dict[str, Job]:
    """Jobs in their order, but each notebook behind the last run that it shows. Args: by_name: notebooks last."""
    place = {}  # output -> number of the run that comes last before it, then of the notebook
    for n, job in enumerate(by_name.values()):
        notebook = job["rule"] == "notebook"
        behind = max((place[need][0] for need in job["needs"]), default=len(by_name)) if notebook else n
        place[job["output"]] = behind, n * notebook
    return dict(sorted(by_name.items(), key=lambda pair: place[pair[1]["output"]]))


def wanted(profile: str, targets: list[str]) -> list:
    """The experiments of some targets, also those whose data set is not there. Raises: as jobs()."""
    from ..config import of_parameters

    every_job = jobs(profile, targets, absent=True).values()
    return [of_parameters(job["parameters"]) for job in every_job if job["rule"] == "train"]


def executed(source: Path, parameters: dict, target: str) -> dict:
    """The entries of a job that executes a notebook."""
    return {"source": str(source), "parameters": parameters, "notebook": target}


def stated_needs(path: Path, known: list[str]) -> list[str]:
    """What a notebook states in its metadata, {"vtlib": {"needs": [...]}}, about the runs that it reads.

    An entry is a table or figure ("S1.T3"), a method ("cmdc": all its runs), or ALL_RUNS.
    Args: path: of the notebook; known: all entries that there can be.
    Raises: ValueError naming the notebook where it states nothing, or naming also an entry that is unknown.
    """
    stated = read_json(path, PUT_BACK).get("metadata", {}).get("vtlib")
    needs = stated.get("needs") if isinstance(stated, dict) else None
    if not isinstance(needs, list):
        raise ValueError(
            f'{shown(path)} does not state what it needs: add "vtlib": {{"needs": ["S1.T3"]}} to its metadata, with '
            f'the tables, figures or methods whose runs it reads, or "{ALL_RUNS}" for all runs'
        )
    for entry in needs:
        if entry not in known:
            raise ValueError(f"{shown(path)} needs an {unknown('table, figure or method', entry, known)}")
    return needs


def weights(backbone: str) -> str | None:
    """The file of a backbone's start that a job of the graph makes; None for a start that ships with the package."""
    from .. import backbones

    file = backbones.weights_file(backbone, "synvt")
    return None if file.parent == backbones.SHIPPED else str(file)


def run(profile: str, targets=(), at_a_time: int = 0, cluster: str = "", dry: bool = False, more=()) -> int:
    """Make what is missing, and print a table of what ran, was cached or failed.

    Args: profile; targets: as plan(); at_a_time: how many runs side by side, 0: as many as fit; cluster: a Snakemake
        executor to use instead of this machine; dry: only print the plan; more: further options of Snakemake, which
        win over ours.
    Returns: 0 where nothing failed. Raises: as jobs(); RuntimeError where another process works on this profile.
    """
    start, results = time.time(), results_root() / profile
    if not results.is_dir():
        jobs(profile, list(targets))  # an unknown profile or target raises here, before a folder is made
    with nullcontext() if dry else alone(results):
        # a dry run has a file of its own, because jobs that run now read plan.json
        this_plan = plan(profile, targets, "dry-run.json" if dry else "plan.json")
        if not dry:
            recheck(this_plan)
        cached = up_to_date(this_plan, dry)
        counts = []
        for rule, noun in (("train", "runs"), ("notebook", "notebooks")):
            if names := [name for name, job in this_plan["jobs"].items() if job["rule"] == rule]:
                counts.append(f"{len(names)} {noun}, {sum(name in cached for name in names)} done")
        print(f"{profile}: {'; '.join(counts)}", flush=True)
        left = [name for name, job in this_plan["jobs"].items() if job["target"] and name not in cached]
        code = used = 0
        if left:
            code, used = work(this_plan, left, at_a_time, cluster, dry, list(more))
    if dry:
        return code
    rows, page = summary(this_plan, cached, start), index.write(this_plan)
    print(table(this_plan, rows, used, time.time() - start, page))
    return 1 if code or any(row["state"] not in ("ran", "cached") for row in rows) else 0


@contextmanager
def alone(results: Path) -> Iterator[None]:
    """Hold the lock of a profile: one process works on it at a time. The system frees the lock when the process dies.

    Raises: RuntimeError where another process holds it.
    """
    results.mkdir(parents=True, exist_ok=True)
    holder = results / "graph.pid"
    try:
        with files.lock(results / "graph.lock", wait=False):
            holder.write_text(str(os.getpid()))
            yield
    except BlockingIOError:
        pid = holder.read_text() if holder.is_file() else "of another call"
        raise RuntimeError(f"process {pid} works on {shown(results)}: wait for it, or stop it") from None


def recheck(plan: Plan) -> None:
    """Rename the folders of finished runs whose data set was written again and differs, so that they are made again."""
    for job in plan["jobs"].values():
        metrics = Path(plan["results"], job["output"])
        if job["rule"] != "train" or not metrics.is_file():
            continue
        spec = Path(plan["data"], job["data"], "synvt.json")  # only of a drawn set: nothing of ours writes the others
        if spec.is_file() and spec.stat().st_mtime > metrics.stat().st_mtime:
            from ..config import of_parameters
            from ..runs import Run, is_done

            with files.lock(metrics.parent.with_suffix(".lock")):
                if is_done(Run(of_parameters(job["parameters"]), metrics.parent)):
                    os.utime(metrics)  # the data is the same: it is not compared again by the next call


def up_to_date(plan: Plan, dry: bool = False) -> set[str]:
    """Names of the jobs whose output exists and is right. Unless dry, outputs that are wrong are removed.

    A notebook's output is right if its stamp is what it would be now, a run's if it holds a JSON object. Jobs of data
    and weights are never up to date: they look at their files whenever a run is to be made.
    """
    results, right = Path(plan["results"]), set()
    for name, job in plan["jobs"].items():  # a job's needs come before it, so a removed one makes it wrong too
        output = results / job["output"]
        if job["rule"] in ("data", "weights"):
            wrong = True
        elif job["rule"] == "notebook" and output.is_file():
            wrong = (remembered(output) or None) != stamp(results, job)  # an empty stamp, {}, is never right
        else:
            wrong = not remembered(output)
        if not wrong:
            right.add(name)
        elif not dry:
            output.unlink(missing_ok=True)
    return right


def stamp(results: Path, job: Job) -> dict:
    """Digest of all that an executed notebook depends on; {} where some of it is missing.

    That is its source and parameters, the package, its needs, and also the tables that it writes: a call of the
    notebook with other parameters writes over these, and the graph then makes them again.
    """
    paths = [results / path for path in (*job["needs"], *job["writes"])]
    if not all(path.is_file() for path in paths):
        return {}
    return {"key": digest([Path(job["source"]), *code(), *paths], job["parameters"])}


def work(plan: Plan, left: list[str], at_a_time: int, cluster: str, dry: bool, more: list[str]):
    """Call Snakemake for the jobs that are left.

    Returns: its exit code, and a sentence on how much of this machine was used (0 on a cluster).
    """
    results, peak = Path(plan["results"]), resources.peak_memory_of_finished(Path(plan["results"]))
    memory = {"mem_mb": int(1000 * 1.2 * peak.get("host", resources.GUESS))}
    places = 0 if cluster else at_a_time or resources.places(peak)
    if text := progress.order(plan, left if dry else progress.to_make(plan), places):
        print(f"{text}; {shown(results / 'report' / 'index.html')} fills up as they come", flush=True)
    if cluster:
        settings = {"threads": 2, "cores": 2, "gpu": int(plan["profile"] in ("gpu", "paper")), **memory}
        account = [] if any("slurm_account" in option for option in more) else ["--slurm-no-account"]
        slurm = [*account, "--slurm-status-command", "squeue"] if cluster == "slurm" else []
        options = ["--executor", cluster, "--jobs", str(at_a_time or 100), "--retries", "2", *slurm]
        with nullcontext() if dry else progress.said(plan, 0):
            return snakemake(plan, [], settings, [*options, *["--dry-run"] * dry, *more]), 0
    with resources.watched() as used:
        fit = places
        if fit == resources.UNKNOWN and not dry:  # on a GPU the first run is made alone: its memory tells how many fit
            first = [plan["jobs"][n]["output"] for n in left if plan["jobs"][n]["rule"] == "train"][:1]
            settings = {"threads": resources.cores(), "cores": resources.cores(), "gpu": 1, **memory}
            with progress.said(plan, 0):
                snakemake(plan, first, settings, ["--cores", str(resources.cores()), "--shared-fs-usage", *SHARED])
            fit = resources.places(resources.peak_memory_of_finished(results))
        fit = max(1, fit)
        settings = {"threads": max(1, resources.cores() // fit), "cores": resources.cores(), "gpu": 1, **memory}
        options = ["--cores", str(max(fit, resources.cores())), "--resources", f"gpu={fit}"]
        options += ["--shared-fs-usage", *SHARED]
        if dry:  # up_to_date() removed no wrong output, so Snakemake has to be told which ones to make again
            wrong = [job["output"] for n, job in plan["jobs"].items() if n in left and job["rule"] != "train"]
            options += ["--dry-run", *["--forcerun", *wrong] * bool(wrong)]
        # one job is as fast in an ordinary process; a run has settings["threads"], a notebook one
        to_run = [j for j in plan["jobs"].values() if "notebook" in j and not (results / j["output"]).is_file()]
        threads = {settings["threads"], 1} if len(to_run) > 1 and not dry else ()
        said = nullcontext() if dry else progress.said(plan, fit)
        with forkserver.started(results, environment(), threads), said:
            code = snakemake(plan, [], settings, [*options, *more])
    return code, f"{fit} runs at a time; {used}"


def snakemake(plan: Plan, targets: list[str], settings: dict, options: list[str]) -> int:
    """Run Snakemake in this process, so that killing this process leaves no Snakemake behind.

    It says what goes wrong; what it does is said by progress.said(), except in a dry run and on a cluster.
    Args: plan; targets: files to make, none: those of rule `all`; settings: entries of the Snakefile's config;
        options: of Snakemake's command line.
    Returns: its exit code. Raises: KeyboardInterrupt on Ctrl-C.
    """
    import psutil
    from snakemake.cli import main
    from snakemake.logging import logger

    stopped, spoken = [], {"--dry-run", "--executor", "--verbose"} & set(options)

    def is_wrong(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING

    def stop(number, frame):
        stopped.append(number)
        for child in psutil.Process().children(recursive=True):  # else Snakemake waits until they end by themselves
            child.terminate()
        raise KeyboardInterrupt

    # The plan is named from the folder that Snakemake works in: a whole path may hold signs of YAML or of a wildcard.
    config = [f"{name}={value}" for name, value in {"plan": plan["file"], **settings}.items()]
    folder, variables, handler = Path.cwd(), dict(os.environ), signal.signal(signal.SIGINT, stop)
    # outputs are written whole, so a file that exists is complete; and alone() is lock enough
    rules = ["--ignore-incomplete", "--keep-incomplete", "--nolock", "--keep-going", "--rerun-triggers", "mtime"]
    place = ["--snakefile", str(Path(__file__).with_name("Snakefile")), "--directory", plan["results"]]
    quiet = ["--quiet", "host", "reason", *([] if spoken else ["rules", "progress"]), "--workflow-profile", "none"]
    try:
        if not spoken:
            logger.addFilter(is_wrong)
        set_environment(environment())
        main([*targets, *place, "--scheduler", "greedy", *rules, *quiet, *options, "--config", *config])
    except SystemExit as end:
        if stopped:
            raise KeyboardInterrupt from None
        return int(end.code or 0)
    finally:
        logger.removeFilter(is_wrong)
        os.chdir(folder)
        set_environment(variables)
        signal.signal(signal.SIGINT, handler)


def environment() -> dict[str, str]:
    """The environment variables of jobs and kernels: this process's without HABITS, with this very package found first.

    Otherwise a user's start-up file, a warning turned into an error, a folder of modules or a kernel of another Python
    could change a result, or stop a job that runs elsewhere.
    """
    kept = {name: value for name, value in os.environ.items() if name in KEPT or not name.startswith(HABITS)}
    own = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    # A kernel drops the first path if it is the current folder. The notebooks' folder holds no module: it may be lost.
    paths = os.pathsep.join([str(NOTEBOOKS), str(PACKAGE.parent), *own])
    return kept | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}


def set_environment(variables: dict[str, str]) -> None:
    """Make these, and no others, the environment variables of this process and of what it starts."""
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def summary(plan: Plan, cached: set[str], start: float) -> list[dict]:
    """One row of COLUMNS for each job, also written as summary.csv: whether it ran, was cached or failed, and why.

    Args: plan; cached: names of jobs that were up to date before; start: time of the call, seconds since 1970.
    """
    results, rows = Path(plan["results"]), []
    for name, job in plan["jobs"].items():
        record = remembered(results / "jobs" / f"{name}.json")
        of_earlier_call = record.get("started", 0) < start
        # an output may also come from a job that lived on after its call was killed
        if name in cached or (of_earlier_call and (results / job["output"]).is_file()):
            record |= {"state": "cached", "reason": ""}
        elif of_earlier_call and (text := last_line(results / "jobs" / f"{name}.log", start)):
            record = {"state": "failed", "reason": text}  # it failed before it wrote its record
        elif of_earlier_call:
            if job["rule"] in ("data", "weights"):  # no run had to be made, so nothing needed it
                continue
            needs = [other for other in plan["jobs"].values() if other["output"] in job["needs"]]
            lacking = [need["what"] for need in needs if not (results / need["output"]).is_file()]
            record = {"state": "not run", "reason": f"needs {'; '.join(lacking[:2])}" if lacking else "not started"}
        row = {"what": job["what"], "name": name, "rule": job["rule"], "notebook": ""}
        if job["rule"] == "train":
            record["GPU GB"] = remembered(results / job["output"]).get("peak_memory", {}).get("device", "")
        if (path := results / job.get("notebook", "none")).is_file():
            row["notebook"] = shown(path)
        rows.append({column: row.get(column, record.get(column, "")) for column in COLUMNS})
    with (results / "summary.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return rows


def last_line(log: Path, start: float) -> str:
    """The last line with words of a log; "" for a log that was not written since `start`, or is not there."""
    if not log.is_file() or log.stat().st_mtime < int(start):  # some file systems keep whole seconds
        return ""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line.removeprefix("vtlib: ") for line in reversed(lines) if line), "it said nothing")


def table(plan: Plan, rows: list[dict], used: str, seconds: float, page: Path) -> str:
    """The text printed at the end: a row for each job that was not cached, then the verdict of each table and figure.

    Args: plan; rows: of summary(); used: sentence of work(), or 0; seconds: that the call took; page: of index.write().
    """
    results, has_gpu = Path(plan["results"]), any(row["GPU GB"] for row in rows)
    columns = [column for column in COLUMNS[:7] if column != "GPU GB" or has_gpu]
    lines = [columns] + [[str(row[c]) for c in columns] for row in rows if row["state"] != "cached"]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("ran", "cached", "failed", "not run"))
    text = [*text * (len(lines) > 1), f"{counts}: {shown(results / 'summary.csv')}"]
    last = [f"  {shown(file)} has all verdicts" for file in (results / "notebooks").glob(f"{LAST}*.html")]
    text += ["", f"{plan['profile']}, in {shown(results)} (notebooks/, report/, runs/):", *last]
    verdicts = sorted((results / "report").glob("*.txt"))
    text += [f"  {file.stem}: {' '.join(file.read_text().splitlines()[:1])}" for file in verdicts]
    text += ["; ".join([f"{seconds:.0f} s", *[used] * bool(used)]), f"every table and figure: {shown(page)}"]
    return "\n".join(text)
