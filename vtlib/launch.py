"""The command line: run a notebook or an experiment with strict names; make, check and describe data.

python -m vtlib.launch notebook notebooks/10_train.ipynb method=cmdc seed=1
python -m vtlib.launch train profile=cpu method=cmdc losses.cmdc.weight=2
python -m vtlib.launch all --profile cpu S1.T3 40_tsne
python -m vtlib.launch data make synvt_sysu
"""

import argparse
import ast
import json
import math
import os
import re
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import yaml

from .batch import graph, job
from .common import data_root, results_root, shown, unknown, user_path
from .files import digest, read_json, write_json

LONGEST = 180  # bytes of a notebook's name before its suffix: file systems take 255, with that of a part being written
PYTHON_TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list, "dict": dict}


def main(argv: list[str] | None = None) -> int:
    """Parse, run one command; 0 on success, 1 with one sentence on stderr on failure, 2 on wrong usage."""
    parser = argparse.ArgumentParser(prog="vtlib", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sub = command(commands, "notebook", notebook, "execute a notebook with papermill and keep it under results/")
    sub.add_argument("path", type=file_path)
    sub.add_argument("parameters", nargs="*", metavar="key=value", help="as papermill --help-notebook PATH lists them")
    sub.add_argument("--force", action="store_true", help="also where an executed copy is up to date")
    sub = command(commands, "train", train, "run one experiment, or load it if it is finished")
    sub.add_argument("fields", nargs="*", metavar="key=value", help="fields of an experiment: see `fields`")
    command(commands, "fields", fields, "every field of an experiment: its values, its default, what it is")
    sub = command(commands, "all", everything, "data, runs, notebooks, report: what run_all.sh runs")
    sub.add_argument("targets", nargs="*", metavar="S1.T3|20_ablation", help="tables, figures, notebooks; default: all")
    sub.add_argument("--profile", default="auto", help="quick, cpu, gpu or paper; auto: gpu where there is one, or cpu")
    sub.add_argument("--data", type=file_path, metavar="ROOT", help="folder of the data sets, as VTLIB_DATA")
    sub.add_argument("--jobs", **JOBS)
    sub.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    sub.add_argument(
        "--cluster",
        default="",
        metavar="slurm",
        help="a Snakemake executor instead of this machine, whose precision counts unless VTLIB_PRECISION says one",
    )
    sub.epilog = "Options of Snakemake follow behind --, as in: -- --default-resources slurm_partition=gpu runtime=600"
    sub = command(commands, "job", lambda arguments: job.make(arguments.plan, arguments.name), "one job of a plan")
    sub.add_argument("plan", type=file_path, help="a plan.json that `all` has made")
    sub.add_argument("name", help="a run id, a notebook or a data set of the plan")
    sub = command(commands, "data", data, "make, check, describe or show a data set")
    sub.add_argument("action", choices=["make", "check", "describe", "show"])
    sub.add_argument("name", help="make: a SynVT preset; check: sysu, regdb or folder; else a folder of the data root")
    sub.add_argument("path", nargs="?", help="make: where to; check: the set's folder; show: a .png or .jpg")
    sub.add_argument("--like", type=file_path, metavar="EXP", help="make: identities and counts of a SYSU-MM01's exp/")
    about = "describe: as Croissant (JSON-LD), printed or written to PATH, best NAME's folder/croissant.json"
    sub.add_argument("--croissant", nargs="?", const="", metavar="PATH", help=about)
    sub = command(commands, "weights", weights, "pre-train a start on SynVT people of its own, or say how one was made")
    sub.add_argument("action", choices=["make", "describe"])
    sub.add_argument("backbone", help="thin, whose start ships with the package, or resnet50")
    sub.add_argument("path", nargs="?", type=file_path, help="the file, by default where weights=synvt looks for it")
    sub = command(commands, "tune", tune, "equal trials of methods on validation people, and what they choose")
    sub.add_argument("methods", nargs="*", metavar="METHOD", help="names of methods.py; default: those of all tables")
    sub.add_argument("--profile", default="auto", help="quick, cpu, gpu or paper")
    sub.add_argument("--out", type=file_path, metavar="FILE", help="default: results/PROFILE/tuned.json or places.csv")
    places = "measure each metric loss in each place instead, over three seeds, on validation people"
    sub.add_argument("--places", action="store_true", help=places)
    sub = command(commands, "calibrate", calibrate, "how often a verdict is wrong, and what gain it sees, on your runs")
    sub.add_argument("--profile", default="auto", help="quick, cpu, gpu or paper")
    sub.add_argument("--worlds", type=count, default=1000, help="of each kind; more are more exact")
    sub = command(commands, "plan", plan, "check the data of a profile and state its runs, hours and disk; start none")
    sub.add_argument("--profile", default="auto", help="quick, cpu, gpu or paper")
    sub.add_argument("--jobs", **JOBS)
    sub = command(commands, "results", results, "one file of results to send, and such files beside the printed tables")
    actions = sub.add_subparsers(dest="action", required=True)
    sub = actions.add_parser("export", help="finished runs and reports as one file: no image, feature or weight in it")
    sub.add_argument("path", type=file_path, help="the file to write, like ours.zip")
    sub.add_argument("--profile", default="paper", help="quick, cpu, gpu or paper")
    sub = actions.add_parser("crate", help="finished runs, tables and figures as an RO-Crate, in a zip file")
    sub.add_argument("path", type=file_path, help="the file to write, like crate.zip")
    sub.add_argument("--profile", default="paper", help="quick, cpu, gpu or paper")
    sub = actions.add_parser("compare", help="files of export beside the printed tables, each in columns of its own")
    sub.add_argument("files", nargs="+", type=file_path)
    sub.add_argument("--out", type=file_path, metavar="CSV", help="write all metrics there too")
    argv = sys.argv[1:] if argv is None else argv
    own = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:own])
    arguments.more = argv[own + 1 :]
    try:
        return arguments.call(arguments) or 0
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"vtlib: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(
            f"vtlib: this command needs {error.name}: pip install 'vtlib[suite]', or ./run_all.sh setup",
            file=sys.stderr,
        )
        return 1
    except MemoryError as error:
        text = f"{error or 'no memory left'}: a smaller batch, smaller images or fewer --jobs take less"
        print(f"vtlib: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vtlib: stopped; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130


def command(commands, name: str, call, about: str) -> argparse.ArgumentParser:
    """A sub-command's parser; `call` gets the parsed arguments and returns an exit code or None."""
    parser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(call=call)
    return parser


def file_path(text: str) -> Path:
    """user_path() for argparse."""
    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


JOBS = {"type": count, "default": 0, "help": "runs at a time; default: as many as cores and memory hold"}


def pairs(texts: list[str]) -> dict[str, object]:
    """key=value texts as typed values. Raises: ValueError for a key given twice, and for a number that is none."""
    values = {}
    for text in texts:
        key, sep, value = text.partition("=")
        if not sep:
            raise ValueError(f"{text!r} is not of the form key=value")
        if key in values:
            raise ValueError(f"{key} is given twice: leave one of them out")
        values[key] = parse(value)
        if not finite(values[key]):
            raise ValueError(f"{text}: numbers must be finite")
    return values


def parse(text: str) -> object:
    """A JSON value, or else a YAML one: YAML 1.1 alone would take 1e-3 for text. A path from ~ is made whole."""
    if text.startswith("~"):
        return str(user_path(text))
    for read in (json.loads, float, yaml.safe_load) if text else ():  # nothing is an empty text, and no null
        try:
            value = read(text)
            json.dumps(value)  # YAML knows dates and sets too
            return value
        except (ValueError, TypeError, RecursionError, yaml.YAMLError):
            continue
    return text


def finite(value: object) -> bool:
    """Whether all numbers in a JSON value are finite."""
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def check_parameters(where: str, declared: dict[str, str], given: dict[str, object]) -> None:
    """Stop before any work on a name that is not declared {name: type}, or a value of another type."""
    for name, value in given.items():
        if name not in declared:
            raise ValueError(f"{where}: {unknown('parameter', name, declared)}")
        wanted = PYTHON_TYPES.get(declared[name].split("[")[0], object)
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise ValueError(f"{where}: {name}={value!r} is not of type {declared[name]}")


def strict(namespace: dict[str, object]) -> None:
    """Check a running notebook's parameters; its first cell after them calls this with globals().

    papermill warns of a misspelled name and runs on with the default, and it checks no types. The cells that ran are
    in IPython's `In`: the last one of annotated literals declares the parameters, "# Parameters" opens papermill's.
    """
    declared, injected = {}, set()
    for source in namespace["In"]:
        names = [
            n for n in ast.parse(plain(source)).body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
        ]
        declared = {n.target.id: ast.unparse(n.annotation) for n in names} or declared
        if source.startswith("# Parameters"):
            injected = {t.id for n in ast.parse(source).body if isinstance(n, ast.Assign) for t in n.targets}
    given = {name: namespace[name] for name in [*injected, *declared]}
    check_parameters("parameters", declared, given)


def plain(source: str) -> str:
    """A cell's source without IPython's own lines (% and !), which Python cannot parse."""
    return "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!", "?")))


def notebook(arguments) -> None:
    """Execute one notebook unless an executed copy of this very notebook, parameters and code is there."""
    if not arguments.path.is_file():
        raise FileNotFoundError(f"notebook {shown(arguments.path)} does not exist")
    run_notebook(arguments.path, pairs(arguments.parameters), arguments.force)


def run_notebook(path: Path, given: dict[str, object], force: bool = False) -> None:
    """The executed copy under results/<profile>/notebooks, and beside it, written last, a stamp of its origin."""
    import papermill

    from .config import resolve_profile

    read_json(path, "put the notebook back, as by git checkout")
    try:
        known = papermill.inspect_notebook(job.literal(path))
    except Exception as error:  # nbformat raises many kinds for what is no notebook
        raise ValueError(f"{shown(path)} is no notebook: {str(error).splitlines()[0]}") from error
    check_parameters(shown(path), {name: p["inferred_type_name"] for name, p in known.items()}, given)
    default = ast.literal_eval(known["profile"]["default"]) if "profile" in known else "auto"
    profile = resolve_profile(str(given.get("profile", default)))

    folder = results_root() / profile / "notebooks"
    name = called(path.stem, {key: value for key, value in given.items() if key != "profile"})
    target, stamp = folder / f"{name}.ipynb", folder / f"{name}.json"
    origin = {"key": digest([path, *graph.code()], given)}
    if not force and target.is_file() and graph.remembered(stamp) == origin:
        print(f"{path.name}: up to date, {shown(target)}")
        return
    stamp.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    job.execute(path, target, given)
    write_json(stamp, origin)
    print(f"{path.name}: {shown(target)}", flush=True)


def called(stem: str, given: dict[str, object]) -> str:
    """The name of a notebook's copy: its own and its parameters; with a hash where a name cannot say them all."""
    texts = {key: value if isinstance(value, str) else str(value).replace(" ", "") for key, value in given.items()}
    told = stem + "".join(f"-{key}={text}" for key, text in sorted(texts.items()))
    name = re.sub(r"[^\w.,=+\[\]-]", "_", told).encode()[:LONGEST].decode(errors="ignore")
    if name == told and not any("=" in value for value in given.values() if isinstance(value, str)):
        return name
    return f"{name}-{sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:8]}"


def everything(arguments) -> int:
    """Data, runs, notebooks, summary. What fails is named and leaves the rest going; what is finished is kept."""
    if arguments.data:
        os.environ["VTLIB_DATA"] = str(arguments.data)
    if (profile := arguments.profile) == "auto":
        from .config import resolve_profile  # imports torch, which a finished tree need not wait for

        profile = resolve_profile(profile)
    if profile == "paper":
        from .batch import forecast

        forecast.state(profile, arguments.jobs, graph.wanted(profile, arguments.targets))
    asked = arguments.targets, arguments.jobs, arguments.cluster, arguments.dry_run, arguments.more
    return graph.run(profile, *asked)


def train(arguments) -> None:
    """Run one experiment, in one process or in those of torchrun or srun, and print its metrics by protocol."""
    from .config import experiment, resolve_profile

    fields = pairs(arguments.fields)
    fields["profile"] = resolve_profile(fields.get("profile", "auto"))
    wanted = experiment(**fields)
    from . import device, parallel, runs

    with parallel.joined(wanted.device):
        run = runs.run(wanted)
        if device.rank():  # the first process alone evaluates
            return
    table = runs.collect([run]).set_index("protocol")[["trials", *runs.METRICS]]
    print(f"{run.experiment.method} on {run.experiment.data}, mean over trials, {shown(run.folder)}")
    print((table.assign(**100 * table[runs.METRICS])).round(2).to_string())
    if text := runs.other_code(run):
        print(text)


def fields(arguments) -> None:
    """Print every field of an experiment."""
    from .config import fields_table

    print(fields_table())


def data(arguments) -> int:
    """make a SynVT preset, check a real set against its published counts, describe or show a folder."""
    from . import synvt
    from .config import DATA
    from .data import check, datasets

    if arguments.croissant is not None and arguments.action != "describe":
        raise ValueError(f"--croissant belongs to data describe, not to data {arguments.action}: leave it out")
    if arguments.action == "make":
        spec = synvt.preset(arguments.name)
        root, plan = user_path(arguments.path or data_root() / arguments.name), None
        if arguments.like:
            lists = [datasets.identities(arguments.like / f"{part}_id.txt") for part in datasets.SPLITS]
            plan = synvt.read_structure(arguments.like / "rand_perm_cam.mat", *lists)
        print(f"{arguments.name}: {shown(synvt.make(spec, root, plan=plan))}")
        return 0
    if arguments.action == "check":
        if arguments.name == "folder" and not arguments.path:
            raise ValueError("data check folder NAME: name the folder, by its path or as it is called in the data root")
        root = datasets.locate(arguments.path or DATA["paper"].get(arguments.name, arguments.name))
        report = check.check(arguments.name, root, published=arguments.name != "folder")
        print(report.to_string(index=False))
        for sentence in check.problems(report):
            print(sentence, file=sys.stderr)
        return 0 if report.ok.all() else 1
    root = datasets.locate(arguments.name)
    layout = "sysu" if (root / "exp").is_dir() else "regdb" if (root / "idx").is_dir() else "folder"
    table = datasets.read(layout, root)
    if arguments.action == "show":
        show(table, root, user_path(arguments.path or f"{root.name}.png"))
        return 0
    if arguments.croissant is not None:
        from .data import croissant

        about, path = croissant.croissant(layout, root, table), arguments.croissant
        print(croissant.write_croissant(path, about) if path else json.dumps(about, indent=1))
        return 0
    counts = table.groupby(["split", "modality", "cam"]).agg(images=("path", "size"), identities=("pid", "nunique"))
    print(f"{arguments.name}: {len(table)} images of {table.pid.nunique()} identities in {shown(root)}")
    print(counts.to_string())
    return 0


def weights(arguments) -> None:
    """make: pre-train a start, or go on with it; describe: how a file was made, from its own metadata."""
    from . import backbones, pretrain

    if arguments.backbone not in pretrain.STARTS:
        raise ValueError(unknown("start", arguments.backbone, pretrain.STARTS))
    path = arguments.path or backbones.weights_file(arguments.backbone, "synvt")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file, as {path / 'start.safetensors'}")
    if arguments.action == "make" and not path.is_file():
        pretrain.make(arguments.backbone, path)
    print(f"{shown(path)}: {pretrain.describe(path)}")


def show(table, root: Path, target: Path, people: int = 12) -> None:
    """A picture of the first people of a set: a column each, a row for each camera, visible ones first."""
    import numpy as np
    from PIL import Image

    from .data import images

    chosen = table[table.pid.isin(table.pid.drop_duplicates()[:people])].drop_duplicates(["cam", "pid"])
    chosen = chosen.sort_values(["modality", "cam", "pid"]).reset_index(drop=True)
    with tempfile.TemporaryDirectory() as cache:
        tiles = images.store(chosen, root, 128, 64, cache=Path(cache)).pixels.transpose(0, 2, 3, 1)
        columns = chosen.pid.rank(method="dense").astype(int).to_numpy() - 1
        rows = chosen.groupby(["modality", "cam"]).ngroup().to_numpy()
        sheet = np.full((rows.max() + 1, columns.max() + 1, 128, 64, 3), 255, np.uint8)
        sheet[rows, columns] = tiles
    image = Image.fromarray(np.concatenate(np.concatenate(sheet, axis=1), axis=1))
    image.save(target, **({"quality": 82} if target.suffix == ".jpg" else {}))
    print(f"{shown(target)}: {image.width} x {image.height}")


def tune(arguments: argparse.Namespace) -> None:
    from . import tuning
    from .config import TUNED, resolve_profile
    from .suite import items

    profile, methods = resolve_profile(arguments.profile), arguments.methods or items.methods_of_tables()
    path = arguments.out or results_root() / profile / ("places.csv" if arguments.places else "tuned.json")
    if arguments.places:
        made = tuning.place_table(methods, profile)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.to_csv(path, index=False, float_format="%.4g")
        print(made.round(1).to_string(index=False), shown(path), sep="\n")
        return
    found = tuning.tried(methods, profile, tuning.measured)
    tuning.write(profile, found, path)
    made = tuning.table(found)
    print(made[made.chosen].drop(columns=["chosen", "run_id"]).to_string(index=False))
    print(f"{shown(path)}: what ships is {shown(TUNED / f'{profile}.json')}")


def calibrate(arguments: argparse.Namespace) -> None:
    from .config import resolve_profile
    from .suite import calibrate, items, plots, tables

    profile = resolve_profile(arguments.profile)
    found = calibrate.tables(lambda item: tables.finished(profile, item))
    if not found:
        raise ValueError(f"no two finished runs of profile {profile} can be compared: ./run_all.sh --profile {profile}")
    made = calibrate.measure(found, arguments.worlds, say=print)
    facts = calibrate.facts(found, len(items.comparisons(profile)))
    folder = results_root() / profile / "report"
    folder.mkdir(parents=True, exist_ok=True)
    made.to_csv(folder / "calibration.csv", index=False, float_format="%.3f")
    write_json(folder / "calibration.json", facts)
    plots.save(plots.calibration(made, calibrate.SHIPPED), folder / "calibration")
    print(made.round(1).to_string(index=False))
    print(calibrate.sentence(made, facts))


def plan(arguments) -> None:
    """Check the data, count runs, probe the time, hold the disk against it."""
    from .batch import forecast
    from .config import resolve_profile

    forecast.state(resolve_profile(arguments.profile), arguments.jobs)


def results(arguments) -> None:
    """Write finished runs as one file or as an RO-Crate, or show such files beside the printed tables."""
    from .config import resolve_profile
    from .suite import crate, exchange

    if arguments.action == "export":
        print(exchange.export(resolve_profile(arguments.profile), arguments.path))
    elif arguments.action == "crate":
        print(crate.crate(resolve_profile(arguments.profile), arguments.path))
    else:
        print(exchange.compare(arguments.files, arguments.out))


if __name__ == "__main__":
    sys.exit(main())
