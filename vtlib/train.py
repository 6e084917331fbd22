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

from . import capture, inference, mechanisms, objective, parallel, ranking
from .backbones import load_backbone
from .config import Experiment, typed
from .data.batches import DRAWN_TO_ERASE, Batches, PKSampler, augment, draw, normalise
from .device import pick, rank, world
from .files import whole
from .losses import cmdc
from .model import Output, TwoStreamNet
from .objective import loss_terms, make_losses, read, rows_of
from .systems import HEADS, TRUNK, VIEWS
from .systems.colours import NUMBERS, mixes, recolour

NAN_CHECK_EVERY = 10  # steps, on a CPU. Reading the losses stalls a GPU, so there they are checked once an epoch


def make_net(experiment: Experiment, num_classes: int) -> TwoStreamNet:
    """The network of an experiment, on the CPU; the seed fixes its random weights. Raises: as load_backbone()."""
    torch.manual_seed(experiment.seed)
    names = ("backbone", "weights", "attention", "attention_reduction", "pooling", "gem_p", "last_stride")
    names += ("specific_stages",)
    parts = [(p.stripes, p.width, p.share) for p in experiment.parts]
    modules = {name: typed({**TRUNK, **HEADS}[name], options) for name, options in experiment.modules.items()}

    def change(stages: list[list[nn.Module]]) -> None:
        for name in (n for n in TRUNK if n in modules):  # in the order of the table, whatever that of the fields
            TRUNK[name](stages, **modules[name])

    head = next((partial(HEADS[name], **options) for name, options in modules.items() if name in HEADS), None)
    fields = {n: getattr(experiment, n) for n in names}
    net = TwoStreamNet(num_classes, **fields, parts=parts, change=change, head=head)
    net.flip_test = experiment.flip_test  # inference.extract() reads it
    return net


def make_optimizer(
    experiment: Experiment, net: TwoStreamNet, losses: nn.ModuleDict, view: nn.Module | None = None
) -> torch.optim.Optimizer:
    """SGD (S1 section 4.1.3) or Adam; layers from pre-trained weights learn at `backbone_lr_factor` of the rate.

    Raises: ValueError for Nesterov's form without a momentum.
    """
    fresh = {id(p) for p in net.fresh_parameters()}
    slow = [p for p in net.parameters() if id(p) not in fresh]
    fast = [p for p in net.parameters() if id(p) in fresh and p.requires_grad]
    rivals = objective.own_optimizer(losses)
    others = {id(p) for group in rivals.param_groups for p in group["params"]} if rivals else set()
    fast += [p for p in (*losses.parameters(), *(view.parameters() if view else ())) if id(p) not in others]
    devices = {p.device.type for p in net.parameters()}
    kept = {id(p) for m in net.modules() if not getattr(m, "decayed", True) for p in m.parameters()}
    groups = [{"params": slow, "factor": experiment.backbone_lr_factor}, {"params": fast, "factor": 1.0}]
    if kept:
        whole = [{"params": [p for p in fast if id(p) in kept], "factor": 1.0, "weight_decay": 0.0}]
        groups = [group | {"params": [p for p in group["params"] if id(p) not in kept]} for group in groups] + whole
    if experiment.optimizer == "adam":
        decay = experiment.weight_decay
        return torch.optim.Adam(groups, lr=experiment.lr, weight_decay=decay, fused=devices <= {"cpu", "cuda"})
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
            row = train_epoch(experiment, step, sampler, batches, epoch, history[-1] if history else None)
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
    """{net, losses, optimizer}, and view where there is one: what a step changes and a checkpoint holds."""
    net = make_net(experiment, num_classes).to(device, memory_format=torch.channels_last)
    losses, view = make_losses(experiment, net).to(device), make_view(experiment)
    parts = {"net": net, "losses": losses} | ({"view": view.to(device)} if view else {})
    rivals = objective.own_optimizer(losses)
    parts |= {"rivals": rivals} if rivals else {}
    return parts | {"optimizer": make_optimizer(experiment, net, losses, view)}


def make_view(experiment: Experiment) -> nn.Module | None:
    """The view of an experiment, which adds images to a batch (systems/__init__.py); None where it has none."""
    for name, options in experiment.views.items():
        return VIEWS[name](**typed(VIEWS[name], options))


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
        self.view, self.rivals = parts.get("view"), parts.get("rivals")
        self.plain = [term["weight"] for term in experiment.losses.values()]
        self.weights = torch.tensor(self.plain, device=device)  # of this epoch
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
        extra: tuple = (),
    ) -> Tensor:
        """Take one step on one batch of B images, of which this process has b.

        Args: images (b, 3, H, W); own (b,) their modality; labels, modality (B,) of the whole batch, in the order that
            parallel.rows_of_process() gives; columns: a dict that is filled with the columns of mechanisms.py, which
            waits for the device; people: of loss_terms(); extra: what the view gets besides: labels (b,), numbers
            (b, k) and other crops of the visible images, or None.
        Returns: (T + 1,) every loss unweighted and the norm of the network's gradient, on the device.
        """
        watched = mechanisms.attention_seen(self.net) if columns is not None else nullcontext([])
        b, source = len(own), None
        with self.autocast, watched as attention:
            if self.view:
                images, own = self.view(images, extra[0], own, *extra[1:])
            out = self.forward(images, own)
        added = len(own) - b
        seen = rows_of(out, slice(b if added else None))
        whole = parallel.gather_output(seen)
        if added:
            visible = (modality == 0).nonzero()[:, 0]
            whole = joined(whole, parallel.gather_output(rows_of(out, slice(b, None))))
            source = torch.cat([torch.full_like(labels, -1), visible])
            labels, modality = torch.cat([labels, labels[visible]]), torch.cat([modality, modality[visible]])
        given = (self.experiment, self.losses, whole, labels, modality, people, source)
        shown = images if world() == 1 else None  # other processes have the other images
        if self.rivals:  # each learns on constant features before the network learns from it
            self.rivals.zero_grad(set_to_none=True)
            loss_terms(*given, images=shown, rivals=True).sum().backward()
            self.rivals.step()
        terms = loss_terms(*given, images=shown)
        self.optimizer.zero_grad(set_to_none=True)
        if columns is not None:  # one of several processes has only a part of the gradient
            shares = mechanisms.shares_of_gradient(terms, self.weights, self.net) if world() == 1 else None
            n = len(labels) if source is None else int((source < 0).sum())
            images_of_set = partial(read, rows_of(whole, slice(n)))
            columns |= mechanisms.of_step(self.experiment, images_of_set, shares, attention, labels[:n], modality[:n])
        (terms * self.weights).sum().backward()
        if self.view:
            parallel.average_gradients(self.view)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.net.parameters() if p.grad is not None])
        self.optimizer.step()
        return torch.cat([terms.detach(), norm[None]])


def joined(out: Output, more: Output) -> Output:
    """The rows of two outputs of one network, one after the other."""
    pairs = ((out.pooled, more.pooled), (out.local, more.local))
    pooled, local = (
        tuple(None if a is None else torch.cat(ab) for ab in zip(*p, strict=True) for a in ab[:1]) for p in pairs
    )
    return Output(pooled, local, torch.cat([out.features, more.features]), torch.cat([out.logits, more.logits]))


def train_epoch(
    experiment: Experiment, step: Step, sampler, batches: Batches, epoch: int, before: dict | None = None
) -> dict:
    """Train for one epoch (0-based); before: the row of the epoch before, where there is one.

    Returns: its row of the history: means over the steps, and mechanisms.py's columns of the last step.
    Raises: FloatingPointError if a loss or the gradient is not finite.
    """
    step.net.train()
    for module in step.net.modules():
        if hasattr(module, "at_epoch"):
            module.at_epoch(epoch, experiment.epochs)
    factors = [factor_of(name, step, epoch, before) for name in experiment.losses]
    step.weights.copy_(torch.tensor([w * f for w, f in zip(step.plain, factors, strict=True)]))
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
    if any(f != 1 for f in factors):
        columns = columns | {
            f"weight_{n}": w for n, w, f in zip(names, step.weights.tolist(), factors, strict=True) if f != 1
        }
    return row | columns | {"images_per_second": images / seconds, "seconds": seconds}


def factor_of(name: str, step: Step, epoch: int, before: dict | None) -> float:
    """What multiplies the weight of a loss in an epoch: 1, or what the loss makes of the others in the epoch before."""
    if not hasattr(loss := step.losses[name][0], "factor"):
        return 1.0
    others = {n: w for n, w in zip(step.experiment.losses, step.plain, strict=True) if n != name}
    return loss.factor(epoch, sum(w * before[n] for n, w in others.items()) if before else None)


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
    colours = experiment.colours_visible, experiment.colours_thermal
    tones = torch.rand(len(index), NUMBERS, generator=draws) if colours != ("none", "none") else None
    own, everyone = parallel.rows_of_process(len(index), experiment.identities_per_batch)
    modality = batches.modality[index]

    def read(rows: np.ndarray, numbers: Tensor) -> Tensor:
        """Augmented images of some rows of the batch."""
        hues = None if tones is None else tones[rows]
        return batches(index[rows], lambda x: augmented(experiment, x, numbers[rows], modality[rows], hues))

    images, extra = read(own, numbers), ()
    if step.view:  # its numbers are drawn behind all others, so that a view changes none of them
        crops = draw(len(index), draws) if step.view.own_crop else None
        chosen = torch.rand(len(index), step.view.numbers, generator=draws)[own]
        second = read(own[(modality[own] == 0).numpy()], crops) if step.view.own_crop else None
        extra = ((batches.labels[index[own]], chosen, second),)
    gathered = index[everyone]
    labels, of_all = batches.labels[gathered], batches.modality[gathered]
    return step(images, modality[own], labels, of_all, columns, *((None, *extra) if extra else ()))


def augmented(
    experiment: Experiment, batch: Tensor, numbers: Tensor, modality: Tensor | None = None, tones: Tensor | None = None
) -> Tensor:
    """data.batches.augment() with the probabilities and the padding of an experiment, and its changes of colours."""
    if experiment.erase_in != "both" and modality is not None:  # the draw that decides, of the others, is never below
        numbers = numbers.clone()
        numbers[modality != ("visible", "thermal").index(experiment.erase_in), DRAWN_TO_ERASE] = 1.0
    images = augment(batch, numbers, pad=experiment.pad, flip=experiment.flip, erase=experiment.erase)
    if tones is None:
        return images
    plans = [mixes(kind, tones) for kind in (experiment.colours_visible, experiment.colours_thermal)]
    thermal = (modality == 1)[:, None]
    matrix = torch.where(thermal[..., None], plans[1][0], plans[0][0])
    return recolour(images, matrix, torch.where(thermal, plans[1][1], plans[0][1]))


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
