"""SYSU-MM01, RegDB and plain folders as one table, and checks of a tree against the published counts.

A table has one row an image, sorted by path, with columns
    path      str, relative to the data folder      pid     int, the number of the identity's folder
    cam       int, from 1                           number  int, from 1: place in the identity's folder of that camera
    modality  int, 0 visible, 1 thermal             split   "train", "val" or "test"
    frame     str, "" where unknown: images with an equal frame show the same instant
Every fact comes from the names of folders or from the set's own lists, never from a position in a path.
"""

import codecs
import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from PIL import ExifTags, Image, UnidentifiedImageError
from scipy.io import loadmat
from tqdm.auto import tqdm

from ..common import data_root, unknown, user_path
from ..evaluate import BLIND, GALLERY_CAMERAS, QUERY_CAMERAS

T, R = TypeVar("T"), TypeVar("R")
COLUMNS = ["path", "pid", "cam", "modality", "split", "number", "frame"]
SPLITS = ("train", "val", "test")
MODALITIES = ("visible", "thermal")
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
DEEP = re.compile(r";16[BLN]")  # in Pillow's name of the layout in the file: 16 bits a channel
TURNS = {  # EXIF orientation -> what sets the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
REGDB = {"Visible": (1, 0), "Thermal": (2, 1)}  # folder -> (camera, modality)
SYSU = {f"cam{c}": (c, int(c in QUERY_CAMERAS)) for c in range(1, 7)}


def locate(name: str | Path) -> Path:
    """The folder `name` where there is one, else the folder of that name in data_root(); else FileNotFoundError."""
    if not str(name).strip():
        raise FileNotFoundError("no data set is named: name a folder in the data root (VTLIB_DATA), or a path")
    root = data_root()
    for place in (here := user_path(name), root / name):
        if place.is_dir():
            return place
    held = sorted(p.name for p in root.iterdir() if p.is_dir())[:8] if root.is_dir() else None
    why = f"{root} is no folder" if held is None else f"{root} holds {', '.join(held) or 'no folder'}"
    raise FileNotFoundError(
        f"no data set {str(name)!r}: {why}, and {here} is none; --data or VTLIB_DATA names the folder that holds the "
        "sets, data/README.md says how to get them"
    )


def is_there(name: str | Path) -> bool:
    """Whether locate() finds it."""
    try:
        return bool(locate(name))
    except FileNotFoundError:
        return False


def is_drawn(root: Path) -> bool:
    """Whether SynVT drew a set, whatever the name of its folder says."""
    return (root / "synvt.json").is_file()


def read(layout: str, root: str | Path, *, split: int = 1) -> pd.DataFrame:
    """The table of a data folder, columns and order as above.

    Args: layout: "sysu", "regdb" or "folder"; root: the data folder; split: 1 to 10, which of RegDB's lists.
    Raises: FileNotFoundError for a missing folder, list or listed image; ValueError for what contradicts the layout.
    """
    if split not in range(1, 11 if layout == "regdb" else 2):
        raise ValueError(f"split must be 1 to 10 for regdb and 1 for other layouts, not {split!r} for {layout!r}")
    root = user_path(root)
    disk, _ = _scan(layout, root)
    return READERS[layout](root, disk, split)


def _scan(layout: str, root: Path) -> tuple[pd.DataFrame, Counter]:
    """All images on disk: path, pid, cam, modality; and what else lies between them, kind -> number.

    Hidden files and folders do not count.
    """
    if layout not in READERS:
        raise ValueError(unknown("layout", layout, READERS))
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: data/README.md says where each data set goes")
    folders, rows, others = {"sysu": SYSU, "regdb": REGDB}.get(layout) or _modality_folders(root), [], Counter()
    for folder, (cam, modality) in folders.items():
        if not (root / folder).is_dir():
            raise FileNotFoundError(f"{root} has no folder {folder}, which the layout {layout!r} needs")
        people: dict[int, str] = {}  # number -> name of the folder
        for person in _visible(root / folder):
            if not person.is_dir():
                others["outside of a person's folder"] += 1
                continue
            if (pid := number(person.name)) is None:
                raise ValueError(
                    f"{person.path}: the folder of an identity must be named by its number, in digits 0-9, below 2^63"
                )
            if (other := people.setdefault(pid, person.name)) != person.name:
                names = " and ".join(sorted((other, person.name)))
                raise ValueError(f"{root / folder}: the folders {names} have one number, {pid}: merge or rename them")
            for file in _visible(person.path):
                suffix = os.path.splitext(file.name)[1].lower()
                if suffix in SUFFIXES and not file.is_dir():
                    rows.append((f"{folder}/{person.name}/{file.name}", pid, cam, modality))
                else:
                    others["folders" if file.is_dir() else suffix or "without suffix"] += 1
    if not rows:
        raise ValueError(
            f"{root} holds no image: the layout {layout!r} has files like {folder}/1/name.jpg"
            + (f", and {_counted(others)} are not read: convert them to PNG" if others else "")
        )
    return pd.DataFrame(rows, columns=COLUMNS[:4]), others


def _visible(folder: str | Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:  # tells files from folders without a look at each
        return [entry for entry in entries if not entry.name.startswith(".")]


def _counted(others: Counter) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))


def number(text: str) -> int | None:
    """The whole number below 2^63 that a text writes in the digits 0 to 9; None for any other text."""
    short = text.isascii() and text.isdigit() and len(text) < 100
    return int(text) if short and int(text) < 2**63 else None


def _modality_folders(root: Path) -> dict[str, tuple[int, int]]:
    names = {p.name: p.name.capitalize() for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}
    if wrong := sorted(name for name in names if names[name] not in REGDB):
        raise ValueError(f"{root}: {unknown('modality folder', wrong[0], REGDB)} (layout 'folder')")
    for modality in REGDB:
        if len(same := sorted(name for name in names if names[name] == modality)) > 1:
            raise ValueError(f"{root}: the folders {same[0]} and {same[1]} are one modality: merge them")
    names |= {m: m for m in REGDB if m not in names.values()}  # _scan then says what is missing
    return {name: REGDB[modality] for name, modality in names.items()}


def _finish(root: Path, rows: pd.DataFrame, needed: tuple[str, ...] = ()) -> pd.DataFrame:
    if empty := [name for name in needed if not (rows.split == name).any()]:
        raise ValueError(
            f"{root}: split {empty[0]!r} is empty, no image on disk shows an identity that is in exp/{empty[0]}_id.txt "
            "and in exp/available_id.txt"
        )
    rows = rows.sort_values("path", ignore_index=True)
    rows["number"] = rows.groupby(["modality", "cam", "pid"]).cumcount() + 1
    return (rows if "frame" in rows else rows.assign(frame=""))[COLUMNS]


def _sysu(root: Path, disk: pd.DataFrame, split: int) -> pd.DataFrame:
    part, available = {}, identities(root / "exp" / "available_id.txt")
    for name in SPLITS:
        for pid in identities(root / "exp" / f"{name}_id.txt"):
            if part.setdefault(pid, name) != name:
                raise ValueError(f"{root / 'exp'}: identity {pid} is in {part[pid]}_id.txt and in {name}_id.txt")
    rows = disk[disk.pid.isin(available & part.keys())]
    return _finish(root, rows.assign(split=rows.pid.map(part)), SPLITS)


def _text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark, with its line ends made plain. ValueError else."""
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text, end = data.decode(encoding), None
    except UnicodeDecodeError as error:
        text, end = data[: error.start].decode(encoding, errors="replace"), error.start
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if end is not None or "\0" in text:
        line = text.partition("\0")[0].count("\n") + 1
        raise ValueError(f"{path}, line {line}: this is no text in UTF-8, save the file as UTF-8")
    return text


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list that are not blank, with their numbers."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it belongs to the set and says which images are in which split")
    lines = [(n, line.strip()) for n, line in enumerate(_text(path).split("\n"), 1) if line.strip(" \t,;")]
    if not lines:
        raise ValueError(f"{path} is empty, and with it the split: take the file from the set again")
    return lines


def identities(path: Path) -> set[int]:
    """The numbers in a list like exp/train_id.txt. Raises: FileNotFoundError, ValueError naming the file."""
    found: dict[int, str] = {}
    for n, line in _lines(path):
        for word in re.findall(r"[^\s,;]+", line):
            if (pid := number(word)) is None:
                raise ValueError(f"{path}, line {n}: {word!r} is not the number of an identity")
            if (other := found.setdefault(pid, word)) != word:
                raise ValueError(f"{path}, line {n}: {other} and {word} are one number, write it in one way")
    return set(found)


def _regdb(root: Path, disk: pd.DataFrame, split: int) -> pd.DataFrame:
    known, parts = disk.set_index("path", drop=False), []
    for side in ("train", "test"):
        for modality, name in enumerate(("visible", "thermal")):
            file = root / "idx" / f"{side}_{name}_{split}.txt"
            part = known.loc[_listed(file, known.index)].assign(split=side)
            if (part.modality != modality).any():
                raise ValueError(f"{file} lists {part.path[part.modality != modality].iloc[0]}, not a {name} image")
            parts.append(part)
    rows = pd.concat(parts, ignore_index=True)
    # The identity is the folder: labels are numbered anew in train and in test and would hide an overlap.
    if both := sorted(set(rows.pid[rows.split == "train"]) & set(rows.pid[rows.split == "test"])):
        raise ValueError(f"{file}: {len(both)} test identities are in the training lists too, the first is {both[0]}")
    return _finish(root, rows)


def _listed(file: Path, known: pd.Index) -> list[str]:
    """Paths of a RegDB list with lines `path label`."""
    paths: dict[str, int] = {}  # -> line
    for n, line in _lines(file):
        path, *label = line.rsplit(None, 1)
        if not label or number(label[0]) is None:
            raise ValueError(f"{file}, line {n}: {line!r} is not of the form `path label`")
        if paths.setdefault(path := _posix(path), n) != n:
            raise ValueError(f"{file}, line {n} lists {path} once more, as line {paths[path]} does")
    if missing := [path for path in paths if path not in known]:
        more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
        raise FileNotFoundError(f"{file}, line {paths[missing[0]]} lists {missing[0]}, which is not there{more}")
    return list(paths)


def _posix(path: str) -> str:
    """A path in a list or table, whose writer may have used Windows."""
    return str(PurePosixPath(path.strip().replace("\\", "/")))


def _folder(root: Path, disk: pd.DataFrame, split: int) -> pd.DataFrame:
    rows, root = disk.assign(split="test"), root.resolve()  # a link has the manifest beside what it leads to
    for name in ("split.csv", "manifest.csv"):
        if other := [p.name for p in root.iterdir() if p.name.lower() == name != p.name]:
            raise ValueError(f"{root / other[0]} must be called {name}")
    if (file := root / "split.csv").is_file():
        rows["split"] = rows.pid.map(_splits(file, set(rows.pid)))
    for file, prefix in ((root / "manifest.csv", ""), (root.parent / "manifest.csv", f"{root.name}/")):
        if file.is_file():
            listed = _csv(file, ["modality", "id", "camera", "frame", "file"])
            listed = listed.assign(file=listed.file.map(_posix), line=listed.index)
            listed = listed[listed.file.str.startswith(prefix)]  # the one above may list other folders too
            if len(listed):
                rows = _described(rows, listed.set_index(listed.file.str.removeprefix(prefix)), file)
                break
    return _finish(root, rows)


def _splits(file: Path, pids: set[int]) -> dict[int, str]:
    """Identity -> split of a split.csv, which must place all of `pids`."""
    part: dict[int, str] = {}
    for n, text, split in _csv(file, ["id", "split"]).itertuples(name=None):
        if (pid := number(text)) is None:
            raise ValueError(f"{file}, line {n}: {text!r} is not the number of an identity")
        if split.lower() not in SPLITS:
            raise ValueError(f"{file}, line {n}: {unknown('split', split, SPLITS)}")
        if pid in part:
            raise ValueError(f"{file}, line {n}: identity {pid} has more than one line")
        part[pid] = split.lower()
    if missing := sorted(pids - part.keys()):
        more = f" (nor {len(missing) - 1} more)" if missing[1:] else ""
        raise ValueError(f"{file} must give every identity one line `id,split`: {missing[0]} has none{more}")
    return part


def _csv(file: Path, columns: list[str]) -> pd.DataFrame:
    """These columns of a table, as texts without the space around them; the index is the line in the file.

    Values are separated by commas, semicolons or tabs, whatever the first line has most of. Raises: ValueError naming
    the file, and the line where one is at fault.
    """
    text = _text(file)
    lines = csv.reader(io.StringIO(text), delimiter=_delimiter(text), skipinitialspace=True, strict=True)
    rows, begin = [], 1  # a value in quotes may go over several lines
    try:
        for values in lines:
            if any(values := [value.strip() for value in values]):
                rows.append((begin, values))
            begin = lines.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{file}, line {begin}: {error}") from error
    names = [name.lower() for name in rows[0][1]] if rows else []
    must = f"its first line must name {', '.join(columns)}"
    if wrong := [name for name in columns if names.count(name) != 1]:
        what = "is empty" if not rows else f"has {'two columns' if wrong[0] in names else 'no column'} {wrong[0]!r}"
        raise ValueError(f"{file} {what}: {must}")
    for n, values in rows[1:]:
        if len(values) < len(names) or any(values[len(names) :]):
            raise ValueError(f"{file}, line {n} has {len(values)} values, the first line names {len(names)}")
    places = [names.index(name) for name in columns]
    table = [[values[place] for place in places] for _, values in rows[1:]]
    return pd.DataFrame(table, index=[n for n, _ in rows[1:]], columns=columns, dtype=str)


def _delimiter(text: str) -> str:
    first = text.lstrip("\n").partition("\n")[0]
    return max(",;\t", key=first.count)


def _described(rows: pd.DataFrame, listed: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Cameras and frames from a manifest; a camera has one number in both modalities."""
    doubled = listed.index[listed.index.duplicated()]
    if odd := sorted(set(rows.path) ^ set(listed.index)) or sorted(doubled):
        line = f", line {listed.line[listed.index == odd[0]].iloc[-1]}" if odd[0] in listed.index else ""
        more = f" (and {len(odd) - 1} more)" if odd[1:] else ""
        raise ValueError(f"{file}{line} must list each image once: look at {odd[0]}{more}")
    listed = listed.loc[rows.path].reset_index(drop=True)
    for path, pid, modality, row in zip(rows.path, rows.pid, rows.modality, listed.itertuples(), strict=True):
        if (row.modality.lower(), number(row.id)) != (MODALITIES[modality], pid):
            raise ValueError(f"{file}, line {row.line}: modality or id of {path} is not that of its folder")
        if not row.camera:
            raise ValueError(f"{file}, line {row.line}: {path} has no camera, write its name or number")
    numbers = [number(camera) for camera in listed.camera]
    numbered = None not in numbers
    cams = np.array(numbers) if numbered else pd.factorize(listed.camera, sort=True)[0] + 1
    names = pd.Series(numbers).astype(str) if numbered else listed.camera  # 1 and 01 are one camera, and one frame
    moments = listed.frame.map(lambda text: text if (n := number(text)) is None else str(n))
    frames = (names + "/" + moments).where(listed.frame != "", "")  # frames are numbered in each camera
    return rows.assign(cam=cams, frame=frames)


READERS = {"sysu": _sysu, "regdb": _regdb, "folder": _folder}


def folders(root: str | Path) -> list[Path]:
    """The data sets of layout "folder" in a folder, by name; the folder itself where it is one.

    Args: root: as of locate(). Raises: ValueError where it holds none; FileNotFoundError.
    """

    def inside(folder: Path) -> list[Path]:
        return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []

    root = locate(root)
    sets = [p for p in [root, *inside(root)] if set(REGDB) <= {q.name.capitalize() for q in inside(p)}]
    if not sets:
        raise ValueError(f"{root} holds no data set: one has folders {' and '.join(REGDB)}, see data/README.md")
    return sets


def obstacles(layout: str, table: pd.DataFrame, *, train: bool = True, root: Path | None = None) -> list[str]:
    """Each reason why training or evaluation on a table cannot run, one sentence a reason; [] where both can run.

    Looks at the table and opens no image. Args: layout, table: as of read(), the splits as training wants them;
    train: whether a network is to be trained on it, not only tested; root: where given, the sentences name whole
    paths, and the official draw of the SYSU-MM01 galleries, where there is one, must fit the images.
    """

    def people(split: str) -> str:
        lists = {"sysu": f"exp/{split}_id.txt", "regdb": f"the lists idx/{split}_*.txt"}.get(layout, "split.csv")
        without = ", without which all people are test people" if (layout, split) == ("folder", "train") else ""
        return f"people in {lists}{f' of {root}' if root else ''}{without}"

    found, of = [], {split: table[table.split == split] for split in SPLITS}
    if train and of["train"].empty:
        found.append(f"nobody is in split 'train': name {people('train')}")
    elif train and (ready := len(_in_both(of["train"]))) < 2:
        found.append(
            f"split 'train' has {ready or 'nobody'} with visible and thermal images, training compares two people or "
            f"more: add images, or name other {people('train')}"
        )
    test, repair = of["test"], f"add images, or name other {people('test')}"
    if test.empty:
        return [*found, f"nobody is in split 'test': name {people('test')}"]
    cameras = [
        f" of cameras {' '.join(map(str, c))}" * (layout == "sysu") for c in (GALLERY_CAMERAS["all"], QUERY_CAMERAS)
    ]
    if absent := [m for m in (0, 1) if not (test.modality == m).any()]:
        return found + [f"split 'test' has no {MODALITIES[m]} image{cameras[m]}: {repair}" for m in absent]
    both = test[test.pid.isin(_in_both(test))]
    if both.empty:
        found.append(f"nobody in split 'test' has visible and thermal images: {repair}")
    elif layout == "sysu":
        if "all" not in sysu_modes(test):
            found.append(f"camera 3 never searches camera 2, and nobody in split 'test' has other images: {repair}")
        if root and (odd := _undrawable(root, test)):
            found.append(odd)
    elif not both.groupby("pid").frame.agg(lambda f: f.nunique() > 1 or f.iloc[0] == "").any():
        found.append(
            "the images of each person in split 'test' show one instant (frame in manifest.csv), and no search may "
            f"find such a partner: {repair}"
        )
    return found


def _undrawable(root: Path, test: pd.DataFrame) -> str:
    """Why the official draw of a SYSU-MM01 folder cannot choose among the test images; "" if it can or is not there."""
    if not (file := root / "exp" / "rand_perm_cam.mat").is_file():
        return ""
    try:
        drawn, sets = sysu_permutations(file), _galleries(test)
    except ValueError as error:
        return str(error)
    for (cam, pid), images in sets.items():
        trials, numbers = drawn.get((cam, pid), np.empty((0, 0))).shape
        if not min(10, images) <= numbers <= images:  # ten are the most shots of a gallery
            return f"{file} does not draw from the {images} images of identity {pid} in camera {cam}: copy it again"
        if trials < 10:
            return f"{file} has {trials} draws of identity {pid} in camera {cam}, the protocol ten: copy it again"
    return ""


def _in_both(rows: pd.DataFrame) -> pd.Index:
    """The people of some rows of a table who have images of both modalities."""
    seen = rows.groupby("pid").modality.nunique()
    return seen.index[seen == 2]


def sysu_modes(test: pd.DataFrame) -> list[str]:
    """The modes of GALLERY_CAMERAS in which a query among these SYSU-MM01 rows has an image to find.

    Validation people of SYSU-MM01, for one, were not seen by cameras 1 and 2: they have no indoor search.
    """
    people = test.groupby("pid").cam.agg(set)

    def can_find(seen: set[int], gallery: tuple[int, ...]) -> bool:
        return any(seen & set(gallery) - {BLIND.get(query)} for query in seen & set(QUERY_CAMERAS))

    return [mode for mode, gallery in GALLERY_CAMERAS.items() if any(can_find(seen, gallery) for seen in people)]


def hold_out(table: pd.DataFrame, identities: int, seed: int = 0) -> pd.DataFrame:
    """A copy of a table without val, where that many training identities, drawn by the seed, are in split "val".

    Raises ValueError if the table has validation identities of its own, or none would be left to train on.
    """
    pids = np.unique(table.pid[table.split == "train"])
    if not len(pids):
        raise ValueError(
            "nobody is in split 'train', so nobody can be held out: name people to train on (data/README.md)"
        )
    if (table.split == "val").any() or not 0 <= identities < len(pids):
        why = "has validation identities of its own" if "val" in set(table.split) else f"has {len(pids)} to train on"
        hint = "set validation_identities=0, or name more people to train on (data/README.md)"
        raise ValueError(f"cannot hold out {identities} identities: the set {why}; {hint}")
    chosen = np.random.default_rng(seed).choice(pids, identities, replace=False)
    return table.assign(split=table.split.mask(table.pid.isin(chosen) & (table.split == "train"), "val"))


def _galleries(table: pd.DataFrame) -> pd.Series:
    """(cam, pid) -> number of images that a gallery is drawn from."""
    return table[(table.split == "test") & (table.modality == 0)].groupby(["cam", "pid"]).size()


def sysu_permutations(mat_path: str | Path) -> dict[tuple[int, int], np.ndarray]:
    """The official rand_perm_cam.mat: (cam, pid) -> (runs, n) int, each row a permutation of the image numbers 1 to n.

    The gallery of run r takes the first 1 or 10 numbers of row r. Source: wuancong/SYSU-MM01, evaluation/data_split.
    Raises FileNotFoundError or ValueError naming the file.
    """
    if not (mat_path := user_path(mat_path)).is_file():
        raise FileNotFoundError(f"{mat_path} is missing: it comes with SYSU-MM01 and draws the official galleries")
    try:
        cells = [cell.ravel() for cell in loadmat(mat_path)["rand_perm_cam"].ravel()]
        drawn = {(c, p): x.astype(int) for c, cell in enumerate(cells, 1) for p, x in enumerate(cell, 1) if x.size}
        if not all((np.sort(x) == np.arange(1, x.shape[1] + 1)).all() for x in drawn.values()):
            raise ValueError("a row is no permutation of 1 to n")
    except Exception as error:  # SciPy raises many kinds for a broken file
        why = " ".join(str(error).split())
        raise ValueError(f"{mat_path} is not the official rand_perm_cam.mat, copy it again: {why}") from error
    return drawn


def in_threads(call: Callable[[T], R], items: Sequence[T], about: str) -> list[R]:
    """[call(item) for item in items] by many threads, with a bar. (tqdm's thread_map fails in two threads at once.)"""
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(call, items), about, len(items), leave=False, unit="image"))


class Picture(NamedTuple):
    """A decoded image file."""

    image: Image.Image  # RGB, 8 bits a channel, upright
    turned: bool  # its EXIF orientation said that it was not stored upright
    transparent: bool  # some pixel is, and was laid on black


def picture(data: bytes, path: Path) -> Picture:
    """Decode the bytes of an image file: what `check` calls readable and what the store of decoded images holds.

    Grey is repeated in three channels, transparent pixels are laid on black. Raises: ValueError, a sentence that begins
    with `path`, for what is no image or has more than one page or more than 8 bits a channel, which Pillow would cut.
    """
    if not data:
        raise ValueError(f"{path} is empty, copy it from the set again")
    try:
        image = Image.open(io.BytesIO(data))
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a phone's JPEG and its preview
        deep = image.mode.startswith(("I", "F")) or DEEP.search(str(image.tile))
        if pages == 1 and not deep:
            # Pillow sets TIFF upright as it loads
            turned = image.format == "TIFF" and image.tag_v2.get(ExifTags.Base.Orientation) in TURNS
            image.load()
            image, transparent = _opaque(image, turn := _turn(image))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image that can be read, copy it from the set again") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} has too many pixels for an image of a person, shrink it") from error
    except Exception as error:  # Pillow raises many kinds for a broken file
        why = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be decoded, copy it from the set again: {why}") from error
    if deep:
        raise ValueError(f"{path} has more than 8 bits a channel: convert the set to 8 bits first")
    if pages > 1:
        raise ValueError(f"{path} holds {pages} images: save each as a file of its own")
    return Picture(image, turned or turn is not None, transparent)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What sets an image upright, by its EXIF orientation; None for one that is, or whose EXIF cannot be read."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # the pixels are sound all the same
        return None


def _opaque(image: Image.Image, turn: Image.Transpose | None) -> tuple[Image.Image, bool]:
    """An image as RGB, upright, and whether transparent pixels were laid on black."""
    if transparent := image.has_transparency_data:
        if image.mode == "La":  # Pillow knows no way from here to RGB
            image = image.convert("LA")
        image = image.convert("RGBA")
        if transparent := image.getextrema()[3][0] < 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn), transparent
