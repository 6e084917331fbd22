"""The losses of an experiment: what each term reads of the network's output, and their values."""

import inspect
from functools import partial

import torch
from torch import Tensor, nn

from .config import Experiment, arguments, check_options
from .losses import LOSSES
from .losses.contract import at_least_single, one_number
from .losses.geometry import unit
from .model import Output, TwoStreamNet
from .pml import Loss, is_theirs


def make_losses(experiment: Experiment, net: TwoStreamNet) -> nn.ModuleDict:
    """The loss terms of an experiment by name, one loss for each feature read; those of PML may have weights."""
    terms = {}
    for name, term in experiment.losses.items():
        options = arguments(term)
        terms[name] = nn.ModuleList(
            Loss(name, options, net.num_classes, width)
            if is_theirs(name)
            else Term(name, options, experiment.over_parts)
            for width in widths(net, term)
        )
    return nn.ModuleDict(terms)


def widths(net: TwoStreamNet, term: dict) -> list[int]:
    """How many numbers each feature has that a term reads, as read() gives them."""
    of_stripes = [head.norm.num_features // head.stripes for head in net.heads for _ in range(head.stripes)]
    return {"pooled": net.widths, "neck": [net.dim], "stripes": of_stripes}[term.get("on", "pooled")]


class Term(nn.Module):
    """One of our losses with its arguments; a loss that reads stripes takes over_parts unless an argument says else.

    Raises: ValueError for an argument that the loss does not have.
    """

    def __init__(self, name: str, options: dict, over_parts: str):
        super().__init__()
        self.name = name
        check_options(name, options)
        parameters = inspect.signature(LOSSES[name]).parameters
        counts = {k: int(v) for k, v in options.items() if parameters[k].annotation is int}
        stripes = {"over_stripes": over_parts} if "over_stripes" in parameters else {}
        self.call = partial(LOSSES[name], **stripes | options | counts)
        self.reads_stripes = "local" in parameters

    def forward(self, features: Tensor, labels: Tensor, modality: Tensor, local: Tensor | None = None) -> Tensor:
        value = self.call(features, labels, modality, **({"local": local} if self.reads_stripes else {}))
        return one_number(self.name, value, features)


def loss_terms(experiment: Experiment, losses: nn.ModuleDict, out: Output, labels: Tensor, modality: Tensor) -> Tensor:
    """Every loss of an experiment, unweighted, (T,) in the order of `experiment.losses`; in float32 at least.

    The identity loss reads the logits of every classifier, a metric loss what read() gives it: their sum, or their
    mean, as Experiment.over_parts says.
    """
    terms = []
    for name, each in losses.items():
        if name == "id":
            value, count = each[0](at_least_single(out.logits), labels, modality), out.logits[0, ..., 0].numel()
        else:
            heads = read(out, experiment.losses[name])
            value = sum(loss(x, labels, modality, local) for loss, (x, local) in zip(each, heads, strict=True))
            count = len(heads)
        terms.append(value / count if experiment.over_parts == "mean" else value)
    return torch.stack(terms)


def read(out: Output, term: dict) -> list[tuple[Tensor, Tensor | None]]:
    """What a metric loss reads where its term says `on`: features (B, D), and stripes (B, S, d) where there are any.

    pooled: the pooled feature before the BN neck, or that of each part head, with its stripes; neck: the retrieval
    feature, behind the BN neck, or of all part heads together; stripes: the feature of each stripe by itself.
    normalise: all of them at length 1, so that distances lie between 0 and 2.
    """
    place = term.get("on", "pooled")
    if place == "neck":
        found = [(out.features, None)]
    elif place == "stripes":
        found = [(x, None) for local in out.local for x in local.unbind(1)]
    else:
        found = list(zip(out.pooled, out.local, strict=True))
    ready = unit if term.get("normalise") else at_least_single
    return [(ready(x), None if s is None else ready(s)) for x, s in found]
