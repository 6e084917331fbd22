"""BDTR (Ye et al. 2018, IJCAI), and TONE, the first stage of HCML (Ye et al. 2018, AAAI): losses of pairs."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import geometry as g
from ..losses.contract import WEIGHT, loss
from .groups import share


@loss(intra_weight=WEIGHT)
def bidirectional_ranking(
    features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.5, intra_margin: float = 0.1,
    intra_weight: float = 0.1,
) -> Tensor:  # fmt: skip
    """Bi-directional dual-constrained top-ranking loss on features of length 1.
    Each image, with p its furthest match and n its nearest other person in the other modality: [margin + d(p) - d(n)]_+
    + intra_weight [intra_margin - d(p, n)]_+, where the last two are of one modality. Means over the visible and over
    the thermal anchors are added. open: several images of a person: the paper has one in each modality.
    Args: features, labels, modality: a batch; margins in units of d, which is 0 to 2.
    Returns: (). Raises: ValueError naming an identity that lacks a modality or is alone.
    """
    g.members(features, labels, modality, least=2)  # only for its errors
    dist = g.pairwise_distance(x := g.unit(features), x)
    same, across = labels[:, None] == labels, modality[:, None] != modality
    near, p = dist.masked_fill(g.to_device_of(~(same & across), dist), -torch.inf).max(1)
    far, n = dist.masked_fill(g.to_device_of(same | ~across, dist), torch.inf).min(1)
    value = F.relu(margin + near - far) + intra_weight * F.relu(intra_margin - dist[p, n])
    return (value * share(modality, value)).sum()


@loss()
def contrastive(features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.5) -> Tensor:
    """Contrastive loss of TONE: a quarter of the mean of d^2 over pairs of a person plus that of [margin - d]_+^2.
    The pairs are a visible and a thermal image, of length 1. TONE draws as many pairs of each kind and halves the mean.
    open: all pairs of a batch count. differs: public code normalises each column over the batch, not each row.
    Args: features, labels, modality: a batch; margin: in units of d, which is 0 to 2.
    Returns: (). Raises: ValueError naming an identity that lacks a modality or is alone.
    """
    g.members(features, labels, modality, least=2)  # only for its errors
    dist = g.pairwise_distance(x := g.unit(features), x)
    same, across = labels[:, None] == labels, modality[:, None] != modality
    pairs = torch.stack([same & across, ~same & across])
    weight = g.to_device_of(pairs / pairs.sum((1, 2), keepdim=True).to(dist.dtype), dist)
    return (torch.stack([dist.square(), F.relu(margin - dist).square()]) * weight).sum() / 4
