"""Check a data folder: open every image, and compare the counts and galleries with those that the authors published."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import ImageChops

from ..common import user_path
from .datasets import (
    READERS,
    SPLITS,
    SUFFIXES,
    counts_text,
    gallery_sizes,
    in_threads,
    obstacles,
    picture,
    scan,
    sysu_modes,
    sysu_permutations,
)

# Counts that the authors state, or that follow from their lists and from rand_perm_cam.mat, the official draw of the
# galleries. The 3,803 thermal test images of SYSU-MM01 are its queries. On its disk lie 1,038 visible and 80 thermal
# images more than in "all splits": they show people outside the 491 identities.
PUBLISHED = {
    "sysu": {
        "images on disk": "30071 visible, 15792 thermal",
        "all splits": "491 identities, 29033 visible, 15712 thermal",
        "train": "296 identities, 20284 visible, 9929 thermal",
        "train+val": "395 identities, 22258 visible, 11909 thermal",
        "test": "96 identities, 6775 visible, 3803 thermal",
        "gallery": "all-search 301 (1 shot), 3010 (10 shots); indoor-search 112, 1120",
    },
    "regdb": {
        "images on disk": "4120 visible, 4120 thermal",
        "all splits": "412 identities, 4120 visible, 4120 thermal",
        "train": "206 identities, 2060 visible, 2060 thermal",
        "test": "206 identities, 2060 visible, 2060 thermal",
    },
}


def check(layout: str, root: str | Path, *, published: bool = True) -> pd.DataFrame:
    """Open every image of a data folder, count, and compare. problems() turns the faults into sentences.

    Args: layout, root: as for datasets.read(); published: True expects the counts of the real SYSU-MM01 or RegDB, False
        only what any set of this layout needs.
    Returns: DataFrame with the columns item, found, expected, note (str; expected is "" if any value will do) and ok.
    Raises: ValueError, FileNotFoundError: as datasets.read(), if a folder of the layout is missing or misnamed.
    """
    root, tables, unread, stops = user_path(root), [], [], {}
    disk, others = scan(layout, root)
    searched_only = layout == "folder" and not (root / "split.csv").is_file()
    for split in range(1, 11 if layout == "regdb" else 2):
        try:
            tables.append(READERS[layout](root, disk, split))
            stops |= dict.fromkeys(obstacles(layout, tables[-1], train=not searched_only, root=root))
        except (ValueError, FileNotFoundError) as error:
            unread.append(str(error))
    expected, rows = PUBLISHED.get(layout, {}) if published else {}, []
    for item, count in _facts(layout, disk, tables).items():
        rows.append((item, count, expected.get(item, ""), count == expected.get(item, count), ""))
    faults = [("unreadable splits", unread, True), ("obstacles to training or search", list(stops), True)]
    faults += [*_identity_faults(tables), *_image_faults(root, disk)]
    if layout == "sysu" and tables:
        faults.append(("galleries unlike rand_perm_cam.mat", _gallery_faults(root, tables[0]), published))
    for item, names, strict in faults:  # strict: there must be none; else the row is only a hint
        note = "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        rows.append((item, str(len(names)), "0" if strict else "", not (strict and names), note))
    if others:
        note = f"{counts_text(others)}: only {' '.join(sorted(SUFFIXES))} are read"
        rows.append(("files left out", str(others.total()), "", True, note))
    if searched_only:
        note = "no split.csv: all people are test people; such a set can be searched, not trained on"
        rows.append(("training people", "0", "", True, note))
    if layout == "sysu" and tables and sysu_modes(tables[0][tables[0].split == "test"]) == ["all"]:
        rows.append(("indoor-search", "0", "", True, "indoor-search: no gallery, its rows are left out"))
    return pd.DataFrame(rows, columns=["item", "found", "expected", "ok", "note"])


def problems(report: pd.DataFrame) -> list[str]:
    """One sentence for each row that is not ok; [] for a sound set. Args: report: what check() returned."""
    rows = report[~report.ok].itertuples()
    return [f"{r.item}: found {r.found}, expected {r.expected}" + (f": {r.note}" if r.note else "") for r in rows]


def _facts(layout: str, disk: pd.DataFrame, tables: list[pd.DataFrame]) -> dict[str, str]:
    """Item -> counts, written as in PUBLISHED; those of RegDB over its ten splits, joined by "or" if they differ."""
    facts = {"images on disk": "{} visible, {} thermal".format(*np.bincount(disk.modality, minlength=2))}
    parts = {"train": ["train"], "val": ["val"], "train+val": ["train", "val"], "test": ["test"], "all splits": SPLITS}
    for item, names in parts.items():
        rows = [part for t in tables if len(part := t[t.split.isin(names)])]
        if counts := {(r.pid.nunique(), *np.bincount(r.modality, minlength=2)) for r in rows}:
            facts[item] = " or ".join("{} identities, {} visible, {} thermal".format(*c) for c in sorted(counts))
    if layout == "sysu" and tables:
        images = gallery_sizes(tables[0])
        indoor = images[images.index.isin([1, 2], level="cam")]
        sizes = [(mode >= n).sum() * n for mode in (images, indoor) for n in (1, 10)]
        facts["gallery"] = "all-search {} (1 shot), {} (10 shots); indoor-search {}, {}".format(*sizes)
    return facts


def _gallery_faults(root: Path, table: pd.DataFrame) -> list[str]:
    """Which identities in which cameras have another number of images than the official draw of galleries says."""
    try:
        permutations = sysu_permutations(root / "exp" / "rand_perm_cam.mat")
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]
    sizes = {key: x.shape[1] for key, x in permutations.items()}
    return [f"cam{cam}/{pid:04d}" for (cam, pid), n in gallery_sizes(table).items() if sizes.get((cam, pid)) != n]


def _identity_faults(tables: list[pd.DataFrame]) -> list[tuple[str, list[str], bool]]:
    """(item, identities, whether it is a fault), over all splits."""
    lone, single = set(), set()
    for (split, pid), modality in ((key, m) for t in tables for key, m in t.groupby(["split", "pid"]).modality):
        lone |= {f"{split} {pid}"} if modality.nunique() == 1 else set()
        single |= {f"{split} {pid}"} if len(modality) == 1 else set()
    train = {name for name in lone if name.startswith("train")}
    return [
        ("train identities in one modality", sorted(train), True),
        ("other identities in one modality", sorted(lone - train), False),
        ("identities with one image", sorted(single), False),
    ]


def _image_faults(root: Path, disk: pd.DataFrame) -> list[tuple[str, list[str], bool]]:
    """(item, paths of images, whether it is a fault)."""

    def inspect(path: str) -> tuple[str, bool, bool, bool]:
        """Why an image cannot be used, or ""; whether it has colour, was turned, was transparent."""
        try:
            image, turned, transparent = picture((root / path).read_bytes(), root / path)
        except (ValueError, OSError) as error:
            reason = str(error).removeprefix(f"{root / path} ") if isinstance(error, ValueError) else error.strerror
            return f"{path} ({reason})", False, False, False
        red, green, _ = image.split()
        return "", bool(ImageChops.difference(red, green).getbbox()), turned, transparent

    results = in_threads(inspect, disk.path.tolist(), f"check {root.name}")
    broken, colour, turned, transparent = (np.array(column) for column in zip(*results, strict=True))
    grey = ~colour & (broken == "") & (disk.modality == 0)  # a dark image, or a thermal one in the wrong folder
    return [
        ("unreadable images", sorted(broken[broken != ""]), True),
        ("visible images without colour", sorted(disk.path[grey]), False),
        ("images turned upright as their EXIF orientation says", sorted(disk.path[turned]), False),
        ("transparent images, laid on black", sorted(disk.path[transparent]), False),
    ]
