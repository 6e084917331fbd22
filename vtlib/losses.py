"""Losses as pure functions with one contract: `loss(features, labels, modality, *, ...) -> scalar`.

features (N, D) float, any scale; labels (N,) integer identities, any values; modality (N,), 0 visible, 1 thermal.
Rows may come in any order and identities may have any counts. No active margin gives zero that still has a graph.
S1 = Wang et al. 2022, "Spatial Dependence and Dual-Constraint Loss", Entropy 24(4) 443.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (N, M) of the rows of a (N, D) and b (M, D); the gradient is zero where two rows coincide.

    Written as differences of squares so that it is one matrix product, of rows moved to a common centre: far from the
    origin the squares would leave no digits for their difference. What is left within their rounding is zero, and the
    root never sees it: its slope at zero is infinite and would turn a zero into NaN in the backward pass.
    """
    shift = a.detach().mean(0)
    a, b = a - shift, b - shift
    squares = a.square().sum(1, keepdim=True) + b.square().sum(1)  # (N, M)
    square = squares - 2 * a @ b.T
    apart = square > 4 * torch.finfo(square.dtype).eps * squares
    return torch.where(apart, torch.where(apart, square, 1).sqrt(), 0)


def check_batch(features: Tensor, labels: Tensor, modality: Tensor) -> None:
    """Raise ValueError unless features are (N, D) with N > 0 and labels and modality are (N,)."""
    n = len(features)
    if features.ndim != 2 or not n or labels.shape != (n,) or modality.shape != (n,):
        shapes = ", ".join(str(tuple(t.shape)) for t in (features, labels, modality))
        raise ValueError(f"features, labels, modality are {shapes}: they must be (N, D), (N,), (N,) with N > 0")


def centres(features: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean feature of every identity in each modality (S1, section 3.2: the class centre, taken over the batch).

    Returns: centres (2, P, D), visible then thermal; identities (P,) sorted; index (N,) of each row's identity.
    Raises: ValueError naming an identity that lacks a modality.
    """
    check_batch(features, labels, modality)
    identities, index = labels.unique(return_inverse=True)
    member = F.one_hot(index, len(identities)).T.to(features.dtype)  # (P, N)
    member = torch.stack([member * (modality == m) for m in (0, 1)])  # (2, P, N)
    count = member.sum(2, keepdim=True)
    if (count == 0).any():
        m, i = (count[..., 0] == 0).nonzero()[0].tolist()
        name = ("visible", "thermal")[m]
        raise ValueError(f"identity {identities[i].item()} has no {name} image in the batch: each needs both")
    return member @ features / count, identities, index


def identity(logits: Tensor, labels: Tensor, modality: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with label smoothing, S1 Eq. 5: q = 1 - (C-1)/C * zeta on the true class, zeta/C elsewhere.

    Args: logits (N, C); labels (N,) in 0..C-1; modality (N,), unused; smoothing: zeta in [0, 1].
    Returns: () mean over the batch, in nats.
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def batch_hard_triplet(features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3) -> Tensor:
    """Batch-hard triplet loss: [margin + furthest positive - nearest negative]_+, both modalities in one pool.

    Source: Hermans et al. 2017, arXiv 1703.07737, Eq. 5; the metric part of the field's base recipe (S1's baseline).
    Args: features (N, D), not normalised; labels (N,); modality (N,), unused; margin in feature-distance units.
    Returns: () mean over the N anchors.
    Raises: ValueError naming an identity with one image, or if there is one identity only.
    """
    check_batch(features, labels, modality)
    dist = pairwise_distance(features, features)  # (N, N)
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if (lonely := ~positive.any(1)).any():
        raise ValueError(f"identity {labels[lonely][0].item()} has one image in the batch: a triplet needs two")
    if same.all():
        raise ValueError(f"identity {labels[0].item()} is alone in the batch: a triplet needs a second identity")
    hardest_positive = dist.masked_fill(~positive, -torch.inf).amax(1)
    hardest_negative = dist.masked_fill(same, torch.inf).amin(1)
    return F.relu(margin + hardest_positive - hardest_negative).mean()


def cmdc(features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3, hinge: bool = True) -> Tensor:
    """Cross-modality dual-constraint loss, S1 Eq. 4: an identity's samples lie nearer than any other's centre.

    For identity i: [ max_{x in i, m} d(x, c_i^m) - min_{j != i, m, m'} d(c_i^m, c_j^m') + margin ]_+, averaged over i;
    x runs over the samples of i in both modalities, so that the bound holds across modalities too.
    open: the paper prints no hinge (hinge=False is Eq. 4 to the letter), a sum over i instead of a mean, no margin.

    Args: features (N, D) before the BN neck; labels, modality (N,); margin in feature-distance units; hinge.
    Returns: () mean over the P identities, in feature-distance units.
    Raises: ValueError naming an identity that lacks a modality, or if there is one identity only.
    """
    centre, identities, index = centres(features, labels, modality)  # (2, P, D)
    p = len(identities)
    if p < 2:
        raise ValueError(f"identity {identities[0].item()} is alone in the batch: CMDC needs a second identity")
    own = pairwise_distance(features, centre.flatten(0, 1)).view(-1, 2, p)  # (N, 2, P)
    own = own.amax(1).gather(1, index[:, None])[:, 0]  # (N,) to the further of the two own centres
    upper = own.new_zeros(p).scatter_reduce(0, index, own, "amax")  # (P,)
    between = pairwise_distance(centre.flatten(0, 1), centre.flatten(0, 1)).view(2, p, 2, p)
    other = torch.eye(p, dtype=torch.bool, device=features.device)[:, None]  # (P, 1, P)
    lower = between.masked_fill(other, torch.inf).amin((0, 2, 3))  # (P,)
    gap = upper - lower + margin
    return (F.relu(gap) if hinge else gap).mean()


def center_constraint(features: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
    """Centre constraint, second term of S1 Eq. 3: 1/2 ||x - c||^2 to the centre of x's own identity and modality.

    open: the centre is the batch mean (a learned centre is the other reading), averaged over samples, not summed.
    Args: features (N, D); labels, modality (N,). Returns: () in squared feature units.
    Raises: ValueError naming an identity that lacks a modality.
    """
    centre, _, index = centres(features, labels, modality)
    return (features - centre[modality.long(), index]).square().sum(1).mean() / 2


# name -> loss; `id` reads the classifier's logits, every other one the features that Experiment.metric_on names
LOSSES = {
    "id": identity,
    "batch_hard_triplet": batch_hard_triplet,
    "cmdc": cmdc,
    "center_constraint": center_constraint,
}
