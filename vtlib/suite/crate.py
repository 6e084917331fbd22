"""Results as an RO-Crate: a zip archive of runs, tables and figures with JSON-LD that other tools read."""

import json
import re
import zipfile
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from .. import __version__
from ..common import results_root, user_path
from ..data.croissant import CRATE, FORMATS, MIT
from . import exchange, items

METADATA, ROOT = "ro-crate-metadata.json", "Results of vtlib, profile "  # the root's name tells a crate of ours
KINDS = {  # of a report's files, by what follows the name of a table or figure
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
    """Write finished runs of the tables, and the report, of a profile as an RO-Crate; same results, same bytes.

    Returns: a sentence on what is in it.
    Raises: ValueError if nothing is finished, a run is not whole, or the place is taken by another kind of file.
    """
    path = user_path(path)
    if path.is_dir() or (path.exists() and not is_crate(path)):
        raise ValueError(f"{path} is there and no file of `results crate`: give a new name like {profile}-crate.zip")
    found, left = exchange.finished(profile)
    folder = results_root() / profile / "report"
    reports = {f.name: told for f in sorted(folder.glob("*")) if f.is_file() and (told := about_report(f.name))}
    content = {f"report/{name}": (folder / name).read_bytes() for name in reports}
    for run_id, run in found.items():
        content |= {f"runs/{run_id}/{name}": text.encode() for name, text in exchange.texts(*run).items()}
    exchange.no_private_paths(content)
    about = {f"report/{name}": told for name, told in reports.items()}
    about |= {name: f"{OF_RUN[name.split('/')[2]]}, run {name.split('/')[1]}" for name in content if name not in about}
    graph = entities(profile, found, {name: (told, len(content[name])) for name, told in about.items()})
    metadata = {"@context": f"{CRATE}/context", "@graph": graph}
    exchange.write(path, {METADATA: json.dumps(metadata, indent=1)} | content)
    more = f"{len(reports)} files of the report"
    return f"{path}: {len(found)} runs and {more}; no image of a set, feature, weight or path is in it{left}"


def is_crate(path: Path) -> bool:
    """Whether a file is one of crate()."""
    try:
        with zipfile.ZipFile(path) as archive:
            return ROOT.encode() in archive.read(METADATA)
    except (OSError, KeyError, zipfile.BadZipFile):
        return False


def about_report(name: str) -> str:
    """What a file of a report is; "" for one that the suite does not write: a picture of a set could be in it."""
    suffix = next((kind for kind in KINDS if name.endswith(kind)), "")
    stem = name.removesuffix(suffix)
    of = re.sub("-(weights|epochs)$", "", stem)  # no other figure beside that of an item
    words = items.ITEMS[of].title if of in items.ITEMS else OTHERS.get(stem.partition("_")[0], "")
    return f"{words}: {KINDS[suffix]}" if suffix and words else ""


def entities(profile: str, found: dict, files: dict[str, tuple[str, int]]) -> list[dict]:
    """The flat @graph of a crate. Args: found: of exchange.finished(); files: what each is, and its bytes."""
    sets, programs, actions = {}, {}, []
    for run_id, (fields, metrics, _) in found.items():
        of_data, program = data_entity(fields["data"], metrics["data_digest"]), software(metrics)
        sets[of_data["@id"]], programs[program["@id"]] = of_data, program
        results = [name for name in files if name.startswith(f"runs/{run_id}/")]
        actions.append(action(run_id, fields, metrics) | {"instrument": ref(program), "object": ref(of_data)})
        actions[-1] |= {"result": [{"@id": quote(name)} for name in results]}
    finished = max(metrics["finished"] for _, metrics, _ in found.values())
    measured_on = "; ".join(dict.fromkeys(f"{one['name']}: {one['description']}" for one in sets.values()))
    listed = [file_entity(name, *facts) for name, facts in files.items()]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": ROOT + profile,
        "description": f"Visible-thermal person re-identification: {len(found)} runs and the tables, verdicts and "
        f"figures made of them. Measured on {measured_on}. No image of a set, feature or weight is in here.",
        "datePublished": finished,  # of the last run: the same results make the same crate on any day
        "license": {"@id": MIT},
        "hasPart": [ref(one) for one in listed],
        "mentions": [ref(one) for one in actions],
    }
    descriptor = {"@id": METADATA, "@type": "CreativeWork", "about": {"@id": "./"}, "conformsTo": {"@id": CRATE}}
    mit = {"@id": MIT, "@type": "CreativeWork", "name": "MIT License", "identifier": "MIT", "url": MIT}
    return [descriptor, root, mit, *programs.values(), *sets.values(), *actions, *listed]


def ref(entity: dict) -> dict[str, str]:
    return {"@id": entity["@id"]}


def file_entity(name: str, description: str, size: int) -> dict:
    kind = FORMATS[PurePosixPath(name).suffix]
    facts = {"@id": quote(name), "@type": "File", "name": name.rpartition("/")[2]}
    return facts | {"description": description, "encodingFormat": kind, "contentSize": str(size)}


def data_entity(name: str, digest: str) -> dict:
    """A data set by name and digest. It is no file of a crate, so no Dataset, which a crate would have to hold."""
    what = {
        True: "drawn by SynVT, NOT a real set",
        False: "images that SynVT did not draw",
        None: "its folder was not at hand: whether it is the real set is unknown",
    }[exchange.drawn(name)]
    facts = {"@id": f"#data-{quote(name)}-{digest[:12]}", "@type": "CreativeWork", "name": name}
    facts |= {"additionalType": "https://schema.org/Dataset", "identifier": f"sha256:{digest}"}
    return facts | {"description": f"{what}, digest {digest[:12]}"}


def software(metrics: dict) -> dict:
    """This package as it was when a run was made: its version and commit."""
    version, commit = metrics["versions"].get("vtlib", __version__), metrics.get("commit", "") or "unknown"
    needs = [f"{name} {of}" for name, of in metrics["versions"].items() if name != "vtlib"]
    facts = {"@id": f"#vtlib-{quote(version)}-{quote(commit)}", "@type": "SoftwareApplication", "name": "vtlib"}
    facts |= {"softwareVersion": f"{version}, commit {commit}", "softwareRequirements": needs}
    return facts | {"description": "Visible-thermal person re-identification as a reproducible notebook suite"}


def action(run_id: str, fields: dict, metrics: dict) -> dict:
    """The making of a run. One that trained for longer than its last call took was gone on with: no start is known."""
    end, seconds, started = datetime.fromisoformat(metrics["finished"]), metrics.get("last_call_seconds", 0), {}
    if metrics.get("train_seconds", seconds) < seconds:
        started = {"startTime": (end - timedelta(seconds=seconds)).isoformat(timespec="seconds")}
    what = f"{fields['method']} on {fields['data']}, split {fields['split']}, seed {fields['seed']}"
    facts = {"@id": f"#run-{run_id}", "@type": "CreateAction", "name": f"run {run_id}: {what}"}
    facts |= {"description": f"{metrics['device']}, {metrics.get('precision', 'float32')}", **started}
    return facts | {"endTime": metrics["finished"]}
