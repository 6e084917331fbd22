"""The losses of an experiment: which feature of the network's output each term reads, and the value of each."""

import inspect
from functools import partial

import torch
from torch import Tensor, nn

from .config import Experiment, arguments, asked, check_options, typed
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
            else Term(name, options, experiment.over_parts, net.num_classes, width)
            for width in widths(net, term)
        )
    return nn.ModuleDict(terms)


def widths(net: TwoStreamNet, term: dict) -> list[int]:
    """The number of columns of each feature that read() gives a term, in the same order."""
    stripes = [head.norm.num_features // head.stripes for head in net.heads for _ in range(head.stripes)]
    return {"pooled": net.widths, "neck": [net.dim], "stripes": stripes}[term.get("on", "pooled")]


class Term(nn.Module):
    """One of LOSSES with its arguments, called as (features, labels, modality, local, and all of ASKED) -> scalar.

    Args: name: of the loss; options: its arguments; over_parts: of Experiment, for losses with an argument
        `over_stripes` that the options leave out; num_classes: of training; width: of the features, in columns.
    Raises: ValueError for an argument that the loss does not have.
    """

    def __init__(self, name: str, options: dict, over_parts: str, num_classes: int, width: int):
        super().__init__()
        self.name = name
        check_options("loss", name, options)
        parameters, options = inspect.signature(LOSSES[name]).parameters, typed(LOSSES[name], options)
        stripes = {"over_stripes": over_parts} if "over_stripes" in parameters else {}
        if isinstance(LOSSES[name], type):  # it has parameters of its own
            self.call = LOSSES[name](num_classes, width, **stripes | options)
        else:
            self.call = partial(LOSSES[name], **stripes | options)
        self.asks = asked(LOSSES[name])

    def forward(
        self, features: Tensor, labels: Tensor, modality: Tensor, local: Tensor | None = None, **more: Tensor
    ) -> Tensor:
        """features (N, D) or logits, labels, modality (N,), local (N, S, d), more: others of ASKED -> ()."""
        given = {name: value for name, value in {"local": local, **more}.items() if name in self.asks}
        return one_number(self.name, self.call(features, labels, modality, **given), features)

    def rival(
        self, features: Tensor, labels: Tensor, modality: Tensor, local: Tensor | None = None, **more: Tensor
    ) -> Tensor:
        """What the rival of the loss lowers: as forward(), with constants for all that the network gives."""
        given = {name: value for name, value in {"local": local, **more}.items() if name in self.asks}
        held = {name: None if value is None else value.detach() for name, value in given.items()}
        return self.call.rival(features.detach(), labels, modality, **held)

    def factor(self, epoch: int, others: float | None) -> float:
        """What multiplies the weight of the loss in an epoch (0-based); others: see systems/learned.py."""
        return self.call.factor(epoch, others) if hasattr(self.call, "factor") else 1.0


def loss_terms(
    experiment: Experiment,
    losses: nn.ModuleDict,
    out: Output,
    labels: Tensor,
    modality: Tensor,
    people: Tensor | None = None,
    source: Tensor | None = None,
    images: Tensor | None = None,
    rivals: bool = False,
) -> Tensor:
    """The values of all terms of an experiment on one batch.

    The identity loss reads the logits of every classifier, a metric loss the features that read() gives it. The values
    over classifiers or features are added, or averaged where Experiment.over_parts is "mean". A metric loss that does
    not ask for `source` reads the images of the set alone, not those that a view adds to them.

    Args: experiment; losses: of make_losses(); out: the network's output for B images; labels, modality: (B,); people
        (B,): what metric losses read in place of labels, equal where these are; source (B,): the row of the image that
        an image of a view was made of, -1 for an image of the set, which come first; None where there is no view;
        images (B, 3, H, W): what the network was given; rivals: of the losses that have one, rival() in place of the
        value, of the others 0.
    Returns: (T,) unweighted, in the order of `experiment.losses`, in float32 at least.
    """
    terms, of_metric = [], labels if people is None else people
    own = None if source is None else int((source < 0).sum())
    for name, modules in losses.items():
        if rivals and not has_rival(modules[0]):
            value, count = out.features.new_zeros(()), 1
        elif name == "id":
            value, count = modules[0](at_least_single(out.logits), labels, modality), out.logits[0, ..., 0].numel()
        else:
            rows = slice(None if "source" in getattr(modules[0], "asks", ()) else own)
            seen, count = rows_of(out, rows), len(modules)
            batch = of_metric[rows], modality[rows]
            more = {"neck": at_least_single(seen.features), "logits": at_least_single(seen.logits), "source": source}
            more |= {"images": None if images is None else images[rows]}
            value = sum(
                (loss.rival if rivals else loss)(x, *batch, local, **(more if isinstance(loss, Term) else {}))
                for loss, (x, local) in zip(modules, read(seen, experiment.losses[name]), strict=True)
            )
        terms.append(value / count if experiment.over_parts == "mean" else value)
    return torch.stack(terms)


def has_rival(loss: nn.Module) -> bool:
    """Whether a part of the weights of a loss is trained against the network."""
    return hasattr(getattr(loss, "call", None), "rival")


def own_optimizer(losses: nn.ModuleDict) -> torch.optim.Optimizer | None:
    """Adam for the weights that rivals train, each at its own rate; None where there are none."""
    found = [m.call for modules in losses.values() for m in modules if has_rival(m)]
    groups = [{"params": list(call.own_parameters()), "lr": call.own_lr} for call in found]
    return torch.optim.Adam(groups, betas=(0.5, 0.999)) if groups else None


def rows_of(out: Output, rows: slice) -> Output:
    """Some rows of an output."""
    if rows == slice(None):
        return out
    pooled, local = (tuple(None if x is None else x[rows] for x in part) for part in (out.pooled, out.local))
    return Output(pooled, local, out.features[rows], out.logits[rows])


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
