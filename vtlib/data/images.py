"""Images as one array: decoded once, read from a memory map, augmented in batches, drawn P identities x K images."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from ..common import data_root, user_path
from ..files import NO_ROOM, read_json, whole, write_json
from .datasets import in_threads, picture

DECODING = 2  # counts the ways to decode an image: a store of another way is not read


@dataclass(frozen=True)
class Store:
    """pixels: (N, 3, H, W) uint8, read-only, row i = row i of the table. digest: sha256 of the files behind it."""

    pixels: np.memmap
    digest: str


def store(table: pd.DataFrame, root: str | Path, height: int, width: int, *, cache: str | Path | None = None) -> Store:
    """All images of a table at one size, decoded on the first call and mapped from `cache` afterwards.

    A store belongs to its size and listing (folder, paths, and of each file size, times and number on its disk); where
    one changes, as after a copy of the folder, the images are decoded anew. The digest depends on paths and bytes
    alone: that of the text `sha256sum` prints for the files, sorted by path. SYSU-MM01 at 288 x 144 (45 thousand
    images) takes 5.6 GB on disk, and of memory what the system has to spare.

    Args: table: column path; root: the folder paths are relative to; height, width: pixels;
        cache: folder of the stores, by default .store in the data root.
    Raises: ValueError naming a file that cannot be decoded; FileNotFoundError for one that is missing; OSError, one
        sentence, where the stores' disk is full or cannot be written.
    """
    pixels, record = store_files(table, root, height, width, cache)
    shape = (len(table), 3, height, width)
    if (found := _open(pixels, record, shape)) is None:
        _build(user_path(root), table.path.tolist(), shape, pixels, record)
        if (found := _open(pixels, record, shape)) is None:
            raise OSError(f"{pixels} cannot be read back: look after its disk, or let VTLIB_DATA name another folder")
    return found


def store_files(
    table: pd.DataFrame, root: str | Path, height: int, width: int, cache: str | Path | None = None
) -> tuple[Path, Path]:
    """Where the pixels and the record of a store lie, or will lie: arguments and errors of store()."""
    root, paths = user_path(root), table.path.tolist()
    if not paths:
        raise ValueError(f"{root}: the table is empty, there is no image to decode")
    listing = [DECODING, str(root), height, width]
    for path in paths:
        # size and modification time alone stay as they were where two files change places
        stat = (root / path).stat()
        listing.append((path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    key = hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:24]
    cache = user_path(cache) if cache else data_root() / ".store"
    return cache / f"{key}.npy", cache / f"{key}.json"


def _open(pixels: Path, record: Path, shape: tuple[int, ...]) -> Store | None:
    """A store that is whole; None for one that is not there, or cut or spoilt since: it is only a cache."""
    try:
        array, digest = np.lib.format.open_memmap(pixels, mode="r"), read_json(record)["digest"]
    except Exception:  # NumPy raises many kinds for a broken file
        return None
    return Store(array, digest) if (array.shape, array.dtype) == (shape, np.uint8) and isinstance(digest, str) else None


def _build(root: Path, paths: list[str], shape: tuple[int, ...], pixels: Path, record: Path) -> None:
    """Decode under a name of its own, then move: whoever comes second moves the same bytes over the first."""
    with _writing(pixels.parent, root, int(np.prod(shape))), whole(pixels) as part:
        pixels.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
        _reserve(part)

        def decode(row: int) -> str:
            data = (root / paths[row]).read_bytes()
            array[row] = _pixels(data, root / paths[row], shape[2:])
            return f"{hashlib.sha256(data).hexdigest()}  {paths[row]}\n"

        order = sorted(range(len(paths)), key=paths.__getitem__)
        lines = in_threads(decode, order, f"decode {root.name}")
        array.flush()
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    with _writing(pixels.parent, root, int(np.prod(shape))):
        write_json(record, {"digest": digest, "root": str(root), "size": shape[2:]})  # last: with it the store is whole


def _reserve(file: Path) -> None:
    """Take the disk space of a file: a write into a memory map that finds none kills the process without a word."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(file, "r+b") as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, os.path.getsize(file))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # what a file system without it says
                raise


@contextmanager
def _writing(folder: Path, root: Path, size: int) -> Iterator[None]:
    """One sentence where the stores' disk is full or cannot be written."""
    try:
        yield
    except OSError as error:
        inside = error.filename is None or Path(error.filename).is_relative_to(folder)
        if inside and error.errno in NO_ROOM:
            need, repair = f"need {size / 1e9:.3g} GB", "clear some, or let VTLIB_DATA name a folder on a larger disk"
        elif inside and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            need, repair = "are kept there", "let VTLIB_DATA name a folder that can be written"
        else:
            raise
        raise OSError(f"{folder}: {os.strerror(error.errno)}: the decoded images of {root} {need}: {repair}") from error


def _pixels(data: bytes, path: Path, size: tuple[int, int]) -> np.ndarray:
    """(3, H, W) uint8: bilinear over the whole footprint of a target pixel (antialiased). Raises: as picture()."""
    return np.asarray(picture(data, path).image.resize(size[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def reader(pixels: np.ndarray, rows: np.ndarray, device: str) -> Callable[[np.ndarray], Tensor]:
    """A function from an index (n,) into `rows` to these images, (n, 3, H, W) uint8 on the device.

    On a GPU all of them are loaded once where they take at most half of its free memory (the 34,167 training images of
    SYSU-MM01 at 288 x 144 take 4.3 GB); else, and on a CPU, they are read from the memory map.
    """
    if not device.startswith("cuda"):
        return lambda index: torch.from_numpy(pixels[rows[index]]).to(device)
    if len(rows) * pixels[0].nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return lambda index: torch.from_numpy(pixels[rows[index]]).pin_memory().to(device, non_blocking=True)
    resident = torch.empty((len(rows), *pixels.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, len(rows), 1024):
        resident[start : start + 1024] = torch.from_numpy(pixels[rows[start : start + 1024]])
    return lambda index: resident[torch.from_numpy(index).to(device, non_blocking=True)]
