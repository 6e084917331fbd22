"""Results as an RO-Crate: a zip archive of runs, tables and figures, described in JSON-LD that other tools read.

The description is a flat list of entities, JSON objects that name each other by their "@id": the crate itself, its
files, the data sets, the versions of this package, and an action for each run.
"""

import json
import re
import zipfile
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from .. import __version__
from ..common import results_root
from ..data.croissant import CRATE, FORMATS, MIT
from . import exchange, items

METADATA = "ro-crate-metadata.json"
ROOT = "Results of vtlib, profile "  # begins the name of a crate, and shows that this file wrote it
KINDS = {  # files of a report, by what follows the name of a table or figure
    ".claims.csv": "its claims with their verdicts",
    ".csv": "printed and measured numbers",
    ".txt": "the verdict in words",
    ".tex": "the table for LaTeX",
    ".png": "the figure",
    ".pdf": "the figure for print",
}
OTHERS = {  # reports that are no table of a paper, by the beginning of their name
    "provenance": "where every number of the report comes from",
    "claims": "all claims with their verdicts",
    "tsne": "t-SNE of test features as points",
    "cues": "what searches find that read one cue of SynVT each",
    "levers": "the same and a network while one number of SynVT changes",
    "transfer": "what networks find on images of another set",
}
OF_RUN = {
    "experiment.json": "every field of the experiment",
    "metrics.json": "the metrics of every trial, versions, device, commit",
    "history.jsonl": "the losses by epoch",
}


def crate(profile: str, path: str | Path) -> str:
    """Write the finished runs of all tables, and the report, as an RO-Crate. The same results give the same bytes.

    Args: profile; path: of the file, which may replace an older crate only.
    Returns: a sentence on what is in it.
    Raises: ValueError if nothing is finished, a run is not whole, or the place is taken by another kind of file.
    """
    path = exchange.replaceable(path, is_crate, "results crate", f"{profile}-crate.zip")
    runs, left_out = exchange.finished(profile)
    folder = results_root() / profile / "report"
    reports = {f.name: about for f in sorted(folder.glob("*")) if f.is_file() and (about := about_report(f.name))}
    content = {f"report/{name}": (folder / name).read_bytes() for name in reports}
    for run_id, run in runs.items():
        content |= {f"runs/{run_id}/{name}": text.encode() for name, text in exchange.texts(*run).items()}
    exchange.no_private_paths(content)
    words = {f"report/{name}": about for name, about in reports.items()}
    words |= {name: f"{OF_RUN[name.split('/')[2]]}, run {name.split('/')[1]}" for name in content if name not in words}
    graph = entities(profile, runs, {name: (text, len(content[name])) for name, text in words.items()})
    metadata = {"@context": f"{CRATE}/context", "@graph": graph}
    exchange.write(path, {METADATA: json.dumps(metadata, indent=1)} | content)
    files = f"{len(reports)} files of the report"
    return f"{path}: {len(runs)} runs and {files}; no image of a set, feature, weight or path is in it{left_out}"


def is_crate(path: Path) -> bool:
    """Whether a file was written by crate()."""
    try:
        with zipfile.ZipFile(path) as archive:
            return ROOT.encode() in archive.read(METADATA)
    except (OSError, KeyError, zipfile.BadZipFile):
        return False


def about_report(name: str) -> str:
    """What a file of a report is; "" for one that the suite does not write, since it could show images of a set."""
    suffix = next((kind for kind in KINDS if name.endswith(kind)), "")
    stem = name.removesuffix(suffix)
    item = re.sub("-(weights|epochs|acts|cmdc)$", "", stem)  # further figures of items; others are left out
    words = items.ITEMS[item].title if item in items.ITEMS else OTHERS.get(stem.partition("_")[0], "")
    return f"{words}: {KINDS[suffix]}" if suffix and words else ""


def entities(profile: str, runs: dict[str, exchange.Numbers], files: dict[str, tuple[str, int]]) -> list[dict]:
    """All entities of a crate. Args: profile; runs: exchange.finished(); files: what each is, and its size in bytes."""
    sets, programs, actions = {}, {}, []
    for run_id, (fields, metrics, _) in runs.items():
        data, program = data_entity(fields["data"], metrics["data_digest"]), software(metrics)
        sets[data["@id"]], programs[program["@id"]] = data, program
        results = [name for name in files if name.startswith(f"runs/{run_id}/")]
        actions.append(action(run_id, fields, metrics) | {"instrument": ref(program), "object": ref(data)})
        actions[-1] |= {"result": [{"@id": quote(name)} for name in results]}
    last = max(run.metrics["finished"] for run in runs.values())
    measured_on = "; ".join(dict.fromkeys(f"{one['name']}: {one['description']}" for one in sets.values()))
    listed = [file_entity(name, *facts) for name, facts in files.items()]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": ROOT + profile,
        "description": f"Visible-thermal person re-identification: {len(runs)} runs and the tables, verdicts and "
        f"figures made of them. Measured on {measured_on}. No image of a set, feature or weight is in here.",
        "datePublished": last,  # and not today, so that the same results make the same crate on any day
        "license": {"@id": MIT},
        "hasPart": [ref(one) for one in listed],
        "mentions": [ref(one) for one in actions],
    }
    descriptor = {"@id": METADATA, "@type": "CreativeWork", "about": {"@id": "./"}, "conformsTo": {"@id": CRATE}}
    mit = {"@id": MIT, "@type": "CreativeWork", "name": "MIT License", "identifier": "MIT", "url": MIT}
    return [descriptor, root, mit, *programs.values(), *sets.values(), *actions, *listed]


def ref(entity: dict) -> dict[str, str]:
    """How one entity names another."""
    return {"@id": entity["@id"]}


def file_entity(name: str, description: str, size: int) -> dict:
    """A file of the crate. Args: name: its path in the crate; description; size: bytes."""
    kind = FORMATS[PurePosixPath(name).suffix]
    facts = {"@id": quote(name), "@type": "File", "name": name.rpartition("/")[2]}
    return facts | {"description": description, "encodingFormat": kind, "contentSize": str(size)}


def data_entity(name: str, digest: str) -> dict:
    """A data set. Its @type is not Dataset, which a crate would have to hold. Args: name, digest: of the set."""
    what = {
        True: "drawn by SynVT, NOT a real set",
        False: "images that SynVT did not draw",
        None: "its folder was not at hand: whether it is the real set is unknown",
    }[exchange.drawn(name)]
    facts = {"@id": f"#data-{quote(name)}-{digest[:12]}", "@type": "CreativeWork", "name": name}
    facts |= {"additionalType": "https://schema.org/Dataset", "identifier": f"sha256:{digest}"}
    return facts | {"description": f"{what}, digest {digest[:12]}"}


def software(metrics: dict) -> dict:
    """This package as it was when a run was made. Args: metrics: of the run."""
    version, commit = metrics["versions"].get("vtlib", __version__), metrics.get("commit", "") or "unknown"
    needs = [f"{name} {number}" for name, number in metrics["versions"].items() if name != "vtlib"]
    facts = {"@id": f"#vtlib-{quote(version)}-{quote(commit)}", "@type": "SoftwareApplication", "name": "vtlib"}
    facts |= {"softwareVersion": f"{version}, commit {commit}", "softwareRequirements": needs}
    return facts | {"description": "Visible-thermal person re-identification as a reproducible notebook suite"}


def action(run_id: str, fields: dict, metrics: dict) -> dict:
    """The making of a run. Args: run_id; fields, metrics: of the run."""
    end, seconds, started = datetime.fromisoformat(metrics["finished"]), metrics.get("last_call_seconds", 0), {}
    # A run that trained for longer than its last call took was interrupted, and its start is not known
    if metrics.get("train_seconds", seconds) < seconds:
        started = {"startTime": (end - timedelta(seconds=seconds)).isoformat(timespec="seconds")}
    what = f"{fields['method']} on {fields['data']}, split {fields['split']}, seed {fields['seed']}"
    facts = {"@id": f"#run-{run_id}", "@type": "CreateAction", "name": f"run {run_id}: {what}"}
    facts |= {"description": f"{metrics['device']}, {metrics.get('precision', 'float32')}", **started}
    return facts | {"endTime": metrics["finished"]}
