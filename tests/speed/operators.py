"""How many operators a training step gives to its device: each is a kernel to launch, whatever it computes.

Where kernels are short, a GPU waits for the processor to launch the next one, and a CPU spends its time between them.
The count needs no GPU: the step runs on torch's meta device, where tensors have shapes and no numbers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from unittest import mock

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vtlib import objective, train
from vtlib.config import Experiment, experiment
from vtlib.methods import METHODS

from .timing import Row

PARTS = ("network", "heads", "losses", "update")
# These give another name to memory that is there, or room without numbers: no kernel is launched.
VIEWS = {
    *("view", "_unsafe_view", "_reshape_alias", "t", "transpose", "permute", "expand", "select", "slice", "unsqueeze"),
    *("squeeze", "detach", "alias", "as_strided", "unbind", "split", "split_with_sizes", "diagonal", "unfold"),
    *("lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "is_same_size"),
}


class Counted(TorchDispatchMode):
    """Counts what is launched on a device while it is the current mode, by the part that is at work."""

    def __init__(self, device: str = "meta", part: str = "losses"):
        super().__init__()
        self.device, self.part, self.launched = device, part, {part: Counter() for part in PARTS}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        there = any(isinstance(x, Tensor) and x.device.type == self.device for x in tree_leaves((args, kwargs, result)))
        if there and name not in VIEWS:
            self.launched[self.part][name] += 1
        return result

    def turn_to(self, part: str) -> None:
        self.part = part

    def in_backward(self, tensors: Iterable[Tensor], part: str, besides: set | None = None) -> set:
        """Turn to a part before each step of the backward pass that leads from the tensors to the start.

        Args: besides: steps that belong to another part. Returns: the steps that were found.
        """
        found, waiting = set(), [t.grad_fn for t in tensors if t is not None and t.grad_fn]
        while waiting:
            if (node := waiting.pop()) not in found | (besides or set()):
                found.add(node)
                node.register_prehook(lambda grads: self.turn_to(part))
                waiting += [n for n, _ in node.next_functions if n]
        return found


def launches(made: Experiment, classes: int = 50) -> dict[str, Counter]:
    """Operators of one step of an experiment, by part and name; the backward pass of a part is its own."""
    made = made.but(precision="float32")  # autocast does not know the meta device
    p, k = made.identities_per_batch, made.images_per_identity
    net = train.make_net(made, classes).to("meta").train()
    losses = objective.make_losses(made, net).to("meta")
    parts = {"net": net, "losses": losses, "optimizer": train.make_optimizer(made, net, losses)}
    parts |= {"view": view.to("meta")} if (view := train.make_view(made)) else {}
    labels, modality = torch.arange(p).repeat_interleave(k).repeat(2), torch.arange(2).repeat_interleave(p * k)
    images = torch.zeros(len(labels), 3, made.height, made.width, device="meta")
    mode, trunk = Counted(), set()

    def maps_are_there(module, args, maps):
        trunk.update(mode.in_backward([maps], "network"))
        mode.turn_to("heads")

    def output_is_there(module, args, out):
        tensors = [out.features, out.logits, *out.pooled, *out.local]
        mode.in_backward(tensors, "heads", trunk)
        mode.turn_to("losses")

    with mock.patch.object(torch, "autocast", lambda *a, **k: nullcontext()):
        step = train.Step(made, parts, "meta")
        extra = for_view(view, images, labels, modality)
        step(images, modality, labels, modality, extra=extra)  # makes what is made once: constants
        net.register_forward_pre_hook(lambda *a: mode.turn_to("network"))
        net.shared.register_forward_hook(maps_are_there)
        net.register_forward_hook(output_is_there)
        with (
            mock.patch.object(step.optimizer, "step"),
            mock.patch.object(torch.nn.utils, "get_total_norm", total),
            mode,
        ):
            step(images, modality, labels, modality, extra=extra)
    return mode.launched | {"update": launches_of_update(made)}


def for_view(view: Module | None, images: Tensor, labels: Tensor, modality: Tensor) -> tuple:
    """What train.Step takes as `extra` for a view, for a batch whose visible images come first."""
    if view is None:
        return ()
    numbers = torch.rand(len(labels), view.numbers, generator=torch.Generator().manual_seed(1))
    visible = images[: int((modality == 0).sum())]
    return labels, numbers, visible.flip(3) if view.own_crop else None


def total(gradients: list[Tensor]) -> Tensor:
    """In place of get_total_norm(), which knows no lists of tensors on the meta device: nothing is launched."""
    return torch.empty((), device="meta")


def launches_of_update(made: Experiment) -> Counter:
    """The norm of the gradient and the optimizer, on a processor, which has both forms that take lists of tensors."""
    net = train.make_net(made, 5)
    optimizer = train.make_optimizer(made, net, objective.make_losses(made, net))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes the momentum
    with Counted("cpu", "update") as mode:
        torch.nn.utils.get_total_norm([p.grad for p in net.parameters()])
        optimizer.step()
    return mode.launched["update"]


def measure(repeats: int) -> Iterator[Row]:
    """The launches of every method on the cpu profile's network."""
    for method in METHODS:
        counts = {part: sum(names.values()) for part, names in launches(experiment("cpu", method)).items()}
        split = ", ".join(f"{part} {n}" for part, n in counts.items())
        yield Row("operators of a step", method, "", None, sum(counts.values()), None, split)
