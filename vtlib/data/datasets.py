"""The images of SYSU-MM01, RegDB or a plain folder as one table, and what training and search need of that table.

A person of a data set is called an identity. A table has one row per image, sorted by path, with the columns
    path      str, relative to the data folder      pid     int, number of the identity, which names its folder
    cam       int, camera, from 1                   number  int, from 1: position among the images of pid and cam
    modality  int, 0 visible, 1 thermal             split   "train", "val" or "test"
    frame     str, "" if unknown: images with the same frame show the same instant
A layout says how a folder is arranged: "sysu" (SYSU-MM01), "regdb" (RegDB), "folder" (your own: data/README.md).
All values come from folder names and from the lists that belong to the set.
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
DEEP = re.compile(r";16[BLN]")  # Pillow writes this into `Image.tile` for files with 16 bits a channel
TURNS = {  # EXIF orientation -> the operation that sets the image upright
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
    """The folder of a data set: `name` if that is a folder, else the folder of this name in data_root().

    Args: name: a path, or the name of a folder in data_root(). Raises: FileNotFoundError if neither is a folder.
    """
    if not str(name).strip():
        raise FileNotFoundError("no data set is named: name a folder in the data root (VTLIB_DATA), or a path")
    root, path = data_root(), user_path(name)
    for folder in (path, root / name):
        if folder.is_dir():
            return folder
    names = sorted(p.name for p in root.iterdir() if p.is_dir())[:8] if root.is_dir() else None
    reason = f"{root} is no folder" if names is None else f"{root} holds {', '.join(names) or 'no folder'}"
    raise FileNotFoundError(
        f"no data set {str(name)!r}: {reason}, and {path} is none; --data or VTLIB_DATA names the folder that holds "
        "the sets, data/README.md says how to get them"
    )


def is_there(name: str | Path) -> bool:
    """Whether locate() finds a data set. Args: name: as for locate()."""
    try:
        return bool(locate(name))
    except FileNotFoundError:
        return False


def is_drawn(root: Path) -> bool:
    """Whether SynVT drew a set (its folder holds synvt.json), whatever the folder is called. Args: root: the folder."""
    return (root / "synvt.json").is_file()


def read(layout: str, root: str | Path, *, split: int = 1) -> pd.DataFrame:
    """Read the table of a data folder, with columns and order as at the top of this file. No image is opened.

    Args: layout: "sysu", "regdb" or "folder"; root: the data folder; split: which of RegDB's ten lists, 1 to 10, and 1
        for the other layouts.
    Returns: the rows of identities ("sysu") or images ("regdb") that the set's lists name; of a "folder", all images.
    Raises: FileNotFoundError for a missing folder, list or listed image; ValueError if names or lists contradict the
        layout or each other. The message names the file, and the line if one is wrong.
    """
    if split not in range(1, 11 if layout == "regdb" else 2):
        raise ValueError(f"split must be 1 to 10 for regdb and 1 for other layouts, not {split!r} for {layout!r}")
    root = user_path(root)
    disk, _ = scan(layout, root)
    return READERS[layout](root, disk, split)


def scan(layout: str, root: Path) -> tuple[pd.DataFrame, Counter]:
    """Find all images of a data folder, also those outside the set's lists; hidden files and folders are skipped.

    Args: layout, root: as for read(), but root a Path. Raises: ValueError, FileNotFoundError: as read().
    Returns: a table with columns path, pid, cam, modality; how many other files and folders there are, by kind.
    """
    if layout not in READERS:
        raise ValueError(unknown("layout", layout, READERS))
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: data/README.md says where each data set goes")
    folders, rows, others = {"sysu": SYSU, "regdb": REGDB}.get(layout) or _modality_folders(root), [], Counter()
    for folder, (cam, modality) in folders.items():
        if not (root / folder).is_dir():
            raise FileNotFoundError(f"{root} has no folder {folder}, which the layout {layout!r} needs")
        people: dict[int, str] = {}  # identity -> name of its folder
        for person in _entries(root / folder):
            if not person.is_dir():
                others["outside of a person's folder"] += 1
                continue
            if (pid := number(person.name)) is None:
                raise ValueError(
                    f"{person.path}: the folder of an identity must be named by its number, in digits 0-9, below 2^63"
                )
            if (first := people.setdefault(pid, person.name)) != person.name:
                names = " and ".join(sorted((first, person.name)))
                raise ValueError(f"{root / folder}: the folders {names} have one number, {pid}: merge or rename them")
            for file in _entries(person.path):
                suffix = os.path.splitext(file.name)[1].lower()
                if suffix in SUFFIXES and not file.is_dir():
                    rows.append((f"{folder}/{person.name}/{file.name}", pid, cam, modality))
                else:
                    others["folders" if file.is_dir() else suffix or "without suffix"] += 1
    if not rows:
        raise ValueError(
            f"{root} holds no image: the layout {layout!r} has files like {folder}/1/name.jpg"
            + (f", and {counts_text(others)} are not read: convert them to PNG" if others else "")
        )
    return pd.DataFrame(rows, columns=COLUMNS[:4]), others


def _entries(folder: str | Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:  # scandir tells files from folders without a system call for each
        return [entry for entry in entries if not entry.name.startswith(".")]


def counts_text(others: Counter) -> str:
    """The counts of scan() as text, "2 .gif, 1 folders". Args: others: kind -> number."""
    return ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))


def number(text: str) -> int | None:
    """The whole number that a text of the digits 0 to 9 writes; None for other texts and from 2^63 (int64) on.

    Args: text: as it stands in a list or as a folder name; leading zeros are allowed.
    """
    digits = text.isascii() and text.isdigit() and len(text) < 100  # int() of a longer text is slow or refused
    return int(text) if digits and int(text) < 2**63 else None


def _modality_folders(root: Path) -> dict[str, tuple[int, int]]:
    """Folder name -> (camera, modality) of layout "folder", where "visible" may be written for "Visible"."""
    names = {p.name: p.name.capitalize() for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}
    if wrong := sorted(name for name in names if names[name] not in REGDB):
        raise ValueError(f"{root}: {unknown('modality folder', wrong[0], REGDB)} (layout 'folder')")
    for modality in REGDB:
        if len(same := sorted(name for name in names if names[name] == modality)) > 1:
            raise ValueError(f"{root}: the folders {same[0]} and {same[1]} are one modality: merge them")
    names |= {m: m for m in REGDB if m not in names.values()}  # scan() reports a missing folder
    return {name: REGDB[modality] for name, modality in names.items()}


def _finish(root: Path, rows: pd.DataFrame, needed: tuple[str, ...] = ()) -> pd.DataFrame:
    """Sort and number the rows and add the missing columns. ValueError if a `needed` split is empty."""
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
    r"""The text of a file in UTF-8, or in UTF-16 with a byte order mark, with line ends \n. ValueError otherwise."""
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
    """The line numbers, from 1, and texts of a list's lines that hold more than spaces and separators."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it belongs to the set and says which images are in which split")
    lines = [(n, line.strip()) for n, line in enumerate(_text(path).split("\n"), 1) if line.strip(" \t,;")]
    if not lines:
        raise ValueError(f"{path} is empty, and with it the split: take the file from the set again")
    return lines


def identities(path: Path) -> set[int]:
    """Read a list of identities like exp/train_id.txt, separated by spaces, commas, semicolons or line ends.

    Args: path: the list. Raises: FileNotFoundError if it is missing; ValueError naming the file and the line.
    """
    words: dict[int, str] = {}  # identity -> how the list writes it
    for n, line in _lines(path):
        for word in re.findall(r"[^\s,;]+", line):
            if (pid := number(word)) is None:
                raise ValueError(f"{path}, line {n}: {word!r} is not the number of an identity")
            if (first := words.setdefault(pid, word)) != word:
                raise ValueError(f"{path}, line {n}: {first} and {word} are one number, write it in one way")
    return set(words)


def _regdb(root: Path, disk: pd.DataFrame, split: int) -> pd.DataFrame:
    images, parts = disk.set_index("path", drop=False), []
    for side in ("train", "test"):
        for modality, name in enumerate(("visible", "thermal")):
            file = root / "idx" / f"{side}_{name}_{split}.txt"
            part = images.loc[_listed(file, images.index)].assign(split=side)
            if (part.modality != modality).any():
                raise ValueError(f"{file} lists {part.path[part.modality != modality].iloc[0]}, not a {name} image")
            parts.append(part)
    rows = pd.concat(parts, ignore_index=True)
    # Compare folders, not the labels in the lists: those start anew in train and in test and would hide an overlap.
    if both := sorted(set(rows.pid[rows.split == "train"]) & set(rows.pid[rows.split == "test"])):
        raise ValueError(f"{file}: {len(both)} test identities are in the training lists too, the first is {both[0]}")
    return _finish(root, rows)


def _listed(file: Path, images: pd.Index) -> list[str]:
    """Paths of a RegDB list with lines `path label`; images: the paths that are on disk."""
    paths: dict[str, int] = {}  # path -> line
    for n, line in _lines(file):
        path, *label = line.rsplit(None, 1)
        if not label or number(label[0]) is None:
            raise ValueError(f"{file}, line {n}: {line!r} is not of the form `path label`")
        if paths.setdefault(path := _posix(path), n) != n:
            raise ValueError(f"{file}, line {n} lists {path} once more, as line {paths[path]} does")
    if missing := [path for path in paths if path not in images]:
        more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
        raise FileNotFoundError(f"{file}, line {paths[missing[0]]} lists {missing[0]}, which is not there{more}")
    return list(paths)


def _posix(path: str) -> str:
    """A path of a list or table with forward slashes: it may have been written on Windows."""
    return str(PurePosixPath(path.strip().replace("\\", "/")))


def _folder(root: Path, disk: pd.DataFrame, split: int) -> pd.DataFrame:
    rows, root = disk.assign(split="test"), root.resolve()  # root may be a link: the manifest lies beside its target
    for name in ("split.csv", "manifest.csv"):
        if misnamed := [p.name for p in root.iterdir() if p.name.lower() == name != p.name]:
            raise ValueError(f"{root / misnamed[0]} must be called {name}")
    if (file := root / "split.csv").is_file():
        rows["split"] = rows.pid.map(_splits(file, set(rows.pid)))
    for file, prefix in ((root / "manifest.csv", ""), (root.parent / "manifest.csv", f"{root.name}/")):
        if file.is_file():
            listed = _csv(file, ["modality", "id", "camera", "frame", "file"])
            listed = listed.assign(file=listed.file.map(_posix), line=listed.index)
            listed = listed[listed.file.str.startswith(prefix)]  # a manifest above root may list other folders too
            if len(listed):
                rows = _described(rows, listed.set_index(listed.file.str.removeprefix(prefix)), file)
                break
    return _finish(root, rows)


def _splits(file: Path, pids: set[int]) -> dict[int, str]:
    """Identity -> split of a split.csv, which must have a line for each of `pids`."""
    splits: dict[int, str] = {}
    for n, text, split in _csv(file, ["id", "split"]).itertuples(name=None):
        if (pid := number(text)) is None:
            raise ValueError(f"{file}, line {n}: {text!r} is not the number of an identity")
        if split.lower() not in SPLITS:
            raise ValueError(f"{file}, line {n}: {unknown('split', split, SPLITS)}")
        if pid in splits:
            raise ValueError(f"{file}, line {n}: identity {pid} has more than one line")
        splits[pid] = split.lower()
    if missing := sorted(pids - splits.keys()):
        more = f" (nor {len(missing) - 1} more)" if missing[1:] else ""
        raise ValueError(f"{file} must give every identity one line `id,split`: {missing[0]} has none{more}")
    return splits


def _csv(file: Path, columns: list[str]) -> pd.DataFrame:
    """Some columns of a table as stripped texts, indexed by the line in the file. ValueError names file and line.

    Values are separated by commas, semicolons or tabs: by that which occurs most often in the first line.
    """
    text = _text(file)
    lines = csv.reader(io.StringIO(text), delimiter=_delimiter(text), skipinitialspace=True, strict=True)
    rows, begin = [], 1  # begin: first line of a row, since a value in quotes may contain line ends
    try:
        for values in lines:
            if any(values := [value.strip() for value in values]):
                rows.append((begin, values))
            begin = lines.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{file}, line {begin}: {error}") from error
    names = [name.lower() for name in rows[0][1]] if rows else []
    if wrong := [name for name in columns if names.count(name) != 1]:
        fault = "is empty" if not rows else f"has {'two columns' if wrong[0] in names else 'no column'} {wrong[0]!r}"
        raise ValueError(f"{file} {fault}: its first line must name {', '.join(columns)}")
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
    """`rows` with cam and frame from the lines of a manifest.csv, indexed by path; ValueError if they do not match.

    If all cameras are whole numbers, these are kept; else cameras are numbered from 1 in the order of their names.
    A camera has the same number in both modalities.
    """
    doubled = listed.index[listed.index.duplicated()]
    if wrong := sorted(set(rows.path) ^ set(listed.index)) or sorted(doubled):
        line = f", line {listed.line[listed.index == wrong[0]].iloc[-1]}" if wrong[0] in listed.index else ""
        more = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
        raise ValueError(f"{file}{line} must list each image once: look at {wrong[0]}{more}")
    listed = listed.loc[rows.path].reset_index(drop=True)
    for path, pid, modality, row in zip(rows.path, rows.pid, rows.modality, listed.itertuples(), strict=True):
        if (row.modality.lower(), number(row.id)) != (MODALITIES[modality], pid):
            raise ValueError(f"{file}, line {row.line}: modality or id of {path} is not that of its folder")
        if not row.camera:
            raise ValueError(f"{file}, line {row.line}: {path} has no camera, write its name or number")
    numbers = [number(camera) for camera in listed.camera]
    numbered = None not in numbers
    cams = np.array(numbers) if numbered else pd.factorize(listed.camera, sort=True)[0] + 1
    names = pd.Series(numbers).astype(str) if numbered else listed.camera  # 1 and 01 are the same camera or frame
    moments = listed.frame.map(lambda text: text if (n := number(text)) is None else str(n))
    frames = (names + "/" + moments).where(listed.frame != "", "")  # frame numbers start anew in each camera
    return rows.assign(cam=cams, frame=frames)


READERS = {"sysu": _sysu, "regdb": _regdb, "folder": _folder}


def folders(root: str | Path) -> list[Path]:
    """The data sets of layout "folder" in a folder, sorted by name; the folder itself comes first if it is one.

    Args: root: as for locate(). Raises: ValueError if there is no such set; FileNotFoundError: as locate().
    """

    def inside(folder: Path) -> list[Path]:
        return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []

    root = locate(root)
    sets = [p for p in [root, *inside(root)] if set(REGDB) <= {q.name.capitalize() for q in inside(p)}]
    if not sets:
        raise ValueError(f"{root} holds no data set: one has folders {' and '.join(REGDB)}, see data/README.md")
    return sets


def obstacles(layout: str, table: pd.DataFrame, *, train: bool = True, root: Path | None = None) -> list[str]:
    """Why training or evaluation on a table cannot run: one sentence per reason, [] if both can run. Opens no image.

    Args: layout: as for read(); table: of read() or hold_out(), with the splits that training will use; train: False
        if no network will be trained, only tested; root: the data folder. With root the sentences name it, and the
        official draw of the SYSU-MM01 galleries, if the folder holds it, must fit the images.
    """

    def people(split: str) -> str:
        lists = {"sysu": f"exp/{split}_id.txt", "regdb": f"the lists idx/{split}_*.txt"}.get(layout, "split.csv")
        without = ", without which all people are test people" if (layout, split) == ("folder", "train") else ""
        return f"people in {lists}{f' of {root}' if root else ''}{without}"

    reasons, parts = [], {split: table[table.split == split] for split in SPLITS}
    if train and parts["train"].empty:
        reasons.append(f"nobody is in split 'train': name {people('train')}")
    elif train and (ready := len(_in_both(parts["train"]))) < 2:
        reasons.append(
            f"split 'train' has {ready or 'nobody'} with visible and thermal images, training compares two people or "
            f"more: add images, or name other {people('train')}"
        )
    test, repair = parts["test"], f"add images, or name other {people('test')}"
    if test.empty:
        return [*reasons, f"nobody is in split 'test': name {people('test')}"]
    cameras = [
        f" of cameras {' '.join(map(str, c))}" * (layout == "sysu") for c in (GALLERY_CAMERAS["all"], QUERY_CAMERAS)
    ]
    if absent := [m for m in (0, 1) if not (test.modality == m).any()]:
        return reasons + [f"split 'test' has no {MODALITIES[m]} image{cameras[m]}: {repair}" for m in absent]
    both = test[test.pid.isin(_in_both(test))]
    if both.empty:
        reasons.append(f"nobody in split 'test' has visible and thermal images: {repair}")
    elif layout == "sysu":
        if "all" not in sysu_modes(test):
            reasons.append(f"camera 3 never searches camera 2, and nobody in split 'test' has other images: {repair}")
        if root and (fault := _draw_fault(root, test)):
            reasons.append(fault)
    elif not both.groupby("pid").frame.agg(lambda f: f.nunique() > 1 or f.iloc[0] == "").any():
        reasons.append(
            "the images of each person in split 'test' show one instant (frame in manifest.csv), and no search may "
            f"find such a partner: {repair}"
        )
    return reasons


def _draw_fault(root: Path, test: pd.DataFrame) -> str:
    """Why the official draw of galleries does not fit the test images of SYSU-MM01; "" if it does or is not there."""
    if not (file := root / "exp" / "rand_perm_cam.mat").is_file():
        return ""
    try:
        permutations = sysu_permutations(file)
    except ValueError as error:
        return str(error)
    for (cam, pid), images in gallery_sizes(test).items():
        trials, numbers = permutations.get((cam, pid), np.empty((0, 0))).shape
        if not min(10, images) <= numbers <= images:  # a gallery takes at most ten images (shots)
            return f"{file} does not draw from the {images} images of identity {pid} in camera {cam}: copy it again"
        if trials < 10:
            return f"{file} has {trials} draws of identity {pid} in camera {cam}, the protocol ten: copy it again"
    return ""


def _in_both(rows: pd.DataFrame) -> pd.Index:
    """The identities that have images of both modalities among these rows."""
    modalities = rows.groupby("pid").modality.nunique()
    return modalities.index[modalities == 2]


def sysu_modes(test: pd.DataFrame) -> list[str]:
    """The modes of search, "all" and "indoor", in which a thermal query of SYSU-MM01 has a gallery image to find.

    The official validation identities, for example, were not seen by cameras 1 and 2: they have no indoor search.
    Args: test: rows of a table; their modes are keys of evaluate.GALLERY_CAMERAS.
    """
    people = test.groupby("pid").cam.agg(set)

    def can_find(seen: set[int], gallery: tuple[int, ...]) -> bool:
        return any(seen & set(gallery) - {BLIND.get(query)} for query in seen & set(QUERY_CAMERAS))

    return [mode for mode, gallery in GALLERY_CAMERAS.items() if any(can_find(seen, gallery) for seen in people)]


def hold_out(table: pd.DataFrame, identities: int, seed: int = 0) -> pd.DataFrame:
    """A copy of a table in which some training identities, drawn at random, are moved to split "val".

    Args: table: of read(); identities: how many, 0 or more; seed: of the draw.
    Raises: ValueError if the table has validation identities already, or if none would be left to train on.
    """
    pids = np.unique(table.pid[table.split == "train"])
    if not len(pids):
        raise ValueError(
            "nobody is in split 'train', so nobody can be held out: name people to train on (data/README.md)"
        )
    if (table.split == "val").any() or not 0 <= identities < len(pids):
        reason = "has validation identities of its own" if "val" in set(table.split) else f"has {len(pids)} to train on"
        hint = "set validation_identities=0, or name more people to train on (data/README.md)"
        raise ValueError(f"cannot hold out {identities} identities: the set {reason}; {hint}")
    chosen = np.random.default_rng(seed).choice(pids, identities, replace=False)
    return table.assign(split=table.split.mask(table.pid.isin(chosen) & (table.split == "train"), "val"))


def gallery_sizes(table: pd.DataFrame) -> pd.Series:
    """(cam, pid) -> number of visible test images: galleries are drawn from these. Args: table: of read()."""
    return table[(table.split == "test") & (table.modality == 0)].groupby(["cam", "pid"]).size()


def sysu_permutations(mat_path: str | Path) -> dict[tuple[int, int], np.ndarray]:
    """Read the official draw of the galleries of SYSU-MM01: (cam, pid) -> (trials, n) int.

    Each row is a permutation of the image numbers 1 to n; the gallery of trial t takes the first 1 or 10 numbers of
    row t. Source: wuancong/SYSU-MM01, evaluation/data_split/rand_perm_cam.mat.
    Args: mat_path: the file. Raises: FileNotFoundError if it is missing; ValueError if it is damaged.
    """
    if not (mat_path := user_path(mat_path)).is_file():
        raise FileNotFoundError(f"{mat_path} is missing: it comes with SYSU-MM01 and draws the official galleries")
    try:
        cells = [cell.ravel() for cell in loadmat(mat_path)["rand_perm_cam"].ravel()]
        draws = {(c, p): x.astype(int) for c, cell in enumerate(cells, 1) for p, x in enumerate(cell, 1) if x.size}
        if not all((np.sort(x) == np.arange(1, x.shape[1] + 1)).all() for x in draws.values()):
            raise ValueError("a row is no permutation of 1 to n")
    except Exception as error:  # SciPy raises many types for a broken file
        reason = " ".join(str(error).split())
        raise ValueError(f"{mat_path} is not the official rand_perm_cam.mat, copy it again: {reason}") from error
    return draws


def in_threads(call: Callable[[T], R], items: Sequence[T], label: str) -> list[R]:
    """[call(item) for item in items], computed by many threads. Not tqdm's thread_map: it fails in two threads at once.

    Args: call: a function of one item; items: in the order of the results; label: text of the progress bar.
    """
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(call, items), label, len(items), leave=False, unit="image"))


class Picture(NamedTuple):
    """A decoded image file."""

    image: Image.Image  # RGB, 8 bits per channel, upright
    turned: bool  # whether it was turned or mirrored, as its EXIF orientation demands
    transparent: bool  # whether it had transparent pixels, which are laid on black


def picture(data: bytes, path: Path) -> Picture:
    """Decode an image file. check.check() and images.store() both use this, so they accept the same files.

    Grey is repeated in three channels, transparent pixels are laid on black, EXIF orientation is applied.
    Args: data: the content of the file; path: only for the message.
    Raises: ValueError, a sentence that begins with `path`: no image, several pages, or more than 8 bits per channel
        (Pillow would cut such values off without a warning).
    """
    if not data:
        raise ValueError(f"{path} is empty, copy it from the set again")
    try:
        image = Image.open(io.BytesIO(data))
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a phone's JPEG with its preview
        deep = image.mode.startswith(("I", "F")) or DEEP.search(str(image.tile))
        if pages == 1 and not deep:
            # Pillow sets a TIFF upright while it loads it, so its orientation is read before
            turned = image.format == "TIFF" and image.tag_v2.get(ExifTags.Base.Orientation) in TURNS
            image.load()
            image, transparent = _opaque(image, turn := _turn(image))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image that can be read, copy it from the set again") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} has too many pixels for an image of a person, shrink it") from error
    except Exception as error:  # Pillow raises many types for a broken file
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be decoded, copy it from the set again: {reason}") from error
    if deep:
        raise ValueError(f"{path} has more than 8 bits a channel: convert the set to 8 bits first")
    if pages > 1:
        raise ValueError(f"{path} holds {pages} images: save each as a file of its own")
    return Picture(image, turned or turn is not None, transparent)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The operation that sets an image upright; None if it is upright, or if its EXIF data cannot be read."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # damaged EXIF data say nothing about the pixels
        return None


def _opaque(image: Image.Image, turn: Image.Transpose | None) -> tuple[Image.Image, bool]:
    """The image as upright RGB, and whether transparent pixels were laid on black."""
    if transparent := image.has_transparency_data:
        if image.mode == "La":  # Pillow cannot convert premultiplied alpha (La) to RGBA
            image = image.convert("LA")
        image = image.convert("RGBA")
        if transparent := image.getextrema()[3][0] < 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn), transparent
