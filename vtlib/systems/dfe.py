"""DFE (Hao et al. 2019, ACM MM), in the spirit of: two losses that align the stripes of the two modalities."""

from typing import Literal

import torch
from torch import Tensor

from ..losses import geometry as g
from ..losses.contract import Range, loss


@loss(kernels=Range(1, 100))
def distribution_alignment(
    features: Tensor, labels: Tensor, modality: Tensor, *, local: Tensor, kernels: int = 5
) -> Tensor:
    """Maximum mean discrepancy of all visible and all thermal images: mean k(v, v') + mean k(t, t') - 2 mean k(v, t).
    k is the sum of exp(-distance^2 / (b 2^(i - kernels // 2))), b the mean squared distance of different images, a
    constant for the gradient. Source: the abstract names a distribution loss. open: its form.
    Args: features: unused; labels, modality; local (N, S, d): stripes. Returns: () mean over stripes, without unit.
    Raises: ValueError naming an identity that lacks a modality.
    """
    g.members(features, labels, modality)  # only for its errors
    x = local.transpose(0, 1) / g.magnitude(local)  # (S, N, d)
    square, n = g.squared_distance(x, x), len(labels)
    width = square.detach().sum((1, 2), keepdim=True) / (n * (n - 1))
    width = width.masked_fill(width == 0, 1)
    kernel = sum((-square / (width * 2.0 ** (i - kernels // 2))).exp() for i in range(kernels))
    sign = g.to_device_of((1 - 2 * modality) / torch.bincount(modality).to(local.dtype)[modality], local)
    return (sign @ kernel @ sign).mean()


@loss()
def correlation_alignment(
    features: Tensor, labels: Tensor, modality: Tensor, *, local: Tensor, form: Literal["coral", "pearson"] = "coral"
) -> Tensor:
    """How the correlations of the stripes' coordinates differ between the modalities, mean over stripes.
    coral: |C_v - C_t|^2 / (4 d^2) of the covariances of a stripe over visible and over thermal images (Sun and Saenko
    2016, Deep CORAL). pearson: the mean over coordinates of 1 - their correlation, over identities, between visible and
    thermal centres. Source: the abstract names a correlation loss. open: its form.
    Args: features: unused; labels, modality; local (N, S, d): stripes.
    Returns: (). Raises: ValueError naming an identity that lacks a modality; for a modality of one image.
    """
    member = g.members(features, labels, modality, least=2)[0]
    x = local.transpose(0, 1)  # (S, N, d)
    if form == "pearson":
        centre = g.centres(x / g.magnitude(x), member)  # (S, 2, P, d)
        moved = centre - centre.mean(2, keepdim=True)
        square = moved.square().sum(2)  # (S, 2, d)
        a, b = (moved / square.masked_fill(square == 0, 1).sqrt().unsqueeze(2)).unbind(1)
        return (1 - (a * b).sum(1)).mean()  # 1 for a coordinate that is constant in a modality
    if (few := torch.bincount(modality, minlength=2) < 2).any():
        raise ValueError(f"the batch has one {('visible', 'thermal')[int(few[1])]} image: a covariance needs two")
    weight = member.sum(1).to(x.dtype)  # (2, N)
    count = weight.sum(1)[:, None, None]
    mean = (weight @ x).unsqueeze(2) / count  # (S, 2, 1, d)
    centred = (x[:, None] - mean) * weight[..., None]
    covariance = centred.mT @ centred / (count - 1)  # (S, 2, d, d)
    return (covariance[:, 0] - covariance[:, 1]).square().sum((1, 2)).mean() / (4 * x.shape[2] ** 2)
