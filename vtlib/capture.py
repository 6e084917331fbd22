"""A training step as one CUDA graph: the GPU gets the whole step at once, instead of one short kernel after another.

A graph repeats its kernels on the same memory. What a step brings anew is copied into that memory before: the images
and the labels of the identity loss. All else that a step copies from the processor (masks of pairs, the order of the
modalities) is the same in every batch of P x K images: it is recorded in a step and given again. The first steps of a
training run without a graph, as all steps do elsewhere; they count, so that nothing is repeated or set back.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .config import Experiment
from .device import world
from .pml import is_theirs
from .systems import LOSSES

WARM_UP = 3  # steps without a graph: in these cuDNN chooses its algorithms, and the optimizer makes its state


def can_capture(experiment: Experiment, device: str) -> bool:
    """Whether the steps of an experiment can be one graph: one process, a GPU, no code of others in the losses."""
    ours = not experiment.compile and not any(is_theirs(name) for name in experiment.losses)
    ours = ours and not experiment.views and not experiment.modules  # which may draw anew in each step
    # a loss with weights reads classes, and a graph gives losses numbers of people within the batch
    ours = ours and not any(isinstance(LOSSES.get(name), type) for name in experiment.losses)
    return device.startswith("cuda") and world() == 1 and ours


class Copies(TorchDispatchMode):
    """While it is the current mode, copies from the processor to the device are recorded, or given again.

    Args: device: type of the device; own: (tensor on the processor, its place on the device) pairs that are given
        instead of a copy; known: the list that a mode before has recorded, whose copies are given again in its order.
    """

    def __init__(self, device: str, own: list[tuple[Tensor, Tensor]], known: list[tuple[Tensor, Tensor]] | None = None):
        super().__init__()
        self.device, self.own, self.known, self.made = device, own, known, []

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        to = torch.device(kwargs["device"]).type if kwargs.get("device") else ""
        if func is not torch.ops.aten._to_copy.default or to != self.device or args[0].device.type != "cpu":
            return func(*args, **kwargs)
        for value, place in self.own:
            if args[0].data_ptr() == value.data_ptr() and args[0].shape == value.shape:
                return place
        if self.known is None:
            sent = func(*args, **kwargs)
        else:
            value, sent = self.known[len(self.made)] if len(self.made) < len(self.known) else (None, None)
            if value is None or not torch.equal(value, args[0]):
                raise RuntimeError("a step copies other values to the GPU than the step before: set capture=false")
        self.made.append((args[0].clone(), sent))
        return sent


class CapturedStep:
    """A train.Step that is captured after WARM_UP steps, and again where learning rates or the batch's form change.

    Args: step: of one process; record: makes a call that repeats another from the memory that it used; None: by CUDA.
    """

    def __init__(self, step: Callable, record: Callable[[Callable], Callable] | None = None):
        self.step, self.record = step, record or self.cuda_graph
        self.net, self.optimizer, self.weights, self.device = step.net, step.optimizer, step.weights, step.device
        self.warm, self.form, self.repeat, self.copies = 0, None, None, []
        self.stream = torch.cuda.Stream(self.device) if self.device.startswith("cuda") else None

    def __call__(
        self, images: Tensor, own: Tensor, labels: Tensor, modality: Tensor, columns: dict | None = None
    ) -> Tensor:
        """As train.Step; with `columns`, which wait for the device, without the graph."""
        people = in_order_of_appearance(labels)
        if columns is not None or self.warm < WARM_UP:
            return self.uncaptured(images, own, labels, modality, columns, people)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        form = [rates, tuple(images.shape), *(x.tolist() for x in (own, modality, people))]
        if form != self.form:
            self.repeat = None  # frees the memory of the graph before
            self.images, self.labels = images.clone(), labels.to(images.device)
            self.repeat, self.form = self.record(lambda: self.captured(own, labels, modality, people)), form
        self.images.copy_(images)
        self.labels.copy_(labels, non_blocking=True)
        return self.repeat().clone()

    def uncaptured(
        self, images: Tensor, own: Tensor, labels: Tensor, modality: Tensor, columns: dict | None, people: Tensor
    ) -> Tensor:
        """One step without the graph, on the stream on which it will be captured; its copies are recorded."""
        places = [(labels, labels.to(images.device))]
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream), Copies(torch.device(self.device).type, places) as copies:
            result = self.step(images, own, labels, modality, columns, people)
        if self.stream:
            torch.cuda.current_stream().wait_stream(self.stream)
        if columns is None:
            self.warm, self.copies = self.warm + 1, copies.made
        return result

    def captured(self, own: Tensor, labels: Tensor, modality: Tensor, people: Tensor) -> Tensor:
        """One step that reads images and labels from their places, and copies nothing from the processor."""
        with Copies(torch.device(self.device).type, [(labels, self.labels)], self.copies):
            return self.step(self.images, own, labels, modality, None, people)

    def cuda_graph(self, call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Capture a call, which is not run, as a graph. Returns: a call that runs the graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            result = call()

        def repeat() -> Tensor:
            graph.replay()
            return result

        return repeat


def in_order_of_appearance(labels: Tensor) -> Tensor:
    """The same groups of equal labels (B,), numbered 0, 1, ... in the order in which they first appear."""
    numbers: dict[int, int] = {}
    return torch.tensor([numbers.setdefault(label, len(numbers)) for label in labels.tolist()])
