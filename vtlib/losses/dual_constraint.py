"""S1's losses: the cross-modality dual constraint (CMDC), Eq. 4, and the centre constraint, Eq. 3."""

import torch.nn.functional as F
from torch import Tensor

from .contract import loss
from .geometry import centres, members, nearest_other_centre, pairwise_distance, to_device_of


@loss()
def cmdc(features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3, hinge: bool = True) -> Tensor:
    """Cross-modality dual-constraint loss, S1 Eq. 4: an identity's samples lie nearer than any other's centre.
    For identity i: [ max_{x in i, m} d(x, c_i^m) - min_{j != i, m, m'} d(c_i^m, c_j^m') + margin ]_+, averaged over i;
    x runs over the samples of i in both modalities, so that the bound holds across modalities too.
    open: the paper prints no hinge (hinge=False is Eq. 4 to the letter), a sum over i instead of a mean, no margin.
    Args: features: before the BN neck; labels, modality; margin: in units of d; hinge: with [.]_+.
    Returns: () in the unit of d. Raises: ValueError naming an identity that lacks a modality or is alone.
    """
    upper, lower = bounds(features, labels, modality)
    gap = upper - lower + margin
    return (F.relu(gap) if hinge else gap).mean()


def bounds(features: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
    """The max and the min (P,) of cmdc() for each identity: how far its samples lie, how near another's centre."""
    member, identities, index = members(features, labels, modality, least=2)
    centre, p = centres(features, member), len(identities)  # (2, P, D)
    own = pairwise_distance(features, centre.flatten(0, 1)).view(-1, 2, p)  # (N, 2, P)
    own = own.amax(1).gather(1, index[:, None])[:, 0]  # (N,) to the further of the two own centres
    return own.new_zeros(p).scatter_reduce(0, index, own, "amax"), nearest_other_centre(centre)


@loss()
def center_constraint(features: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
    """Centre constraint, second term of S1 Eq. 3: 1/2 ||x - c||^2 to the centre of x's own identity and modality.
    open: the centre is the batch mean (a learned centre is the other reading), averaged over samples, not summed.
    Args: features, labels, modality: a batch. Returns: () in squared feature units. Raises: ValueError as members().
    """
    member, _, index = members(features, labels, modality)
    own = centres(features, member)[to_device_of(modality, features), index]  # (N, D)
    return (features - own).square().sum(1).mean() / 2
