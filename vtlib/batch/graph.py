"""The graph of a profile: its jobs as data for the Snakefile, one job in a process of its own, what became of them all.

Under results/<profile>/: plan.json, the jobs; jobs/<name>.json, what each did last, and .log, what it said;
notebooks/<name>.json, the stamp of an executed notebook; summary.csv, the last call job by job. A run is done when its
metrics.json is there, a notebook when its stamp is of all that it was made from.
"""

import csv
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from .. import files
from ..common import NOTEBOOKS, data_root, results_root, shown, unknown
from ..files import digest, read_json, write_json
from . import resources

PACKAGE = Path(__file__).parents[1]
TRAIN = NOTEBOOKS / "10_train.ipynb"
LAST = "9"  # a notebook whose name starts so reads all the others
COLUMNS = ("what", "state", "seconds", "GB", "GPU GB", "notebook", "reason", "name", "rule")
# Variables by which a user changes how Python, Jupyter or Snakemake work; those of KEPT say where packages lie
HABITS = ("PYTHON", "JUPYTER", "IPYTHON", "IPYKERNEL", "JPY_", "MPLBACKEND", "SNAKEMAKE_PROFILE")
KEPT = ("PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONUSERBASE", "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX")
KEPT += ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONHASHSEED")
# all that Snakemake shares but its cache of sources, which it would keep in a home folder that may not be writable
SHARED = ("persistence", "input-output", "software-deployment", "sources", "storage-local-copies")
DRAWN = "41_synvt"  # of sets that the project draws itself: no part of a profile whose sets are real


def plan(profile: str, targets: Iterable[str] = (), name: str = "plan.json") -> dict:
    """The jobs of some tables, figures ("S1.T3") or notebooks ("20_ablation"), by default of all: plan.json.

    {"profile", "data" and "root", the roots of data and results, "results", the profile's folder, and "jobs": {name:
    {"rule", "what", "output", "needs", "target"}}, of notebooks also "source", "parameters", "notebook", "writes"};
    outputs, needs, notebooks and writes are relative to results. A plan of the same code, notebooks and roots is read,
    not made again, except of `paper`, which depends on the sets that are there.
    """
    roots = {"data": str(data_root()), "root": str(results_root())}  # absolute: jobs run in another folder
    precision = os.environ.get("VTLIB_PRECISION", "")
    results = results_root() / profile
    key = digest([*code(), *sorted(NOTEBOOKS.glob("*.ipynb"))], [profile, sorted(targets), roots, precision])
    if profile != "paper" and (old := remembered(results / name)).get("key") == key:
        return old
    made = {"key": key, "profile": profile, "results": str(results), "file": name, **roots}
    made["jobs"] = jobs(profile, list(targets))
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / name, made)
    return made


def remembered(path: Path) -> dict:
    """The JSON object of a file that can be made again; {} where it is absent, cut or empty."""
    try:
        return read_json(path)
    except (ValueError, FileNotFoundError):
        return {}


def code() -> list[Path]:
    """The files of the package that a result may depend on."""
    return sorted([*PACKAGE.rglob("*.py"), *PACKAGE.glob("weights/*"), *PACKAGE.glob("tuned/*")])


def jobs(profile: str, targets: list[str], *, absent: bool = False) -> dict[str, dict]:
    """The targets' jobs and those that they need, by name, as `plan` describes them; `absent`: also without data.

    Raises: ValueError for an unknown target.
    """
    from ..config import parameters, resolve_profile
    from ..suite import items

    resolve_profile(profile)  # an unknown one stops here
    views = {path.stem: path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) if path != TRAIN}
    if profile == "paper":
        views.pop(DRAWN)
    for target in targets:
        if target not in items.ITEMS and target not in views:
            raise ValueError(unknown("table, figure or notebook", target, [*items.ITEMS, *views]))
    every, of_item, of_method = {}, {}, {}
    for e in items.experiments(profile, items.ITEMS, absent=absent):
        needs, done, given = [f"data/{e.data}.json"], f"runs/{e.run_id}/metrics.json", parameters(e)
        every[e.data] = {"rule": "data", "what": e.data, "output": needs[0], "needs": []}
        if e.weights == "synvt" and (file := weights(e.backbone)):
            needs.append(f"data/{e.backbone}.json")
            every[e.backbone] = {"rule": "weights", "what": f"weights of {e.backbone}", "output": needs[1], "needs": []}
            every[e.backbone] |= {"backbone": e.backbone, "file": file}
        changed = {k.removeprefix("losses."): v for k, v in given["overrides"].items() if k != "precision"}
        extra = "".join(f", {k} {v}" for k, v in changed.items())
        what = {"what": f"{e.method} on {e.data}, seed {e.seed}{extra}", "data": e.data}
        book = executed(TRAIN, given, f"runs/{e.run_id}/{TRAIN.name}")
        every[e.run_id] = {"rule": "train", "output": done, "needs": needs, **what, **book}
        of_method.setdefault(e.method, []).append(done)
    for item in items.ITEMS:
        of_item[item] = [every[e.run_id]["output"] for e in items.experiments(profile, [item], absent=absent)]
    for name, path in views.items():
        named = reads(path, of_item) or reads(path, of_method) or [run for runs in of_method.values() for run in runs]
        others = [f"notebooks/{other}.json" for other in views if not other.startswith(LAST)]
        every[name] = {
            "rule": "notebook",
            "what": name,
            "output": f"notebooks/{name}.json",
            "needs": others if name.startswith(LAST) else named,
            "writes": [f"report/{item}.csv" for item, of in items.ITEMS.items() if of.notebook == name],
            **executed(path, {"profile": profile}, f"notebooks/{name}.ipynb"),
        }
    outputs = {file for t in targets for file in of_item.get(t, [f"notebooks/{t}.json"])}
    for about in every.values():
        about["target"] = about["output"] in outputs or (not targets and about["rule"] in ("train", "notebook"))
    needed, grown = set(), {about["output"] for about in every.values() if about["target"]}
    while grown - needed:
        needed |= grown
        grown = {file for about in every.values() if about["output"] in needed for file in about["needs"]}
    return {name: about for name, about in every.items() if about["output"] in needed}


def wanted(profile: str, targets: list[str]) -> list:
    """The experiments of some targets, those too whose data set is not at hand. ValueError: unknown target."""
    from ..config import of_parameters

    every = jobs(profile, targets, absent=True).values()
    return [of_parameters(about["parameters"]) for about in every if about["rule"] == "train"]


def executed(source: Path, given: dict, target: str) -> dict:
    """What a job needs to execute a notebook."""
    return {"source": str(source), "parameters": given, "notebook": target}


def reads(path: Path, runs_of: dict[str, list[str]]) -> list[str]:
    """The runs of the tables and figures, or of the methods, that a notebook's code names in double quotes."""
    cells = read_json(path, "put the notebook back, as by git checkout")["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return list(dict.fromkeys(run for name, runs in runs_of.items() if f'"{name}"' in text for run in runs))


def weights(backbone: str) -> str | None:
    """The file of a backbone's start that the graph makes; None for one that ships."""
    from .. import backbones

    file = backbones.weights_file(backbone, "synvt")
    return None if file.parent == backbones.SHIPPED else str(file)


def run(profile: str, targets=(), at_a_time: int = 0, cluster: str = "", dry: bool = False, more=()) -> int:
    """Make what is missing, print the table of what ran, was cached or failed; 0 where nothing failed.

    Args: at_a_time: runs beside each other, 0 for as many as fit; cluster: a Snakemake executor instead of this
        machine; dry: print the plan alone; more: further options of Snakemake, which win.
    """
    start, results = time.time(), results_root() / profile
    if not results.is_dir():
        jobs(profile, list(targets))  # an unknown profile or target leaves no folder behind
    with nullcontext() if dry else alone(results):
        made = plan(profile, targets, "dry-run.json" if dry else "plan.json")  # jobs that run now read theirs
        if not dry:
            recheck(made)
        cached = up_to_date(made, dry)
        counts = [(rule, [n for n, j in made["jobs"].items() if j["rule"] == rule]) for rule in ("train", "notebook")]
        parts = [f"{len(of)} {rule}s, {sum(n in cached for n in of)} done" for rule, of in counts if of]
        print(f"{profile}: {'; '.join(parts).replace('train', 'run')}", flush=True)
        left = [n for n, j in made["jobs"].items() if j["target"] and n not in cached]
        code = used = 0
        if left:
            code, used = work(made, left, at_a_time, cluster, dry, list(more))
    if dry:
        return code
    rows = summary(made, cached, start)
    print(table(made, rows, used, time.time() - start))
    return 1 if code or any(row["state"] not in ("ran", "cached") for row in rows) else 0


@contextmanager
def alone(results: Path) -> Iterator[None]:
    """One graph a profile: a lock that the system lets go if the process dies, whatever killed it."""
    results.mkdir(parents=True, exist_ok=True)
    holder = results / "graph.pid"
    try:
        with files.lock(results / "graph.lock", wait=False):
            holder.write_text(str(os.getpid()))
            yield
    except BlockingIOError:
        pid = holder.read_text() if holder.is_file() else "of another call"
        raise RuntimeError(f"process {pid} works on {shown(results)}: wait for it, or stop it") from None


def recheck(made: dict) -> None:
    """Set finished runs aside whose data was written again since and is not the same: they are made anew."""
    for about in made["jobs"].values():
        done = Path(made["results"], about["output"])
        if about["rule"] != "train" or not done.is_file():
            continue
        stated = Path(made["data"], about["data"], "synvt.json")  # of an embedded set; nothing writes the others
        if stated.is_file() and stated.stat().st_mtime > done.stat().st_mtime:
            from ..config import of_parameters
            from ..runs import Run, is_done

            with files.lock(done.parent.with_suffix(".lock")):
                if is_done(Run(of_parameters(about["parameters"]), done.parent)):
                    os.utime(done)


def up_to_date(made: dict, dry: bool = False) -> set[str]:
    """Names of jobs whose output is there and right; unless dry, a notebook's stamp of anything else is removed."""
    results, right = Path(made["results"]), set()
    for name, about in made["jobs"].items():  # in the order of their needs
        output = results / about["output"]
        if about["rule"] in ("data", "weights"):  # looked at again whenever a run is to be made
            wrong = True
        elif about["rule"] == "notebook" and output.is_file():  # one of nothing, {}, is right for nothing
            wrong = (remembered(output) or None) != stamp(results, about)
        else:  # a record that is cut or empty is none
            wrong = not remembered(output)
        if not wrong:
            right.add(name)
        elif not dry:
            output.unlink(missing_ok=True)
    return right


def stamp(results: Path, about: dict) -> dict:
    """What an executed notebook is of: its source, parameters, the package, what it needs, and its tables.

    A call of the notebook with other parameters writes other tables over these: they are then put back.
    """
    needs = [results / need for need in (*about["needs"], *about["writes"])]
    if not all(need.is_file() for need in needs):
        return {}
    return {"key": digest([Path(about["source"]), *code(), *needs], about["parameters"])}


def work(made: dict, left: list[str], at_a_time: int, cluster: str, dry: bool, more: list[str]):
    """Call Snakemake for what is left; returns its exit code and what was used of this machine."""
    results, peak = Path(made["results"]), resources.peak_memory_of_finished(Path(made["results"]))
    memory = {"mem_mb": int(1000 * 1.2 * peak.get("host", resources.GUESS))}
    if cluster:
        given = {"threads": 2, "cores": 2, "gpu": int(made["profile"] in ("gpu", "paper")), **memory}
        account = [] if any("slurm_account" in m for m in more) else ["--slurm-no-account"]
        slurm = [*account, "--slurm-status-command", "squeue"] if cluster == "slurm" else []
        options = ["--executor", cluster, "--jobs", str(at_a_time or 100), "--retries", "2", *slurm]
        return snakemake(made, [], given, [*options, *["--dry-run"] * dry, *more]), 0
    with resources.watched() as used:
        fit = at_a_time or resources.places(peak)
        if fit == resources.UNKNOWN and not dry:  # on a GPU the first run is made alone: it tells how many fit
            first = [made["jobs"][n]["output"] for n in left if made["jobs"][n]["rule"] == "train"][:1]
            alone = {"threads": resources.cores(), "cores": resources.cores(), "gpu": 1, **memory}
            snakemake(made, first, alone, ["--cores", str(resources.cores()), "--shared-fs-usage", *SHARED])
            fit = resources.places(resources.peak_memory_of_finished(results))
        fit = max(1, fit)
        given = {"threads": max(1, resources.cores() // fit), "cores": resources.cores(), "gpu": 1, **memory}
        options = ["--cores", str(max(fit, resources.cores())), "--resources", f"gpu={fit}"]
        options += ["--shared-fs-usage", *SHARED]
        if dry:  # nothing was removed, so what is there and wrong is named
            wrong = [about["output"] for n, about in made["jobs"].items() if n in left and about["rule"] != "train"]
            options += ["--dry-run", *["--forcerun", *wrong] * bool(wrong)]
        code = snakemake(made, [], given, [*options, *more])
    return code, f"{fit} runs at a time; {used}"


def snakemake(made: dict, targets: list[str], given: dict, options: list[str]) -> int:
    """Snakemake in this process, so that nothing of it outlives a kill; its exit code. KeyboardInterrupt: Ctrl-C."""
    import psutil
    from snakemake.cli import main

    stopped = []

    def stop(number, frame):
        stopped.append(number)
        for child in psutil.Process().children(recursive=True):  # else Snakemake waits for them
            child.terminate()
        raise KeyboardInterrupt

    # the plan is named from the folder that Snakemake works in: a whole path might be read as YAML, or as a wildcard
    config = [f"{name}={value}" for name, value in {"plan": made["file"], **given}.items()]
    here, habits, before = Path.cwd(), dict(os.environ), signal.signal(signal.SIGINT, stop)
    # a file that is there is whole, so no job is "incomplete"; and `alone` has the lock
    rules = ["--ignore-incomplete", "--keep-incomplete", "--nolock", "--keep-going", "--rerun-triggers", "mtime"]
    place = [
        "--snakefile",
        str(Path(__file__).with_name("Snakefile")),
        "--directory",
        made["results"],
        "--scheduler",
        "greedy",
    ]
    quiet = ["--quiet", "host", "reason", "--workflow-profile", "none"]
    try:
        set_environment(environment())
        main([*targets, *place, *rules, *quiet, *options, "--config", *config])
    except SystemExit as end:
        if stopped:
            raise KeyboardInterrupt from None
        return int(end.code or 0)
    finally:
        os.chdir(here)
        set_environment(habits)
        signal.signal(signal.SIGINT, before)


def environment() -> dict[str, str]:
    """The variables of a job and of a kernel: this process's own, less HABITS, and with this very package found first.

    Else a start-up file, a warning made an error, a folder of modules or a kernel of another Python would reach a
    result, or stop it, that the same call makes elsewhere.
    """
    kept = {name: value for name, value in os.environ.items() if name in KEPT or not name.startswith(HABITS)}
    given = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    # a kernel drops the first path where that is the current folder: the notebooks' folder holds no module
    paths = os.pathsep.join([str(NOTEBOOKS), str(PACKAGE.parent), *given])
    return kept | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}


def set_environment(variables: dict[str, str]) -> None:
    """Make these the variables of this process, and of what it starts."""
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def summary(made: dict, cached: set[str], start: float) -> list[dict]:
    """One row a job, of COLUMNS, also as summary.csv: what ran, was cached or failed since `start`, and why."""
    results, rows = Path(made["results"]), []
    for name, about in made["jobs"].items():
        said = remembered(results / "jobs" / f"{name}.json")
        made_before = said.get("started", 0) < start
        if name in cached or (made_before and (results / about["output"]).is_file()):  # or by a job of a killed call
            said |= {"state": "cached", "reason": ""}
        elif made_before and (text := last_line(results / "jobs" / f"{name}.log", start)):
            said = {"state": "failed", "reason": text}  # before it wrote a record
        elif made_before:
            if about["rule"] in ("data", "weights"):  # nothing needed it
                continue
            needs = [j for j in made["jobs"].values() if j["output"] in about["needs"]]
            lacks = [j["what"] for j in needs if not (results / j["output"]).is_file()]
            said = {"state": "not run", "reason": f"needs {'; '.join(lacks[:2])}" if lacks else "not started"}
        row = {"what": about["what"], "name": name, "rule": about["rule"], "notebook": ""}
        if about["rule"] == "train":
            said["GPU GB"] = remembered(results / about["output"]).get("peak_memory", {}).get("device", "")
        if (path := results / about.get("notebook", "none")).is_file():
            row["notebook"] = shown(path)
        rows.append({column: row.get(column, said.get(column, "")) for column in COLUMNS})
    with (results / "summary.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return rows


def last_line(log: Path, start: float) -> str:
    """The last line with words of a log that was written since `start`, else ""."""
    if not log.is_file() or log.stat().st_mtime < int(start):  # some file systems keep whole seconds
        return ""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line.removeprefix("vtlib: ") for line in reversed(lines) if line), "it said nothing")


def table(made: dict, rows: list[dict], used: str, seconds: float) -> str:
    """What is printed in the end: a row a job that was not cached, then each table's and figure's verdict."""
    results, of_gpu = Path(made["results"]), any(row["GPU GB"] for row in rows)
    shorter = [column for column in COLUMNS[:7] if column != "GPU GB" or of_gpu]
    lines = [shorter] + [[str(row[c]) for c in shorter] for row in rows if row["state"] != "cached"]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("ran", "cached", "failed", "not run"))
    text = [*text * (len(lines) > 1), f"{counts}: {shown(results / 'summary.csv')}"]
    page = [f"  {shown(file)} is the report on one page" for file in (results / "notebooks").glob(f"{LAST}*.html")]
    text += ["", f"{made['profile']}, in {shown(results)} (notebooks/, report/, runs/):", *page]
    verdicts = sorted((results / "report").glob("*.txt"))
    text += [f"  {file.stem}: {' '.join(file.read_text().splitlines()[:1])}" for file in verdicts]
    return "\n".join([*text, "; ".join([f"{seconds:.0f} s", *[used] * bool(used)])])
