"""Distances and cosines of rows, whatever their size; which rows are of whom, and their centres."""

from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor


def power_of_two(most: Tensor) -> Tensor:
    """The power of two at or below each number (...) >= 0; 1 for 0, NaN for NaN and infinity.

    Numbers divided by it lie around 1, where their squares neither overflow (in float32 those of 2e19 do) nor vanish
    (those of 1e-23 do), and lose no digit, as only their exponents change.
    """
    return torch.where(most == 0, 1, most / (2 * torch.frexp(most).mantissa))


def magnitude(*tensors: Tensor) -> Tensor:
    """power_of_two() of the largest absolute value in some tensors, (); a constant for the gradient."""
    return power_of_two(torch.stack([torch.linalg.vector_norm(x.detach(), inf) for x in tensors]).amax())


def unit(x: Tensor) -> Tensor:
    """The rows of x (..., D) at length 1, however long they are; zeros stay, and a row that is not finite is NaN."""
    scale = power_of_two(torch.linalg.vector_norm(x.detach(), inf, dim=-1, keepdim=True))
    return F.normalize(x / scale, dim=-1)


def length(x: Tensor) -> Tensor:
    """Euclidean lengths (...) of the rows of x (..., D)."""
    scale = magnitude(x)
    return torch.linalg.vector_norm(x / scale, dim=-1) * scale


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances (..., N, M) of the rows of a (..., N, D) and b (..., M, D), of magnitude() 1.

    |a - b|^2 = |a|^2 + |b|^2 - 2 ab costs one matrix product. The rows are first moved to a common centre, since far
    from the origin the squares would leave no digits for their difference. A difference that is within the rounding of
    the squares is zero; NaN stays NaN.
    """
    shift = a.detach().mean(-2, keepdim=True)
    if a is b:
        product = gram(a - shift)
        left = right = product.diagonal(dim1=-2, dim2=-1)
    else:
        a, b = a - shift, b - shift
        product, left, right = a @ b.mT, a.square().sum(-1), b.square().sum(-1)
    squares = left[..., :, None] + right[..., None, :]
    square = squares - 2 * product
    rounding = 32 * torch.finfo(square.dtype).eps * squares  # the largest seen was 20 eps, at D = 2,048
    return torch.where(square <= rounding, 0, square)


def pairwise_distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (..., N, M) of the rows of a and b; the gradient is zero where two rows coincide.

    The root never sees a zero: its slope there is infinite and would turn a zero into NaN in the backward pass.
    Any size of numbers will do; all is NaN if one of them is not finite.
    """
    scale = magnitude(a) if a is b else magnitude(a, b)
    left = a / scale
    square = squared_distance(left, left if a is b else b / scale)
    same = square == 0
    return torch.where(same, 0, torch.where(same, 1, square).sqrt() * scale)


def gram(x: Tensor) -> Tensor:
    """Dot products (..., N, N) of the rows of x (..., N, D) with each other."""
    return x @ x.mT


def cosine_of(dot: Tensor) -> Tensor:
    """Cosine similarities (..., N, N) from dot products of rows of magnitude() 1; 0 with a row of zeros.

    A row of zeros counts as of length 1, so that the root, whose slope at zero is infinite, sees no zero.
    """
    square = dot.diagonal(dim1=-2, dim2=-1)
    lengths = torch.where(square == 0, 1, square).sqrt()
    return dot / (lengths[..., :, None] * lengths[..., None, :])


def to_device_of(x: Tensor, features: Tensor) -> Tensor:
    """x on the device of the features (or of images); the program does not wait for the copy."""
    return x.to(features.device, non_blocking=True)


def members(features: Tensor, labels: Tensor, modality: Tensor, least: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows each identity has in each modality: member (2, P, N) bool, visible first; identities (P,) sorted.

    The third, index (N,), is the place of each row's identity among them. member and index are on the device of the
    features, identities on that of the labels.

    Args: a batch as check_batch() returns it.
    Raises: ValueError naming an identity that lacks a modality, or that is alone where `least` is 2.
    """
    identities, index = labels.unique(return_inverse=True)
    mine = index == torch.arange(len(identities), device=index.device)[:, None]  # (P, N)
    member = torch.stack([mine & (modality == m) for m in (0, 1)])
    if (lacking := ~member.any(2)).any():
        m, i = lacking.nonzero()[0].tolist()
        name = ("visible", "thermal")[m]
        raise ValueError(f"identity {identities[i].item()} has no {name} image in the batch: each needs both")
    if len(identities) < least:
        raise ValueError(f"identity {identities[0].item()} is alone in the batch: the loss needs a second identity")
    return to_device_of(member, features), identities, to_device_of(index, features)


def centres(features: Tensor, member: Tensor) -> Tensor:
    """Mean feature of every identity in each modality, (..., 2, P, D), visible then thermal, S1 section 3.2, S2 Eq. 1.

    Args: features (..., N, D); member (2, P, N) of members(): the centre is a mean over the batch.
    """
    member = member.to(features.dtype)
    return member @ features[..., None, :, :] / member.sum(2, keepdim=True)


def between_identities(centre: Tensor) -> tuple[Tensor, Tensor]:
    """Distances d(c_i^m, c_j^m') of every identity i, (2, P, D) -> (P, 4P), and which of them have j != i."""
    p = centre.shape[1]
    between = pairwise_distance(centre.flatten(0, 1), centre.flatten(0, 1)).view(2, p, 2, p)
    other = ~torch.eye(p, dtype=torch.bool, device=centre.device)[:, None, None].expand(p, 2, 2, p)
    return between.transpose(0, 1).flatten(1), other.flatten(1)


def nearest_other_centre(centre: Tensor) -> Tensor:
    """min over j != i, m, m' of d(c_i^m, c_j^m') for every identity i: (2, P, D) -> (P,)."""
    between, other = between_identities(centre)
    return between.masked_fill(~other, torch.inf).amin(1)
