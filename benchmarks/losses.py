"""Every metric loss, forward and backward on one batch, beside its loop form and pytorch-metric-learning (PML)."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from vtlib.losses import LOSSES
from vtlib.pml import Loss

from .loops import LOOPS, NO_PAIRS, pair_by_pair
from .timing import Row, compare, one_thread

SIZES = {"N 64 (P 8, K 4)": (8, 4), "N 96 (P 6, K 8)": (6, 8)}  # the field's batch and that of S2 on SYSU-MM01
DIM, STRIPES = 2048, (6, 256)  # width of ResNet-50's feature; six stripes, whose features stand side by side: 1,536

# name -> arguments to time, the defaults where a loss has no entry; local: the features of STRIPES
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "batch_hard_triplet": [{"cross_modality": False}, {"cross_modality": True}],
    "hetero_center_triplet": [{}, {"local": True}],
    "multi_similarity": [{"cross_modality": False}, {"cross_modality": True}],
    "adaptive_weighting": [{"relation": r} for r in ("i2i", "c2i", "c2c")],
    "multi_constraint": [{}, {"local": True}],
}
EUCLIDEAN = {"name": "LpDistance", "normalize_embeddings": False}
PML = {  # our loss -> theirs, where both compute the same: in our defaults, their miner included
    "batch_hard_triplet": (
        "pml:TripletMarginLoss",
        {
            "margin": 0.3,
            "distance": EUCLIDEAN,
            "reducer": "MeanReducer",
            "miner": {"name": "BatchHardMiner", "distance": EUCLIDEAN},
        },
    ),
    "multi_similarity": ("pml:MultiSimilarityLoss", {"miner": {"name": "MultiSimilarityMiner", "epsilon": 0.1}}),
}


def measure(repeats: int) -> Iterator[Row]:
    """Median times of every loss and variant at both sizes, on one thread.

    Processor time, which on one thread is wall time less what other programs of a shared machine take.
    Raises: RuntimeError if two forms of a loss disagree on the batch: then their times say nothing.
    """
    with one_thread():
        for size, (p, k) in SIZES.items():
            for name in [n for n in LOSSES if n != "id"]:
                for options in VARIANTS.get(name, [{}]):
                    yield from forms(name, options, size, p, k, repeats)


def forms(name: str, options: dict[str, Any], size: str, p: int, k: int, repeats: int) -> Iterator[Row]:
    """A loss with its options beside each other form that there is of it."""
    features, labels, modality, local = draw(p, k, "local" in options)
    leaves, given = [features], options
    if local is not None:
        leaves, given = [features, local], {"local": local}
    forms = {"ours": partial(LOSSES[name], **given), "loop over rows": partial(LOOPS[name], **given)}
    if name not in NO_PAIRS:
        forms["loop over pairs"] = pair_by_pair()(forms["loop over rows"])
    if name in PML and find_spec("pytorch_metric_learning"):
        forms["PML"] = Loss(PML[name][0], PML[name][1] | options, p, DIM)
    calls = {who: partial(form, features, labels, modality) for who, form in forms.items()}
    part = " ".join([name, *(k if v is True else str(v) for k, v in options.items() if v)])
    check_same(part, calls, leaves)
    steps = {who: partial(step, call, leaves) for who, call in calls.items()}
    for reference in [who for who in calls if who != "ours"]:
        count = min(repeats, 3) if reference == "loop over pairs" else repeats  # it takes up to a second
        theirs = {reference: steps[reference]}
        yield from compare(part, size, steps["ours"], theirs, repeats=count, clock=time.process_time)


def draw(p: int, k: int, parts: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """A batch as in training: features (2PK, D) like pooled ones, labels, modality, rows in the sampler's order.

    Identities and modalities have a mean of their own, near enough for every hinge, margin and miner to find work:
    a loop form that skips its rows would win for nothing. parts: also local (2PK, S, d), and features are these.
    """
    generator = torch.Generator().manual_seed(0)
    labels, modality = torch.arange(p).repeat_interleave(k).repeat(2), torch.arange(2).repeat_interleave(p * k)
    width = STRIPES[0] * STRIPES[1] if parts else DIM
    means, gaps, rows = (torch.randn(n, width, generator=generator) for n in (p, 2, len(labels)))
    x = (1 + 0.2 * means[labels] + 1.5 * gaps[modality] + rows).relu()
    features = x.clone().requires_grad_()
    return features, labels, modality, x.unflatten(1, STRIPES).clone().requires_grad_() if parts else None


def check_same(part: str, calls: dict[str, Callable[[], Tensor]], leaves: list[Tensor]) -> None:
    """Raise RuntimeError unless all forms give one value, with a gradient that is not zero."""
    for who, call in calls.items():
        step(call, leaves)
        if not all(x.grad is not None and x.grad.any() for x in leaves):
            raise RuntimeError(f"{part}: {who} has no gradient on this batch")
    values = {who: call().item() for who, call in calls.items()}
    if any(abs(v - values["ours"]) > 1e-3 * abs(values["ours"]) for v in values.values()):
        raise RuntimeError(f"{part}: the forms disagree: {values}")


def step(call: Callable[[], Tensor], leaves: list[Tensor]) -> None:
    """Forward and backward, the gradients fresh as after zero_grad(set_to_none=True)."""
    for x in leaves:
        x.grad = None
    call().backward()
