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

from .batch import forkserver, graph, job
from .common import data_root, results_root, shown, unknown, user_path
from .files import digest, read_json, write_json

LONGEST = 180  # bytes of a copy's name without suffix: file systems take 255, with the suffix of a file being written
PYTHON_TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list, "dict": dict}


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments and run one command.

    Returns: the exit code: 0, 1 after an error (one sentence on stderr), 2 for wrong usage, 130 after Ctrl-C.
    """
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
    sub = command(commands, "job", one_job, "one job of a plan")
    sub.add_argument("plan", type=file_path, help="a plan.json that `all` has made")
    sub.add_argument("name", help="a run id, a notebook or a data set of the plan")
    sub = command(commands, "data", data, "make, check, describe or show a data set")
    sub.add_argument("action", choices=["make", "check", "describe", "show"])
    sub.add_argument("name", help="make: a SynVT preset; check: sysu, regdb or folder; else a folder of the data root")
    sub.add_argument("path", nargs="?", help="make: where to; check: the set's folder; show: a .png or .jpg")
    sub.add_argument("--like", type=file_path, metavar="EXP", help="make: identities and counts of a SYSU-MM01's exp/")
    text = "describe: as Croissant (JSON-LD), printed or written to PATH, best NAME's folder/croissant.json"
    sub.add_argument("--croissant", nargs="?", const="", metavar="PATH", help=text)
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
    end = argv.index("--") if "--" in argv else len(argv)  # behind it stand options of Snakemake
    arguments = parser.parse_args(argv[:end])
    arguments.more = argv[end + 1 :]
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


def command(commands, name: str, call, text: str) -> argparse.ArgumentParser:
    """Add a sub-command with its help text; `call` gets the parsed arguments and returns an exit code or None."""
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(call=call)
    return parser


def file_path(text: str) -> Path:
    """user_path() for argparse."""
    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


JOBS = {"type": count, "default": 0, "help": "runs at a time; default: as many as cores and memory hold"}


def pairs(texts: list[str]) -> dict[str, object]:
    """Values by key of key=value texts. Raises: ValueError for one without =, a key twice, a number not finite."""
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
    """The value that a text says: as JSON, else as a number, else as YAML, else the text. ~ becomes the home folder.

    YAML comes last because YAML 1.1 takes 1e-3 for a text.
    """
    if text.startswith("~"):
        return str(user_path(text))
    for read in (json.loads, float, yaml.safe_load) if text else ():  # `key=` means the empty text, not None
        try:
            value = read(text)
            json.dumps(value)  # raises for a date or a set, which YAML also knows: they stay text
            return value
        except (ValueError, TypeError, RecursionError, yaml.YAMLError):
            continue
    return text


def finite(value: object) -> bool:
    """Whether all numbers in a JSON value are finite."""
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def check_parameters(where: str, declared: dict[str, str], values: dict[str, object]) -> None:
    """Check parameters of a notebook before any work.

    Args: where: begin of an error's sentence; declared: types by name; values: by name.
    Raises: ValueError for a name that is not declared, or a value of another type.
    """
    for name, value in values.items():
        if name not in declared:
            raise ValueError(f"{where}: {unknown('parameter', name, declared)}")
        kind = PYTHON_TYPES.get(declared[name].split("[")[0], object)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{where}: {name}={value!r} is not of type {declared[name]}")


def strict(namespace: dict[str, object]) -> None:
    """Check a running notebook's parameters: its first cell behind them calls this with globals().

    This is needed because papermill only warns of a misspelled name, runs on with the default, and checks no types.
    The sources of the cells that ran are IPython's `In`: the last one with annotated assignments declares the
    parameters, and papermill's own cell of values begins with "# Parameters".
    Raises: as check_parameters().
    """
    declared, injected = {}, set()
    for source in namespace["In"]:
        statements = ast.parse(plain(source)).body
        annotated = [n for n in statements if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        declared = {n.target.id: ast.unparse(n.annotation) for n in annotated} or declared
        if source.startswith("# Parameters"):
            injected = {t.id for n in ast.parse(source).body if isinstance(n, ast.Assign) for t in n.targets}
    check_parameters("parameters", declared, {name: namespace[name] for name in [*injected, *declared]})


def plain(source: str) -> str:
    """A cell's source without IPython's own lines (% and !), which Python cannot parse."""
    return "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!", "?")))


def notebook(arguments) -> None:
    """Execute one notebook, unless there is a copy of the same notebook, parameters and code."""
    if not arguments.path.is_file():
        raise FileNotFoundError(f"notebook {shown(arguments.path)} does not exist")
    run_notebook(arguments.path, pairs(arguments.parameters), arguments.force)


def run_notebook(path: Path, parameters: dict[str, object], force: bool = False) -> None:
    """Execute a notebook under results/<profile>/notebooks; a stamp beside the copy, written last, says what it is of.

    Args: path: of the notebook; parameters: values by name; force: also where an executed copy is up to date.
    Raises: ValueError for a file that is no notebook, or as check_parameters(); RuntimeError where a cell fails.
    """
    import papermill

    from .config import resolve_profile

    read_json(path, graph.PUT_BACK)
    try:
        declared = papermill.inspect_notebook(job.literal(path))
    except Exception as error:  # nbformat raises errors of many types for a file that is no notebook
        raise ValueError(f"{shown(path)} is no notebook: {str(error).splitlines()[0]}") from error
    check_parameters(shown(path), {name: p["inferred_type_name"] for name, p in declared.items()}, parameters)
    default = ast.literal_eval(declared["profile"]["default"]) if "profile" in declared else "auto"
    profile = resolve_profile(str(parameters.get("profile", default)))

    folder = results_root() / profile / "notebooks"
    name = called(path.stem, {key: value for key, value in parameters.items() if key != "profile"})
    target, stamp = folder / f"{name}.ipynb", folder / f"{name}.json"
    origin = {"key": digest([path, *graph.code()], parameters)}
    if not force and target.is_file() and graph.remembered(stamp) == origin:
        print(f"{path.name}: up to date, {shown(target)}")
        return
    stamp.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    job.execute(path, target, parameters)
    write_json(stamp, origin)
    print(f"{path.name}: {shown(target)}", flush=True)


def called(stem: str, parameters: dict[str, object]) -> str:
    """The file name, without suffix, of a notebook's executed copy: the notebook's name and its parameters.

    A name that is too long is cut, and signs that a file name should not have are replaced. Then, and where a value
    has a =, a hash of the parameters is added, so that no two calls have one name.
    """
    texts = {key: value if isinstance(value, str) else str(value).replace(" ", "") for key, value in parameters.items()}
    full = stem + "".join(f"-{key}={text}" for key, text in sorted(texts.items()))
    name = re.sub(r"[^\w.,=+\[\]-]", "_", full).encode()[:LONGEST].decode(errors="ignore")
    if name == full and not any("=" in value for value in parameters.values() if isinstance(value, str)):
        return name
    return f"{name}-{sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8]}"


def everything(arguments) -> int:
    """Make data, runs and notebooks. A job that fails is named and does not stop the others; finished ones are kept."""
    if arguments.data:
        os.environ["VTLIB_DATA"] = str(arguments.data)
    if (profile := arguments.profile) == "auto":
        from .config import resolve_profile  # it imports torch, and a call with nothing to do need not wait for that

        profile = resolve_profile(profile)
    if profile == "paper":
        from .batch import forecast

        forecast.state(profile, arguments.jobs, graph.wanted(profile, arguments.targets))
    options = arguments.targets, arguments.jobs, arguments.cluster, arguments.dry_run, arguments.more
    return graph.run(profile, *options)


def one_job(arguments) -> int | None:
    """Have a fork server do one job of a plan, or do it here where there is none."""
    code = forkserver.ask("vtlib.launch", "job", str(arguments.plan), arguments.name)
    return job.make(arguments.plan, arguments.name) if code is None else code


def train(arguments) -> None:
    """Run one experiment, in one process or in those of torchrun or srun, and print its metrics by protocol."""
    from . import config

    fields = pairs(arguments.fields)
    fields["profile"] = config.resolve_profile(fields.get("profile", "auto"))
    experiment = config.experiment(**fields)
    from . import device, parallel, runs

    with parallel.joined(experiment.device):
        run = runs.run(experiment)
        if device.rank():  # only the first of several processes evaluates
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
    """Make a SynVT preset, check a real set against its published counts, or describe or show a folder."""
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

        description, path = croissant.croissant(layout, root, table), arguments.croissant
        print(croissant.write_croissant(path, description) if path else json.dumps(description, indent=1))
        return 0
    counts = table.groupby(["split", "modality", "cam"]).agg(images=("path", "size"), identities=("pid", "nunique"))
    print(f"{arguments.name}: {len(table)} images of {table.pid.nunique()} identities in {shown(root)}")
    print(counts.to_string())
    return 0


def weights(arguments) -> None:
    """Pre-train a start, or go on where an earlier call stopped, unless its file is there (make); in any case print
    from the file's metadata how it was made.
    """
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
    """Write a picture of the first people of a set: a column for each, a row for each camera, visible cameras first.

    Args: table: of datasets.read(); root: the set's folder; target: a .png or .jpg; people: how many.
    """
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
    """Give methods their equal trials and write what these choose; or measure the places of the metric losses."""
    from . import tuning
    from .config import TUNED, resolve_profile
    from .suite import items

    profile, methods = resolve_profile(arguments.profile), arguments.methods or items.methods_of_tables()
    path = arguments.out or results_root() / profile / ("places.csv" if arguments.places else "tuned.json")
    if arguments.places:
        measured = tuning.place_table(methods, profile)
        path.parent.mkdir(parents=True, exist_ok=True)
        measured.to_csv(path, index=False, float_format="%.4g")
        print(measured.round(1).to_string(index=False), shown(path), sep="\n")
        return
    trials = tuning.tried(methods, profile, tuning.measured)
    tuning.write(profile, trials, path)
    table = tuning.table(trials)
    print(table[table.chosen].drop(columns=["chosen", "run_id"]).to_string(index=False))
    print(f"{shown(path)}: what ships is {shown(TUNED / f'{profile}.json')}")


def calibrate(arguments: argparse.Namespace) -> None:
    """Measure how often verdicts are wrong, on the finished runs of a profile; write and print it."""
    from .config import resolve_profile
    from .suite import calibrate, items, plots, tables

    profile = resolve_profile(arguments.profile)
    finished = calibrate.tables(lambda item: tables.finished(profile, item))
    if not finished:
        raise ValueError(f"no two finished runs of profile {profile} can be compared: ./run_all.sh --profile {profile}")
    measured = calibrate.measure(finished, arguments.worlds, say=print)
    facts = calibrate.facts(finished, len(items.comparisons(profile)))
    folder = results_root() / profile / "report"
    folder.mkdir(parents=True, exist_ok=True)
    measured.to_csv(folder / "calibration.csv", index=False, float_format="%.3f")
    write_json(folder / "calibration.json", facts)
    plots.save(plots.calibration(measured, calibrate.SHIPPED), folder / "calibration")
    print(measured.round(1).to_string(index=False))
    print(calibrate.sentence(measured, facts))


def plan(arguments) -> None:
    """Check the data of a profile, and print its runs, their time and their disk space."""
    from .batch import forecast
    from .config import resolve_profile

    forecast.state(resolve_profile(arguments.profile), arguments.jobs)


def results(arguments) -> None:
    """Write finished runs as one file or as an RO-Crate, or print such files beside the numbers of the papers."""
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
