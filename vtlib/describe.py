"""Results as an RO-Crate and a data set as Croissant: JSON-LD that other tools read, of what lies here anyway.

A crate is a zip archive: ro-crate-metadata.json, report/ (tables, verdicts, figures) and, as in exchange.py, three
files of each run. It holds numbers and drawings of numbers: no image of a set, no feature, no weights, no path.
A Croissant file holds one table in its text, from the folder of an identity to its camera, modality and split; all
else it names by paths relative to the folder of the set, where it has to lie for its records to be read.
Sources: https://w3id.org/ro/crate/1.1 and http://mlcommons.org/croissant/1.0.
"""

import hashlib
import json
import re
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import pandas as pd

from . import __version__, datasets, exchange, papers
from .files import read_json, results_root, shown, user_path, write_json

METADATA, ROOT = "ro-crate-metadata.json", "Results of vtlib, profile "  # the root's name tells a crate of ours
CRATE, CROISSANT = "https://w3id.org/ro/crate/1.1", "http://mlcommons.org/croissant/1.0"
MIT = "https://spdx.org/licenses/MIT"
FORMATS = {  # media types by suffix
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".csv": "text/csv",
    ".txt": "text/plain",
    ".tex": "application/x-tex",
    ".png": "image/png",
    ".pdf": "application/pdf",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
    ".mat": "application/x-matlab-data",
}
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
    words = papers.ITEMS[of].title if of in papers.ITEMS else OTHERS.get(stem.partition("_")[0], "")
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


TERMS = """citeAs column dataType extract field fileObject fileProperty fileSet format includes isLiveDataset jsonPath
key md5 parentField path recordSet references regex repeated replace samplingRate separator source subField transform
equivalentProperty"""
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{term: f"cr:{term}" for term in TERMS.split()},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
KNOWN = {  # of the real sets: what data/README.md says of them
    "SYSU-MM01": {
        "license": "https://github.com/wuancong/SYSU-MM01",  # the release agreement
        "url": "https://github.com/wuancong/SYSU-MM01",
        "citeAs": "Wu et al., RGB-infrared cross-modality person re-identification, ICCV 2017",
        "datePublished": "2017",
    },
    "RegDB": {
        "license": "http://dm.dongguk.edu/link.html",  # the form to sign
        "url": "http://dm.dongguk.edu/link.html",
        "citeAs": "Nguyen et al., Person recognition system based on a combination of body images from visible light "
        "and thermal cameras, Sensors 17(3):605, 2017",
        "datePublished": "2017",
    },
}
COLUMNS = {  # of an image, by its folder: type and description
    "pid": ("Integer", "The identity."),
    "camera": ("Integer", "From 1; without value where a manifest.csv names several for one folder."),
    "modality": ("Text", "visible or thermal."),
    "split": ("Text", "train, val or test."),
}
FOLDER = r"(?:.*/)?([^/]+/\d+)(?:/[^/]*)?$"  # of an identity in a path of an image, and in itself


def croissant(layout: str, root: Path, table: pd.DataFrame) -> dict:
    """The Croissant description of a data folder, as JSON-LD. Args: as of datasets.read(); table: what it returned.

    Its record sets: `images`, every image of the layout; `folders`, which it is joined with and which has a row for
    each identity and camera; `factors` of SynVT's factors.csv. mlcroissant carries out one join of a record set
    at most, and 1.1 reads no BMP: hence one table of folders, and factors apart from images.
    """
    table = table.assign(folder=table.path.str.rpartition("/")[0])
    table["modality"] = table.modality.map(dict(enumerate(datasets.MODALITIES)))
    suffixes = sorted({PurePosixPath(path).suffix for path in table.path})
    tops = sorted({path.partition("/")[0] for path in table.path})
    images = {"@id": "image-files", "@type": "cr:FileSet", "name": "image-files"}
    images |= {"description": "The images, in a folder for each camera or modality and in it one for each identity."}
    images |= {"encodingFormat": sorted({FORMATS[suffix.lower()] for suffix in suffixes})}
    images |= {"includes": [f"{top}/*/*{suffix}" for top in tops for suffix in suffixes]}
    names = ["synvt.json", "split.csv", "manifest.csv", "factors.csv"]
    names += [p.relative_to(root).as_posix() for d in ("exp", "idx") for p in sorted((root / d).glob("[!.]*.*"))]
    files = [file_object(root, name) for name in names if (root / name).is_file()]
    sets = [images_records(), folders_records(table, layout)]
    if datasets.is_drawn(root) and (factors := root / "factors.csv").is_file():
        sets.append(factors_records(factors))
    people = f"{len(table)} images of {table.pid.nunique()} people, layout {layout}"
    about = {"@context": CONTEXT, "@type": "sc:Dataset", "name": root.name, "conformsTo": CROISSANT}
    about |= facts_of(root, people)
    return about | {"distribution": [images, *files], "recordSet": sets}


def facts_of(root: Path, people: str) -> dict:
    """Description, license, citeAs and dates of a set, as far as they are known."""
    if not datasets.is_drawn(root):
        why = "For visible-thermal person re-identification; the images are not part of vtlib."
        return {"description": f"{people}. {why}"} | KNOWN.get(root.name, {})
    spec = read_json(root / "synvt.json", f"remove the folder {root}, and it is drawn anew")
    made = datetime.fromtimestamp((root / "synvt.json").stat().st_mtime, UTC)
    text = f"{people}. SynVT: walking people of capsules, drawn from known factors by a program, for visible-thermal "
    text += "person re-identification. It shows nobody, and no number measured on it compares with one of a real set."
    cite = f"@misc{{vtlib, title={{SynVT, the embedded data set of vtlib {__version__}}}, "
    cite += "author={{The vtlib authors}}, year={2026}}"
    facts = {"description": text, "license": MIT, "citeAs": cite, "version": f"{spec['version']}.0.0"}
    facts |= {"creator": {"@type": "sc:Organization", "name": "The vtlib authors"}}
    return facts | {"datePublished": f"{made:%Y-%m-%d}"}  # the day on which it was drawn here


def file_object(root: Path, name: str) -> dict:
    data, kind = (root / name).read_bytes(), FORMATS.get(PurePosixPath(name).suffix.lower(), "application/octet-stream")
    about = {"@id": name, "@type": "cr:FileObject", "name": name, "contentUrl": name, "encodingFormat": kind}
    return about | {"contentSize": f"{len(data)} B", "sha256": hashlib.sha256(data).hexdigest()}


def field(of: str, name: str, kind: str, description: str, source: dict | None = None) -> dict:
    """A field of the record set `of`; `kind`: Text, Integer, Float or ImageObject."""
    about = {"@id": f"{of}/{name}", "@type": "cr:Field", "name": name, "description": description}
    return about | {"dataType": f"sc:{kind}"} | ({"source": source} if source else {})


def images_records() -> dict:
    def of_file(what: str, **more) -> dict:
        return {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": what}} | more

    key = of_file("filepath", transform={"regex": FOLDER})
    folder = field("images", "folder", "Text", "Camera or modality, and identity: what images/pid hangs on.", key)
    fields = [
        field("images", "image", "ImageObject", "The pixels.", of_file("content")),
        field("images", "path", "Text", "Where it lies in the set.", of_file("fullpath")),
        folder | {"references": {"field": {"@id": "folders/folder"}}},
    ]
    for name, (kind, description) in COLUMNS.items():
        fields.append(field("images", name, kind, description, {"field": {"@id": f"folders/{name}"}}))
    about = {"@id": "images", "@type": "cr:RecordSet", "name": "images", "key": {"@id": "images/path"}}
    text = "Every image. Those of people whom no list of the set names have no pid, camera, modality or split."
    return about | {"description": text, "field": fields}


def folders_records(table: pd.DataFrame, layout: str) -> dict:
    """A row for each folder of an identity. RegDB has ten lists: the split is that of the first."""
    rows = []
    for folder, group in table.groupby("folder"):
        first, cameras = group.iloc[0], group.cam.unique()
        row = {"folder": folder, "pid": int(first.pid), "camera": int(cameras[0]) if len(cameras) == 1 else None}
        row |= {"modality": first.modality, "split": first.split}
        rows.append({f"folders/{name}": value for name, value in row.items()})
    text = "A row for each identity in each camera." + " Split 1 of 10." * (layout == "regdb")
    fields = [field("folders", "folder", "Text", "Folder of camera or modality / folder of the identity.")]
    fields += [field("folders", name, *facts) for name, facts in COLUMNS.items()]
    about = {"@id": "folders", "@type": "cr:RecordSet", "name": "folders", "key": {"@id": "folders/folder"}}
    return about | {"description": text, "field": fields, "data": rows}


def factors_records(file: Path) -> dict:
    """The columns of a factors.csv with the types that they are read as."""
    fields = []
    for name, values in pd.read_csv(file, keep_default_na=False).items():
        kind = {"i": "Integer", "f": "Float"}.get(values.dtype.kind, "Text")
        source = {"fileObject": {"@id": file.name}, "extract": {"column": name}}
        fields.append(field("factors", name, kind, f"Column {name}: see vtlib's data/README.md.", source))
    about = {"@id": "factors", "@type": "cr:RecordSet", "name": "factors", "key": {"@id": "factors/path"}}
    return about | {"description": "What each image was drawn from; path is images/path.", "field": fields}


def write_croissant(path: str | Path, described: dict) -> str:
    """Write a description. Returns: a sentence. Raises: ValueError where something else is there; OSError."""
    path = user_path(path)
    if path.is_dir() or (path.exists() and described["conformsTo"] not in path.read_text(errors="replace")):
        raise ValueError(f"{path} is there and no Croissant file: give a new name like croissant.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, described)
    return f"{shown(path)}: {described['name']}, {described['description']}"
