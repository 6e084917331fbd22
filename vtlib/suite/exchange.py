"""Results as one file to send, and such files beside the printed tables, each in columns of its own.

A file is a zip archive: manifest.json, report/*.csv, and of each run experiment.json, metrics.json and history.jsonl.
It holds numbers only: no image, no feature, no weights, no path. A file that is read may come from anybody, so it is
parsed as JSON in memory, never unpacked to disk, and its names, sizes, digests, fields and ranges are checked first.
"""

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path, PurePath
from typing import NamedTuple

import pandas as pd

from .. import __version__
from ..common import data_root, results_root, user_path
from ..config import DATA, NOT_HASHED, Experiment, build, upgraded
from ..data import datasets
from ..device import commit
from ..files import read_json, read_json_lines, whole
from ..runs import METRICS, Run, collect, in_other_precision
from . import items
from .tables import under

SCHEMA = 1  # version of the format: raise it when an older reader would misread a newer file
FACTS = ("run_id", "protocols", "data_digest", "seed", "train_seconds", "last_call_seconds", "peak_memory")
FACTS += ("parameters", "versions", "device", "precision", "processes", "threads", "commit", "finished")
PRINTED = ("device", "precision", "commit")  # the facts that are printed
LARGEST, LARGEST_SUM = 16_000_000, 256_000_000  # bytes of one entry and of all, unpacked: a run takes some 50 thousand
RUN = re.compile(r"[0-9a-f]{12}")  # a run id
OF_RUN = ("experiment.json", "metrics.json", "history.jsonl")
# Names of entries. The table of a changed set has the name of the set in its own, with = and commas
ENTRY = re.compile(rf"manifest\.json|runs/{RUN.pattern}/({'|'.join(OF_RUN)})|report/[^/\\]+\.csv")


class Numbers(NamedTuple):
    """What is exported of a run, the contents of its three files; no path is among them."""

    fields: dict  # of the experiment; data and weights have the last part of their path
    metrics: dict  # FACTS alone
    history: list[dict]  # a record for each epoch


class Received(NamedTuple):
    """A file of results as it was read."""

    name: str
    manifest: dict
    runs: dict[str, Run]  # by run id


def export(profile: str, path: str | Path) -> str:
    """Write the finished runs of all tables, and the tables, as one file. The same results give the same bytes.

    Args: profile; path: of the file, which may replace an older export only.
    Returns: a sentence on what is in it.
    Raises: ValueError if nothing is finished, a run is not whole, or the place is taken by another kind of file.
    """
    path = replaceable(path, is_ours, "results export", f"{profile}.zip")
    runs, left_out = finished(profile)
    content = {f"runs/{i}/{name}": text for i, run in runs.items() for name, text in texts(*run).items()}
    content |= {f"report/{f.name}": f.read_text() for f in sorted((results_root() / profile / "report").glob("*.csv"))}
    no_private_paths(content)
    manifest = manifest_of(profile, list(runs.values()))
    manifest["files"] = {name: digest(text) for name, text in content.items()}
    write(path, {"manifest.json": dumped(manifest)} | content)
    size, data = path.stat().st_size / 1e3, ", ".join(manifest["data"])
    return f"{path}: {len(runs)} runs on {data}, {size:.0f} kB; no image, feature, weight or path is in it{left_out}"


def replaceable(path: str | Path, is_older: Callable[[Path], bool], command: str, name: str) -> Path:
    """The path of a file that a command may write, as nothing is there or an older file of its own.

    Args: path; is_older: whether a file is one that the command wrote; command, name: of the command, and of a file
        that it could write, for the error.
    Raises: ValueError if something else is there.
    """
    path = user_path(path)
    if path.is_dir() or (path.exists() and not is_older(path)):
        raise ValueError(f"{path} is there and no file of `{command}`: give a new name like {name}")
    return path


def finished(profile: str) -> tuple[dict[str, Numbers], str]:
    """The finished runs of all tables, by run id, and the end of a sentence on the runs of no table, which stay here.

    Raises: ValueError if nothing is finished, or a run is not whole.
    """
    root = results_root() / profile
    folders = sorted(f.parent for f in root.glob("runs/*/metrics.json") if RUN.fullmatch(f.parent.name))
    needed = items.experiments(profile, items.ITEMS, absent=True)
    ids = {same.run_id for e in needed for same in (e, *in_other_precision(e))}
    stored = {folder.name: stripped(folder) for folder in folders}
    runs = {name: run for name, run in stored.items() if run_id_of(run.fields) in ids}
    if not runs:
        raise ValueError(f"no run of a table is finished under {root / 'runs'}: there is nothing to export")
    return runs, f"; {len(stored) - len(runs)} runs of no table are left out" * (len(stored) > len(runs))


def no_private_paths(content: dict[str, str | bytes]) -> None:
    """Check that no file names a folder of this machine. Args: content: of each file. Raises: ValueError naming it."""
    for name, text in content.items():
        data = text.encode() if isinstance(text, str) else text
        if private := next((p for p in private_paths() if p.encode() in data), ""):
            raise ValueError(f"{name} holds the path {private}, which is nobody's business: remove it and export again")


def run_id_of(fields: dict) -> str:
    """The run id of an experiment's fields; "" if this version cannot build it, as with a loss of somebody's own."""
    try:
        return build(fields, {}).run_id
    except ValueError:
        return ""


def stripped(folder: Path) -> Numbers:
    """The numbers of a finished run. Raises: ValueError if the run is not whole."""
    try:
        fields, metrics = (read_json(folder / name) for name in OF_RUN[:2])
        history = read_json_lines(folder / OF_RUN[2], "")
        fields = upgraded(fields, metrics.get("precision", "float32"))
        fields |= {name: PurePath(fields[name]).name for name in ("data", "weights")}
        return Numbers(fields, {name: metrics[name] for name in FACTS if name in metrics}, history)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"run {folder} is not whole ({error!r}): remove the folder and make the run again") from error


def texts(fields: dict, metrics: dict, history: list[dict]) -> dict[str, str]:
    """The three files of a run, by name. Args: fields, metrics, history: as in Numbers."""
    lines = [json.dumps(row) + "\n" for row in history]
    return dict(zip(OF_RUN, (dumped(fields), dumped(metrics), "".join(lines)), strict=True))


def manifest_of(profile: str, runs: list[Numbers]) -> dict:
    """The manifest of a file, without its list of files."""
    data = {}
    for name in sorted({run.fields["data"] for run in runs}):
        digests = sorted({run.metrics["data_digest"] for run in runs if run.fields["data"] == name})
        data[name] = {"digests": digests, "drawn_by_synvt": drawn(name)}
    facts = {k: sorted({dumped(run.metrics.get(k)) for run in runs}) for k in ("versions", *PRINTED)}
    facts = {k: [json.loads(text) for text in values] for k, values in facts.items()}
    manifest = {"schema": SCHEMA, "vtlib": __version__, "exported_by": commit()}
    return manifest | {"profile": profile, "runs": len(runs), "data": data} | facts


def drawn(name: str) -> bool | None:
    """Whether SynVT drew a data set; None if its folder is not at hand."""
    try:
        return datasets.is_drawn(datasets.locate(name))
    except FileNotFoundError:
        return None


def private_paths() -> list[str]:
    """The folders of this machine that no exported file may name."""
    places = (results_root(), data_root(), Path.home(), Path(__file__).parents[1])
    return [str(p) for p in places if p != p.parent]


def dumped(value) -> str:
    """A value as JSON, always with the same bytes."""
    return json.dumps(value, indent=1, sort_keys=True)


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, content: dict[str, str | bytes]) -> None:
    """Write an archive, whole or not at all. Equal content gives equal bytes: times and rights of entries are fixed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in content.items():
            entry = zipfile.ZipInfo(name)  # its time is 1980
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_bytes(stream.getvalue())


def is_ours(path: Path) -> bool:
    """Whether a file is a zip archive with a manifest."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "manifest.json" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def read(path: str | Path) -> Received:
    """Read a file of export() and check every part of it.

    Raises: ValueError, one sentence naming the file and the part, or FileNotFoundError.
    """
    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    content = unpacked(path)
    manifest = parsed(path, "manifest.json", content.pop("manifest.json", "null"))
    files, data = (manifest.get(k) if isinstance(manifest, dict) else None for k in ("files", "data"))
    if not (isinstance(files, dict) and isinstance(data, dict) and all(isinstance(d, dict) for d in data.values())):
        raise ValueError(f"{path} is not a file of `results export`: it has no manifest of one")
    if manifest.get("schema") != SCHEMA:
        versions = f"{path} has schema {manifest.get('schema')!r}, this version reads {SCHEMA}"
        raise ValueError(f"{versions}: export it again with this version, or read it with its own")
    for name in sorted(content.keys() | files.keys()):
        if name not in content or digest(content[name]) != files.get(name):
            raise ValueError(f"{path}: {name!r} is missing, or not the one that was exported: ask for the file again")
    ids = sorted({name.split("/")[1] for name in content if name.startswith("runs/")})
    runs = {i: run_of(path, i, content) for i in ids}
    profiles = {r.experiment.profile for r in runs.values()}
    if len(profiles) != 1 or profiles != {manifest.get("profile")}:
        raise ValueError(f"{path}: its runs are not of the one profile that its manifest names")
    return Received(path.name, manifest, runs)


def unpacked(path: Path) -> dict[str, str]:
    """The text of each entry, in memory. Raises: ValueError for an entry with another name, or too large."""
    ours = "is not a file of `results export`"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if odd := next((e.filename for e in entries if not ENTRY.fullmatch(e.filename)), ""):
                raise ValueError(f"{path} {ours}: no export writes {odd!r}")
            if len({e.filename for e in entries}) < len(entries):
                raise ValueError(f"{path} {ours}: two entries have one name")
            if (
                max((e.file_size for e in entries), default=0) > LARGEST
                or sum(e.file_size for e in entries) > LARGEST_SUM
            ):
                raise ValueError(f"{path} {ours}: it is larger than results can be")
            return {e.filename: archive.read(e).decode() for e in entries}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} {ours}: it holds what is not text") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} {ours}, or it came broken ({error})") from error


def parsed(path: Path, name: str, text: str):
    """The JSON of an entry. Raises: ValueError naming the file and the entry."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {name} is not JSON ({error})") from error


def run_of(path: Path, run_id: str, content: dict[str, str]) -> Run:
    """One run of a file. Its metrics and history are set, so that they are not looked for on disk.

    Args: path: of the file; run_id; content: text of each entry. Raises: ValueError naming the file and the entry.
    """
    where = f"runs/{run_id}"
    names = [f"{where}/{name}" for name in OF_RUN]
    if any(name not in content for name in names):
        raise ValueError(f"{path}: {where} is no whole run")
    fields, metrics = (parsed(path, name, content[name]) for name in names[:2])
    history = [parsed(path, names[2], line) for line in content[names[2]].splitlines()]
    if not isinstance(fields, dict) or not isinstance(metrics, dict) or metrics.get("run_id") != run_id:
        raise ValueError(f"{path}: {where} holds the metrics of another run")
    try:
        run = Run(build(upgraded(fields, str(metrics.get("precision"))), {}), Path(path.name, run_id))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {names[0]}: {error}") from error
    if fault := fault_of(metrics, run.experiment):
        raise ValueError(f"{path}: {names[1]}: {fault}")
    vars(run).update(metrics=metrics, history=pd.DataFrame(history))
    return run


def fault_of(metrics: dict, experiment: Experiment) -> str:
    """What is wrong with metrics that no evaluation can have given, in words; "" for sound ones."""
    protocols, data = metrics.get("protocols"), metrics.get("data_digest")
    if not isinstance(data, str) or not re.fullmatch(r"[0-9a-f]{64}", data):
        return "data_digest is no digest"
    if not all(isinstance(text, str) and text.isprintable() for text in (*map(metrics.get, PRINTED), experiment.data)):
        return f"{', '.join(PRINTED)} and the name of the data must be plain text"
    if not isinstance(protocols, dict) or not protocols or not "".join(protocols).isprintable():
        return "it has no protocol"
    for name, trials in protocols.items():
        if not isinstance(trials, list) or not trials:
            return f"{name} has no trial"
        for trial in trials:
            values = [trial.get(m) for m in METRICS] if isinstance(trial, dict) else [None]
            if not all(isinstance(v, float | int) and 0 <= v <= 1 for v in values):  # NaN neither
                return f"{name} has a metric that is not a number from 0 to 1"
            if values[:4] != sorted(values[:4]):
                return f"{name} finds fewer people at a higher rank"
    return ""


def compare(files: list[str | Path], out: str | Path | None = None) -> str:
    """The printed numbers of every table beside those of each file, as text.

    A file with runs on several versions of a data set has columns for each version. Notes say what makes columns differ
    besides the method: profile, data, their bytes, protocols, missing runs.
    Args: files: paths of files of export(); out: path of a CSV file that gets all metrics.
    Raises: ValueError or FileNotFoundError, one sentence, for a file that cannot be used.
    """
    columns = {}
    for one in map(read, files):
        for n, part in enumerate(versions(one), start=1):
            label = one.name if n == 1 else f"{one.name}, data version {n}"
            while label in columns:
                label += "'"
            columns[label] = part
    shown_tables, tables, notes = [], [], warnings(columns)
    for key in (key for key, item in items.ITEMS.items() if item.settings):  # the others have no numbers of a protocol
        table, incomplete = beside(key, columns)
        notes += incomplete
        if len(table):
            tables.append(table.assign(item=key))
            shown_tables += ["", items.ITEMS[key].title, shown(table, list(columns))]
            shown_tables += [f"of the print: {e}" for e in items.ITEMS[key].errors]
    if not tables:
        raise ValueError("none of these runs belongs to a table: were they made by another version of this project?")
    if out:
        first = ["item", "row", "setting", "metric", "printed"]
        long = pd.concat(tables)
        long[[*first, *(c for c in long if c not in first)]].to_csv(out, index=False, float_format="%.3f")
    lines = [f"{label}: {described(part)}" for label, part in columns.items()]
    return "\n".join([*lines, *(f"note: {note}" for note in dict.fromkeys(notes)), *shown_tables])


def versions(one: Received) -> list[Received]:
    """The runs of a file, divided by the bytes of their data; the commonest first. Mostly this is one part."""
    counts, order = Counter((place(r), r.metrics["data_digest"]) for r in one.runs.values()), {}
    for where, data in sorted(counts, key=lambda key: (-counts[key], key)):
        order.setdefault(where, []).append(data)
    number = {i: order[place(r)].index(r.metrics["data_digest"]) for i, r in one.runs.items()}
    parts = [{i: r for i, r in one.runs.items() if number[i] == n} for n in sorted(set(number.values()))]
    return [one._replace(runs=part) for part in parts]


def place(run: Run) -> tuple[str, int]:
    """What a digest of data belongs to: the name of the set and the split."""
    return run.experiment.data, run.experiment.split


def described(part: Received) -> str:
    """A line on where the numbers of a column come from."""
    runs = part.runs.values()
    device, precision, commits = (", ".join(sorted({r.metrics[k] for r in runs})) for k in PRINTED)
    data = ", ".join(sorted({r.experiment.data for r in runs}))
    return f"profile {part.manifest['profile']}, {len(runs)} runs on {data}; {device}; {precision}; commit {commits}"


def warnings(columns: dict[str, Received]) -> list[str]:
    """Why columns may not be compared with the printed ones, or with each other: a sentence for each reason."""
    notes, real = [], DATA["paper"].values()
    for label, part in columns.items():
        for name in sorted({r.experiment.data for r in part.runs.values()}):
            synthetic = part.manifest["data"].get(name, {}).get("drawn_by_synvt")
            if name not in real or synthetic:
                notes.append(f"{label}: {name} is NOT the real set: its numbers compare with no printed one")
            elif synthetic is None:
                notes.append(f"{label}: {name} was not at hand at the export: whether it is the real set is unknown")
        if (profile := part.manifest["profile"]) != "paper":
            notes.append(
                f"{label}: profile {profile} is not the papers' recipe: its numbers compare with no printed one"
            )
    for (a, one), (b, two) in combinations(columns.items(), 2):
        if one.manifest["profile"] != two.manifest["profile"]:
            notes.append(f"{a} and {b} are of different profiles")
        bytes_a, bytes_b = ({place(r): r.metrics["data_digest"] for r in c.runs.values()} for c in (one, two))
        for name in sorted({p[0] for p in bytes_a.keys() & bytes_b.keys() if bytes_a[p] != bytes_b[p]}):
            notes.append(f"{a} and {b} were measured on different versions of {name}")
        searched_a, searched_b = (
            {(r.experiment.dataset, p) for r in c.runs.values() for p in r.metrics["protocols"]} for c in (one, two)
        )
        both = {layout for layout, _ in searched_a} & {layout for layout, _ in searched_b}
        if odd := sorted(p for layout, p in searched_a ^ searched_b if layout in both):
            notes.append(f"{a} and {b} differ in protocols: only one has {', '.join(odd)}")
    return notes


def beside(item: str, columns: dict[str, Received]) -> tuple[pd.DataFrame, list[str]]:
    """One table, printed and as in each file, in percent; and notes on runs that are missing in it.

    Args: item: its key in ITEMS; columns: the runs of each, by its label.
    Returns: row, setting, metric, printed, and for each label: it, with " sd" and with " runs"; and the notes.
    """
    spec, notes, measured, keys = items.ITEMS[item], [], False, ["row", "setting", "metric"]
    table = spec.printed.drop(columns="source")
    for label, part in columns.items():
        runs, rows = {}, []
        for row, group in spec.rows(part.manifest["profile"]).items():
            same = [[part.runs[x.run_id] for x in (e, *in_other_precision(e)) if x.run_id in part.runs] for e in group]
            runs[row] = [run[0] for run, e in zip(same, group, strict=True) if run and is_of(run[0], e)]
            if 0 < len(runs[row]) < len(group):
                notes.append(f"{label}: {item}, {row}: {len(runs[row])} of {len(group)} runs, the mean is of those")
        for setting, protocol in spec.settings.items():
            for row, group in under(runs, protocol).items():
                means = 100 * collect(group, protocol)[METRICS]
                rows += [[row, setting, m, means[m].mean(), means[m].std(ddof=1), len(group)] for m in METRICS]
        names = [label, f"{label} sd", f"{label} runs"]
        rows = pd.DataFrame(rows, columns=[*keys, *names]).astype(dict.fromkeys(names, float))  # also of no rows
        table, measured = table.merge(rows, on=keys, how="outer", sort=False), measured or len(rows) > 0
    names = dict.fromkeys([*spec.printed.row, *table.row, *spec.settings, *METRICS])
    order = {name: n for n, name in enumerate(names)}
    table = table.sort_values(keys, key=lambda names: names.map(order), ignore_index=True)
    return (table if measured else table.iloc[:0]), notes


def is_of(run: Run, experiment: Experiment) -> bool:
    """Whether a run has the fields of an experiment but for precision: equal ids do not say so.

    A run id leaves out fields with their default value, and a default may have changed since the run.
    """
    without = NOT_HASHED | {"precision"}
    one, two = (e.model_dump(mode="json", exclude=without) for e in (run.experiment, experiment))
    return one == two


def shown(table: pd.DataFrame, labels: list[str]) -> str:
    """Rank-1 and mAP of a table as text, rows in the order of the paper."""
    table = table[table.metric.isin(["rank1", "mAP"])]
    names, metrics = ["printed", *labels], ["rank1", "mAP"]
    wide = table.pivot(index="row", columns=["setting", "metric"], values=names)
    order = pd.MultiIndex.from_product([names, dict.fromkeys(table.setting), metrics])
    wide = wide.reindex(columns=order).dropna(axis=1, how="all").loc[list(dict.fromkeys(table.row))]
    return wide.rename_axis(index=None).to_string(float_format="{:.2f}".format, na_rep="-")
