"""The images of a table as one array: decoded once into a file, the store, and read from a memory map of it."""

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

DECODING = 2  # version of the decoding: raise it when a pixel changes, and older stores are no longer read


@dataclass(frozen=True)
class Store:
    """The decoded images of one table at one size."""

    pixels: np.memmap  # (N, 3, H, W) uint8, read-only; row i belongs to row i of the table
    digest: str  # sha256 of paths and contents of the image files: see store()


def store(table: pd.DataFrame, root: str | Path, height: int, width: int, *, cache: str | Path | None = None) -> Store:
    """All images of a table at one size: decoded by the first call, mapped from the cache folder by later ones.

    The file name of a store depends on the image size and on folder, paths, and each file's size, times and inode. When
    one of them changes, as in a copy of the folder, the images are decoded again. The digest depends on paths and
    contents alone: it is the sha256 of what `sha256sum` prints for the files, sorted by path. SYSU-MM01 at 288 x 144
    (45 thousand images) takes 5.6 GB on disk; memory is used only as far as the system has some to spare.

    Args: table: with a column path; root: the folder that paths start from; height, width: pixels;
        cache: folder of the stores, by default .store in data_root().
    Raises: ValueError naming a file that cannot be decoded, or for an empty table; FileNotFoundError for a missing
        file; OSError, one sentence, if the cache's disk is full or cannot be written.
    """
    pixels, record = store_files(table, root, height, width, cache)
    shape = (len(table), 3, height, width)
    if (opened := _open(pixels, record, shape)) is None:
        _build(user_path(root), table.path.tolist(), shape, pixels, record)
        if (opened := _open(pixels, record, shape)) is None:
            raise OSError(f"{pixels} cannot be read back: look after its disk, or let VTLIB_DATA name another folder")
    return opened


def store_files(
    table: pd.DataFrame, root: str | Path, height: int, width: int, cache: str | Path | None = None
) -> tuple[Path, Path]:
    """The two files of a store, which need not exist yet: its pixels (.npy), and its record (.json) with the digest.

    Args, Raises: as for store().
    """
    root, paths = user_path(root), table.path.tolist()
    if not paths:
        raise ValueError(f"{root}: the table is empty, there is no image to decode")
    listing = [DECODING, str(root), height, width]
    for path in paths:
        # Two files that swap names may agree in size and modification time: ctime and inode tell them apart.
        stat = (root / path).stat()
        listing.append((path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    key = hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:24]
    cache = user_path(cache) if cache else data_root() / ".store"
    return cache / f"{key}.npy", cache / f"{key}.json"


def _open(pixels: Path, record: Path, shape: tuple[int, ...]) -> Store | None:
    """The store, or None if it is missing or damaged: it is a cache, so the caller decodes the images again."""
    try:
        array, digest = np.lib.format.open_memmap(pixels, mode="r"), read_json(record)["digest"]
    except Exception:  # NumPy raises many types for a broken file
        return None
    return Store(array, digest) if (array.shape, array.dtype) == (shape, np.uint8) and isinstance(digest, str) else None


def _build(root: Path, paths: list[str], shape: tuple[int, ...], pixels: Path, record: Path) -> None:
    """Decode into a file of another name, then rename it. Of two processes, the second puts the same bytes in place."""
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
        write_json(record, {"digest": digest, "root": str(root), "size": shape[2:]})  # last: it makes the store valid


def _reserve(file: Path) -> None:
    """Reserve the disk space of a file. A write to a memory map on a full disk would kill the process silently."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(file, "r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, os.path.getsize(file))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # the file system cannot reserve
                raise


@contextmanager
def _writing(folder: Path, root: Path, size: int) -> Iterator[None]:
    """Turn the OSError of a full or read-only disk under `folder` into one sentence; size: bytes that a store takes."""
    try:
        yield
    except OSError as error:
        inside = error.filename is None or Path(error.filename).is_relative_to(folder)  # not an image that is read
        if inside and error.errno in NO_ROOM:
            need, repair = f"need {size / 1e9:.3g} GB", "clear some, or let VTLIB_DATA name a folder on a larger disk"
        elif inside and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            need, repair = "are kept there", "let VTLIB_DATA name a folder that can be written"
        else:
            raise
        raise OSError(f"{folder}: {os.strerror(error.errno)}: the decoded images of {root} {need}: {repair}") from error


def _pixels(data: bytes, path: Path, size: tuple[int, int]) -> np.ndarray:
    """One image as (3, H, W) uint8, resized with Pillow's antialiased bilinear filter; size: (H, W)."""
    return np.asarray(picture(data, path).image.resize(size[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def reader(pixels: np.ndarray, rows: np.ndarray, device: str) -> Callable[[np.ndarray], Tensor]:
    """A function that takes an index (n,) into `rows` and returns these images, (n, 3, H, W) uint8, on the device.

    On a GPU, all images of `rows` are loaded once if they take at most half of its free memory (the 34,167 training
    images of SYSU-MM01 at 288 x 144 take 4.3 GB). Otherwise each call reads the memory map.

    Args: pixels: (N, 3, H, W) uint8, of a store; rows: rows of `pixels`; device: "cpu", or "cuda" with or without a
        number.
    """
    if not device.startswith("cuda"):
        return lambda index: torch.from_numpy(pixels[rows[index]]).to(device)
    if len(rows) * pixels[0].nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return lambda index: torch.from_numpy(pixels[rows[index]]).pin_memory().to(device, non_blocking=True)
    resident = torch.empty((len(rows), *pixels.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, len(rows), 1024):
        resident[start : start + 1024] = torch.from_numpy(pixels[rows[start : start + 1024]])
    return lambda index: resident[torch.from_numpy(index).to(device, non_blocking=True)]
