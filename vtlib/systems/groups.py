"""Groups of rows, such as modalities and views: means over each, added, and triplets inside each."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.geometry import pairwise_distance, to_device_of


def share(group: Tensor, features: Tensor) -> Tensor:
    """1 / the size of each row's group, (N,), as features are: a sum so weighted is the sum of the groups' means.
    Args: group (N,): whole numbers from 0, on the CPU; features: whose type and device the result has.
    """
    return to_device_of((1 / torch.bincount(group).to(features.dtype))[group], features)


def triplet_within(features: Tensor, labels: Tensor, group: Tensor, margin: float) -> Tensor:
    """Batch-hard triplet loss inside each group; the sum of the groups' means over their anchors.
    Args: features (N, D), labels (N,); group (N,): as share(); margin: in the unit of d.
    Returns: () in the unit of d. Raises: ValueError naming an identity that has one image in a group, or is alone.
    """
    same, inside = labels[:, None] == labels, group[:, None] == group
    itself = torch.eye(len(labels), dtype=torch.bool)
    near, far = furthest_and_nearest(features, same & inside & ~itself, ~same & inside, labels)
    return (F.relu(margin + near - far) * share(group, features)).sum()


def furthest_and_nearest(features: Tensor, positive: Tensor, negative: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (N,) of each row to its furthest positive and its nearest negative, by masks (N, N) on the CPU.
    Raises: ValueError naming an identity one of whose rows has none.
    """
    if (lonely := ~(positive.any(1) & negative.any(1))).any():
        name = labels[lonely][0].item()
        raise ValueError(f"identity {name} lacks an image of a modality or view, has one alone, or nobody beside it")
    dist = pairwise_distance(features, features)
    near = dist.masked_fill(to_device_of(~positive, dist), -torch.inf).amax(1)
    return near, dist.masked_fill(to_device_of(~negative, dist), torch.inf).amin(1)
