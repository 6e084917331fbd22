"""Results as one file to send, and such files beside the printed tables, each in columns of its own.

A file is a zip archive: manifest.json, report/*.csv, and of each run experiment.json, metrics.json and history.jsonl.
It holds numbers alone: no image, no feature, no weights, no path. Reading one takes JSON for JSON, unpacks nothing to
disk and believes nothing: names, sizes, digests, fields and ranges are checked first.
"""

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections import Counter
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

SCHEMA = 1  # of the file; raise it when an older reader would misread a newer file
FACTS = ("run_id", "protocols", "data_digest", "seed", "train_seconds", "last_call_seconds", "peak_memory")
FACTS += ("parameters", "versions", "device", "precision", "processes", "threads", "commit", "finished")  # of metrics
SAID = ("device", "precision", "commit")  # those that are printed
LARGEST, WHOLE = 16_000_000, 256_000_000  # bytes of an entry and of all, unpacked: a run takes some 50 thousand
RUN = re.compile(r"[0-9a-f]{12}")
OF_RUN = ("experiment.json", "metrics.json", "history.jsonl")
# the table of a changed set has the name of the set in its own, with = and commas
ENTRY = re.compile(rf"manifest\.json|runs/{RUN.pattern}/({'|'.join(OF_RUN)})|report/[^/\\]+\.csv")


class Received(NamedTuple):
    """A file of results as it was read: its name, its manifest, and its runs by run id."""

    name: str
    manifest: dict
    runs: dict[str, Run]


def export(profile: str, path: str | Path) -> str:
    """Write finished runs of the tables, and the tables, of a profile as one file; the same results, the same bytes.

    Data and weights are named by the last part of their path; of metrics.json only FACTS go along.
    Returns: a sentence on what is in it.
    Raises: ValueError if nothing is finished, a run is not whole, or the place is taken by another kind of file.
    """
    path = user_path(path)
    if path.is_dir() or (path.exists() and not is_ours(path)):
        raise ValueError(f"{path} is there and no file of `results export`: give a new name like {profile}.zip")
    found, left = finished(profile)
    content = {f"runs/{i}/{name}": text for i, run in found.items() for name, text in texts(*run).items()}
    content |= {f"report/{f.name}": f.read_text() for f in sorted((results_root() / profile / "report").glob("*.csv"))}
    no_private_paths(content)
    manifest = about(profile, list(found.values()))
    manifest["files"] = {name: digest(text) for name, text in content.items()}
    write(path, {"manifest.json": dumped(manifest)} | content)
    size, data = path.stat().st_size / 1e3, ", ".join(manifest["data"])
    return f"{path}: {len(found)} runs on {data}, {size:.0f} kB; no image, feature, weight or path is in it{left}"


def finished(profile: str) -> tuple[dict[str, tuple[dict, dict, list[dict]]], str]:
    """stripped() of the finished runs of the tables, by run id; and what a sentence adds of the runs left out.

    Raises: ValueError if nothing is finished, or a run is not whole.
    """
    root = results_root() / profile
    folders = sorted(f.parent for f in root.glob("runs/*/metrics.json") if RUN.fullmatch(f.parent.name))
    every = items.experiments(profile, items.ITEMS, absent=True)
    wanted = {same.run_id for e in every for same in (e, *in_other_precision(e))}
    there = {folder.name: stripped(folder) for folder in folders}
    found = {name: run for name, run in there.items() if run_id_of(run[0]) in wanted}
    if not found:
        raise ValueError(f"no run of a table is finished under {root / 'runs'}: there is nothing to export")
    return found, f"; {len(there) - len(found)} runs of no table are left out" * (len(there) > len(found))


def no_private_paths(content: dict[str, str | bytes]) -> None:
    """Raises: ValueError for a file in which a folder of this machine is named."""
    for name, text in content.items():
        data = text.encode() if isinstance(text, str) else text
        if private := next((p for p in private_paths() if p.encode() in data), ""):
            raise ValueError(f"{name} holds the path {private}, which is nobody's business: remove it and export again")


def run_id_of(fields: dict) -> str:
    """The run id of an experiment's fields; "" where this version cannot build it, as one with a loss of one's own."""
    try:
        return build(fields, {}).run_id
    except ValueError:
        return ""


def stripped(folder: Path) -> tuple[dict, dict, list[dict]]:
    """Experiment, metrics and history of a finished run without paths. ValueError where one is not whole."""
    try:
        fields, metrics = (read_json(folder / name) for name in OF_RUN[:2])
        history = read_json_lines(folder / OF_RUN[2], "")
        fields = upgraded(fields, metrics.get("precision", "float32"))
        fields |= {name: PurePath(fields[name]).name for name in ("data", "weights")}
        return fields, {name: metrics[name] for name in FACTS if name in metrics}, history
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"run {folder} is not whole ({error!r}): remove the folder and make the run again") from error


def texts(fields: dict, metrics: dict, history: list[dict]) -> dict[str, str]:
    """The three files of a run, by name."""
    lines = [json.dumps(row) + "\n" for row in history]
    return dict(zip(OF_RUN, (dumped(fields), dumped(metrics), "".join(lines)), strict=True))


def about(profile: str, found: list[tuple[dict, dict, list[dict]]]) -> dict:
    """The manifest without its list of files."""
    data = {}
    for name in sorted({fields["data"] for fields, _, _ in found}):
        digests = sorted({metrics["data_digest"] for fields, metrics, _ in found if fields["data"] == name})
        data[name] = {"digests": digests, "drawn_by_synvt": drawn(name)}
    seen = {k: sorted({dumped(metrics.get(k)) for _, metrics, _ in found}) for k in ("versions", *SAID)}
    seen = {k: [json.loads(text) for text in values] for k, values in seen.items()}
    made = {"schema": SCHEMA, "vtlib": __version__, "exported_by": commit()}
    return made | {"profile": profile, "runs": len(found), "data": data} | seen


def drawn(name: str) -> bool | None:
    """Whether SynVT drew a set; None where its folder is not at hand."""
    try:
        return datasets.is_drawn(datasets.locate(name))
    except FileNotFoundError:
        return None


def private_paths() -> list[str]:
    """Folders of this machine that no exported file may name."""
    places = (results_root(), data_root(), Path.home(), Path(__file__).parents[1])
    return [str(p) for p in places if p != p.parent]


def dumped(value) -> str:
    return json.dumps(value, indent=1, sort_keys=True)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, content: dict[str, str | bytes]) -> None:
    """The archive, whole or absent; times and rights of its entries are fixed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in content.items():
            entry = zipfile.ZipInfo(name)  # of 1980, whenever it is written
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_bytes(stream.getvalue())


def is_ours(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "manifest.json" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def read(path: str | Path) -> Received:
    """A file of export(), every part of it checked. Raises: ValueError, one sentence naming the file and the part."""
    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    content = unpacked(path)
    manifest = parsed(path, "manifest.json", content.pop("manifest.json", "null"))
    files, data = (manifest.get(k) if isinstance(manifest, dict) else None for k in ("files", "data"))
    if not (isinstance(files, dict) and isinstance(data, dict) and all(isinstance(d, dict) for d in data.values())):
        raise ValueError(f"{path} is not a file of `results export`: it has no manifest of one")
    if manifest.get("schema") != SCHEMA:
        said = f"{path} has schema {manifest.get('schema')!r}, this version reads {SCHEMA}"
        raise ValueError(f"{said}: export it again with this version, or read it with its own")
    for name in sorted(content.keys() | files.keys()):
        if name not in content or digest(content[name]) != files.get(name):
            raise ValueError(f"{path}: {name!r} is missing, or not the one that was exported: ask for the file again")
    ids = sorted({name.split("/")[1] for name in content if name.startswith("runs/")})
    found = {i: run_of(path, i, content) for i in ids}
    profiles = {r.experiment.profile for r in found.values()}
    if len(profiles) != 1 or profiles != {manifest.get("profile")}:
        raise ValueError(f"{path}: its runs are not of the one profile that its manifest names")
    return Received(path.name, manifest, found)


def unpacked(path: Path) -> dict[str, str]:
    """Every entry as text, in memory; none larger than it may be."""
    ours = "is not a file of `results export`"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if odd := next((e.filename for e in entries if not ENTRY.fullmatch(e.filename)), ""):
                raise ValueError(f"{path} {ours}: no export writes {odd!r}")
            if len({e.filename for e in entries}) < len(entries):
                raise ValueError(f"{path} {ours}: two entries have one name")
            if max((e.file_size for e in entries), default=0) > LARGEST or sum(e.file_size for e in entries) > WHOLE:
                raise ValueError(f"{path} {ours}: it is larger than results can be")
            return {e.filename: archive.read(e).decode() for e in entries}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} {ours}: it holds what is not text") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} {ours}, or it came broken ({error})") from error


def parsed(path: Path, name: str, text: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {name} is not JSON ({error})") from error


def run_of(path: Path, run_id: str, content: dict[str, str]) -> Run:
    """One run of a file; its metrics and history stand where those of a run on disk would be read."""
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
    """What no evaluation can have given; "" for sane metrics."""
    protocols, data = metrics.get("protocols"), metrics.get("data_digest")
    if not isinstance(data, str) or not re.fullmatch(r"[0-9a-f]{64}", data):
        return "data_digest is no digest"
    if not all(isinstance(text, str) and text.isprintable() for text in (*map(metrics.get, SAID), experiment.data)):
        return f"{', '.join(SAID)} and the name of the data must be plain text"
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
    """The printed numbers of every table beside those of each file, as text; `out` gets all metrics as CSV.

    A file has columns of its own, and more of them where it holds runs on several versions of a set. What makes
    columns differ besides the method (profile, data, their bytes, protocols, missing runs) is said in notes.
    Raises: ValueError or FileNotFoundError, one sentence, for a file that cannot be believed.
    """
    columns = {}
    for one in map(read, files):
        for n, part in enumerate(versions(one), start=1):
            label = one.name if n == 1 else f"{one.name}, data version {n}"
            while label in columns:
                label += "'"
            columns[label] = part
    shown_tables, tables, notes = [], [], warnings(columns)
    for item in (key for key in items.ITEMS if items.ITEMS[key].settings):  # figures of other numbers have none
        table, incomplete = beside(item, columns)
        notes += incomplete
        if len(table):
            tables.append(table.assign(item=item))
            shown_tables += ["", items.ITEMS[item].title, shown(table, list(columns))]
            shown_tables += [f"of the print: {e}" for e in items.ITEMS[item].errors]
    if not tables:
        raise ValueError("none of these runs belongs to a table: were they made by another version of this project?")
    if out:
        first = ["item", "row", "setting", "metric", "printed"]
        whole = pd.concat(tables)
        whole[[*first, *(c for c in whole if c not in first)]].to_csv(out, index=False, float_format="%.3f")
    lines = [f"{label}: {described(part)}" for label, part in columns.items()]
    return "\n".join([*lines, *(f"note: {note}" for note in dict.fromkeys(notes)), *shown_tables])


def versions(one: Received) -> list[Received]:
    """A file's runs apart by the bytes of their data: the commonest first, and most often there is no other."""
    counts, order = Counter((place(r), r.metrics["data_digest"]) for r in one.runs.values()), {}
    for where, data in sorted(counts, key=lambda key: (-counts[key], key)):
        order.setdefault(where, []).append(data)
    number = {i: order[place(r)].index(r.metrics["data_digest"]) for i, r in one.runs.items()}
    parts = [{i: r for i, r in one.runs.items() if number[i] == n} for n in sorted(set(number.values()))]
    return [one._replace(runs=part) for part in parts]


def place(run: Run) -> tuple[str, int]:
    """What a digest of data belongs to."""
    return run.experiment.data, run.experiment.split


def described(part: Received) -> str:
    """One line on where a column comes from."""
    runs = part.runs.values()
    device, precision, commits = (", ".join(sorted({r.metrics[k] for r in runs})) for k in SAID)
    data = ", ".join(sorted({r.experiment.data for r in runs}))
    return f"profile {part.manifest['profile']}, {len(runs)} runs on {data}; {device}; {precision}; commit {commits}"


def warnings(columns: dict[str, Received]) -> list[str]:
    """Why columns may not be compared with the printed ones, or with each other."""
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
        of = [{place(r): r.metrics["data_digest"] for r in c.runs.values()} for c in (one, two)]
        for name in sorted({where[0] for where in of[0].keys() & of[1].keys() if of[0][where] != of[1][where]}):
            notes.append(f"{a} and {b} were measured on different versions of {name}")
        have = [
            {(r.experiment.dataset, p) for r in c.runs.values() for p in r.metrics["protocols"]} for c in (one, two)
        ]
        both = {layout for layout, _ in have[0]} & {layout for layout, _ in have[1]}
        if odd := sorted(p for layout, p in have[0] ^ have[1] if layout in both):
            notes.append(f"{a} and {b} differ in protocols: only one has {', '.join(odd)}")
    return notes


def beside(item: str, columns: dict[str, Received]) -> tuple[pd.DataFrame, list[str]]:
    """One table: row, setting, metric, printed, and of each column its name, sd and runs; and what is missing in it."""
    of, notes, measured, keys = items.ITEMS[item], [], False, ["row", "setting", "metric"]
    table = of.printed.drop(columns="source")
    for label, part in columns.items():
        done, rows = {}, []
        for row, group in of.rows(part.manifest["profile"]).items():
            same = [[part.runs[x.run_id] for x in (e, *in_other_precision(e)) if x.run_id in part.runs] for e in group]
            done[row] = [found[0] for found, e in zip(same, group, strict=True) if found and is_of(found[0], e)]
            if 0 < len(done[row]) < len(group):
                notes.append(f"{label}: {item}, {row}: {len(done[row])} of {len(group)} runs, the mean is of those")
        for setting, protocol in of.settings.items():
            for row, group in under(done, protocol).items():
                means = 100 * collect(group, protocol)[METRICS]
                rows += [[row, setting, m, means[m].mean(), means[m].std(ddof=1), len(group)] for m in METRICS]
        names = [label, f"{label} sd", f"{label} runs"]
        rows = pd.DataFrame(rows, columns=[*keys, *names]).astype(dict.fromkeys(names, float))  # none has no type
        table, measured = table.merge(rows, on=keys, how="outer", sort=False), measured or len(rows) > 0
    order = {name: n for n, name in enumerate(dict.fromkeys([*of.printed.row, *table.row, *of.settings, *METRICS]))}
    table = table.sort_values(keys, key=lambda names: names.map(order), ignore_index=True)
    return (table if measured else table.iloc[:0]), notes


def is_of(run: Run, experiment: Experiment) -> bool:
    """Whether a run is of these very fields but for precision: a default may have changed since, and its id not."""
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
