"""Losses of pytorch-metric-learning (PML) in an experiment, and our losses under PML's call.

A term `pml:Name` of Experiment.losses is a loss of PML, with the arguments of its class. A part of a loss, such as
`miner`, `distance` or `reducer`, is given by the name of a class or by {"name": class, **arguments}:

    'losses.pml:MultiSimilarityLoss={"weight": 1, "miner": {"name": "MultiSimilarityMiner", "epsilon": 0.1}}'

Pairs join the two modalities: each modality is once `embeddings` and once `ref_emb`. With `cross_modality: false` both
are one pool; losses without `ref_emb` (those with class weights) need that. PML is imported only when it is used.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from .common import unknown
from .losses.geometry import to_device_of

PREFIX = "pml:"
PARTS = {"miner": "miners", "distance": "distances", "reducer": "reducers", "embedding_regularizer": "regularizers"}
PARTS |= {"weight_regularizer": "regularizers"}
CLASSES, WIDTH = "num_classes", ("embedding_size", "descriptors_dim")  # arguments that the network decides


def is_theirs(name: str) -> bool:
    """Whether the name of a loss term is that of a loss of PML."""
    return name.startswith(PREFIX)


def build(module: str, name: str, options: dict[str, Any], decided: dict[str, Any] | None = None) -> nn.Module:
    """An object of a class of pytorch_metric_learning.<module>.

    Args: module; name: of the class; options: its arguments; decided: arguments that the network decides, of which the
        class gets those that it takes.
    Raises: ValueError naming what is unknown and the nearest known name, or with the class's own complaint.
    """
    try:
        classes = import_module(f"pytorch_metric_learning.{module}")
    except ImportError:
        raise ValueError(f"{name} needs pytorch-metric-learning: pip install pytorch-metric-learning") from None
    named = {n: c for n, c in vars(classes).items() if inspect.isclass(c) and issubclass(c, nn.Module)}
    if name not in named:
        raise ValueError(unknown(f"class of pytorch_metric_learning.{module}", name, named))
    takes = {p for c in named[name].__mro__ if c not in (nn.Module, object) for p in inspect.signature(c).parameters}
    takes -= {"args", "kwargs"}
    arguments = {option: value for option, value in (decided or {}).items() if option in takes}
    if twice := sorted(arguments.keys() & options):
        raise ValueError(f"{name}: {twice[0]} is what the network has, leave it out")
    for option, value in options.items():
        if option not in takes:
            raise ValueError(unknown(f"argument of {name}", option, takes))
        if option in PARTS:
            value = part(option, value)
        elif isinstance(value, float) and value.is_integer():
            value = int(value)  # Experiment stores every number as a float; PML counts with some
        arguments[option] = value
    try:
        return named[name](**arguments)
    except Exception as error:  # PML raises many kinds
        raise ValueError(f"{name}: {sentence(error)}") from error


def sentence(error: Exception) -> str:
    """The first line of an error's text, or its type where the text is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def part(kind: str, value: str | dict[str, Any]) -> nn.Module:
    """A miner, distance, reducer or regularizer. Raises: ValueError as build().

    Args: kind: one of PARTS; value: the name of its class, or {"name": name, **arguments}.
    """
    options = {"name": value} if isinstance(value, str) else value
    if not isinstance(options, dict) or not isinstance(name := options.get("name"), str):
        raise ValueError(f'{kind} must be the name of a class or {{"name": class, ...}}, not {value!r}')
    return build(PARTS[kind], name, {k: v for k, v in options.items() if k != "name"})


class Loss(nn.Module):
    """A PML loss with its miner, called as our losses are: (features, labels, modality) -> scalar.

    Args: name: `pml:Class`; options: arguments of the term; num_classes: training identities; width: D of the features,
        both for losses with class weights. Raises: ValueError as build().
    """

    def __init__(self, name: str, options: dict[str, Any], num_classes: int, width: int):
        super().__init__()
        options = dict(options)
        self.cross_modality = options.pop("cross_modality", True)
        miner = options.pop("miner", None)
        self.loss = build(
            "losses", name.removeprefix(PREFIX), options, dict.fromkeys(WIDTH, width) | {CLASSES: num_classes}
        )
        self.miner = None if miner is None else part("miner", miner)

    def forward(self, features: Tensor, labels: Tensor, modality: Tensor, local: Tensor | None = None) -> Tensor:
        """features (N, D), labels, modality (N,) -> (); `local` is not read."""
        labels, modality = to_device_of(labels, features), to_device_of(modality, features)
        if not self.cross_modality:
            return self.loss(features, labels, self.miner(features, labels) if self.miner else None)
        v, t = ((features[modality == m], labels[modality == m]) for m in (0, 1))
        return (self._across(*v, *t) + self._across(*t, *v)) / 2

    def _across(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> Tensor:
        pairs = self.miner(embeddings, labels, ref_emb, ref_labels) if self.miner else None
        return self.loss(embeddings, labels, pairs, ref_emb, ref_labels)


def check(name: str, options: dict[str, Any]) -> None:
    """Build a loss and try it on a batch of two people, so that what PML refuses is known before any work.

    Args: name: `pml:Class`; options: arguments of the term. Raises: ValueError, one sentence.
    """
    if not isinstance(options.get("cross_modality", True), bool):
        raise ValueError(f"losses.{name}.cross_modality must be true or false")
    with torch.random.fork_rng(devices=[]):  # class weights draw numbers: keep the random state
        loss = Loss(name, options, num_classes=2, width=4)
    features = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, modality = torch.tensor([0, 0, 1, 1] * 2), torch.tensor([0] * 4 + [1] * 4)
    try:
        for _ in range(2):  # a loss that keeps a graph from step to step fails at the second
            loss(features, labels, modality).backward()
    except Exception as error:
        hint = "; with cross_modality=false it sees both modalities in one pool" if loss.cross_modality else ""
        raise ValueError(f"loss {name} refuses a batch: {sentence(error)}{hint}") from error


def in_their_form(loss: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    """One of our losses called as PML calls its own: `(embeddings, labels, ref_emb=..., ref_labels=...) -> scalar`.

    embeddings (V, D) are the visible features, ref_emb (T, D) the thermal ones; without ref_emb all count as visible.

    Args: loss: one of LOSSES; options: its arguments.
    Example: in_their_form(losses.cmdc, margin=0.5)(visible, labels, ref_emb=thermal, ref_labels=labels)
    Raises: ValueError, when called, for given pairs, as our losses mine their own, or for ref_emb or ref_labels alone.
    """

    def call(
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple=None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        if indices_tuple is not None:
            raise ValueError(f"{loss.__name__} mines its own pairs: leave indices_tuple out")
        if (ref_emb is None) != (ref_labels is None):
            raise ValueError("ref_emb and ref_labels belong together: give both or none")
        modality = torch.zeros_like(labels)
        if ref_emb is not None:
            embeddings, labels = torch.cat([embeddings, ref_emb]), torch.cat([labels, ref_labels])
            modality = torch.cat([modality, torch.ones_like(ref_labels)])
        return loss(embeddings, labels, modality, **options)

    return call
