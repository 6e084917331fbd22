"""A data set described as Croissant, so that other tools can read it.

Croissant (CROISSANT below) is JSON-LD: files ("distribution"), and tables over them ("record sets") with typed fields.
"""

import hashlib
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pandas as pd

from .. import __version__
from ..common import shown, user_path
from ..files import read_json, write_json
from . import datasets

# The standards that a description claims to conform to: of results (suite/crate.py) and of data sets.
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
KNOWN = {  # the real sets, by the name of their folder; as in data/README.md
    "SYSU-MM01": {
        "license": "https://github.com/wuancong/SYSU-MM01",  # with the release agreement
        "url": "https://github.com/wuancong/SYSU-MM01",
        "citeAs": "Wu et al., RGB-infrared cross-modality person re-identification, ICCV 2017",
        "datePublished": "2017",
    },
    "RegDB": {
        "license": "http://dm.dongguk.edu/link.html",  # with the form to sign
        "url": "http://dm.dongguk.edu/link.html",
        "citeAs": "Nguyen et al., Person recognition system based on a combination of body images from visible light "
        "and thermal cameras, Sensors 17(3):605, 2017",
        "datePublished": "2017",
    },
}
COLUMNS = {  # of the record set folders, and by it of images: type and description
    "pid": ("Integer", "The identity."),
    "camera": ("Integer", "From 1; without value where a manifest.csv names several for one folder."),
    "modality": ("Text", "visible or thermal."),
    "split": ("Text", "train, val or test."),
}
FOLDER = r"(?:.*/)?([^/]+/\d+)(?:/[^/]*)?$"  # finds cam1/0001 in the path of an image, and in cam1/0001 itself


def croissant(layout: str, root: Path, table: pd.DataFrame) -> dict:
    """Describe a data folder as Croissant: a dictionary that is written as JSON-LD.

    Its record sets are `images` with a row per image, `folders` with a row per identity and camera, which gives images
    their pid, camera, modality and split, and, for SynVT, `factors` (factors.csv). They are apart because mlcroissant
    joins a record set with at most one other; its version 1.1 cannot read BMP images.

    Args: layout, root: as for datasets.read(), but root a Path; table: what read() returned for them.
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
    head = {"@context": CONTEXT, "@type": "sc:Dataset", "name": root.name, "conformsTo": CROISSANT}
    return head | facts_of(root, people) | {"distribution": [images, *files], "recordSet": sets}


def facts_of(root: Path, people: str) -> dict:
    """Description, license, citeAs and dates of a set: fixed texts for SynVT and the sets of KNOWN.

    Args: root: the data folder; people: start of the description, such as "24 images of 6 people".
    """
    if not datasets.is_drawn(root):
        text = "For visible-thermal person re-identification; the images are not part of vtlib."
        return {"description": f"{people}. {text}"} | KNOWN.get(root.name, {})
    spec = read_json(root / "synvt.json", f"remove the folder {root}, and it is drawn anew")
    drawn = datetime.fromtimestamp((root / "synvt.json").stat().st_mtime, UTC)
    text = f"{people}. SynVT: walking people of capsules, drawn from known factors by a program, for visible-thermal "
    text += "person re-identification. It shows nobody, and no number measured on it compares with one of a real set."
    cite = f"@misc{{vtlib, title={{SynVT, the embedded data set of vtlib {__version__}}}, "
    cite += "author={{The vtlib authors}}, year={2026}}"
    facts = {"description": text, "license": MIT, "citeAs": cite, "version": f"{spec['version']}.0.0"}
    facts |= {"creator": {"@type": "sc:Organization", "name": "The vtlib authors"}}
    return facts | {"datePublished": f"{drawn:%Y-%m-%d}"}  # the day on which this copy was drawn


def file_object(root: Path, name: str) -> dict:
    """One file with its size and sha256. Args: root: the data folder; name: path of the file in it."""
    data, kind = (root / name).read_bytes(), FORMATS.get(PurePosixPath(name).suffix.lower(), "application/octet-stream")
    node = {"@id": name, "@type": "cr:FileObject", "name": name, "contentUrl": name, "encodingFormat": kind}
    return node | {"contentSize": f"{len(data)} B", "sha256": hashlib.sha256(data).hexdigest()}


def field(records: str, name: str, kind: str, description: str, source: dict | None = None) -> dict:
    """A field (column) of a record set.

    Args: records: name of the record set; name: of the field; kind: Text, Integer, Float or ImageObject; description:
        one sentence; source: where its values are read, None if the record set holds them as data.
    """
    node = {"@id": f"{records}/{name}", "@type": "cr:Field", "name": name, "description": description}
    return node | {"dataType": f"sc:{kind}"} | ({"source": source} if source else {})


def images_records() -> dict:
    """The record set `images`: pixels and path of each image file, and the columns that `folders` gives its folder."""

    def from_file(property_name: str, **more) -> dict:
        return {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": property_name}} | more

    key = from_file("filepath", transform={"regex": FOLDER})
    folder = field("images", "folder", "Text", "Camera or modality, and identity: what images/pid hangs on.", key)
    fields = [
        field("images", "image", "ImageObject", "The pixels.", from_file("content")),
        field("images", "path", "Text", "Where it lies in the set.", from_file("fullpath")),
        folder | {"references": {"field": {"@id": "folders/folder"}}},
    ]
    for name, (kind, description) in COLUMNS.items():
        fields.append(field("images", name, kind, description, {"field": {"@id": f"folders/{name}"}}))
    node = {"@id": "images", "@type": "cr:RecordSet", "name": "images", "key": {"@id": "images/path"}}
    text = "Every image. Those of people whom no list of the set names have no pid, camera, modality or split."
    return node | {"description": text, "field": fields}


def folders_records(table: pd.DataFrame, layout: str) -> dict:
    """The record set `folders`: a row for each folder of an identity, written into the description as data.

    Args: table: of datasets.read(), with the column folder, and modality as text; layout: of RegDB's ten splits the
        text names the first.
    """
    rows = []
    for folder, group in table.groupby("folder"):
        first, cameras = group.iloc[0], group.cam.unique()
        row = {"folder": folder, "pid": int(first.pid), "camera": int(cameras[0]) if len(cameras) == 1 else None}
        row |= {"modality": first.modality, "split": first.split}
        rows.append({f"folders/{name}": value for name, value in row.items()})
    text = "A row for each identity in each camera." + " Split 1 of 10." * (layout == "regdb")
    fields = [field("folders", "folder", "Text", "Folder of camera or modality / folder of the identity.")]
    fields += [field("folders", name, *facts) for name, facts in COLUMNS.items()]
    node = {"@id": "folders", "@type": "cr:RecordSet", "name": "folders", "key": {"@id": "folders/folder"}}
    return node | {"description": text, "field": fields, "data": rows}


def factors_records(file: Path) -> dict:
    """The record set `factors`: columns of SynVT's factors.csv and the types pandas reads. Args: file: its path."""
    fields = []
    for name, values in pd.read_csv(file, keep_default_na=False).items():
        kind = {"i": "Integer", "f": "Float"}.get(values.dtype.kind, "Text")
        source = {"fileObject": {"@id": file.name}, "extract": {"column": name}}
        fields.append(field("factors", name, kind, f"Column {name}: see vtlib's data/README.md.", source))
    node = {"@id": "factors", "@type": "cr:RecordSet", "name": "factors", "key": {"@id": "factors/path"}}
    return node | {"description": "What each image was drawn from; path is images/path.", "field": fields}


def write_croissant(path: str | Path, described: dict) -> str:
    """Write a description as JSON and return a sentence for the user.

    Args: path: the file, made anew or written over if it is a Croissant file; described: what croissant() returned.
    Raises: ValueError if something else lies at `path`; OSError if the file cannot be written.
    """
    path = user_path(path)
    if path.is_dir() or (path.exists() and described["conformsTo"] not in path.read_text(errors="replace")):
        raise ValueError(f"{path} is there and no Croissant file: give a new name like croissant.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, described)
    return f"{shown(path)}: {described['name']}, {described['description']}"
