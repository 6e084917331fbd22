"""S2's losses: pair mining, adaptive weighting (AWL) and the multi-constraint loss (MC), Eq. 1-11; the MS loss.

They act on cosine similarities S of anchors of one modality and candidates of the other, averaged over both directions.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .contract import SCALE, WEIGHT, check_option, loss
from .geometry import cosine_of, gram, magnitude, members, to_device_of

Mining = Literal["ms", "awl", "none"]
Relation = Literal["i2i", "c2i", "c2c"]
Pairs = tuple[Tensor, Tensor, Tensor]  # similarity (..., A, B) of anchors and candidates, masks of positives, negatives


def mine_pairs(similarity: Tensor, positive: Tensor, negative: Tensor, mining: Mining, margin: float) -> tuple:
    """Which pairs of anchors (rows) and candidates (columns) are informative and kept.
    ms, S2 Eq. 6: compared with the hardest pairs of the same anchor. awl, S2 Eq. 8-9: with the hardest pairs of the
    same candidate, over the anchors' own set: ms on the transposed matrix. none: every pair is kept.
    Args: similarity (..., A, B), positive, negative bool: Pairs; mining "ms", "awl" or "none"; margin in similarity.
    Returns: masks of the kept positives and negatives. Raises: ValueError on another mining.
    """
    check_option("mining", mining, Mining)
    own, signed = torch.stack([positive, negative], -3), torch.stack([similarity, -similarity], -3)
    if mining == "none":
        return own.expand(torch.broadcast_shapes(own.shape, signed.shape)).unbind(-3)
    # a positive is kept if S < max S_n + margin, a negative if -S < max -S_p + margin: one comparison of signed numbers
    hardest = signed.masked_fill(~own.flip(-3), -torch.inf).amax(-1 if mining == "ms" else -2, keepdim=True)
    # not >= instead of <: a NaN is kept, so that broken features show in the loss instead of leaving it
    return (own & ~(signed >= hardest + margin)).unbind(-3)


def pair_weights(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of a positive and of a negative pair, S2 Eq. 10: 10 and 3 at most, 5 and 1.5 at a similarity of 0.5."""
    step = (similarity - 0.5) / 0.5
    return 10 * torch.sigmoid(-step), 3 * torch.sigmoid(step)


def over_anchors(pairs: Pairs, weights: tuple, scale: tuple, mining: Mining, margin: float, threshold: float) -> Tensor:
    """1/C sum_a { 1/s_p log[1 + sum_p exp(-w_p (S - lambda))] + 1/s_n log[1 + sum_n exp(w_n (S - lambda))] }, (...).
    In S2 Eq. 7 s = w is constant, in Eq. 11 s = 1. Sums run over kept pairs; C counts the anchors that have one.
    Args: pairs; weights: w_p, w_n; scale: s_p, s_n; mining, margin: of mine_pairs(); threshold: lambda.
    """
    kept, above = mine_pairs(*pairs, mining, margin), pairs[0] - threshold
    # log(1 + sum exp x) is logsumexp over [0, x]: the added zero column is that 1; no kept pair gives log 1 = 0
    exponents = torch.stack([-weights[0] * above, weights[1] * above]).masked_fill(~torch.stack(kept), -torch.inf)
    pull, push = F.pad(exponents, (1, 0)).logsumexp(-1)
    return (pull / scale[0] + push / scale[1]).sum(-1) / (kept[0] | kept[1]).any(-1).sum(-1).clamp(min=1)


class Points(NamedTuple):
    """The points of a batch: visible samples, thermal samples, then the visible and the thermal centres of P people."""

    cosine: Tensor  # (..., M, M) of each point with each, M = N + 2P; 0 with a point of zeros
    labels: Tensor  # (M,)
    kind: Tensor  # (M,) 0 to 3, in this order


def points(features: Tensor, labels: Tensor, modality: Tensor) -> Points:
    """The points of features (..., N, D). Raises: ValueError as members().
    A centre is a mean of rows, so its dot products are means of theirs: only the (N, N) products ever see D numbers.
    """
    member, identities, _ = members(labels, labels, modality, least=2)
    n, p, order = len(labels), len(identities), modality.argsort(stable=True)
    member, rows = member.to(features.dtype), torch.eye(n, dtype=features.dtype, device=labels.device)[order]
    mix = to_device_of(torch.cat([rows, *member / member.sum(2, keepdim=True)]), features)  # (M, N)
    cosine = cosine_of(mix @ gram(features / magnitude(features)) @ mix.mT)
    kind = torch.cat([modality[order], torch.tensor(p * [2] + p * [3], device=labels.device)])
    return Points(cosine, torch.cat([labels[order], identities, identities]), kind)


def pairs_of(points: Points, relations: Sequence[Relation]) -> Pairs:
    """The pairs of R relations, each with visible anchors and then with thermal ones: Pairs with 2R matrices.
    i2i, S2 Eq. 2: samples and samples; c2i, Eq. 3: centres and samples; c2c, Eq. 4: centres and centres.
    Returns: similarity (..., 1, A, B), positive and negative (2R, A, B); rows or columns that no relation has are cut.
    Raises: ValueError on another relation.
    """
    for relation in relations:
        check_option("relation", relation, Relation)
    sides = [[2 * (r[end] == "c") + (m if end == 0 else 1 - m) for r in relations for m in (0, 1)] for end in (0, 2)]
    here = points.kind == torch.tensor(sides, device=points.kind.device)[..., None]  # (2, 2R, M) anchors, candidates
    used = (side.any(0).nonzero()[:, 0].tolist() for side in here)
    rows, columns = (slice(places[0], places[-1] + 1) for places in used)
    here = here[0, :, rows, None] & here[1, :, None, columns]
    same = points.labels[rows, None] == points.labels[columns]
    cosine = points.cosine[..., None, rows, columns]
    return cosine, to_device_of(here & same, cosine), to_device_of(here & ~same, cosine)


@loss(alpha=SCALE, beta=SCALE)
def multi_similarity(
    features: Tensor, labels: Tensor, modality: Tensor, *, mining: Mining = "ms", alpha: float = 2.0,
    beta: float = 50.0, threshold: float = 0.5, mining_margin: float = 0.1, cross_modality: bool = True,
) -> Tensor:  # fmt: skip
    """Multi-similarity loss, S2 Eq. 6-7, by default over pairs across modalities.
    Source: Wang et al. 2019, CVPR, whose values the defaults are. open: S2 does not say whether its MS loss pairs
    within a modality too (cross_modality=False, where all other samples are candidates: the MS paper's own form).
    Args: features, labels, modality: a batch; mining, mining_margin: of mine_pairs(); alpha, beta: lambda_p, lambda_n
        of Eq. 7; threshold: lambda, a similarity; cross_modality.
    Returns: () without unit. Raises: ValueError naming an identity that is alone, or (cross_modality) lacks a modality.
    """
    pairs, scale = pair_matrices(features, labels, modality, cross_modality), (alpha, beta)
    return over_anchors(pairs, scale, scale, mining, mining_margin, threshold).mean()


def pair_matrices(features: Tensor, labels: Tensor, modality: Tensor, cross_modality: bool) -> Pairs:
    """The pairs of multi_similarity(): of both directions, or of all samples in one pool."""
    if cross_modality:
        return pairs_of(points(features, labels, modality), ["i2i"])
    same = labels[:, None] == labels
    if same.all():
        raise ValueError(f"identity {labels[0].item()} is alone in the batch: the loss needs a second identity")
    masks = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same
    return cosine_of(gram(features / magnitude(features)))[None], *(
        to_device_of(mask[None], features) for mask in masks
    )


@loss()
def adaptive_weighting(
    features: Tensor, labels: Tensor, modality: Tensor, *, relation: Relation = "i2i", mining: Mining = "awl",
    weighting: bool = True, detach_weights: bool = True, mining_margin: float = 0.2, threshold: float = 0.5,
) -> Tensor:  # fmt: skip
    """Adaptive weighting loss (AWL) of one relation across modalities, S2 Eq. 8-11.
    open: centres are means of the features as given; the weights are constants for the gradient.
    Args: features, labels, modality: a batch; relation: of directions(); mining, mining_margin: of mine_pairs();
        threshold: lambda; weighting: Eq. 10, else weights as at S = 0.5; detach_weights: no gradient through weights.
    Returns: () without unit. Raises: ValueError naming an identity that lacks a modality or is alone.
    """
    options = (weighting, detach_weights, mining, mining_margin, threshold)
    return adaptive(points(features, labels, modality), [relation], *options)[0]


def adaptive(points: Points, relations: list[Relation], weighting: bool, detach_weights: bool, *mined: Any) -> Tensor:
    """adaptive_weighting() of R relations, (..., R); mined: mining, mining_margin, threshold."""
    pairs = pairs_of(points, relations)
    source = pairs[0].detach() if detach_weights else pairs[0]
    weights = pair_weights(source if weighting else torch.full_like(source, 0.5))
    return over_anchors(pairs, weights, (1, 1), *mined).unflatten(-1, (-1, 2)).mean(-1)


@loss(alpha=WEIGHT, beta=WEIGHT, omega=WEIGHT)
def multi_constraint(
    features: Tensor, labels: Tensor, modality: Tensor, *, alpha: float = 0.5, beta: float = 1.0, omega: float = 0.2,
    local: Tensor | None = None, mining: Mining = "awl", weighting: bool = True, detach_weights: bool = True,
    mining_margin: float = 0.2, threshold: float = 0.5,
) -> Tensor:  # fmt: skip
    """Multi-constraint loss (MC), S2 Eq. 5: alpha * I2I + beta * C2I + omega * C2C, each an adaptive_weighting().
    With the features of stripes, C2C acts on these (mean over stripes) and I2I and C2I on the whole, S2 section 3.2.
    Args: features, labels, modality: a batch; alpha, beta, omega: weights, 0 leaves a term out; local: (N, S, d) stripe
        features; mining, weighting, detach_weights, mining_margin, threshold: as in adaptive_weighting().
    Returns: () without unit. Raises: ValueError as adaptive_weighting().
    """
    whole = points(features, labels, modality)
    weights = {relation: w for relation, w in zip(get_args(Relation), (alpha, beta, omega), strict=True) if w}
    of_whole = [relation for relation in weights if local is None or relation != "c2c"]
    options = (weighting, detach_weights, mining, mining_margin, threshold)
    if of_whole:
        terms = zip(of_whole, adaptive(whole, of_whole, *options), strict=True)
        value = sum(weights[relation] * x for relation, x in terms)
    else:  # a graph, and NaN of broken features, even if no term reads the whole
        value = 0 * whole.cosine.sum()
    if local is not None and omega:
        value = value + omega * adaptive(points(local.transpose(0, 1), labels, modality), ["c2c"], *options).mean()
    return value
