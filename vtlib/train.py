"""fit(): the training loop, the only place with backward(). Stops and goes on at any epoch, bit-equal on a CPU."""

import inspect
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import evaluate
from . import images as im
from .config import Experiment
from .losses import LOSSES, cmdc
from .model import Output, TwoStreamNet
from .pml import Loss, is_theirs

CHECK_EVERY = 10  # steps between looks at the losses: a look makes a GPU wait


def pick_device(name: str = "auto") -> str:
    """The torch device of a run: `auto` is the first GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def make_losses(experiment: Experiment, net: TwoStreamNet) -> nn.ModuleDict:
    """The loss terms of an experiment by name, one loss for each head: those of PML may have weights to learn."""
    widths, terms = [net.dim] if experiment.metric_on == "features" else net.widths, {}
    for name, options in experiment.losses.items():
        options = {k: v for k, v in options.items() if k != "weight"}
        terms[name] = nn.ModuleList(
            Loss(name, options, net.num_classes, width)
            if is_theirs(name)
            else Term(name, {"over_stripes": experiment.over_parts} | options)
            for width in widths
        )
    return nn.ModuleDict(terms)


class Term(nn.Module):
    """One of our losses with its arguments."""

    def __init__(self, name: str, arguments: dict):
        super().__init__()
        parameters = inspect.signature(LOSSES[name]).parameters
        arguments = {k: v for k, v in arguments.items() if k in parameters}
        whole = {k: int(v) for k, v in arguments.items() if parameters[k].annotation is int}
        self.call = partial(LOSSES[name], **arguments | whole)
        self.reads_stripes = "local" in parameters

    def forward(self, features: Tensor, labels: Tensor, modality: Tensor, local: Tensor | None = None) -> Tensor:
        return self.call(features, labels, modality, **({"local": local} if self.reads_stripes else {}))


def loss_terms(experiment: Experiment, losses: nn.ModuleDict, out: Output, labels: Tensor, modality: Tensor) -> Tensor:
    """Every loss of an experiment, unweighted, (T,) in the order of `experiment.losses`; in float32 at least.

    The identity loss reads the logits of every classifier, a metric loss the feature of every part head: summed, or
    their mean, as Experiment.over_parts says.
    """
    heads, terms = read(experiment, out), []
    for name, each in losses.items():
        if name == "id":
            value, count = each[0](out.logits.float(), labels, modality), out.logits[0, ..., 0].numel()
        else:
            value = sum(loss(x, labels, modality, local) for loss, (x, local) in zip(each, heads, strict=True))
            count = len(heads)
        terms.append(value / count if experiment.over_parts == "mean" else value)
    return torch.stack(terms)


def read(experiment: Experiment, out: Output) -> list[tuple[Tensor, Tensor | None]]:
    """What a metric loss reads: the feature (B, D) and stripes (B, S, d), or None, of every head."""
    if experiment.metric_on == "features":
        return [(out.features.float(), None)]
    return [(x.float(), None if s is None else s.float()) for x, s in zip(out.pooled, out.local, strict=True)]


def make_net(experiment: Experiment, num_classes: int) -> TwoStreamNet:
    """The network of an experiment; its random start is fixed by the seed."""
    torch.manual_seed(experiment.seed)
    names = ("backbone", "weights", "attention", "attention_reduction", "pooling", "gem_p", "last_stride")
    parts = [(p.stripes, p.width, p.share) for p in experiment.parts]
    return TwoStreamNet(num_classes, **{n: getattr(experiment, n) for n in names}, parts=parts)


def make_optimizer(experiment: Experiment, net: TwoStreamNet, losses: nn.ModuleDict) -> torch.optim.SGD:
    """SGD (S1 section 4.1.3); the backbone learns at `backbone_lr_factor` of the rate."""
    fresh = ("classifier.", "neck.", "heads.", "specific.0.5.", "specific.1.5.")  # stage 5 of a stream is the attention
    slow = [p for n, p in net.named_parameters() if not n.startswith(fresh)]
    fast = [p for n, p in net.named_parameters() if n.startswith(fresh) and p.requires_grad]
    fast += losses.parameters()
    groups = [{"params": slow, "factor": experiment.backbone_lr_factor}, {"params": fast, "factor": 1.0}]
    return torch.optim.SGD(
        groups,
        lr=experiment.lr,
        momentum=experiment.momentum,
        weight_decay=experiment.weight_decay,
        nesterov=experiment.nesterov,
    )


def learning_rate(experiment: Experiment, epoch: int) -> float:
    """Rate of a 0-based epoch: linear warm-up, then times gamma from each milestone on (the field's schedule).

    The schedule "s2" divides by 10 after every eighth of the epochs instead: after every 10 of 80 (S2 section 4.1).
    """
    if experiment.schedule == "s2":
        return experiment.lr * 0.1 ** (epoch * 8 // experiment.epochs)
    warm = min(1.0, (epoch + 1) / experiment.warmup_epochs) if experiment.warmup_epochs else 1.0
    return experiment.lr * warm * experiment.gamma ** sum(epoch >= m for m in experiment.milestones)


def make_sampler(experiment: Experiment, rows: pd.DataFrame) -> im.PKSampler:
    """P x K sampler of the training rows; an epoch passes over the larger modality once unless told otherwise."""
    p, k = experiment.identities_per_batch, experiment.images_per_identity
    steps = experiment.steps_per_epoch or max(1, int(rows.modality.value_counts().max()) // (p * k))
    return im.PKSampler(rows.pid.to_numpy(), rows.modality.to_numpy(), p, k, steps, experiment.seed)


class Batches:
    """Batches of one part of a data set: index rows -> images (B, 3, H, W), labels (B,), modality (B,) on a device."""

    def __init__(self, rows: pd.DataFrame, pixels: np.ndarray, device: str):
        self.rows, self.pixels, self.device = rows.index.to_numpy(), pixels, device
        self.labels = torch.tensor(pd.factorize(rows.pid, sort=True)[0], device=device)  # (n,) 0..C-1
        self.modality = torch.tensor(rows.modality.to_numpy(), device=device)

    def __call__(self, index: np.ndarray, prepare: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        batch = torch.from_numpy(self.pixels[self.rows[index]]).to(self.device)  # (B, 3, H, W) uint8
        where = torch.from_numpy(index).to(self.device)
        images = prepare(batch).contiguous(memory_format=torch.channels_last)
        return images, self.labels[where], self.modality[where]


def fit(
    experiment: Experiment,
    table: pd.DataFrame,
    pixels: np.ndarray,
    folder: Path,
    *,
    origin: str = "",
    on_epoch: Callable[[dict], None] | None = None,
) -> TwoStreamNet:
    """Train an experiment's network and keep its history in `folder/history.jsonl`, a row an epoch.

    A row has epoch, lr, loss, every term unweighted, grad_norm, images_per_second, seconds and, where there are
    validation identities, val_cmdc, val_rank1, val_mAP. After each epoch `folder/checkpoint.pt` is replaced;
    where it is found at the start, training goes on from it.

    Args: table: rows with pid, modality, split, aligned with pixels (N, 3, H, W) uint8; origin: of data and
        fields, a checkpoint of another origin is not used;
        on_epoch: called with each row.
    Returns: the trained network on its device.
    Raises: FloatingPointError naming epoch, step and term if a loss is not finite.
    """
    device = pick_device(experiment.device)
    train, val = table[table.split == "train"], table[table.split == "val"]
    sampler, batches = make_sampler(experiment, train), Batches(train, pixels, device)
    net = make_net(experiment, train.pid.nunique()).to(device, memory_format=torch.channels_last)
    losses = make_losses(experiment, net).to(device)
    optimizer = make_optimizer(experiment, net, losses)
    parts = {"net": net, "losses": losses, "optimizer": optimizer}
    history = resume(folder, parts, origin)
    write_history(folder, history)  # a kill may have come between the checkpoint and its last row
    with tqdm(total=experiment.epochs, initial=len(history), desc=bar_title(experiment), unit="epoch") as bar:
        for epoch in range(len(history), experiment.epochs):
            row = train_epoch(experiment, parts, sampler, batches, epoch)
            if len(val):
                row |= validate(experiment, net, val, Batches(val, pixels, device))
            history.append(row)
            checkpoint(folder, parts, history, origin)
            bar.update()
            bar.set_postfix(loss=f"{row['loss']:.3f}", rate=f"{row['images_per_second']:.0f} images/s")
            if on_epoch:
                on_epoch(row)
    return net


def bar_title(experiment: Experiment) -> str:
    return f"{experiment.method} {experiment.dataset} seed {experiment.seed}"


def train_epoch(experiment, parts: dict, sampler, batches: Batches, epoch: int) -> dict:
    """One epoch of {net, losses, optimizer}; returns its row of the history, means over the steps."""
    net, losses, optimizer = parts["net"], parts["losses"], parts["optimizer"]
    net.train()
    torch.manual_seed(experiment.seed * 100_003 + epoch)  # nothing may depend on what ran before this epoch
    lr = learning_rate(experiment, epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    names = list(experiment.losses)
    weights = torch.tensor([experiment.losses[n]["weight"] for n in names], device=batches.device)
    draws = torch.Generator().manual_seed(experiment.seed * 100_003 + epoch)
    seen, start, log = 0, time.perf_counter(), []
    for step, index in enumerate(sampler.epoch(epoch)):
        numbers = im.draw(len(index), draws)
        images, labels, modality = batches(index, lambda x, r=numbers: augment(experiment, x, r))
        terms = loss_terms(experiment, losses, net(images, modality), labels, modality)
        optimizer.zero_grad(set_to_none=True)
        (terms * weights).sum().backward()
        norm = torch.nn.utils.get_total_norm(p.grad for p in net.parameters() if p.grad is not None)
        log.append(torch.cat([terms.detach(), norm[None]]))
        seen += len(index)
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == sampler.steps:
            stop_if_not_finite(log[-CHECK_EVERY:], names, epoch, step + 1)
        optimizer.step()
    seconds = time.perf_counter() - start
    means = torch.stack(log).double().mean(0).tolist()
    row = {"epoch": epoch + 1, "lr": lr, "loss": sum(w * m for w, m in zip(weights.tolist(), means, strict=False))}
    row |= dict(zip([*names, "grad_norm"], means, strict=True))
    return row | {"images_per_second": seen / seconds, "seconds": seconds}


def augment(experiment: Experiment, batch: Tensor, numbers: Tensor) -> Tensor:
    return im.augment(batch, numbers, pad=experiment.pad, flip=experiment.flip, erase=experiment.erase)


def stop_if_not_finite(log: list[Tensor], names: list[str], epoch: int, last: int) -> None:
    """Look at the latest steps at once: each look is one transfer from the device."""
    bad = (~torch.isfinite(torch.stack(log))).nonzero()
    if len(bad):
        step, term = bad[0].tolist()
        what = f"loss {names[term]!r}" if term < len(names) else "the gradient"
        raise FloatingPointError(
            f"{what} is not finite at epoch {epoch + 1}, step {last - len(log) + step + 1}: lower lr or its weight"
        )


@torch.inference_mode()
def validate(experiment: Experiment, net: nn.Module, val: pd.DataFrame, batches: Batches) -> dict[str, float]:
    """CMDC (S1 Eq. 4, Figure 5b), rank-1 and mAP of the validation identities, network in evaluation mode.

    CMDC is the mean over P x K batches that are the same in every epoch; rank-1 and mAP are of every thermal image
    searching all visible ones. What is chosen, is chosen by these and never by test identities.
    """
    net.eval()
    pids, modality = val.pid.to_numpy(), val.modality.to_numpy()
    outs = [net(*batches(rows, im.normalise)[::2]) for rows in np.array_split(np.arange(len(val)), -(-len(val) // 256))]
    heads = [torch.cat(x) for x in zip(*([x for x, _ in read(experiment, o)] for o in outs), strict=True)]
    features = torch.cat([o.features for o in outs]).float()
    both = int((val.groupby("pid").modality.nunique() == 2).sum())  # the others cannot have a centre in each modality
    if both < 2:
        return {}
    p = min(experiment.identities_per_batch, both)
    steps = -(-both // p)
    sampler = im.PKSampler(pids, modality, p, experiment.images_per_identity, steps, seed=0)
    margin = experiment.losses.get("cmdc", {}).get("margin", 0.3)
    of = [(x[i], batches.labels[i], batches.modality[i]) for i in sampler.epoch(0) for x in heads]
    values = torch.stack([cmdc(*batch, margin=margin) for batch in of])
    count = len(values) if experiment.over_parts == "mean" else steps  # over heads as in training
    visible, thermal = (np.flatnonzero(modality == m) for m in (0, 1))
    similarity = evaluate.similarity_matrix(features[thermal], features[visible])
    found = evaluate.rank_metrics(similarity, pids[thermal], pids[visible])
    return {
        "val_cmdc": values.sum().item() / count,
        "val_rank1": float(found.cmc[0]),
        "val_mAP": found.mAP,
    }


def checkpoint(folder: Path, parts: dict, history: list[dict], origin: str) -> None:
    """Replace checkpoint.pt, then history.jsonl: a kill at any moment leaves a whole checkpoint."""
    state = {name: part.state_dict() for name, part in parts.items()} | {"history": history, "origin": origin}
    torch.save(state, folder / "checkpoint.tmp")
    os.replace(folder / "checkpoint.tmp", folder / "checkpoint.pt")
    write_history(folder, history)


def write_history(folder: Path, history: list[dict]) -> None:
    """One line of JSON an epoch, replaced as a whole."""
    (folder / "history.tmp").write_text("".join(json.dumps(row) + "\n" for row in history))
    os.replace(folder / "history.tmp", folder / "history.jsonl")


def resume(folder: Path, parts: dict, origin: str) -> list[dict]:
    """Fill network, losses and optimizer from the folder's checkpoint; its history, [] where there is none to use."""
    path = folder / "checkpoint.pt"
    if not path.is_file():
        return []
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["origin"] != origin:  # of other data or fields: begin anew
        return []
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["history"]
