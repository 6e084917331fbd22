"""A loss in no paper that crosses the two: the distances of S1's CMDC with the weights of S2's adaptive weighting."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.contract import loss
from ..losses.geometry import between_identities, centres, members, pairwise_distance, unit
from ..losses.multi_constraint import pair_weights


@loss()
def adaptive_cmdc(
    features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3, hinge: bool = True
) -> Tensor:
    """CMDC (S1 Eq. 4) whose maximum and minimum are weighted means of the same distances: soft_bounds().
    Args: features: before the BN neck; labels, modality; margin: in units of d; hinge: with [.]_+.
    Returns: () in the unit of d. Raises: ValueError naming an identity that lacks a modality or is alone.
    """
    upper, lower = soft_bounds(features, labels, modality)
    gap = upper - lower + margin
    return (F.relu(gap) if hinge else gap).mean()


def soft_bounds(features: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
    """sum_k w_k d_k / sum_k w_k (P,) over the pairs k of which dual_constraint.bounds() takes the max and the min.
    The weights are those of S2's AWL, with the cosine S of a pair and W of S2 Eq. 10: w = W_p exp(-W_p (S - 0.5)) of a
    sample and a centre of its identity, and w = W_n exp(W_n (S - 0.5)) of the centres of two identities.
    open: AWL has the W in exponents, so a pair has the weight that it has in AWL's gradient, and as there the weight is
    a constant for the gradient. The W alone differ by a factor of 4 at most and would give nearly a plain mean.
    differs: no pairs are mined, since a pair far from the extreme has next to no weight.
    """
    member, identities, index = members(features, labels, modality, least=2)
    centre, p = centres(features, member), len(identities)  # (2, P, D)
    own = pairwise_distance(features, centre.flatten(0, 1)).view(-1, 2, p)  # (N, 2, P)
    sample, middle = unit(features.detach()), unit(centre.detach())
    near = (sample @ middle.mT).permute(2, 1, 0).flatten(1)  # (P, 2N) cosines of centres and samples
    far = torch.einsum("mid,njd->imnj", middle, middle).flatten(1)  # (P, 4P) cosines of centres
    (pull, _), (_, push) = pair_weights(near), pair_weights(far)
    same = (index == torch.arange(p, device=index.device)[:, None]).repeat_interleave(2, 1)  # (P, 2N)
    between, other = between_identities(centre)
    upper = own.permute(2, 0, 1).flatten(1), pull.log() - pull * (near - 0.5), same
    lower = between, push.log() + push * (far - 0.5), other
    return tuple((w.masked_fill(~pairs, -torch.inf).softmax(1) * d).sum(1) for d, w, pairs in (upper, lower))
