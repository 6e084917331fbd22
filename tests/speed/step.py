"""A training step: ResNet-50 at 288 x 144 and the cpu profile's network, beside a plain loop in float32."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from vtlib import objective, train
from vtlib.config import Experiment, experiment
from vtlib.data.batches import Batches, PKSampler, draw

from .data import pil_pipeline
from .timing import Row, compare, devices, interleaved, share

RESNET = {"weights": "none", "steps_per_epoch": 1}
CASES: dict[str, Experiment] = {  # the field's batch, that of S2 on SYSU-MM01, and what the cpu profile trains
    "ResNet-50 baseline": experiment("paper", "baseline", identities_per_batch=8, images_per_identity=4, **RESNET),
    "ResNet-50 parts, MC": experiment("paper", "parts_mc", identities_per_batch=6, images_per_identity=8, **RESNET),
    "thin baseline": experiment("cpu", "baseline", steps_per_epoch=1),
    "thin parts, MC": experiment("cpu", "parts_mc", steps_per_epoch=1),
}
IDENTITIES, IMAGES = 395, 640  # classes of SYSU-MM01; images that a loader reads in the comparison with one
SQUARE = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product gives the rate that nothing can pass


def measure(repeats: int) -> Iterator[Row]:
    """Steps of every case on every device; on a GPU also with the data, and compiled."""
    for device in devices():
        rate = matrix_rate(device, repeats)
        for name, made in CASES.items():
            yield from steps(name, made, device, repeats, rate)
        if device != "cpu":
            for name, made in list(CASES.items())[:2]:
                yield from with_data(name, made, device, repeats)
        for name, made in CASES.items():
            if device != "cpu" or name == "thin baseline":
                yield compiled(name, made, device, repeats)


def matrix_rate(device: str, repeats: int) -> float:
    """Operations a second of a bf16 matrix product, the best of many."""
    a = torch.randn(SQUARE[device], SQUARE[device], device=device, dtype=torch.bfloat16)
    a @ a
    return 2 * SQUARE[device] ** 3 / (min(interleaved([lambda: a @ a], 1, device)[0] for _ in range(repeats)) / 1000)


def size_of(made: Experiment) -> str:
    p, k = made.identities_per_batch, made.images_per_identity
    return f"P {p} K {k}, {made.height} x {made.width}"


def make_step(made: Experiment, device: str, **fields) -> train.Step:
    """A step of a new network as fit() makes it."""
    made = made.but(device=device, **fields)
    net = train.make_net(made, IDENTITIES).to(device, memory_format=torch.channels_last)
    losses = objective.make_losses(made, net).to(device)
    parts = {"net": net.train(), "losses": losses, "optimizer": train.make_optimizer(made, net, losses)}
    return train.Step(made, parts, device)


def plain_step(made: Experiment, device: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The same network as public code trains it: float32, NCHW, an update a parameter, each loss read in each step."""
    net = train.make_net(made, IDENTITIES).to(device).train()
    losses = objective.make_losses(made, net).to(device)
    optimizer = torch.optim.SGD(
        net.parameters(), made.lr, made.momentum, weight_decay=made.weight_decay, foreach=False, fused=False
    )
    weights = [term["weight"] for term in made.losses.values()]

    def call(x: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
        terms = objective.loss_terms(made, losses, net(x, modality), labels, modality)
        optimizer.zero_grad()
        sum(w * t for w, t in zip(weights, terms, strict=True)).backward()
        optimizer.step()
        return torch.tensor([t.item() for t in terms])

    return call


def labels_of(made: Experiment) -> tuple[Tensor, Tensor]:
    p, k = made.identities_per_batch, made.images_per_identity
    return torch.arange(p).repeat_interleave(k).repeat(2), torch.arange(2).repeat_interleave(p * k)


def steps(name: str, made: Experiment, device: str, repeats: int, rate: float) -> Iterator[Row]:
    """Forward, losses, backward and update of one batch that is there.

    Raises: RuntimeError if the first losses differ by more than bf16 allows.
    """
    labels, modality = labels_of(made)
    x = torch.randn(len(labels), 3, made.height, made.width, device=device)
    ours, plain = make_step(made, device), plain_step(made, device)
    with FlopCounterMode(display=False) as flops:
        first = ours(x, modality, labels, modality)[:-1].cpu()
    theirs = plain(x, labels.to(device), modality.to(device))
    if not torch.allclose(first, theirs, rtol=0.1, atol=0.05):
        raise RuntimeError(f"{name}: losses of the first step disagree: {first.tolist()} and {theirs.tolist()}")
    precision = ours.experiment.precision

    def limit(ms: float) -> str:
        done = flops.get_total_flops() / (ms / 1000)
        of = f"{share(done, rate)} of bf16 matrix rate ({rate / 1e12:.2g} TFLOP/s)"
        return f"{of}, {1000 * len(labels) / ms:.0f} images/s"

    references = {"float32 NCHW loop": partial(plain, x, labels.to(device), modality.to(device))}
    yield from compare(
        f"step {name}",
        f"{size_of(made)}, {precision}",
        lambda: ours(x, modality, labels, modality),
        references,
        repeats=repeats,
        limit=limit,
        device=device,
    )


def compiled(name: str, made: Experiment, device: str, repeats: int) -> Row:
    """A step with torch.compile beside the same step without it."""
    labels, modality = labels_of(made)
    x = torch.randn(len(labels), 3, made.height, made.width, device=device)
    forms = [make_step(made, device, compile=flag) for flag in (False, True)]
    calls = [partial(step, x, modality, labels, modality) for step in forms]
    a, b = (call().cpu() for call in calls)
    if not torch.allclose(a[:-1], b[:-1], rtol=0.1, atol=0.05):
        raise RuntimeError(f"{name}: losses of the compiled step disagree: {b.tolist()} and {a.tolist()}")
    calls[1]()
    theirs, mine = interleaved(calls, repeats, device)
    size = size_of(made) if device == "cpu" else f"{size_of(made)}, {device}"
    return Row(f"step {name}", size, "not compiled", theirs, mine, theirs / mine, "ours is torch.compile's")


class PerImage(torch.utils.data.Dataset):
    """What public loaders do in their workers: one image at a time, through PIL."""

    def __init__(self, pixels: np.ndarray, pad: int):
        self.pixels, self.transform = pixels.transpose(0, 2, 3, 1), pil_pipeline(*pixels.shape[2:])

    def __getitem__(self, row: int) -> Tensor:
        return self.transform(self.pixels[row])


def with_data(name: str, made: Experiment, device: str, repeats: int, workers: int = 4) -> Iterator[Row]:
    """Whole steps from stored pixels to the update: ours, and float32 fed by a loader with four workers."""
    p, k = made.identities_per_batch, made.images_per_identity
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (IMAGES, 3, made.height, made.width), np.uint8)
    table = pd.DataFrame({"pid": np.arange(IMAGES) // 16, "modality": np.arange(IMAGES) % 2})
    sampler = PKSampler(table.pid.to_numpy(), table.modality.to_numpy(), p, k, 10**6, seed=0)
    labels, modality = labels_of(made)
    ours, plain = make_step(made, device), plain_step(made, device)
    batches, draws, indices = Batches(table, pixels, device), torch.Generator().manual_seed(0), sampler.epoch(0)
    there = labels.to(device), modality.to(device)
    loader = iter(DataLoader(PerImage(pixels, made.pad), batch_sampler=sampler.epoch(0), num_workers=workers))

    def mine() -> None:
        numbers = draw(len(labels), draws)
        x = batches(next(indices), lambda x: train.augmented(made, x, numbers))
        ours(x, modality, labels, modality)

    def peers() -> None:
        plain(next(loader).to(device), *there)

    mine(), peers()
    references = {f"float32, PIL loader, {workers} workers": peers}
    yield from compare(
        f"step with data {name}",
        size_of(made),
        mine,
        references,
        repeats=repeats,
        limit=lambda ms: f"{1000 * len(labels) / ms:.0f} images/s",
        device=device,
    )
