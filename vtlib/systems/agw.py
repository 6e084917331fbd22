"""AGW (Ye et al. 2021, TPAMI): non-local blocks and the weighted regularised triplet loss, also as CAJ has it."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.contract import SCALE, loss
from ..losses.geometry import pairwise_distance, to_device_of
from .stages import channels


@loss(gamma=SCALE, clamp=SCALE)
def weighted_regularised_triplet(
    features: Tensor, labels: Tensor, modality: Tensor, *, include_anchor: bool = False, squared: bool = False,
    gamma: float = 1.0, clamp: float = 88.0, source: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Weighted regularised triplet loss: mean over anchors of log(1 + exp(p - n)); it has no margin.
    p is the mean distance of the anchor's positives weighted by softmax(d), n that of its negatives by softmax(-d); the
    weights have a gradient too. squared, of CAJ (Ye et al. 2021, ICCV): log(1 + exp(s q)), where q is gamma (p - n)^2,
    at most `clamp`, and s the sign of p - n. differs: public code adds 1e-6 to each sum of exp(-d), which at distances
    above 14 lets the loss pull negatives nearer, and counts the anchor as its own positive, as include_anchor does.
    Args: features, labels, modality: a batch, not normalised, in one pool; source: unread, but as it is asked for,
    images
        of a view are in the pool too.
    Returns: () in nats. Raises: ValueError naming an identity that is alone, or has one image.
    """
    dist, same = pairwise_distance(features, features), labels[:, None] == labels  # (N, N)
    positive = same if include_anchor else same & ~torch.eye(len(labels), dtype=torch.bool)
    if (lonely := ~positive.any(1)).any():
        raise ValueError(f"identity {labels[lonely][0].item()} has one image in the batch: a triplet needs two")
    if same.all():
        raise ValueError(f"identity {labels[0].item()} is alone in the batch: a triplet needs a second identity")
    near = (dist.masked_fill(to_device_of(~positive, dist), -torch.inf).softmax(1) * dist).sum(1)
    far = ((-dist).masked_fill(to_device_of(same, dist), -torch.inf).softmax(1) * dist).sum(1)
    gap = near - far
    if squared:
        gap = gap.sign() * (gamma * gap.square()).clamp(max=clamp)
    return F.softplus(gap).mean()


class NonLocal(nn.Module):
    """Non-local block in dot-product form: x + BN(W y), y_i = 1/N sum_j (theta_i . phi_j) g_j over the N places.
    The scale of BN starts at 0, so that the block starts as the identity. There is no softmax, so phi g is summed first
    and no N x N matrix is built. Source: Wang et al. 2018, CVPR, as AGW has it.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(channels, width, 1) for _ in range(3))
        self.back, self.norm = nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        theta, phi, g = (conv(x).flatten(2) for conv in (self.theta, self.phi, self.g))  # (B, width, N)
        mixed = (g @ phi.mT / phi.shape[2]) @ theta
        return x + self.norm(self.back(mixed.unflatten(2, x.shape[2:])))


def non_local(stages: list[list[nn.Module]], *, width: Literal["half", "one"] = "half") -> None:
    """Put non-local blocks behind the last two blocks of stage 2 and the last three of stage 3, as far as there are.
    Args: width: of theta, phi and g: half the channels, as the paper has it, or one, as public code computes it.
    """
    for stage, count in ((2, 2), (3, 3)):
        blocks, size = list(stages[stage][0]), channels(stages[stage])
        made = [NonLocal(size, max(1, size // 2) if width == "half" else 1) for _ in blocks[-count:]]
        behind = [module for pair in zip(blocks[-count:], made, strict=True) for module in pair]
        stages[stage][0] = nn.Sequential(*blocks[:-count], *behind)
