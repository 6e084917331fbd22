"""S1's losses: the cross-modality dual constraint (CMDC), Eq. 4, and the centre constraint, Eq. 3."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .contract import loss
from .geometry import between_identities, centres, members, nearest_other_centre, pairwise_distance, to_device_of, unit
from .multi_constraint import pair_weights

Rule = Literal["hard", "awl"]


@loss()
def cmdc(
    features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3, hinge: bool = True, bound: Rule = "hard"
) -> Tensor:
    """Cross-modality dual-constraint loss, S1 Eq. 4: an identity's samples lie nearer than any other's centre.

    For identity i: [ max_{x in i, m} d(x, c_i^m) - min_{j != i, m, m'} d(c_i^m, c_j^m') + margin ]_+, averaged over i;
    x runs over the samples of i in both modalities, so that the bound holds across modalities too.
    open: the paper prints no hinge (hinge=False is Eq. 4 to the letter), a sum over i instead of a mean, no margin.
    Args: features: before the BN neck; labels, modality; margin: in units of d; hinge: with [.]_+; bound: of bounds().
    Returns: () in the unit of d. Raises: ValueError naming an identity that lacks a modality or is alone.
    """
    upper, lower = bounds(features, labels, modality, bound)
    gap = upper - lower + margin
    return (F.relu(gap) if hinge else gap).mean()


def bounds(features: Tensor, labels: Tensor, modality: Tensor, bound: Rule) -> tuple[Tensor, Tensor]:
    """The max and the min (P,) of cmdc() for each identity: how far its samples lie, how near another's centre.

    bound="awl", in no paper, replaces both by sum_k w_k d_k / sum_k w_k over the pairs k that they are taken over. The
    weights are those of S2's AWL, with the cosine S of a pair and W of S2 Eq. 10: w = W_p exp(-W_p (S - 0.5)) of a
    sample and a centre of its identity, and w = W_n exp(W_n (S - 0.5)) of the centres of two identities.
    open: AWL has the W in exponents, so a pair has the weight that it has in AWL's gradient, and as there the weight is
    a constant for the gradient. The W alone differ by a factor of 4 at most and would give nearly a plain mean.
    differs: no pairs are mined, since a pair far from the extreme has next to no weight.
    """
    member, identities, index = members(features, labels, modality, least=2)
    centre, p = centres(features, member), len(identities)  # (2, P, D)
    own = pairwise_distance(features, centre.flatten(0, 1)).view(-1, 2, p)  # (N, 2, P)
    if bound == "hard":
        own = own.amax(1).gather(1, index[:, None])[:, 0]  # (N,) to the further of the two own centres
        return own.new_zeros(p).scatter_reduce(0, index, own, "amax"), nearest_other_centre(centre)
    sample, middle = unit(features.detach()), unit(centre.detach())
    near = (sample @ middle.mT).permute(2, 1, 0).flatten(1)  # (P, 2N) cosines of centres and samples
    far = torch.einsum("mid,njd->imnj", middle, middle).flatten(1)  # (P, 4P) cosines of centres
    (pull, _), (_, push) = pair_weights(near), pair_weights(far)
    same = (index == torch.arange(p, device=index.device)[:, None]).repeat_interleave(2, 1)  # (P, 2N)
    between, other = between_identities(centre)
    upper = own.permute(2, 0, 1).flatten(1), pull.log() - pull * (near - 0.5), same
    lower = between, push.log() + push * (far - 0.5), other
    return tuple((w.masked_fill(~pairs, -torch.inf).softmax(1) * d).sum(1) for d, w, pairs in (upper, lower))


@loss()
def center_constraint(features: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
    """Centre constraint, second term of S1 Eq. 3: 1/2 ||x - c||^2 to the centre of x's own identity and modality.

    open: the centre is the batch mean (a learned centre is the other reading), averaged over samples, not summed.
    Args: features, labels, modality: a batch. Returns: () in squared feature units. Raises: ValueError as members().
    """
    member, _, index = members(features, labels, modality)
    own = centres(features, member)[to_device_of(modality, features), index]  # (N, D)
    return (features - own).square().sum(1).mean() / 2
