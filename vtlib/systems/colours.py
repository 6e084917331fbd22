"""Random changes of colours, in training: each image is multiplied by a matrix that mixes its three channels."""

import torch
from torch import Tensor

from ..common import MEAN, STD

KINDS = ("none", "exchange", "grey", "linear", "caj")
NUMBERS = 4  # random numbers an image that mixes() needs
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in the brightness that an eye sees (ITU-R BT.601)


def grey() -> tuple[Tensor, Tensor]:
    """Matrix (3, 3) and shift (3,) that give a normalised image, in all channels, the brightness of its pixels."""
    mean, std, luma = (torch.tensor(x, dtype=torch.float64) for x in (MEAN, STD, LUMA))
    matrix = luma * std / std[:, None]
    return matrix.float(), ((luma @ mean - mean) / std).float()


def mixes(kind: str, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """A random matrix (n, 3, 3) and shift (n, 3) for each of n normalised images: y = matrix @ x + shift.

    exchange: one of the three channels, each as likely, in the place of all. Source: Ye et al. 2021, ICCV (CAJ), for
        visible images.
    caj: an exchange with probability 3/4, grey with 1/8, else unchanged. Source: the same, for thermal images; their
        grey weighs the normalised channels. Equal channels of a thermal image change too, as their means differ.
    grey: grey with probability 1/2. Source: the recipe of DEEN, Zhang and Wang 2023, CVPR.
    linear: one mix of the channels, of weights that are positive and add up to 1, in the place of all. Source: Tan et
        al. 2024, NeurIPS (RLE), its moderate half. open: the weights are uniform on the triangle. differs: it mixes
        normalised channels, and the radical half, which scales rectangles of an image, is left out.
    Args: kind: of KINDS; numbers (n, 4): uniform in [0, 1).
    """
    n, first = len(numbers), numbers[:, 0]
    shift = torch.zeros(n, 3)
    one = torch.nn.functional.one_hot((first * 3).long().clamp(max=2), 3).float()
    same = torch.eye(3).expand(n, 3, 3)
    if kind == "none":
        return same, shift
    if kind == "exchange":
        return one[:, None].expand(n, 3, 3), shift
    if kind == "grey":
        matrix, moved = grey()
        chosen = first < 0.5
        return torch.where(chosen[:, None, None], matrix, same), torch.where(chosen[:, None], moved, shift)
    if kind == "linear":
        cuts = numbers[:, :2].sort(1).values
        row = torch.stack([cuts[:, 0], cuts[:, 1] - cuts[:, 0], 1 - cuts[:, 1]], 1)
        return row[:, None].expand(n, 3, 3), shift
    channel = torch.nn.functional.one_hot((first * 4).long().clamp(max=2), 3).float()
    last = torch.where((numbers[:, 1] < 0.5)[:, None, None], torch.tensor(LUMA).expand(3, 3), same)
    return torch.where((first >= 0.75)[:, None, None], last, channel[:, None].expand(n, 3, 3)), shift


def recolour(images: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Mix the channels of normalised images (n, 3, H, W) by matrix (n, 3, 3) and shift (n, 3), on their device."""
    matrix, shift = (x.to(images.device, images.dtype, non_blocking=True) for x in (matrix, shift))
    return torch.baddbmm(shift[:, :, None], matrix, images.flatten(2)).view(images.shape)
