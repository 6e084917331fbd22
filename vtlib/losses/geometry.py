"""Distances and cosines of rows, whatever their size; which rows are of which identity, and the identities' centres."""

from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor


def magnitude(*tensors: Tensor, dim: int | None = None) -> Tensor:
    """The power of two at or below the largest absolute value in some tensors, (); along a dimension with `dim`.
    1 for zeros, NaN where a number is not finite; a constant for the gradient. Numbers divided by it lose no digit, and
    their squares neither overflow (in float32 those of 2e19 do) nor vanish (those of 1e-23 do).
    """
    norms = [torch.linalg.vector_norm(x.detach(), inf, dim, dim is not None) for x in tensors]
    most = norms[0] if len(norms) == 1 else torch.stack(norms).amax(0)
    return (most / (2 * torch.frexp(most).mantissa)).masked_fill(most == 0, 1)


def unit(x: Tensor) -> Tensor:
    """The rows of x (..., D) at length 1; rows of zeros stay zeros, and a row that is not finite becomes NaN."""
    return F.normalize(x / magnitude(x, dim=-1), dim=-1)


def length(x: Tensor) -> Tensor:
    """Euclidean lengths (...) of the rows of x (..., D)."""
    return torch.linalg.vector_norm(x / (scale := magnitude(x)), dim=-1) * scale


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances (..., N, M) of the rows of a (..., N, D) and b (..., M, D), of magnitude() 1.
    |a - b|^2 = |a|^2 + |b|^2 - 2 ab costs one matrix product. The rows are first moved to a common centre: far from the
    origin the squares would leave no digits for their difference. One within their rounding becomes 0; NaN stays NaN.
    """
    shift = a.detach().mean(-2, keepdim=True)
    left = a - shift
    right = left if a is b else b - shift
    product = left @ right.mT
    norms = 2 * [product.diagonal(dim1=-2, dim2=-1)] if a is b else [x.square().sum(-1) for x in (left, right)]
    squares = norms[0][..., :, None] + norms[1][..., None, :]
    square = squares - 2 * product
    rounding = 32 * torch.finfo(square.dtype).eps * squares  # the largest seen was 20 eps, at D = 2,048
    return square.masked_fill(square <= rounding, 0)


def pairwise_distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (..., N, M) of the rows of a and b, of any size; all NaN if a number is not finite.
    The gradient is zero where two rows coincide: the root never sees a zero, whose infinite slope would give NaN.
    """
    scale = magnitude(a) if a is b else magnitude(a, b)
    left = a / scale
    square = squared_distance(left, left if a is b else b / scale)
    same = square == 0
    return (square.masked_fill(same, 1).sqrt() * scale).masked_fill(same, 0)


def gram(x: Tensor) -> Tensor:
    """Dot products (..., N, N) of the rows of x (..., N, D) with each other."""
    return x @ x.mT


def cosine_of(dot: Tensor) -> Tensor:
    """Cosine similarities (..., N, N) from dot products of rows of magnitude() 1; 0 with a row of zeros."""
    square = dot.diagonal(dim1=-2, dim2=-1)
    lengths = square.masked_fill(square == 0, 1).sqrt()  # the slope of the root at zero is infinite
    return dot / (lengths[..., :, None] * lengths[..., None, :])


def to_device_of(x: Tensor, features: Tensor) -> Tensor:
    """x on the device of the features (or of images); the program does not wait for the copy."""
    return x.to(features.device, non_blocking=True)


def members(features: Tensor, labels: Tensor, modality: Tensor, least: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows each identity has in each modality, visible first: mask (2, P, N), identities (P,), index (N,).
    index is the place of each row's identity in the sorted identities; these stay on the device of the labels.
    Args: features: only their device is read; labels, modality (N,) int64; least: 2 if one identity is too few.
    Raises: ValueError naming an identity that lacks a modality, or is alone where `least` is 2.
    """
    identities, index = labels.unique(return_inverse=True)
    own = index == torch.arange(len(identities), device=index.device)[:, None]  # (P, N)
    member = torch.stack([own & (modality == m) for m in (0, 1)])
    if (lacking := ~member.any(2)).any():
        m, i = lacking.nonzero()[0].tolist()
        name = ("visible", "thermal")[m]
        raise ValueError(f"identity {identities[i].item()} has no {name} image in the batch: each needs both")
    if len(identities) < least:
        raise ValueError(f"identity {identities[0].item()} is alone in the batch: the loss needs a second identity")
    return to_device_of(member, features), identities, to_device_of(index, features)


def centres(features: Tensor, member: Tensor) -> Tensor:
    """Centres (..., 2, P, D), visible first, of features (..., N, D), S1 section 3.2, S2 Eq. 1; member of members()."""
    member = member.to(features.dtype)
    return member @ features[..., None, :, :] / member.sum(2, keepdim=True)


def between_identities(centre: Tensor) -> tuple[Tensor, Tensor]:
    """Distances d(c_i^m, c_j^m') of every identity i, (2, P, D) -> (P, 4P), and a mask of those with j != i."""
    p = centre.shape[1]
    between = pairwise_distance(centre.flatten(0, 1), centre.flatten(0, 1)).view(2, p, 2, p)
    other = ~torch.eye(p, dtype=torch.bool, device=centre.device)[:, None, None].expand(p, 2, 2, p)
    return between.transpose(0, 1).flatten(1), other.flatten(1)


def nearest_other_centre(centre: Tensor) -> Tensor:
    """min over j != i, m, m' of d(c_i^m, c_j^m') for every identity i: (2, P, D) -> (P,)."""
    between, other = between_identities(centre)
    return between.masked_fill(~other, inf).amin(1)
