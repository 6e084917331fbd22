"""The losses of an experiment: which feature of the network's output each term reads, and the value of each."""

import inspect
from functools import partial

import torch
from torch import Tensor, nn

from .config import Experiment, arguments, check_options
from .losses.contract import at_least_single, one_number
from .losses.geometry import unit
from .model import Output, TwoStreamNet
from .pml import Loss, is_theirs
from .systems import LOSSES


def make_losses(experiment: Experiment, net: TwoStreamNet) -> nn.ModuleDict:
    """name -> nn.ModuleList of a term's losses, one for each feature that read() gives it.

    Losses of pytorch-metric-learning (PML) may have weights that are trained. Raises: ValueError for wrong arguments.
    """
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
    """The number of columns of each feature that read() gives a term, in the same order."""
    stripes = [head.norm.num_features // head.stripes for head in net.heads for _ in range(head.stripes)]
    return {"pooled": net.widths, "neck": [net.dim], "stripes": stripes}[term.get("on", "pooled")]


class Term(nn.Module):
    """One of LOSSES with its arguments, called as (features, labels, modality, local) -> scalar.

    Args: name: of the loss; options: its arguments; over_parts: of Experiment, for losses with an argument
        `over_stripes` that the options leave out.
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
        """features (N, D) or logits, labels, modality (N,), local (N, S, d) -> ()."""
        value = self.call(features, labels, modality, **({"local": local} if self.reads_stripes else {}))
        return one_number(self.name, value, features)


def loss_terms(
    experiment: Experiment,
    losses: nn.ModuleDict,
    out: Output,
    labels: Tensor,
    modality: Tensor,
    people: Tensor | None = None,
) -> Tensor:
    """The values of all terms of an experiment on one batch.

    The identity loss reads the logits of every classifier, a metric loss the features that read() gives it. The values
    over classifiers or features are added, or averaged where Experiment.over_parts is "mean".

    Args: experiment; losses: of make_losses(); out: the network's output for B images; labels, modality: (B,); people
        (B,): what metric losses read in place of labels, equal where these are.
    Returns: (T,) unweighted, in the order of `experiment.losses`, in float32 at least.
    """
    terms, of_metric = [], labels if people is None else people
    for name, modules in losses.items():
        if name == "id":
            value, count = modules[0](at_least_single(out.logits), labels, modality), out.logits[0, ..., 0].numel()
        else:
            features = read(out, experiment.losses[name])
            value = sum(loss(x, of_metric, modality, local) for loss, (x, local) in zip(modules, features, strict=True))
            count = len(features)
        terms.append(value / count if experiment.over_parts == "mean" else value)
    return torch.stack(terms)


def read(out: Output, term: dict) -> list[tuple[Tensor, Tensor | None]]:
    """The features that a metric loss reads, chosen by `on` of its term ("pooled" where the term has none).

    pooled: the pooled feature before the BN neck, or that of each part head, with its stripes; neck: the retrieval
    feature, behind the BN neck, or of all part heads together; stripes: the feature of each stripe by itself.
    `normalise` of the term puts all of them at length 1, so that distances lie between 0 and 2.

    Returns: pairs of features (B, D) and stripes (B, S, d), or None for a feature without stripes.
    """
    place = term.get("on", "pooled")
    if place == "neck":
        features = [(out.features, None)]
    elif place == "stripes":
        features = [(x, None) for local in out.local for x in local.unbind(1)]
    else:
        features = list(zip(out.pooled, out.local, strict=True))
    prepare = unit if term.get("normalise") else at_least_single
    return [(prepare(x), None if s is None else prepare(s)) for x, s in features]
