"""Whether what a paper proposes acts: which terms of a loss push, which pairs it keeps, how hard it pulls, what
attention adds. Looked at once an epoch, in the last step, and kept in a run's history; no result depends on it.

Columns of the history, of each metric loss by its name, all without unit or in that of the loss's features:
    NAME.gradient       length of its weighted gradient, as a share of the sum of the lengths of all terms
    NAME.active         share of its hinges that are not at 0; near, far: means of the two distances that it compares;
                        spread: standard deviation of far - near, to be compared with its margin
    NAME.kept_positive  share of the pairs that its mining keeps, and kept_negative; positive, negative: mean cosines;
                        spread: standard deviation of all cosines, to be compared with margins and thresholds;
                        weights: standard deviation of the pairs' weights over their mean, of positives
    attention.alpha     mean size of the attention's factor over both streams; share: what it adds that differs by
                        position, as a share of the map's norm; entropy: of its rows, as a share of that of equal ones
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
from .losses import LOSSES
from .losses.dual_constraint import bounds
from .losses.field import centre_distances, hardest
from .losses.geometry import centres, length, members, nearest_other_centre
from .losses.multi_constraint import directions, mine_pairs, pair_matrices, pair_weights, points
from .model import PositionAttention

LEAST = 0.01  # of a total: what stays below in every epoch did not act


def looked_at(name: str, options: dict, features: Tensor, labels: Tensor, modality: Tensor, local=None) -> dict:
    """What acts in one loss on one batch: the columns above but for `gradient`, without the loss's name; {} of others.

    Args: name, options: of LOSSES, with the arguments of the term; the batch as the loss reads it.
    """
    call = LOSSES.get(name)  # by what it is: who puts another one in its place has none of these columns
    of = {p.name: p.default for p in signature(call).parameters.values()} | options if call else {}
    batch = features, labels, modality
    if call is losses.batch_hard_triplet:
        return hinges(*hardest(*batch, of["cross_modality"]), of["margin"])
    if call is losses.cmdc:
        return hinges(*bounds(*batch, of["bound"]), of["margin"])
    if call is losses.hetero_center_triplet:
        return hinges(*centre_distances(*batch), of["margin"])
    if call is losses.center_metric:
        centre = centres(features, members(*batch, least=2)[0])
        return hinges(length(centre[0] - centre[1]), nearest_other_centre(centre), of["margin"])
    if call is losses.multi_similarity:
        return mined(pair_matrices(*batch, of["cross_modality"]), of["mining"], of["mining_margin"])
    if call in (losses.adaptive_weighting, losses.multi_constraint):
        weights = {"i2i": "alpha", "c2i": "beta", "c2c": "omega"}
        relations = [r for r, w in weights.items() if of[w]] if call is losses.multi_constraint else [of["relation"]]
        whole = points(*batch)
        parts = whole if local is None or "c2c" not in relations else points(local.transpose(0, 1), *batch[1:])
        matrices = [
            (similarity, positive, ~positive)
            for relation in relations
            for similarity, positive in directions(parts if relation == "c2c" else whole, relation)
        ]
        return mined(matrices, of["mining"], of["mining_margin"]) | weighed(matrices, of["weighting"])
    return {}


def hinges(near: Tensor, far: Tensor, margin: float) -> dict[str, Tensor]:
    """Of the terms [margin + near - far]_+."""
    gap = far - near
    return {"active": (gap < margin).double().mean(), "near": near.mean(), "far": far.mean(), "spread": gap.std()}


def mined(matrices: list[tuple[Tensor, Tensor, Tensor]], mining: str, margin: float) -> dict[str, Tensor]:
    """Of the pairs of some matrices of cosines, each with its positives and negatives: means over matrices."""
    found = []
    for similarity, positive, negative in matrices:
        kept = mine_pairs(similarity, positive, negative, mining, margin)
        pairs = [pair.expand(similarity.shape) for pair in (positive, negative)]
        shares = [keep[pair].double().mean() for keep, pair in zip(kept, pairs, strict=True)]
        means = [similarity[pair].mean() for pair in pairs]
        found.append(torch.stack([x.double() for x in (*shares, *means, similarity[pairs[0] | pairs[1]].std())]))
    names = ("kept_positive", "kept_negative", "positive", "negative", "spread")
    return dict(zip(names, torch.stack(found).mean(0), strict=True))


def weighed(matrices: list[tuple[Tensor, Tensor, Tensor]], weighting: bool) -> dict[str, Tensor]:
    """How much the weights of S2 Eq. 10 differ among the positives of some matrices."""
    if not weighting:
        return {}
    pull = torch.cat([pair_weights(s)[0][p.expand(s.shape)] for s, p, _ in matrices])
    return {"weights": pull.std() / pull.mean()}


def shares_of_gradient(terms: Tensor, weights: Tensor, net: nn.Module) -> Tensor:
    """The length of each weighted term's gradient on the network, (T,), as a share of their sum. Keeps the graph."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    norms = []
    for term in terms * weights:
        found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        norms.append(torch.nn.utils.get_total_norm([g for g in found if g is not None]))
    norms = torch.stack(norms)
    return norms / norms.sum().clamp(min=torch.finfo(norms.dtype).tiny)


@contextmanager
def attention_seen(net: nn.Module) -> Iterator[list[Tensor]]:
    """Within it every attention module of `net` that runs adds (alpha, share, entropy) to the list."""
    found: list[Tensor] = []

    def see(module: PositionAttention, given: tuple[Tensor], out: Tensor) -> None:
        with torch.no_grad():
            x = given[0].detach().float()
            added = out.detach().float() - x
            by_position = added - added.mean((2, 3), keepdim=True)
            rows = module.attention_map(given[0][:2]).float().clamp(min=1e-12)
            entropy = -(rows * rows.log()).sum(-1).mean() / math.log(rows.shape[-1])
            found.append(torch.stack([module.alpha.detach().abs().float(), by_position.norm() / x.norm(), entropy]))

    handles = [m.register_forward_hook(see) for m in net.modules() if isinstance(m, PositionAttention)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def of_step(e: Experiment, read, shares: Tensor | None, attention: list[Tensor], labels, modality) -> dict[str, float]:
    """The columns of one step. read: term -> what it reads (objective.read); shares: shares_of_gradient() or None."""
    found = {}
    if attention:
        alpha, share, entropy = torch.stack(attention).mean(0).tolist()
        found |= {"attention.alpha": alpha, "attention.share": share, "attention.entropy": entropy}
    for i, (name, term) in enumerate(e.losses.items()):
        if shares is not None:
            found[f"{name}.gradient"] = shares[i].item()
        if name == "id":
            continue
        with torch.no_grad():
            heads = [looked_at(name, arguments(term), x.detach(), labels, modality, s) for x, s in read(term)]
        for column in heads[0]:
            values = torch.stack([head[column].double() for head in heads])
            found[f"{name}.{column}"] = values.mean().item()
    return found


def tested(better: Experiment, over: Experiment) -> set[str]:
    """What a comparison is about, of two experiments that differ: attention, mining, weighting, or names of losses."""
    found = {"attention"} if better.attention and not over.attention else set()
    pairs = {"mining", "mining_margin"}
    for name, term in better.losses.items():
        other = over.losses.get(name)
        if other is None:
            found.add(name)
        elif differing := {k for k in {*term, *other} if term.get(k) != other.get(k)}:
            found.add("mining" if differing <= pairs else "weighting" if differing == {"weighting"} else name)
    return found


def idle(better: list, over: list) -> str:
    """A sentence where nothing that a comparison of two systems is about acted in the runs of the first; else "".

    Args: runs of each. Something acted if in any epoch of any run it made LEAST of the total: of the gradient for a
    loss, of the map for attention, of the pairs for mining, which must drop some, of the mean weight for weighting.
    Runs without these columns, of an older version, are taken to have acted.
    """
    if not better or not over:
        return ""
    about = tested(better[0].experiment, over[0].experiment)
    reasons = [reason(what, better, over) for what in sorted(about)]
    return "; ".join(reasons) if reasons and all(reasons) else ""


def reason(what: str, better: list, over: list) -> str:
    """Why one mechanism did not act, in words and numbers; "" if it did, or if nobody looked."""
    if what == "attention":
        most = greatest("attention.share", better)
        words = f"attention changes a map by position by at most {{:.1%}} of its norm (alpha {alpha_of(better)})"
    elif what == "mining":
        kept = [least(f".kept_{kind}", runs) for kind in ("positive", "negative") for runs in (better, over)]
        most = None if None in kept else 1 - min(kept)
        words = "neither mining drops more than {:.1%} of the positive or negative pairs"
    elif what == "weighting":
        most, words = greatest(".weights", better), "the weights of the pairs differ by at most {:.1%} of their mean"
    else:
        most, words = greatest(f"{what}.gradient", better), f"{what} makes at most {{:.1%}} of the gradient"
    return "" if most is None or most >= LEAST else words.format(most)


def values_of(ending: str, runs: list) -> list[float]:
    return [v for run in runs for c in run.history if c.endswith(ending) for v in run.history[c] if not math.isnan(v)]


def greatest(ending: str, runs: list) -> float | None:
    """The greatest value of the columns that end so, over epochs and runs; None where there is none."""
    return max(values_of(ending, runs), default=None)


def least(ending: str, runs: list) -> float | None:
    return min(values_of(ending, runs), default=None)


def alpha_of(runs: list) -> str:
    return f"{greatest('attention.alpha', runs) or 0:.2f} at most"


COLUMNS = ("active", "near", "far", "kept_positive", "kept_negative", "positive", "negative", "spread", "weights")
ATTENTION = ("alpha", "share", "entropy")
MARGINS = ("margin", "mining_margin")


def summary(rows: dict[str, list]) -> pd.DataFrame:
    """What acts in each row's runs, mean over epochs and runs: row, loss, margin, gradient, COLUMNS, ATTENTION.

    A line a loss, and one for attention where a network has it. margin: of the hinge, or of mining; NaN: none.
    """
    found = []
    for row, group in rows.items():
        history = pd.concat([run.history for run in group])
        names = [*group[0].experiment.losses, *["attention"] * group[0].experiment.attention]
        for name in names:
            term = group[0].experiment.losses.get(name, {})
            margin = next((term[m] for m in MARGINS if m in term), math.nan)
            of = {
                c: history[f"{name}.{c}"].mean() for c in ("gradient", *COLUMNS, *ATTENTION) if f"{name}.{c}" in history
            }
            found.append({"row": row, "loss": name, "margin": margin} | of)
    order = ["row", "loss", "margin", "gradient", *COLUMNS, *ATTENTION]
    return pd.DataFrame(found).reindex(columns=order)
