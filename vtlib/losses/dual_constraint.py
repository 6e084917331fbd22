"""S1's losses: the cross-modality dual constraint (CMDC), Eq. 4, and the centre constraint, Eq. 3."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .contract import loss
from .geometry import (
    between_identities,
    centres,
    members,
    nearest_other_centre,
    pairwise_distance,
    to_device_of,
    unit,
)
from .multi_constraint import pair_weights

Bound = Literal["hard", "awl"]


@loss()
def cmdc(
    features: Tensor,
    labels: Tensor,
    modality: Tensor,
    *,
    margin: float = 0.3,
    hinge: bool = True,
    bound: Bound = "hard",
) -> Tensor:
    """Cross-modality dual-constraint loss, S1 Eq. 4: an identity's samples lie nearer than any other's centre.

    For identity i: [ max_{x in i, m} d(x, c_i^m) - min_{j != i, m, m'} d(c_i^m, c_j^m') + margin ]_+, averaged over i;
    x runs over the samples of i in both modalities, so that the bound holds across modalities too.
    open: the paper prints no hinge (hinge=False is Eq. 4 to the letter), a sum over i instead of a mean, no margin.
    bound="awl", in no paper, puts the weighted means of awl_bounds() in the place of max and min.

    Args: features (N, D) before the BN neck; labels, modality (N,); margin in feature-distance units; hinge; bound.
    Returns: () mean over the P identities, in feature-distance units.
    Raises: ValueError naming an identity that lacks a modality, if there is one identity only, or on another bound.
    """
    upper, lower = bounds(features, labels, modality, bound)
    gap = upper - lower + margin
    return (F.relu(gap) if hinge else gap).mean()


def bounds(features: Tensor, labels: Tensor, modality: Tensor, bound: Bound) -> tuple[Tensor, Tensor]:
    """Upper and lower bound (P,) of cmdc() for every identity: how far its samples lie, how near another's centre."""
    member, identities, index = members(features, labels, modality, least=2)
    centre, p = centres(features, member), len(identities)  # (2, P, D)
    own = pairwise_distance(features, centre.flatten(0, 1)).view(-1, 2, p)  # (N, 2, P)
    if bound == "awl":
        return awl_bounds(features, centre, own, index)
    own = own.amax(1).gather(1, index[:, None])[:, 0]  # (N,) to the further of the two own centres
    return own.new_zeros(p).scatter_reduce(0, index, own, "amax"), nearest_other_centre(centre)


def awl_bounds(features: Tensor, centre: Tensor, own: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower bound (P,) of CMDC with the weights of S2's AWL: every distance counts instead of the extreme.

    sum_k w_k d_k / sum_k w_k over the pairs that Eq. 4 of S1 takes the max or min of, with S the pair's cosine
    similarity, w = W_p exp(-W_p (S - 0.5)) of a sample and a centre of its identity, w = W_n exp(W_n (S - 0.5)) of the
    centres of two identities, W of S2 Eq. 10.
    open: in AWL the W stand in exponents, so that the weight of a pair is that in AWL's gradient; as in AWL it is a
    constant for the gradient. The W alone differ by a factor of 4 at most and would leave next to a plain mean.
    differs: no pairs are mined, since a far one has next to no weight.

    Args: features (N, D); centre (2, P, D); own (N, 2, P) distances of samples and centres; index (N,) of identities.
    """
    sample, middle = unit(features.detach()), unit(centre.detach())
    mine = (index == torch.arange(centre.shape[1], device=index.device)[:, None])[:, :, None].expand(-1, -1, 2)
    near = (sample @ middle.mT).permute(2, 1, 0).flatten(1)  # (P, 2N) cosines of samples and centres
    far = torch.einsum("mid,njd->imnj", middle, middle).flatten(1)  # (P, 4P) of centres, as between_identities()
    (pull, _), (_, push) = pair_weights(near), pair_weights(far)
    between, other = between_identities(centre)

    def mean(dist: Tensor, log_weight: Tensor, pairs: Tensor) -> Tensor:
        return (log_weight.masked_fill(~pairs, -torch.inf).softmax(1) * dist).sum(1)

    upper = mean(own.permute(2, 0, 1).flatten(1), pull.log() - pull * (near - 0.5), mine.flatten(1))
    return upper, mean(between, push.log() + push * (far - 0.5), other)


@loss()
def center_constraint(features: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
    """Centre constraint, second term of S1 Eq. 3: 1/2 ||x - c||^2 to the centre of x's own identity and modality.

    open: the centre is the batch mean (a learned centre is the other reading), averaged over samples, not summed.
    Args: features (N, D); labels, modality (N,). Returns: () in squared feature units.
    Raises: ValueError naming an identity that lacks a modality.
    """
    member, _, index = members(features, labels, modality)
    own = centres(features, member)[to_device_of(modality.long(), features), index]  # (N, D)
    return (features - own).square().sum(1).mean() / 2
