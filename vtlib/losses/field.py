"""Losses of the field: identity, batch-hard triplet, hetero-centre, HC-Tri, centre metric."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from . import geometry as g
from .contract import FRACTION, WEIGHT, loss


@loss(dims=(2, 3), smoothing=FRACTION)
def identity(logits: Tensor, labels: Tensor, modality: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with label smoothing, S1 Eq. 5: q = 1 - (C-1)/C * zeta on the true class, zeta/C elsewhere.
    Args: logits (N, C), or (N, S, C) of S classifiers; labels (N,), 0 to C-1; modality: unused; smoothing: zeta, 0-1.
    Returns: () mean over the batch of the sum over classifiers, in nats. Raises: ValueError if a label is no class.
    """
    logits = logits.reshape(len(logits), -1, logits.shape[-1])  # (N, S, C)
    low, high, classes = labels.min().item(), labels.max().item(), logits.shape[-1]
    if low < 0 or high >= classes:
        raise ValueError(f"labels are {low} to {high}: with {classes} classes they must be 0 to {classes - 1}")
    targets = g.to_device_of(labels, logits)[:, None].expand(logits.shape[:2])
    return F.cross_entropy(logits.mT, targets, label_smoothing=smoothing) * logits.shape[1]


@loss()
def batch_hard_triplet(
    features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3, cross_modality: bool = False
) -> Tensor:
    """Batch-hard triplet loss: [margin + furthest positive - nearest negative]_+, mean over the N samples as anchors.
    Source: Hermans et al. 2017, arXiv 1703.07737, Eq. 5; the metric part of the field's base recipe (S1's baseline).
    Args: features, labels, modality: a batch, not normalised; margin: in the unit of d; cross_modality: positives and
        negatives are those of the other modality alone; else both modalities are one pool.
    Returns: () in the unit of d. Raises: ValueError naming an identity that is alone, or has one image or modality.
    """
    near, far = hardest(features, labels, modality, cross_modality)
    return F.relu(margin + near - far).mean()


def hardest(features: Tensor, labels: Tensor, modality: Tensor, cross_modality: bool) -> tuple[Tensor, Tensor]:
    """Distances (N,) of each anchor of batch_hard_triplet() to its furthest positive and its nearest negative."""
    dist = g.pairwise_distance(features, features)  # (N, N)
    same = labels[:, None] == labels
    if cross_modality:
        g.members(features, labels, modality, least=2)  # only for its errors
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    candidate = modality[:, None] != modality if cross_modality else ~itself
    positive, negative = same & candidate, ~same & candidate
    if (lonely := ~positive.any(1)).any():
        raise ValueError(f"identity {labels[lonely][0].item()} has one image in the batch: a triplet needs two")
    if same.all():
        raise ValueError(f"identity {labels[0].item()} is alone in the batch: a triplet needs a second identity")
    furthest = dist.masked_fill(g.to_device_of(~positive, dist), -torch.inf).amax(1)
    return furthest, dist.masked_fill(g.to_device_of(~negative, dist), torch.inf).amin(1)


@loss()
def hetero_center(features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.0) -> Tensor:
    """Hetero-centre loss: [ ||c_i^v - c_i^t||^2 - margin ]_+ pulls the two centres of every identity together.
    Source: Zhu et al. 2020, Neurocomputing, arXiv 1910.09830; the margin is that of their public code (0.1 or more).
    differs: the mean over identities instead of their sum, so that a weight does not depend on P.
    Args: features, labels, modality: a batch; margin: in squared feature units.
    Returns: () in that unit. Raises: ValueError naming an identity that lacks a modality.
    """
    centre = g.centres(features, g.members(features, labels, modality)[0])  # (2, P, D)
    return F.relu((centre[0] - centre[1]).square().sum(1) - margin).mean()


@loss(local_weight=WEIGHT)
def hetero_center_triplet(
    features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3, local: Tensor | None = None,
    local_weight: float = 1.0, over_stripes: Literal["sum", "mean"] = "sum",
) -> Tensor:  # fmt: skip
    """Hetero-centre triplet loss (HC-Tri): a triplet loss over the 2P centres instead of the samples.
    For each centre: [margin + d(the other modality's centre of its identity) - d(the nearest centre of another)]_+.
    Source: Liu and Tan 2020, arXiv 2008.06223. open: the mean over the 2P centres, as in public code, not their sum.
    Args: features, labels, modality: a batch, not normalised; margin: in the unit of d; local: stripes, whose losses,
        over_stripes "sum" as in their code or "mean", are added with local_weight (their code: 1 SYSU-MM01, 2 RegDB).
    Returns: () in the unit of d. Raises: ValueError naming an identity that lacks a modality or is alone.
    """
    near, far = centre_distances(features, labels, modality)
    value = F.relu(margin + near - far).mean(-1)
    if local is None:
        return value
    near, far = centre_distances(local.transpose(0, 1), labels, modality)  # (S, 2P)
    stripes = F.relu(margin + near - far).mean(-1)
    return value + local_weight * (stripes.mean() if over_stripes == "mean" else stripes.sum())


def centre_distances(features: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (..., 2P) of each centre of features (..., N, D) to its identity's other centre, and to the nearest
    centre of another identity."""
    centre = g.centres(features, g.members(features, labels, modality, least=2)[0]).flatten(-3, -2)  # (..., 2P, D)
    dist, p = g.pairwise_distance(centre, centre), centre.shape[-2] // 2
    own = torch.eye(p, dtype=torch.bool, device=features.device).repeat(2, 2)  # (2P, 2P)
    across = dist.diagonal(p, -2, -1)  # (..., P), visible to thermal
    return torch.cat([across, across], -1), dist.masked_fill(own, torch.inf).amin(-1)


@loss(instance_weight=WEIGHT)
def center_metric(
    features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3, instance_weight: float = 1.0
) -> Tensor:
    """Centre-guided metric loss, in the spirit of CML (Ling et al. 2020, ACM MM): their exact terms are not public.
    Of identity i: [ d(c_i^v, c_i^t) - min_{j != i, m, m'} d(c_i^m, c_j^m') + margin ]_+, and of x in i, m: d(x, c_i^m).
    open: the form of both terms, their means over identities and samples, and the equal weight.
    Args: features, labels, modality: a batch, not normalised; margin: in the unit of d; instance_weight: of that d.
    Returns: () in the unit of d. Raises: ValueError naming an identity that lacks a modality or is alone.
    """
    member, _, index = g.members(features, labels, modality, least=2)
    centre = g.centres(features, member)  # (2, P, D)
    across = g.length(centre[0] - centre[1])  # (P,)
    inside = g.length(features - centre[g.to_device_of(modality, features), index])  # (N,)
    return F.relu(across - g.nearest_other_centre(centre) + margin).mean() + instance_weight * inside.mean()
