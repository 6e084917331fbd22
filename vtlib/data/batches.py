"""Batches for training: P identities with K visible and K thermal images each, read, augmented and normalised.

S1 is the first of the two papers that losses/__init__.py cites.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from ..common import MEAN, STD
from . import images as im

DRAWS = 9  # random numbers per image: top, left, flip, erase, area, aspect, place down, place right, one unused
DRAWN_TO_ERASE = 3  # the place of `erase` among them


@cache
def statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and shift, (3, 1, 1) float32 each, that normalise uint8 pixels. Cached: a copy to a GPU makes it wait.

    Args: device: where the two will lie.
    """
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    return tuple(x.float().to(device) for x in (1 / (255 * std), -mean / std))


def normalise(batch: Tensor) -> Tensor:
    """Pixels as a network takes them: 0 is the mean, 1 one standard deviation of that channel in ImageNet.

    Args: batch: (B, 3, H, W) uint8. Returns: (B, 3, H, W) float32.
    """
    factor, shift = statistics(batch.device)
    return batch.float().mul_(factor).add_(shift)


def draw(n: int, generator: torch.Generator) -> Tensor:
    """The random numbers that augment() needs: (n, 9) float32, uniform in [0, 1), on the generator's device.

    Args: n: number of images; generator: the source of the numbers.
    """
    return torch.rand(n, DRAWS, generator=generator, device=generator.device)


def augment(
    batch: Tensor, draws: Tensor, *, pad: int = 10, flip: float = 0.5, erase: float = 0.0, form: str | None = None
) -> Tensor:
    """Augment and normalise: pad with black, crop at random, mirror, and erase a rectangle (off by default).

    Source: S1, section 4.1.3, for all but erasing. Erasing: Zhong et al. 2020, AAAI, arXiv 1708.04896: a rectangle of
    2 to 40 % of the area is filled with the mean, which is 0 here.
    differs: they draw an aspect ratio in 0.3 to 1/0.3 until the rectangle fits; here it is drawn once, log-uniformly,
    among those of the range *that fit the image*.
    Both forms give the same result for the same draws, on any device.

    Args: batch: (B, 3, H, W) uint8; draws: (B, 9) of draw(); pad: pixels on each side; flip, erase: probabilities;
        form: "slice" loops over images (fastest on a CPU), "gather" indexes the whole batch (for a GPU), None chooses
        by the device of the batch.
    Returns: (B, 3, H, W) float32, normalised. Raises: ValueError for other shapes, types or ranges.
    """
    if batch.dtype != torch.uint8 or batch.ndim != 4 or draws.shape != (len(batch), DRAWS):
        raise ValueError(f"augment takes (B, 3, H, W) uint8 and (B, 9) draws, not {batch.dtype} {tuple(batch.shape)}")
    if pad < 0 or not 0 <= flip <= 1 or not 0 <= erase <= 1:
        raise ValueError(f"augment: pad {pad} must be 0 or more, flip {flip} and erase {erase} in [0, 1]")
    form = form or ("slice" if batch.device.type == "cpu" else "gather")
    if form not in ("slice", "gather"):
        raise ValueError(f"augment: form must be 'slice' or 'gather', not {form!r}")
    plan = _plan(draws.to("cpu"), *batch.shape[2:], pad, flip, erase)  # on the CPU, so that all devices round alike
    apply = _slices if form == "slice" else _gather
    return apply(batch, plan.to(batch.device, non_blocking=True), pad)


def _plan(draws: Tensor, height: int, width: int, pad: int, flip: float, erase: float) -> Tensor:
    """(B, 7) int64: top and left of the crop, mirror (0 or 1), top, left, height and width of the erased rectangle."""
    top, left, mirror, erased, area, aspect, down, right, _ = draws.double().unbind(1)
    area = (0.02 + 0.38 * area) * height * width
    low, high = (area / width**2).clamp(min=0.3), (height**2 / area).clamp(max=1 / 0.3)  # aspect ratios that fit
    aspect = low * (high / low) ** aspect
    h, w = ((area * r).sqrt().round() * (erased < erase) for r in (aspect, 1 / aspect))
    h, w = h.clamp(max=height), w.clamp(max=width)
    place = ((down * (height - h + 1)), (right * (width - w + 1)))
    mirrored = (mirror < flip).double()
    return torch.stack([top * (2 * pad + 1), left * (2 * pad + 1), mirrored, *place, h, w], 1).long()  # floors


def _slices(batch: Tensor, plan: Tensor, pad: int) -> Tensor:
    """augment() image by image: (B, 3, H, W) float32."""
    factor, shift = statistics(batch.device)
    out, (height, width) = torch.empty(batch.shape), batch.shape[2:]
    for image, to, (i, j, mirror, y, x, h, w) in zip(batch, out, plan.tolist(), strict=True):
        down, right = (min(max(pad - p, -size), size) for p, size in ((i, height), (j, width)))
        crop = functional.pad(image, (right, -right, down, -down))  # negative padding crops
        to.copy_(crop.flip(-1) if mirror else crop).mul_(factor).add_(shift)  # while it is in the cache
        if h:
            to[:, y : y + h, x : x + w] = 0
    return out


def _gather(batch: Tensor, plan: Tensor, pad: int) -> Tensor:
    """augment() for the whole batch at once: (B, 3, H, W) float32."""
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
    """Draws the rows of batches with P identities and, of each, K visible and K thermal images, as the losses need.

    An epoch goes through all identities in random order before it repeats one, and no batch holds an identity twice.
    If an identity has fewer than K images of a modality, some are drawn again; if it has none, it is left out.

    Args: pids, modality: (N,) whole numbers, modality 0 visible, 1 thermal; p, k: P and K; steps: batches per epoch;
        seed: of all draws.
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
        """Yield `steps` batches, each (2 P K,) int64 positions in `pids`: P blocks of K visible, then P of K thermal.

        The thermal blocks have the same identities in the same order. The batches depend on seed and number alone; no
        global random state is read or changed.
        Args: number: of the epoch, from 0.
        """
        generator = np.random.default_rng([self.seed, number])
        waiting: list[int] = []
        for _ in range(self.steps):
            if len(waiting) < self.p:  # next pass: those still waiting come first now and last in the new order
                fresh = generator.permutation(len(self.rows)).tolist()
                waiting += sorted(fresh, key=waiting.__contains__)
            chosen, waiting = waiting[: self.p], waiting[self.p :]
            yield np.concatenate([self._images(i, m, generator) for m in (0, 1) for i in chosen])

    def _images(self, identity: int, modality: int, generator: np.random.Generator) -> np.ndarray:
        rows = self.rows[identity][modality]
        return generator.choice(rows, self.k, replace=len(rows) < self.k)


class Batches:
    """Images and labels of one part of a data set, such as its training rows.

    Called with index (B,), positions in `rows`, and a function `prepare` of uint8 images: prepare's result for images
    (B, 3, H, W) on the device. `labels` (n,) int64, 0 to C - 1, and `modality` (n,) int64 stay on the CPU.
    Args: rows: n rows of a table, whose index is their position in it; pixels: (N, 3, H, W) uint8 of the whole table;
        device: as for images.reader().
    """

    def __init__(self, rows: pd.DataFrame, pixels: np.ndarray, device: str):
        self.read = im.reader(pixels, rows.index.to_numpy(), device)
        self.labels = torch.from_numpy(pd.factorize(rows.pid, sort=True)[0])
        self.modality = torch.tensor(rows.modality.to_numpy())

    def __call__(self, index: np.ndarray, prepare: Callable[[Tensor], Tensor]) -> Tensor:
        return prepare(self.read(index))  # contiguous: the network's first convolution changes to channels_last
