"""Means over groups of rows, added."""

import torch
from torch import Tensor

from ..losses.geometry import to_device_of


def share(group: Tensor, features: Tensor) -> Tensor:
    """1 / the size of each row's group, (N,), as features are: a sum so weighted is the sum of the groups' means.
    Args: group (N,): whole numbers from 0, on the CPU; features: whose type and device the result has.
    """
    return to_device_of((1 / torch.bincount(group).to(features.dtype))[group], features)
