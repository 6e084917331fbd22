"""S2's losses: pair mining, adaptive weighting (AWL) and the multi-constraint loss (MC), Eq. 1-11; the MS loss."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .contract import SCALE, WEIGHT, check_choice, loss
from .geometry import cosine_of, gram, magnitude, members, to_device_of

Mining = Literal["ms", "awl", "none"]
Relation = Literal["i2i", "c2i", "c2c"]


def mine_pairs(
    similarity: Tensor, positive: Tensor, negative: Tensor, mining: Mining, margin: float
) -> tuple[Tensor, Tensor]:
    """Which pairs of anchors (rows) and candidates (columns) are informative: kept positives and negatives.

    ms, S2 Eq. 6: compared with the hardest pairs of the same anchor. awl, S2 Eq. 8-9: with the hardest pairs of the
    same candidate, over the anchors' own set: ms on the transposed matrix. none: every pair is kept.

    Args: similarity (..., A, B); positive, negative (A, B) bool; mining "ms", "awl" or "none"; margin in similarity.
    Returns: two masks (..., A, B). Raises: ValueError on another mining.
    """
    check_choice("mining", mining, Mining)
    if mining == "none":
        return positive.expand(similarity.shape), negative.expand(similarity.shape)
    dim = -1 if mining == "ms" else -2
    hardest_negative = similarity.masked_fill(~negative, -torch.inf).amax(dim, keepdim=True)
    hardest_positive = similarity.masked_fill(~positive, torch.inf).amin(dim, keepdim=True)
    # not >= instead of <: a NaN is kept, so that broken features show in the loss instead of leaving it
    kept_positive = positive & ~(similarity >= hardest_negative + margin)
    return kept_positive, negative & ~(similarity <= hardest_positive - margin)


def pair_weights(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of a positive and of a negative pair, S2 Eq. 10: 10 and 3 at most, 5 and 1.5 at a similarity of 0.5."""
    step = (similarity - 0.5) / 0.5
    return 10 * torch.sigmoid(-step), 3 * torch.sigmoid(step)


def over_anchors(pull: Tensor, push: Tensor, kept: tuple[Tensor, Tensor], scale: tuple[float, float]) -> Tensor:
    """1/C sum_a { 1/scale_p log[1 + sum_p exp(pull)] + 1/scale_n log[1 + sum_n exp(push)] }, S2 Eq. 7 and 11.

    Args: pull, push: (..., A, B) exponents; kept: masks of the positives and negatives; C: anchors with a kept pair.
    Returns: (...); 0 where nothing is kept.
    """
    # log(1 + sum exp x) is logsumexp over [0, x]: the added zero column is that 1; no kept pair gives log 1 = 0
    parts = zip((pull, push), kept, scale, strict=True)
    value = sum(F.pad(x.masked_fill(~k, -torch.inf), (1, 0)).logsumexp(-1) / s for x, k, s in parts)
    return value.sum(-1) / (kept[0] | kept[1]).any(-1).sum(-1).clamp(min=1)


class Points(NamedTuple):
    """A batch's M = N + 2P points: visible, then thermal samples; visible, then thermal centres of its identities."""

    cosine: Tensor  # (..., M, M) similarities; 0 with a point of zeros
    labels: Tensor  # (M,)
    of: dict[str, tuple[slice, slice]]  # rows of the visible and of the thermal points: "i" samples, "c" centres


def points(features: Tensor, labels: Tensor, modality: Tensor) -> Points:
    """All similarities that the relations of S2 section 3.2 need, from one product of features (..., N, D).

    A centre is a mean of rows, so its dot products are means of theirs: only the (N, N) products ever see D numbers.
    Raises: ValueError naming an identity that lacks a modality or is alone.
    """
    first = features if features.ndim == 2 else features[0]
    member, identities, _ = members(first, labels, modality, least=2)
    order, n, p = modality.argsort(stable=True), len(labels), len(identities)
    visible = int((modality == 0).sum())
    mean = (member.to(features.dtype) / member.sum(2, keepdim=True)).flatten(0, 1)  # (2P, N)
    rows = torch.eye(n, dtype=features.dtype, device=features.device)[to_device_of(order, features)]
    mix = torch.cat([rows, mean])  # (M, N)
    cosine = cosine_of(mix @ gram(features / magnitude(features)) @ mix.mT)
    of = {"i": (slice(0, visible), slice(visible, n)), "c": (slice(n, n + p), slice(n + p, n + 2 * p))}
    return Points(cosine, torch.cat([labels[order], identities, identities]), of)


def directions(batch: Points, relation: Relation) -> Iterator[tuple[Tensor, Tensor]]:
    """Similarity (..., A, B) and positives (A, B) of an S2 relation, visible anchors first, then thermal ones.

    i2i: samples and the other modality's samples; c2i: centres and samples; c2c: centres and centres, S2 Eq. 2-4.
    Raises: ValueError naming another relation.
    """
    check_choice("relation", relation, Relation)
    for m in (0, 1):
        a, b = batch.of[relation[0]][m], batch.of[relation[2]][1 - m]
        yield batch.cosine[..., a, b], to_device_of(batch.labels[a, None] == batch.labels[b], batch.cosine)


@loss(alpha=SCALE, beta=SCALE)
def multi_similarity(
    features: Tensor,
    labels: Tensor,
    modality: Tensor,
    *,
    mining: Mining = "ms",
    alpha: float = 2.0,
    beta: float = 50.0,
    threshold: float = 0.5,
    mining_margin: float = 0.1,
    cross_modality: bool = True,
) -> Tensor:
    """Multi-similarity loss on cosine similarities, S2 Eq. 6-7, by default over pairs across modalities.

    Source: Wang et al. 2019, CVPR, whose values the defaults are. open: S2 does not say whether its MS loss pairs
    within a modality too (cross_modality=False is the MS paper's own form).

    Args: features (N, D), any scale; labels, modality (N,); mining: "ms", "awl" or "none"; alpha, beta: lambda_p and
        lambda_n of Eq. 7; threshold: lambda; mining_margin: m, in similarity; cross_modality: anchors of one modality,
        candidates of the other, both directions averaged; else every other sample is a candidate.
    Returns: () mean over the anchors with a kept pair.
    Raises: ValueError naming an identity that lacks a modality (cross_modality) or is alone, or an unknown mining.
    """
    matrices = pair_matrices(features, labels, modality, cross_modality)
    values = []
    for similarity, positive, negative in matrices:
        kept, above = mine_pairs(similarity, positive, negative, mining, mining_margin), similarity - threshold
        values.append(over_anchors(-alpha * above, beta * above, kept, (alpha, beta)))
    return torch.stack(values).mean()


def pair_matrices(
    features: Tensor, labels: Tensor, modality: Tensor, cross_modality: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Similarity, positives and negatives (A, B) of multi_similarity(): both directions, or the one pool."""
    if cross_modality:
        pairs = directions(points(features, labels, modality), "i2i")
        return [(similarity, positive, ~positive) for similarity, positive in pairs]
    same = labels[:, None] == labels
    if same.all():
        raise ValueError(f"identity {labels[0].item()} is alone in the batch: the loss needs a second identity")
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive, negative = to_device_of(same & ~itself, features), to_device_of(~same, features)
    return [(cosine_of(gram(features / magnitude(features))), positive, negative)]


@loss()
def adaptive_weighting(
    features: Tensor,
    labels: Tensor,
    modality: Tensor,
    *,
    relation: Relation = "i2i",
    mining: Mining = "awl",
    weighting: bool = True,
    detach_weights: bool = True,
    mining_margin: float = 0.2,
    threshold: float = 0.5,
) -> Tensor:
    """Adaptive weighting loss (AWL) of one relation across modalities, S2 Eq. 8-11, on cosine similarities.

    Each direction (visible anchors, thermal anchors) is a mean over its anchors with a kept pair; both are averaged.
    open: centres are means of the features as given; the weights are constants for the gradient.

    Args: features (N, D), any scale; labels, modality (N,); relation: "i2i", "c2i" or "c2c", samples and centres;
        mining: "awl" (Eq. 8-9), "ms" (Eq. 6) or "none"; weighting: Eq. 10, else its values at similarity 0.5;
        detach_weights: no gradient through the weights; mining_margin: m, and threshold: lambda, in similarity.
    Returns: () without unit.
    Raises: ValueError naming an identity that lacks a modality or is alone, an unknown relation or mining.
    """
    batch = points(features, labels, modality)
    return adaptive(batch, relation, mining, weighting, detach_weights, mining_margin, threshold)


def adaptive(
    batch: Points,
    relation: Relation,
    mining: Mining,
    weighting: bool,
    detach_weights: bool,
    mining_margin: float,
    threshold: float,
) -> Tensor:
    """adaptive_weighting() of the points of features (..., N, D) -> (...): all stripes at once."""
    values = []
    for similarity, positive in directions(batch, relation):
        kept, above = mine_pairs(similarity, positive, ~positive, mining, mining_margin), similarity - threshold
        known = similarity.detach() if detach_weights else similarity
        pull, push = pair_weights(known if weighting else torch.full_like(similarity, 0.5))
        values.append(over_anchors(-pull * above, push * above, kept, (1, 1)))
    return (values[0] + values[1]) / 2


@loss(alpha=WEIGHT, beta=WEIGHT, omega=WEIGHT)
def multi_constraint(
    features: Tensor,
    labels: Tensor,
    modality: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 1.0,
    omega: float = 0.2,
    local: Tensor | None = None,
    mining: Mining = "awl",
    weighting: bool = True,
    detach_weights: bool = True,
    mining_margin: float = 0.2,
    threshold: float = 0.5,
) -> Tensor:
    """Multi-constraint loss (MC), S2 Eq. 5: alpha * I2I + beta * C2I + omega * C2C, each an adaptive_weighting().

    With the features of stripes, C2C acts on these (mean over stripes) and I2I and C2I on the whole, S2 section 3.2.

    Args: features (N, D), any scale; labels, modality (N,); alpha, beta, omega: weights, 0 leaves a term out;
        local: (N, S, d) stripe features; the others as in adaptive_weighting().
    Returns: () without unit.
    Raises: ValueError as adaptive_weighting().
    """
    whole = points(features, labels, modality)
    parts = whole if local is None or not omega else points(local.transpose(0, 1), labels, modality)
    options = (mining, weighting, detach_weights, mining_margin, threshold)
    terms = zip((alpha, beta, omega), ("i2i", "c2i", "c2c"), (whole, whole, parts), strict=True)
    zero = 0 * whole.cosine.sum()  # a graph, even if every weight is 0
    return zero + sum(w * adaptive(batch, relation, *options).mean() for w, relation, batch in terms if w)
