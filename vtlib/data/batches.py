"""Batches: P identities with K images of each modality, read, augmented and normalised."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from . import images as im

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the backbones' weights want
DRAWS = 9  # numbers an image: top, left, flip, erase?, area, aspect, place down, place right, one in reserve


@cache
def statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and shift (3, 1, 1) that normalise uint8; made once, since a GPU waits for such a copy."""
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    return tuple(x.float().to(device) for x in (1 / (255 * std), -mean / std))


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


class Batches:
    """One part of a data set: index (B,) -> images (B, 3, H, W) on a device; labels and modality stay on the CPU."""

    def __init__(self, rows: pd.DataFrame, pixels: np.ndarray, device: str):
        self.read = im.reader(pixels, rows.index.to_numpy(), device)
        self.labels = torch.from_numpy(pd.factorize(rows.pid, sort=True)[0])  # (n,) 0..C-1
        self.modality = torch.tensor(rows.modality.to_numpy())

    def __call__(self, index: np.ndarray, prepare: Callable[[Tensor], Tensor]) -> Tensor:
        return prepare(self.read(index))  # the first convolution gives the network its layout
