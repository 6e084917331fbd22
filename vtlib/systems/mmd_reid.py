"""MMD-ReID (Jambigi et al. 2021, BMVC): the discrepancy of a person's features in the two modalities."""

import torch
from torch import Tensor

from ..losses import geometry as g
from ..losses.contract import Range, loss


@loss(kernels=Range(1, 100))
def margin_mmd(features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 1.4, kernels: int = 5) -> Tensor:
    """Margin MMD-ID: maximum mean discrepancy of each identity's visible and thermal features, where above a margin.
    MMD^2 = mean k(v, v') + mean k(t, t') - 2 mean k(v, t); k is a sum of exp(-distance^2 / (b * 2^(i - kernels // 2)))
    and b the mean squared distance of the identity's samples, a constant for the gradient.
    Source: Jambigi et al. 2021, BMVC, arXiv 2111.05059. As in their code the whole value counts above the margin, not
    its excess: both have the same gradient. Weight 0.25 and margin 1.4 are theirs.
    Args: features, labels, modality: a batch; margin: of MMD^2, which has no unit; kernels: number of Gaussians.
    Returns: () mean over identities. Raises: ValueError naming an identity that lacks a modality.
    """
    member, _, index = g.members(features, labels, modality)
    features, member = features / g.magnitude(features), member.to(features.dtype)  # MMD^2 has no unit
    square, own = g.squared_distance(features, features), member.sum(0)  # (N, N), (P, N)
    count = own.sum(1)
    bandwidth = ((own @ square.detach()) * own).sum(1) / (count * (count - 1))  # (P,)
    spread = bandwidth > 0  # else all rows coincide, and what is left of MMD^2 is rounding
    bandwidth = torch.where(spread, bandwidth, 1)[index, None]  # (N, 1) of each row's identity
    kernel = sum((-square / (bandwidth * 2.0 ** (i - kernels // 2))).exp() for i in range(kernels))
    sign = torch.sub(*member / member.sum(2, keepdim=True))  # (P, N) weights of the rows, visible less thermal
    mmd = ((sign @ kernel) * sign).sum(1)
    return (mmd * (spread & (mmd > margin))).mean()
