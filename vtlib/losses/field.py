"""Losses of the field: identity, batch-hard triplet, hetero-centre, HC-Tri, centre metric, margin MMD."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .contract import FRACTION, WEIGHT, Range, loss
from .geometry import (
    centres,
    length,
    magnitude,
    members,
    nearest_other_centre,
    pairwise_distance,
    squared_distance,
    to_device_of,
)


@loss(dims=(2, 3), smoothing=FRACTION)
def identity(logits: Tensor, labels: Tensor, modality: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with label smoothing, S1 Eq. 5: q = 1 - (C-1)/C * zeta on the true class, zeta/C elsewhere.

    Args: logits (N, C), or (N, S, C) of S classifiers; labels (N,) in 0..C-1; modality (N,), unused; smoothing: zeta
        in [0, 1].
    Returns: () mean over the batch of the sum over the classifiers, in nats.
    Raises: ValueError if a label is no class.
    """
    logits = logits.unflatten(1, (-1, logits.shape[-1])) if logits.ndim == 2 else logits  # (N, S, C)
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise ValueError(
            f"labels are {labels.min().item()} to {labels.max().item()}: with {logits.shape[-1]} classes they must be "
            f"0 to {logits.shape[-1] - 1}"
        )
    each = to_device_of(labels, logits)[:, None].expand(logits.shape[:2])
    return F.cross_entropy(logits.mT, each, label_smoothing=smoothing) * logits.shape[1]


@loss()
def batch_hard_triplet(
    features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3, cross_modality: bool = False
) -> Tensor:
    """Batch-hard triplet loss: [margin + furthest positive - nearest negative]_+, both modalities in one pool.

    Source: Hermans et al. 2017, arXiv 1703.07737, Eq. 5; the metric part of the field's base recipe (S1's baseline).
    Args: features (N, D), not normalised; labels (N,); modality (N,); margin in feature-distance units;
        cross_modality: an anchor's positives and negatives are those of the other modality alone.
    Returns: () mean over the N anchors.
    Raises: ValueError naming an identity with one image (cross_modality: one modality), or if there is one identity.
    """
    near, far = hardest(features, labels, modality, cross_modality)
    return F.relu(margin + near - far).mean()


def hardest(features: Tensor, labels: Tensor, modality: Tensor, cross_modality: bool) -> tuple[Tensor, Tensor]:
    """Distances (N,) of each anchor of batch_hard_triplet() to its furthest positive and its nearest negative."""
    dist = pairwise_distance(features, features)  # (N, N)
    same = labels[:, None] == labels
    if cross_modality:
        members(features, labels, modality, least=2)
        candidate = modality[:, None] != modality
    else:
        candidate = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive, negative = same & candidate, ~same & candidate
    if (lonely := ~positive.any(1)).any():
        raise ValueError(f"identity {labels[lonely][0].item()} has one image in the batch: a triplet needs two")
    if same.all():
        raise ValueError(f"identity {labels[0].item()} is alone in the batch: a triplet needs a second identity")
    hardest_positive = dist.masked_fill(to_device_of(~positive, dist), -torch.inf).amax(1)
    hardest_negative = dist.masked_fill(to_device_of(~negative, dist), torch.inf).amin(1)
    return hardest_positive, hardest_negative


@loss()
def hetero_center(features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.0) -> Tensor:
    """Hetero-centre loss: [ ||c_i^v - c_i^t||^2 - margin ]_+ pulls the two centres of every identity together.

    Source: Zhu et al. 2020, Neurocomputing, arXiv 1910.09830; the margin is that of their public code (0.1 or more).
    differs: the mean over identities instead of their sum, so that a weight does not depend on P.
    Args: features (N, D); labels, modality (N,); margin in squared feature units. Returns: () in squared feature units.
    Raises: ValueError naming an identity that lacks a modality.
    """
    centre = centres(features, members(features, labels, modality)[0])  # (2, P, D)
    return F.relu((centre[0] - centre[1]).square().sum(1) - margin).mean()


@loss(local_weight=WEIGHT)
def hetero_center_triplet(
    features: Tensor,
    labels: Tensor,
    modality: Tensor,
    *,
    margin: float = 0.3,
    local: Tensor | None = None,
    local_weight: float = 1.0,
    over_stripes: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Hetero-centre triplet loss (HC-Tri): a triplet loss over the 2P centres instead of the samples.

    For each centre: [margin + d(the other modality's centre of its identity) - d(the nearest centre of another)]_+.
    Source: Liu and Tan 2020, arXiv 2008.06223. open: the mean over the 2P centres, as in public code, not their sum.

    Args: features (N, D), not normalised; labels, modality (N,); margin in feature-distance units; local: (N, S, d)
        stripe features, whose losses are added with local_weight (their code: 1 SYSU-MM01, 2 RegDB); over_stripes:
        "sum" as in their code, or "mean".
    Returns: () in feature-distance units.
    Raises: ValueError naming an identity that lacks a modality, or if there is one identity only.
    """

    def over_centres(x: Tensor) -> Tensor:  # (..., N, D) -> (...)
        near, far = centre_distances(x, labels, modality)
        return F.relu(margin + near - far).mean(-1)

    whole = over_centres(features)
    if local is None:
        return whole
    parts = over_centres(local.transpose(0, 1))  # (S,)
    return whole + local_weight * (parts.mean() if over_stripes == "mean" else parts.sum())


def centre_distances(features: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of the 2P centres of features (..., N, D), the distance to the same identity's other centre, and to the
    nearest centre of another, (..., 2P)."""
    first = features if features.ndim == 2 else features[0]
    member, identities, _ = members(first, labels, modality, least=2)
    own = torch.eye(len(identities), dtype=torch.bool, device=features.device).repeat(2, 2)  # (2P, 2P)
    centre = centres(features, member).flatten(-3, -2)  # (..., 2P, D)
    dist = pairwise_distance(centre, centre)
    across = dist.diagonal(len(identities), -2, -1)  # (..., P), visible to thermal
    return torch.cat([across, across], -1), dist.masked_fill(own, torch.inf).amin(-1)


@loss(instance_weight=WEIGHT)
def center_metric(
    features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3, instance_weight: float = 1.0
) -> Tensor:
    """Centre-guided metric loss, in the spirit of CML (Ling et al. 2020, ACM MM): their exact terms are not public.

    Of identity i: [ d(c_i^v, c_i^t) - min_{j != i, m, m'} d(c_i^m, c_j^m') + margin ]_+, and of sample x: d(x, c_own).
    open: the form of both terms, their means over identities and samples, and the equal weight.

    Args: features (N, D), not normalised; labels, modality (N,); margin in feature-distance units; instance_weight: of
        the distance of a sample to the centre of its own identity and modality.
    Returns: () in feature-distance units.
    Raises: ValueError naming an identity that lacks a modality, or if there is one identity only.
    """
    member, _, index = members(features, labels, modality, least=2)
    centre = centres(features, member)  # (2, P, D)
    across = length(centre[0] - centre[1])  # (P,)
    own = centre[to_device_of(modality.long(), features), index]  # (N, D)
    inside = length(features - own)  # (N,)
    gap = F.relu(across - nearest_other_centre(centre) + margin)
    return gap.mean() + instance_weight * inside.mean()


@loss(kernels=Range(1, 100))
def margin_mmd(features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 1.4, kernels: int = 5) -> Tensor:
    """Margin MMD-ID: maximum mean discrepancy of each identity's visible and thermal features, where above a margin.

    MMD^2 = mean k(v, v') + mean k(t, t') - 2 mean k(v, t); k is a sum of exp(-distance^2 / (b * 2^(i - kernels // 2)))
    and b the mean squared distance of the identity's samples, a constant for the gradient.
    Source: Jambigi et al. 2021, BMVC, arXiv 2111.05059. As in their code the whole value counts above the margin, not
    its excess: both have the same gradient. Weight 0.25 and margin 1.4 are theirs.

    Args: features (N, D); labels, modality (N,); margin: of MMD^2, which is without unit; kernels: number of Gaussians.
    Returns: () mean over identities.
    Raises: ValueError naming an identity that lacks a modality.
    """
    member, _, index = members(features, labels, modality)
    features = features / magnitude(features)  # MMD^2 has no unit
    member = member.to(features.dtype)  # (2, P, N)
    square, mine = squared_distance(features, features), member.sum(0)  # (N, N), (P, N)
    count = mine.sum(1)
    bandwidth = ((mine @ square.detach()) * mine).sum(1) / (count * (count - 1))  # (P,)
    spread = bandwidth > 0  # else all rows coincide, and what is left of MMD^2 is rounding
    bandwidth = torch.where(spread, bandwidth, 1)[index, None]  # (N, 1) of each row's identity
    kernel = sum((-square / (bandwidth * 2.0 ** (i - kernels // 2))).exp() for i in range(kernels))
    sign = member[0] / member[0].sum(1, keepdim=True) - member[1] / member[1].sum(1, keepdim=True)  # (P, N)
    mmd = ((sign @ kernel) * sign).sum(1)
    return (mmd * (spread & (mmd > margin))).mean()
