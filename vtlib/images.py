"""Images as one array: decoded once, read from a memory map, augmented in batches, drawn P identities x K images."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .datasets import in_threads, picture
from .files import NO_ROOM, data_root, read_json, user_path, whole, write_json

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the backbones' weights want
DECODING = 2  # counts the ways to decode an image: a store of another way is not read
DRAWS = 9  # numbers an image: top, left, flip, erase?, area, aspect, place down, place right, one in reserve


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


@cache
def statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and shift (3, 1, 1) that normalise uint8; made once, since a GPU waits for such a copy."""
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    return tuple(x.float().to(device) for x in (1 / (255 * std), -mean / std))


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


def normalise(batch: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 to float32, 0 = the mean and 1 = a standard deviation of ImageNet's channels."""
    factor, shift = statistics(batch.device)
    return batch.float().mul_(factor).add_(shift)


def draw(n: int, generator: torch.Generator) -> Tensor:
    """The (n, 9) uniform numbers in [0, 1) that augment() uses up for n images."""
    return torch.rand(n, DRAWS, generator=generator, device=generator.device)


def augment(
    batch: Tensor, draws: Tensor, *, pad: int = 10, flip: float = 0.5, erase: float = 0.0, form: str | None = None
) -> Tensor:
    """Pad with black, crop back at random, mirror, normalise, erase a rectangle: S1 section 4.1.3 plus the last, off.

    Random erasing: Zhong et al. 2020, AAAI, arXiv 1708.04896: 2 to 40 % of the area, filled with the mean (here 0).
    differs: the aspect is drawn log-uniformly among 0.3 to 1/0.3 *that fit the image*, where they draw and reject.
    The same draws give the same result in both forms, on any device.

    Args: batch: (B, 3, H, W) uint8; draws: (B, 9) of draw(); pad: pixels a side; flip, erase: probabilities;
        form: "slice" (a loop of views, fastest on a CPU), "gather" (indices, for a GPU), None: by the batch's device.
    Returns: (B, 3, H, W) float32, normalised. Raises: ValueError for other shapes, types or ranges.
    """
    if batch.dtype != torch.uint8 or batch.ndim != 4 or draws.shape != (len(batch), DRAWS):
        raise ValueError(f"augment takes (B, 3, H, W) uint8 and (B, 9) draws, not {batch.dtype} {tuple(batch.shape)}")
    if pad < 0 or not 0 <= flip <= 1 or not 0 <= erase <= 1:
        raise ValueError(f"augment: pad {pad} must be 0 or more, flip {flip} and erase {erase} in [0, 1]")
    form = form or ("slice" if batch.device.type == "cpu" else "gather")
    if form not in ("slice", "gather"):
        raise ValueError(f"augment: form must be 'slice' or 'gather', not {form!r}")
    plan = _plan(draws.to("cpu"), *batch.shape[2:], pad, flip, erase)  # on the CPU: one rounding for all devices
    apply = _slices if form == "slice" else _gather
    return apply(batch, plan.to(batch.device, non_blocking=True), pad)


def _plan(draws: Tensor, height: int, width: int, pad: int, flip: float, erase: float) -> Tensor:
    """(B, 7) whole numbers an image: top and left of the crop, mirrored?, top, left, height, width of the rectangle."""
    top, left, mirror, erased, area, aspect, down, right, _ = draws.double().unbind(1)
    area = (0.02 + 0.38 * area) * height * width
    low, high = (area / width**2).clamp(min=0.3), (height**2 / area).clamp(max=1 / 0.3)  # aspects that fit
    aspect = low * (high / low) ** aspect
    h, w = ((area * r).sqrt().round() * (erased < erase) for r in (aspect, 1 / aspect))
    h, w = h.clamp(max=height), w.clamp(max=width)
    place = ((down * (height - h + 1)), (right * (width - w + 1)))
    mirrored = (mirror < flip).double()
    return torch.stack([top * (2 * pad + 1), left * (2 * pad + 1), mirrored, *place, h, w], 1).long()  # floors


def _slices(batch: Tensor, plan: Tensor, pad: int) -> Tensor:
    factor, shift = statistics(batch.device)
    out, (height, width) = torch.empty(batch.shape), batch.shape[2:]
    for image, to, (i, j, mirror, y, x, h, w) in zip(batch, out, plan.tolist(), strict=True):
        down, right = (min(max(pad - p, -size), size) for p, size in ((i, height), (j, width)))
        crop = functional.pad(image, (right, -right, down, -down))  # a negative side is cut off
        to.copy_(crop.flip(-1) if mirror else crop).mul_(factor).add_(shift)  # while it is in the cache
        if h:
            to[:, y : y + h, x : x + w] = 0
    return out


def _gather(batch: Tensor, plan: Tensor, pad: int) -> Tensor:
    padded, (height, width) = functional.pad(batch, (pad,) * 4), batch.shape[2:]
    top, left, mirror, down, right, h, w = plan.T[..., None]  # each (B, 1)
    y, x = torch.arange(height, device=padded.device), torch.arange(width, device=padded.device)
    rows = (top + y)[:, None, :, None]  # (B, 1, H, 1)
    columns = (left + torch.where(mirror > 0, width - 1 - x, x))[:, None, None, :]  # (B, 1, 1, W)
    image, channel = (torch.arange(n, device=padded.device) for n in padded.shape[:2])
    out = normalise(padded[image[:, None, None, None], channel[:, None, None], rows, columns])
    y_erased, x_erased = (y >= down) & (y < down + h), (x >= right) & (x < right + w)  # (B, H), (B, W)
    return out.masked_fill_(y_erased[:, None, :, None] & x_erased[:, None, None, :], 0)


class PKSampler:
    """Batches of P identities with K visible and K thermal images each, the form that the losses need.

    An epoch deals all identities out in random order before it deals one again, never one twice in a batch. An identity
    with fewer than K images of a modality gives some of them again; one that lacks a modality is left out.

    Args: pids, modality: (N,) whole numbers, modality 0 visible, 1 thermal; p, k, steps: an epoch's batches; seed.
    Raises: ValueError if fewer than p identities have both modalities, or for other shapes or ranges.
    """

    def __init__(self, pids: np.ndarray, modality: np.ndarray, p: int, k: int, steps: int, seed: int):
        pids, modality = np.asarray(pids), np.asarray(modality)
        if pids.shape != modality.shape or pids.ndim != 1 or not np.isin(modality, (0, 1)).all():
            raise ValueError("PKSampler takes pids (N,) and modality (N,) of 0 and 1")
        if min(p, k, steps) < 1 or seed < 0:
            raise ValueError(f"PKSampler: p {p}, k {k} and steps {steps} must be 1 or more, seed {seed} 0 or more")
        rows = [[np.flatnonzero((pids == pid) & (modality == m)) for m in (0, 1)] for pid in np.unique(pids)]
        self.rows = [pair for pair in rows if len(pair[0]) and len(pair[1])]
        self.p, self.k, self.steps, self.seed = p, k, steps, seed
        if len(self.rows) < min(p, 2):
            raise ValueError(
                f"training needs two people with images of both modalities and has {len(self.rows)}: name more people "
                "to train on, or add images (data/README.md)"
            )
        if len(self.rows) < p:
            raise ValueError(
                f"{len(self.rows)} identities have both modalities, a batch needs {p}: set identities_per_batch to "
                f"{len(self.rows)} or lower"
            )

    def epoch(self, number: int) -> Iterator[np.ndarray]:
        """`steps` arrays (2 P K,) int64 of rows: P blocks of K visible, then the same P of K thermal.

        The same seed and number give the same batches whatever was drawn before; no global random state is touched.
        """
        generator = np.random.default_rng([self.seed, number])
        waiting: list[int] = []
        for _ in range(self.steps):
            if len(waiting) < self.p:  # next pass, those still waiting first and not again in the same batch
                fresh = generator.permutation(len(self.rows)).tolist()
                waiting += sorted(fresh, key=waiting.__contains__)
            chosen, waiting = waiting[: self.p], waiting[self.p :]
            yield np.concatenate([self._images(i, m, generator) for m in (0, 1) for i in chosen])

    def _images(self, identity: int, modality: int, generator: np.random.Generator) -> np.ndarray:
        rows = self.rows[identity][modality]
        return generator.choice(rows, self.k, replace=len(rows) < self.k)
