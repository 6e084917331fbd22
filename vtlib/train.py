"""fit(): the training loop, and the only place with backward().

A training that is stopped goes on from its last whole epoch; on a CPU the result is the same to the last bit.
S1 and S2 are the two papers that losses/__init__.py cites.
"""

import io
import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import capture, inference, mechanisms, parallel, ranking
from .backbones import load_backbone
from .config import Experiment
from .data.batches import Batches, PKSampler, augment, draw, normalise
from .device import pick, rank, world
from .files import whole
from .losses import cmdc
from .model import TwoStreamNet
from .objective import loss_terms, make_losses, read

NAN_CHECK_EVERY = 10  # steps, on a CPU. Reading the losses stalls a GPU, so there they are checked once an epoch


def make_net(experiment: Experiment, num_classes: int) -> TwoStreamNet:
    """The network of an experiment, on the CPU; the seed fixes its random weights. Raises: as load_backbone()."""
    torch.manual_seed(experiment.seed)
    names = ("backbone", "weights", "attention", "attention_reduction", "pooling", "gem_p", "last_stride")
    names += ("specific_stages",)
    parts = [(p.stripes, p.width, p.share) for p in experiment.parts]
    return TwoStreamNet(num_classes, **{n: getattr(experiment, n) for n in names}, parts=parts)


def make_optimizer(experiment: Experiment, net: TwoStreamNet, losses: nn.ModuleDict) -> torch.optim.SGD:
    """SGD (S1 section 4.1.3); layers that start from pre-trained weights learn at `backbone_lr_factor` of the rate.

    Raises: ValueError for Nesterov's form without a momentum.
    """
    fresh = {id(p) for p in net.fresh_parameters()}
    slow = [p for p in net.parameters() if id(p) not in fresh]
    fast = [p for p in net.parameters() if id(p) in fresh and p.requires_grad]
    fast += losses.parameters()
    devices = {p.device.type for p in net.parameters()}
    groups = [{"params": slow, "factor": experiment.backbone_lr_factor}, {"params": fast, "factor": 1.0}]
    if experiment.nesterov and not experiment.momentum:
        raise ValueError("nesterov=true needs a momentum above 0: set momentum, or nesterov=false")
    return torch.optim.SGD(
        groups,
        lr=experiment.lr,
        momentum=experiment.momentum,
        weight_decay=experiment.weight_decay,
        nesterov=experiment.nesterov,
        fused=devices <= {"cpu", "cuda"},
    )


def learning_rate(experiment: Experiment, epoch: int) -> float:
    """The learning rate of a 0-based epoch: linear warm-up, then times gamma from each milestone on.

    The schedule "s2" divides by 10 after every eighth of the epochs instead: after every 10 of 80 (S2 section 4.1).
    """
    if experiment.schedule == "s2":
        return experiment.lr * 0.1 ** (epoch * 8 // experiment.epochs)
    warm = min(1.0, (epoch + 1) / experiment.warmup_epochs) if experiment.warmup_epochs else 1.0
    return experiment.lr * warm * experiment.gamma ** sum(epoch >= m for m in experiment.milestones)


def make_sampler(experiment: Experiment, rows: pd.DataFrame) -> PKSampler:
    """Sampler of P x K batches of the training rows (pid, modality); its batches hold places in `rows`.

    An epoch has `steps_per_epoch` batches, or passes once over the larger modality where that is 0.
    Raises: ValueError if fewer than P identities have images of both modalities.
    """
    p, k = experiment.identities_per_batch, experiment.images_per_identity
    steps = experiment.steps_per_epoch or max(1, int(rows.modality.value_counts().max()) // (p * k))
    return PKSampler(rows.pid.to_numpy(), rows.modality.to_numpy(), p, k, steps, experiment.seed)


def fit(
    experiment: Experiment,
    table: pd.DataFrame,
    pixels: np.ndarray,
    folder: Path,
    *,
    origin: str = "",
    on_epoch: Callable[[dict], None] | None = None,
) -> TwoStreamNet:
    """Train the network of an experiment and write its history to `folder/history.jsonl`, one row an epoch.

    A row has epoch, lr, loss, every term unweighted, grad_norm, images_per_second, seconds, the columns of
    mechanisms.py and, every `validate_every` epochs where there are validation identities, val_cmdc, val_rank1,
    val_mAP. After each epoch `folder/checkpoint.pt` is replaced, and a later call goes on from it. With several
    processes (parallel.py) each trains on its own identities of every batch, and only the first validates and writes.

    Args: experiment; table: rows with pid, modality, split, whose index points into pixels; pixels (N, 3, H, W) uint8;
        folder: of the run; origin: names data and fields, a checkpoint of another origin is not used; on_epoch: called
        with each row.
    Returns: the trained network on its device.
    Raises: FloatingPointError naming epoch, step and term if a loss is not finite.
    """
    device = pick(experiment.device)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    train, val = table[table.split == "train"], table[table.split == "val"]
    sampler = make_sampler(experiment, train) if experiment.epochs else None  # 0 epochs need no training people
    batches, val_batches = (Batches(part, pixels, device) for part in (train, val))
    parts = make_parts(experiment, max(1, train.pid.nunique()), device)
    net, history = parts["net"], resume(folder, parts, origin)
    step = make_step(experiment, parts, device)
    first = rank() == 0
    if first:
        write_history(folder, history)  # a kill may have come between checkpoint.pt and history.jsonl
    with tqdm(
        total=experiment.epochs, initial=len(history), desc=bar_title(experiment), unit="epoch", disable=not first
    ) as bar:
        for epoch in range(len(history), experiment.epochs):
            row = train_epoch(experiment, step, sampler, batches, epoch)
            stop_if_broken(net, epoch)
            if not first:
                continue
            if len(val) and ((epoch + 1) % experiment.validate_every == 0 or epoch + 1 == experiment.epochs):
                row |= validate(experiment, net, val, val_batches)
            history.append(row)
            checkpoint(folder, parts, history, origin)
            bar.update()
            bar.set_postfix(loss=f"{row['loss']:.3f}", rate=f"{row['images_per_second']:.0f} images/s")
            if on_epoch:
                on_epoch(row)
    return net


def rehearse(experiment: Experiment) -> None:
    """Build network and optimizer without memory for their numbers, and load the start: a mistake is found at once.

    Raises: ValueError, RuntimeError or FileNotFoundError, one sentence.
    """
    plain = experiment.but(weights="none")
    with torch.device("meta"):
        net = make_net(plain, num_classes=2)
        make_optimizer(experiment, net, nn.ModuleDict())
    if experiment.weights != "none":
        load_backbone(experiment.backbone, experiment.weights)


def make_parts(experiment: Experiment, num_classes: int, device: str) -> dict:
    """{net, losses, optimizer} of an experiment on its device: what a step changes and a checkpoint holds."""
    net = make_net(experiment, num_classes).to(device, memory_format=torch.channels_last)
    losses = make_losses(experiment, net).to(device)
    return {"net": net, "losses": losses, "optimizer": make_optimizer(experiment, net, losses)}


def bar_title(experiment: Experiment) -> str:
    """The text before a progress bar."""
    return f"{experiment.method} {experiment.dataset} seed {experiment.seed}"


def make_step(experiment: Experiment, parts: dict, device: str) -> "Step | capture.CapturedStep":
    """The step of a training: as one CUDA graph where Experiment.capture asks for it and it can be."""
    step = Step(experiment, parts, device)
    return capture.CapturedStep(step) if path_of_step(experiment, device) == "captured" else step


def path_of_step(experiment: Experiment, device: str) -> str:
    """How steps run, for metrics.json: "captured", "compiled" or "eager"."""
    if experiment.capture and capture.can_capture(experiment, device):
        return "captured"
    return "compiled" if experiment.compile else "eager"


class Step:
    """One training step: forward, losses of the whole batch, backward, update. It never waits for the device.

    Args: experiment; parts: of make_parts(); device: of pick().
    """

    def __init__(self, experiment: Experiment, parts: dict, device: str):
        self.experiment, self.device = experiment, device
        self.net, self.losses, self.optimizer = parts["net"], parts["losses"], parts["optimizer"]
        self.weights = torch.tensor([term["weight"] for term in experiment.losses.values()], device=device)
        self.forward = parallel.wrap(self.net, device, experiment.sync_bn)
        self.autocast = torch.autocast(
            device.split(":")[0], torch.bfloat16, enabled=experiment.precision == "bf16", cache_enabled=False
        )  # no weight is used twice, and a graph must not keep a cast of the step before
        if experiment.compile:  # the stages, which see one shape; choice of rows, pooling and losses stay as they are
            for module in (*self.net.specific, self.net.shared):
                module.compile(dynamic=False)

    def __call__(
        self,
        images: Tensor,
        own: Tensor,
        labels: Tensor,
        modality: Tensor,
        columns: dict | None = None,
        people: Tensor | None = None,
    ) -> Tensor:
        """Take one step on one batch of B images, of which this process has b.

        Args: images (b, 3, H, W); own (b,) their modality; labels, modality (B,) of the whole batch, in the order that
            parallel.rows_of_process() gives; columns: a dict that is filled with the columns of mechanisms.py, which
            waits for the device; people: of loss_terms().
        Returns: (T + 1,) every loss unweighted and the norm of the network's gradient, on the device.
        """
        watched = mechanisms.attention_seen(self.net) if columns is not None else nullcontext([])
        with self.autocast, watched as attention:
            out = self.forward(images, own)
        out = parallel.gather_output(out)
        terms = loss_terms(self.experiment, self.losses, out, labels, modality, people)
        self.optimizer.zero_grad(set_to_none=True)
        if columns is not None:  # one of several processes has only a part of the gradient
            shares = mechanisms.shares_of_gradient(terms, self.weights, self.net) if world() == 1 else None
            columns |= mechanisms.of_step(self.experiment, partial(read, out), shares, attention, labels, modality)
        (terms * self.weights).sum().backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.net.parameters() if p.grad is not None])
        self.optimizer.step()
        return torch.cat([terms.detach(), norm[None]])


def train_epoch(experiment: Experiment, step: Step, sampler, batches: Batches, epoch: int) -> dict:
    """Train for one epoch (0-based).

    Returns: its row of the history: means over the steps, and mechanisms.py's columns of the last step.
    Raises: FloatingPointError if a loss or the gradient is not finite.
    """
    step.net.train()
    torch.manual_seed(experiment.seed * 100_003 + epoch)  # so that an epoch draws the same after a restart
    lr = learning_rate(experiment, epoch)
    for group in step.optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    draws = torch.Generator().manual_seed(experiment.seed * 100_003 + epoch)
    names, check_every = list(experiment.losses), NAN_CHECK_EVERY if step.device == "cpu" else sampler.steps
    images, start, log, columns = 0, time.perf_counter(), [], {}
    for index in sampler.epoch(epoch):
        filled = columns if len(log) == sampler.steps - 1 else None
        log.append(train_step(experiment, step, batches, index, draws, filled))
        images += len(index)
        if len(log) % check_every == 0 or len(log) == sampler.steps:
            stop_if_not_finite(log[-check_every:], names, epoch, len(log))
    means = torch.stack(log).double().mean(0).tolist()
    seconds = time.perf_counter() - start
    loss = sum(w * m for w, m in zip(step.weights.tolist(), means, strict=False))
    row = {"epoch": epoch + 1, "lr": lr, "loss": loss, **dict(zip([*names, "grad_norm"], means, strict=True))}
    return row | columns | {"images_per_second": images / seconds, "seconds": seconds}


def train_step(
    experiment: Experiment,
    step: Step,
    batches: Batches,
    index: np.ndarray,
    draws: torch.Generator,
    columns: dict | None = None,
) -> Tensor:
    """One step on one batch of the sampler; each of several processes reads and augments its own images only.

    Args: experiment, step, batches; index (B,) rows of `batches`; draws: for the augmentation, the same in every
        process; columns: as in Step. Returns: as Step.
    """
    numbers = draw(len(index), draws)
    own, everyone = parallel.rows_of_process(len(index), experiment.identities_per_batch)
    images = batches(index[own], lambda x: augmented(experiment, x, numbers[own]))
    gathered = index[everyone]
    labels, modality = batches.labels[gathered], batches.modality[gathered]
    return step(images, batches.modality[index[own]], labels, modality, columns)


def augmented(experiment: Experiment, batch: Tensor, numbers: Tensor) -> Tensor:
    """data.batches.augment() with the probabilities and the padding of an experiment."""
    return augment(batch, numbers, pad=experiment.pad, flip=experiment.flip, erase=experiment.erase)


def stop_if_not_finite(log: list[Tensor], names: list[str], epoch: int, last: int) -> None:
    """Raise FloatingPointError naming the first loss, or the gradient, that is not finite in the latest steps.

    Args: log: of each of these steps (T + 1,), as Step returns it; names: of the T terms; epoch: 0-based; last: the
        number of the last of these steps, from 1. All are read by one transfer from the device.
    """
    bad = (~torch.isfinite(torch.stack(log))).nonzero()
    if len(bad):
        step, term = bad[0].tolist()
        what = f"loss {names[term]!r}" if term < len(names) else "the gradient"
        number = last - len(log) + step + 1
        repair = "lower lr or its weight"
        if (epoch, number) == (0, 1):
            repair = "at the first step look for 0 / 0, log(0) or a batch without a pair"
        raise FloatingPointError(f"{what} is not finite at epoch {epoch + 1}, step {number}: {repair}")


@inference.forward_only
def validate(experiment: Experiment, net: nn.Module, val: pd.DataFrame, batches: Batches) -> dict[str, float]:
    """The loss CMDC (S1 Eq. 4, Figure 5b), rank-1 and mAP of the validation identities, network in evaluation mode.

    CMDC is the mean over P x K batches that are the same in every epoch; for rank-1 and mAP every thermal image
    searches all visible ones. All choices are made by these numbers, never by test identities.

    Args: experiment; net; val: rows with pid and modality; batches: of the same rows.
    Returns: val_cmdc, val_rank1, val_mAP (fractions); {} if fewer than two identities have both modalities.
    Raises: FloatingPointError if a feature is not finite.
    """
    net.eval()
    pids, modality = val.pid.to_numpy(), val.modality.to_numpy()
    outs = [
        net(batches(rows, normalise), batches.modality[rows])
        for rows in np.array_split(np.arange(len(val)), -(-len(val) // 256))
    ]
    term = experiment.losses.get("cmdc") or experiment.losses.get("adaptive_cmdc", {})  # whose place the columns share
    heads = [torch.cat(x) for x in zip(*([x for x, _ in read(o, term)] for o in outs), strict=True)]
    features = torch.cat([o.features for o in outs]).float()
    if not features.isfinite().all():
        raise FloatingPointError(
            "features of the validation identities are not finite: lower lr or the weight of a loss"
        )
    both = int((val.groupby("pid").modality.nunique() == 2).sum())  # CMDC needs a centre in each modality
    if both < 2:
        return {}
    p = min(experiment.identities_per_batch, both)
    steps = -(-both // p)
    sampler = PKSampler(pids, modality, p, experiment.images_per_identity, steps, seed=0)
    inputs = [(x[i], batches.labels[i], batches.modality[i]) for i in sampler.epoch(0) for x in heads]
    values = torch.stack([cmdc(*batch, margin=term.get("margin", 0.3)) for batch in inputs])
    count = len(values) if experiment.over_parts == "mean" else steps  # heads are joined as in training
    visible, thermal = (np.flatnonzero(modality == m) for m in (0, 1))
    similarity = ranking.similarity_matrix(features[thermal], features[visible])
    metrics = ranking.rank_metrics(similarity, pids[thermal], pids[visible])
    return {
        "val_cmdc": values.sum().item() / count,
        "val_rank1": float(metrics.cmc[0]),
        "val_mAP": metrics.mAP,
    }


def stop_if_broken(net: nn.Module, epoch: int) -> None:
    """Raise FloatingPointError if the last step of an epoch made a weight infinite or NaN, before it is stored."""
    if not torch.stack([p.detach().isfinite().all() for p in net.state_dict().values()]).all():
        raise FloatingPointError(f"weights are not finite after epoch {epoch + 1}: lower lr or the weight of a loss")


def checkpoint(folder: Path, parts: dict, history: list[dict], origin: str) -> None:
    """Replace checkpoint.pt, then history.jsonl: a kill at any moment leaves a whole checkpoint.

    Its last 32 bytes are the sha256 of all before them, since torch reads a file with changed bytes without an error.

    Args: folder: of the run; parts: of make_parts(); history: the rows so far; origin: as fit().
    """
    state = {name: part.state_dict() for name, part in parts.items()} | {"history": history, "origin": origin}
    content = io.BytesIO()
    torch.save(state, content)  # to memory first: torch's own writer does not say that a disk is full
    with whole(folder / "checkpoint.pt") as part:
        part.write_bytes(content.getvalue() + sha256(content.getbuffer()).digest())
    write_history(folder, history)


def read_checkpoint(path: Path) -> dict:
    """The dictionary that checkpoint() stored, on the CPU. Raises: ValueError if any byte has changed since."""
    content = path.read_bytes()
    body, end = content[:-32], content[-32:]
    if sha256(body).digest() != end:
        raise ValueError("it is not as it was written")
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)


def write_history(folder: Path, history: list[dict]) -> None:
    """Replace history.jsonl as a whole: one line of JSON an epoch."""
    with whole(folder / "history.jsonl") as part:
        part.write_text("".join(json.dumps(row) + "\n" for row in history))


def resume(folder: Path, parts: dict, origin: str) -> list[dict]:
    """Fill network, losses and optimizer from the checkpoint of a folder, if there is one of the same origin.

    A checkpoint that cannot be read is ignored, and a line on stderr says that training begins anew.
    Returns: the history of the checkpoint; [] where none was used.
    """
    path = folder / "checkpoint.pt"

    def read() -> dict:
        try:
            state = read_checkpoint(path) if path.exists() else {}
            return state if state.get("origin") == origin else {}
        except (ValueError, OSError) as error:
            print(f"{path} cannot be read ({error}): training begins anew", file=sys.stderr)
            return {}

    state = parallel.from_first(read)
    if not state:
        return []
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["history"]
