"""XIV (Li et al. 2020, AAAI): a third modality X between the two, which two layers make of each visible image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import geometry as g
from ..losses.contract import loss
from .groups import triplet_within


class XModality(nn.Module):
    """View: each visible pixel through 1x1 convolutions of 3 -> 1 -> 3 channels with a ReLU between, learned with the
    network. All weights start at 0.333 and biases at 0, as in public code; so X is grey at first, and black where the
    sum of the normalised channels is negative.
    """

    own_crop, numbers, fast = False, 0, True

    def __init__(self):
        super().__init__()
        self.mix, self.spread = nn.Conv2d(3, 1, 1), nn.Conv2d(1, 3, 1)
        for layer in (self.mix, self.spread):
            nn.init.constant_(layer.weight, 0.333)
            nn.init.zeros_(layer.bias)

    def forward(
        self, images: Tensor, labels: Tensor, modality: Tensor, numbers: Tensor, second: None
    ) -> tuple[Tensor, Tensor]:
        """images (b, 3, H, W), modality (b,) -> the same and behind them an X for each visible one, in its stream."""
        visible = images[g.to_device_of((modality == 0).nonzero()[:, 0], images)]
        made = self.spread(F.relu(self.mix(visible)))
        return torch.cat([images, made.to(images.dtype)]), torch.cat([modality, modality[modality == 0]])


def views(modality: Tensor, source: Tensor) -> Tensor:
    """0 visible, 1 thermal, 2 an image of the view, for each row (N,). Raises: ValueError where no row is of a view."""
    if not (source >= 0).any():
        raise ValueError("the loss reads the images of a view and the batch has none: set views")
    return torch.where(source >= 0, 2, modality)


@loss()
def centre_triplet(
    features: Tensor, labels: Tensor, modality: Tensor, *, source: Tensor, margin: float = 0.5
) -> Tensor:
    """XIV's loss across modalities: cmt(thermal, visible) + cmt(thermal, X), cmt of two sets of centres a, b being
    mean_i [margin + d(a_i, b_i) - min over j != i of d(a_i, b_j) and d(a_j, b_i)]_+. Its weight in the paper is 0.1 for
    each of the four directions, of which two are equal: 0.2 here.
    differs: public code exchanges the lengths of the centres in distances between persons.
    Args: features, labels, modality: a batch, not normalised; source: of systems/__init__.py; margin: in the unit of d.
    Returns: () in the unit of d. Raises: ValueError naming an identity that lacks a modality or is alone.
    """
    view, value = views(modality, source), 0
    for other in (0, 2):
        rows = ((view == 1) | (view == other)).nonzero()[:, 0]
        some, thermal = features[g.to_device_of(rows, features)], (view[rows] == 1).long()
        a, b = g.centres(some, g.members(some, labels[rows], thermal, least=2)[0])
        dist = g.pairwise_distance(a, b)  # (P, P)
        others = dist + torch.diag(torch.full_like(dist[0], torch.inf))
        nearest = torch.minimum(others.amin(0), others.amin(1))
        value = value + F.relu(margin + dist.diagonal() - nearest).mean()
    return value


@loss()
def within_view_triplet(
    features: Tensor, labels: Tensor, modality: Tensor, *, source: Tensor, margin: float = 0.3
) -> Tensor:
    """Batch-hard triplet loss inside the visible, the thermal and the view's images, each for itself; their sum.
    Args, Returns: as centre_triplet(). Raises: ValueError naming an identity that has one image in a view or is alone.
    """
    return triplet_within(features, labels, views(modality, source), margin)
