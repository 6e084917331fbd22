"""Whether the mechanism that a paper proposes acts in a training: a loss, its mining or weighting, attention.

It may do nothing: all hinges of a loss may be at 0, mining may keep all pairs, attention may add nothing. The numbers
below are taken in the last step of each epoch and stored in the history of a run; no result depends on them.

Columns of the history, NAME being that of a metric loss; distances are in the unit of its features, shares 0 to 1:
    NAME.gradient       length of the gradient of the weighted loss, as a share of the sum of these lengths over losses
    NAME.active         share of its hinges that are not at 0; near, far: means of the two distances that it compares;
                        spread: standard deviation of far - near, to be compared with its margin
    NAME.kept_positive  share of the positive pairs that its mining keeps, and kept_negative; positive, negative: mean
                        cosines; spread: standard deviation of all cosines, to be compared with margins and thresholds;
                        weights: standard deviation of the weights of positive pairs, divided by their mean
    attention.alpha     mean size of the attention's factor alpha over both streams; share: norm of what it adds that
                        differs by position, divided by the norm of the map; entropy: of the rows of its attention map,
                        divided by that of uniform rows
S1 and S2 are the two papers that losses/__init__.py cites.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature

import pandas as pd
import torch
from torch import Tensor, nn

from . import losses
from .config import Experiment, arguments
from .losses.dual_constraint import bounds
from .losses.field import centre_distances, hardest
from .losses.geometry import centres, length, members, nearest_other_centre
from .losses.multi_constraint import Pairs, mine_pairs, pair_matrices, pair_weights, pairs_of, points
from .model import PositionAttention
from .systems import LOSSES
from .systems.crossed import adaptive_cmdc, soft_bounds

LEAST = 0.01  # share of a total; a mechanism that stays below in every epoch did not act


def looked_at(name: str, options: dict, features: Tensor, labels: Tensor, modality: Tensor, local=None) -> dict:
    """The columns above for one loss on one batch, without the prefix NAME and without `gradient`.

    Args: name: of the loss; options: arguments of its term; features (N, D), labels (N,), modality (N,), and local
        (N, S, d) or None, as the loss reads them.
    Returns: column -> scalar tensor; {} for a loss without such numbers.
    """
    # Losses are told apart by their function: if LOSSES has another function under a name, there are no columns
    call = LOSSES.get(name)
    values = {p.name: p.default for p in signature(call).parameters.values()} | options if call else {}
    batch = features, labels, modality
    if call is losses.batch_hard_triplet:
        return hinges(*hardest(*batch, values["cross_modality"]), values["margin"])
    if call in (losses.cmdc, adaptive_cmdc):
        return hinges(*(bounds if call is losses.cmdc else soft_bounds)(*batch), values["margin"])
    if call is losses.hetero_center_triplet:
        return hinges(*centre_distances(*batch), values["margin"])
    if call is losses.center_metric:
        centre = centres(features, members(*batch, least=2)[0])
        return hinges(length(centre[0] - centre[1]), nearest_other_centre(centre), values["margin"])
    if call is losses.multi_similarity:
        matrices = list(matrices_of(pair_matrices(*batch, values["cross_modality"])))
        return mined(matrices, values["mining"], values["mining_margin"])
    if call in (losses.adaptive_weighting, losses.multi_constraint):
        weights = {"i2i": "alpha", "c2i": "beta", "c2c": "omega"}
        relations = (
            [r for r, w in weights.items() if values[w]] if call is losses.multi_constraint else [values["relation"]]
        )
        images = points(*batch)
        stripes = images if local is None or "c2c" not in relations else points(local.transpose(0, 1), *batch[1:])
        matrices = [m for r in relations for m in matrices_of(pairs_of(stripes if r == "c2c" else images, [r]))]
        return mined(matrices, values["mining"], values["mining_margin"]) | weighed(matrices, values["weighting"])
    return {}


def hinges(near: Tensor, far: Tensor, margin: float) -> dict[str, Tensor]:
    """Columns of the hinges [margin + near - far]_+; near and far (P,) distances."""
    gap = far - near
    return {"active": (gap < margin).double().mean(), "near": near.mean(), "far": far.mean(), "spread": gap.std()}


def matrices_of(pairs: Pairs) -> Iterator[Pairs]:
    """The matrices of Pairs one by one, each (..., A, B) with the anchors and candidates that it has alone.

    Of a relation the first has visible anchors, the second thermal ones.
    """
    similarity, positive, negative = pairs
    for masks in zip(positive, negative, strict=True):
        rows, columns = ((masks[0] | masks[1]).any(side) for side in (1, 0))
        yield tuple(x[..., rows, :][..., columns] for x in (similarity[..., 0, :, :], *masks))


def mined(matrices: list[tuple[Tensor, Tensor, Tensor]], mining: str, margin: float) -> dict[str, Tensor]:
    """Columns of mined pairs, means over some matrices.

    Args: matrices: of cosines (N, M), each with its positive and its negative pairs as masks; mining, margin: as the
        arguments `mining` and `mining_margin` of the loss.
    """
    rows = []
    for similarity, positive, negative in matrices:
        kept = mine_pairs(similarity, positive, negative, mining, margin)
        pairs = [pair.expand(similarity.shape) for pair in (positive, negative)]
        shares = [keep[pair].double().mean() for keep, pair in zip(kept, pairs, strict=True)]
        means = [similarity[pair].mean() for pair in pairs]
        rows.append(torch.stack([x.double() for x in (*shares, *means, similarity[pairs[0] | pairs[1]].std())]))
    names = ("kept_positive", "kept_negative", "positive", "negative", "spread")
    return dict(zip(names, torch.stack(rows).mean(0), strict=True))


def weighed(matrices: list[tuple[Tensor, Tensor, Tensor]], weighting: bool) -> dict[str, Tensor]:
    """Column `weights`: how much the weights of S2 Eq. 10 differ among the positive pairs; {} without weighting."""
    if not weighting:
        return {}
    pull = torch.cat([pair_weights(s)[0][p.expand(s.shape)] for s, p, _ in matrices])
    return {"weights": pull.std() / pull.mean()}


def shares_of_gradient(terms: Tensor, weights: Tensor, net: nn.Module) -> Tensor:
    """The length of the gradient of each weighted term on `net`, as a share of their sum; the graph is kept.

    Args: terms, weights (T,). Returns: (T,), which sum to 1, or are 0 where no term has a gradient.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    norms = []
    for term in terms * weights:
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        norms.append(torch.nn.utils.get_total_norm([g for g in gradients if g is not None]))
    norms = torch.stack(norms)
    return norms / norms.sum().clamp(min=torch.finfo(norms.dtype).tiny)


@contextmanager
def attention_seen(net: nn.Module) -> Iterator[list[Tensor]]:
    """Within a `with`, each attention module of `net` that runs appends (alpha, share, entropy), (3,), to the list."""
    records: list[Tensor] = []

    def record(module: PositionAttention, inputs: tuple[Tensor], out: Tensor) -> None:
        with torch.no_grad():
            x = inputs[0].detach().float()
            added = out.detach().float() - x
            by_position = added - added.mean((2, 3), keepdim=True)
            rows = module.attention_map(inputs[0][:2]).float().clamp(min=1e-12)
            entropy = -(rows * rows.log()).sum(-1).mean() / math.log(rows.shape[-1])
            records.append(torch.stack([module.alpha.detach().abs().float(), by_position.norm() / x.norm(), entropy]))

    handles = [m.register_forward_hook(record) for m in net.modules() if isinstance(m, PositionAttention)]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def of_step(e: Experiment, read, shares: Tensor | None, attention: list[Tensor], labels, modality) -> dict[str, float]:
    """The columns of one step.

    Args: e: the experiment; read: term -> the features that it reads, objective.read() of this step's output; shares:
        of shares_of_gradient(), or None; attention: of attention_seen(); labels, modality (N,).
    """
    columns = {}
    if attention:
        alpha, share, entropy = torch.stack(attention).mean(0).tolist()
        columns |= {"attention.alpha": alpha, "attention.share": share, "attention.entropy": entropy}
    for i, (name, term) in enumerate(e.losses.items()):
        if shares is not None:
            columns[f"{name}.gradient"] = shares[i].item()
        if name == "id":
            continue
        with torch.no_grad():
            heads = [looked_at(name, arguments(term), x.detach(), labels, modality, s) for x, s in read(term)]
        for column in heads[0]:
            values = torch.stack([head[column].double() for head in heads])
            columns[f"{name}.{column}"] = values.mean().item()
    return columns


def tested(better: Experiment, over: Experiment) -> set[str]:
    """The mechanisms in which `better` differs from `over`: attention, mining, weighting, or names of losses."""
    mechanisms = {"attention"} if better.attention and not over.attention else set()
    pairs = {"mining", "mining_margin"}
    for name, term in better.losses.items():
        other = over.losses.get(name)
        if other is None:
            mechanisms.add(name)
        elif differing := {k for k in {*term, *other} if term.get(k) != other.get(k)}:
            mechanisms.add("mining" if differing <= pairs else "weighting" if differing == {"weighting"} else name)
    return mechanisms


def idle(better: list, over: list) -> str:
    """A sentence if none of the mechanisms in which two systems differ acted in the runs of the first; else "".

    A mechanism acted if in any epoch of any run it reached LEAST of a total: a loss, of the gradient; attention, of the
    map; mining, of the pairs, which it must drop; weighting, of the mean weight.
    Args: better, over: runs of each system. Runs without these columns, of an older version, count as having acted.
    """
    if not better or not over:
        return ""
    mechanisms = tested(better[0].experiment, over[0].experiment)
    reasons = [reason(name, better, over) for name in sorted(mechanisms)]
    return "; ".join(reasons) if reasons and all(reasons) else ""


def reason(name: str, better: list, over: list) -> str:
    """Why one mechanism of tested() did not act, in words and numbers; "" if it did, or if no run has its columns."""
    if name == "attention":
        most = greatest("attention.share", better)
        words = f"attention changes a map by position by at most {{:.1%}} of its norm (alpha {alpha_of(better)})"
    elif name == "mining":
        kept = [least(f".kept_{kind}", runs) for kind in ("positive", "negative") for runs in (better, over)]
        most = None if None in kept else 1 - min(kept)
        words = "neither mining drops more than {:.1%} of the positive or negative pairs"
    elif name == "weighting":
        most, words = greatest(".weights", better), "the weights of the pairs differ by at most {:.1%} of their mean"
    else:
        most, words = greatest(f"{name}.gradient", better), f"{name} makes at most {{:.1%}} of the gradient"
    return "" if most is None or most >= LEAST else words.format(most)


def values_of(ending: str, runs: list) -> list[float]:
    """All numbers, over epochs and runs, of the history's columns whose names end so; NaN left out."""
    return [v for run in runs for c in run.history if c.endswith(ending) for v in run.history[c] if not math.isnan(v)]


def greatest(ending: str, runs: list) -> float | None:
    """The greatest of values_of(); None where there is none."""
    return max(values_of(ending, runs), default=None)


def least(ending: str, runs: list) -> float | None:
    """The least of values_of(); None where there is none."""
    return min(values_of(ending, runs), default=None)


def alpha_of(runs: list) -> str:
    """The greatest alpha of the attention, in words."""
    return f"{greatest('attention.alpha', runs) or 0:.2f} at most"


COLUMNS = ("active", "near", "far", "kept_positive", "kept_negative", "positive", "negative", "spread", "weights")
ATTENTION = ("alpha", "share", "entropy")
MARGINS = ("margin", "mining_margin")


def summary(rows: dict[str, list]) -> pd.DataFrame:
    """The columns above, mean over epochs and runs, of the rows of a table: a line for each loss, one for attention.

    Args: rows: name of a row -> its runs. Returns: columns row, loss, margin (of the hinge, or of mining; NaN: none),
    gradient, COLUMNS and ATTENTION.
    """
    lines = []
    for row, group in rows.items():
        history = pd.concat([run.history for run in group])
        names = [*group[0].experiment.losses, *["attention"] * group[0].experiment.attention]
        for name in names:
            term = group[0].experiment.losses.get(name, {})
            margin = next((term[m] for m in MARGINS if m in term), math.nan)
            means = {
                c: history[f"{name}.{c}"].mean() for c in ("gradient", *COLUMNS, *ATTENTION) if f"{name}.{c}" in history
            }
            lines.append({"row": row, "loss": name, "margin": margin} | means)
    order = ["row", "loss", "margin", "gradient", *COLUMNS, *ATTENTION]
    return pd.DataFrame(lines).reindex(columns=order)
