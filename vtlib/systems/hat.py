"""HAT (Ye, Shen and Shao 2020, TIFS): a grey copy of each visible image, and triplets over three modalities."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import geometry as g
from ..losses.contract import WEIGHT, at_least_single, loss, no_autocast
from .colours import grey
from .groups import furthest_and_nearest, share
from .xiv import views


class Grey(nn.Module):
    """View: the brightness of each visible pixel, 0.299 R + 0.587 G + 0.114 B of its stored values, in all channels."""

    own_crop, numbers = False, 0

    def __init__(self):
        super().__init__()
        mix, shift = grey()
        self.register_buffer("mix", mix[:, :, None, None], persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(
        self, images: Tensor, labels: Tensor, modality: Tensor, numbers: Tensor, second: None
    ) -> tuple[Tensor, Tensor]:
        """images (b, 3, H, W), modality (b,) -> the same and behind them a grey copy of each visible one."""
        visible = images[g.to_device_of((modality == 0).nonzero()[:, 0], images)]
        with no_autocast(images.device.type):
            copies = F.conv2d(at_least_single(visible), self.mix, self.shift)
        return torch.cat([images, copies.to(images.dtype)]), torch.cat([modality, modality[modality == 0]])


@loss()
def homogeneous_invariance(features: Tensor, labels: Tensor, modality: Tensor, *, source: Tensor) -> Tensor:
    """Smooth L1 distance of the features of a grey image and of the image that it was made of, mean over coordinates.
    Args: features, labels, modality: a batch; source: of systems/__init__.py. Returns: ().
    Raises: ValueError where the batch has no view.
    """
    views(modality, source)
    made = (source >= 0).nonzero()[:, 0]
    rows = [features[g.to_device_of(index, features)] for index in (made, source[made])]
    return F.smooth_l1_loss(*rows)


@loss(regulariser=WEIGHT)
def tri_directional(
    features: Tensor, labels: Tensor, modality: Tensor, *, source: Tensor, margin: float = 0.3, weighting: bool = True,
    regulariser: float = 0.1,
) -> Tensor:  # fmt: skip
    """Weighted tri-directional ranking loss: each triplet has an anchor, a positive and a negative of three modalities.
    Anchors visible, thermal and grey take the furthest positive from thermal, grey and visible, and the nearest
    negative from grey, visible and thermal images: l = [margin + d(positive) - d(negative)]_+. The loss
    is 3 sum_k w_k l_k, where w is the softmax of all l, a constant for the gradient; without weighting it is the sum of
    the three means of l. regulariser times the sum of the three means of d(positive) is added.
    Source: two summaries of the paper. open: the third direction, and the weight of the regulariser.
    Args: features, labels, modality: a batch, not normalised; source: of systems/__init__.py; margin: in the unit of d.
    Returns: () in the unit of d. Raises: ValueError naming an identity that lacks one of the three, or is alone.
    """
    view = views(modality, source)
    same = labels[:, None] == labels
    after = (view - view[:, None]) % 3  # 1: of the next of the three modalities, 2: of the one behind it
    near, far = furthest_and_nearest(features, same & (after == 1), ~same & (after == 2), labels)
    hinge, each = F.relu(margin + near - far), share(view, features)
    weight = 3 * hinge.detach().softmax(0) if weighting else each
    return (weight * hinge).sum() + regulariser * (each * near).sum()
