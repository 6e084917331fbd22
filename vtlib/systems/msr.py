"""MSR (Feng, Lai and Xie 2019, TIP), in the spirit of: a network for each modality, and what ties the two together."""

import torch
from torch import Tensor, nn

from ..losses import geometry as g
from ..losses.contract import at_least_single, loss
from ..model import Output
from .groups import triplet_within


class ModalityHeads(nn.Module):
    """Head: for each modality a linear map of its own with BN, then a classifier of its own and one that both share.

    Two images are then compared as U_v f_v and U_t f_t: a metric that each modality learns. The logits are (B, 2, C),
    shared and own: the term `id` adds the mean cross-entropies of both. That of the own ones is a mean over all images,
    half the sum of the two modalities' means where these have as many images.
    Source: the abstract, which names five parts; the view classifier is left out. open: all equations.
    """

    fast = True

    def __init__(self, channels: int, num_classes: int, pool: nn.Module, *, width: int = 512):
        super().__init__()
        self.pool = pool
        self.maps = nn.ModuleList(nn.Linear(channels, width, bias=False) for _ in range(2))  # visible, thermal
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))
        self.classifier, *own = (nn.Linear(width, num_classes, bias=False) for _ in range(3))
        self.own = nn.ModuleList(own)
        for layer in (self.classifier, *own):
            nn.init.normal_(layer.weight, std=0.001)
        self.widths, self.dim = [width], width

    def forward(self, maps: Tensor, modality: Tensor) -> Output:
        """maps (B, C, h, w), modality (B,) -> Output with features (B, width)."""
        pooled = at_least_single(self.pool(maps))
        rows = [(modality == m).nonzero()[:, 0] for m in (0, 1)]
        back = g.to_device_of(torch.cat(rows).argsort(), pooled)
        features, logits = [], []
        for index, to, norm, own in zip(rows, self.maps, self.norms, self.own, strict=True):
            if len(index):
                features.append(norm(to(pooled[g.to_device_of(index, pooled)])))
                logits.append(own(features[-1]))
        x = torch.cat(features)[back]
        return Output((x,), (None,), x, torch.stack([self.classifier(x), torch.cat(logits)[back]], 1))


@loss()
def euclidean_constraint(features: Tensor, labels: Tensor, modality: Tensor, *, of_centres: bool = False) -> Tensor:
    """Half the mean squared distance of a person's visible and thermal images, over all such pairs, or of_centres.
    Source: the abstract's Euclidean constraint. open: its form.
    Args: features, labels, modality: a batch, not normalised.
    Returns: () in the unit of d^2. Raises: ValueError naming an identity that lacks a modality.
    """
    member = g.members(features, labels, modality)[0]
    if of_centres:
        a, b = g.centres(features, member)
        return (a - b).square().sum(1).mean() / 2
    scale = g.magnitude(features)
    square = g.squared_distance(x := features / scale, x) * scale.square()
    pairs = (labels[:, None] == labels) & (modality[:, None] != modality)
    return (square * g.to_device_of(pairs / pairs.sum().to(square.dtype), square)).sum() / 2


@loss()
def within_modality_triplet(features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3) -> Tensor:
    """Batch-hard triplet loss inside each modality; the mean over visible anchors plus that over thermal ones.
    Args: features, labels, modality: a batch, not normalised; margin: in the unit of d.
    Returns: () in the unit of d. Raises: ValueError naming an identity that has one image in a modality, or is alone.
    """
    return triplet_within(features, labels, modality, margin)
