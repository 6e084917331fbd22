"""Losses as pure functions with one contract: `loss(features, labels, modality, *, ...) -> scalar`.

features (N, D) float, any scale; labels (N,) whole numbers, equal for one person; modality (N,), 0 visible, 1 thermal.
Rows may come in any order and identities may have any counts. Where no margin or pair is active the value is zero, and
still has a graph. Half precision is computed in float32, under autocast too. NaN and infinite features never become
a finite value. A wrong batch or argument is a ValueError of one sentence.
A loss with an argument `local` (N, S, d) also reads the features of S stripes, where the network has them.
Labels and modality stay on the CPU where features are on a GPU: the masks of pairs are made on the CPU and sent over
with to_device_of(mask, features), so that no step waits for the GPU.
S1 = Wang et al. 2022, "Spatial Dependence and Dual-Constraint Loss", Entropy 24(4) 443.
S2 = Ling et al. 2021, "Multi-Constraint Similarity Learning with Adaptive Weighting", IJCAI.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from inspect import signature
from math import inf
from numbers import Integral, Real
from sys import float_info
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
import torch.nn.functional as F
from torch import Tensor

from .names import unknown

Mining = Literal["ms", "awl", "none"]
Relation = Literal["i2i", "c2i", "c2c"]
Bound = Literal["hard", "awl"]


class Range(NamedTuple):
    """Numbers that an argument may have, both ends among them unless `above` leaves out the lower one."""

    low: float = -inf
    high: float = inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        value = value.item() if hasattr(value, "item") else value  # a number of NumPy
        low = self.low < value if self.above else self.low <= value
        return low and value <= self.high and abs(value) <= float_info.max

    def __str__(self) -> str:
        if self.high < inf:
            return f"from {self.low} to {self.high}"
        return "finite" if self.low == -inf else f"finite and {'above' if self.above else 'at least'} {self.low}"


FRACTION, WEIGHT, SCALE = Range(0, 1), Range(0), Range(0, above=True)


def loss(*, dims: tuple[int, ...] = (2,), **ranges: Range) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator of a loss, which keeps the contract above for it: checks of the batch and arguments, and precision.

    Its attribute `check(**options)` tries arguments without a batch.
    Args: dims: how many dimensions the features may have; ranges: of arguments that may not be any finite number.
    """

    def decorate(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        _, _, _, *options = signature(call).parameters.values()
        kinds = {p.name: p.annotation for p in options if p.kind == p.KEYWORD_ONLY}
        if odd := [p.name for p in options if p.name not in kinds]:
            raise ValueError(f"loss {call.__name__}: {odd[0]} must stand behind the *, as every argument does")
        if odd := sorted(ranges.keys() - kinds):
            raise ValueError(f"@loss of {call.__name__}: {unknown('argument', odd[0], kinds)}")

        def check(**options: Any) -> None:
            for name, value in options.items():
                if name in kinds:  # Python names the others when the loss is called
                    check_option(name, value, kinds[name], ranges.get(name, Range()))

        @wraps(call)
        def checked(features: Tensor, labels: Tensor, modality: Tensor, **options: Any) -> Tensor:
            check(**options)
            features, labels, modality = check_batch(features, labels, modality, dims)
            if options.get("local") is not None:
                options["local"] = check_stripes(options["local"], features)
            with no_autocast(features.device.type):
                return one_number(call.__name__, call(features, labels, modality, **options), features)

        checked.check = check
        return checked

    return decorate


def one_number(name: str, value: Tensor, features: Tensor) -> Tensor:
    """The value of a loss. Raises: ValueError unless it is one number, with a gradient where the features have one."""
    if not isinstance(value, Tensor) or value.ndim:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"loss {name} gave {what}, not one number as a tensor: end it with .mean()")
    if torch.is_grad_enabled() and features.requires_grad and not value.requires_grad:
        raise ValueError(f"loss {name} gave a number without a gradient: no .item(), float() or .detach() on the way")
    return value


def check_option(name: str, value: Any, kind: Any, numbers: Range) -> None:
    """Raise ValueError unless a loss may have this argument: one of a Literal, true or false, or a number of a range.

    A tensor, such as a learnable margin, is not read.
    """
    if get_origin(kind) is Literal:
        check_choice(name, value, kind)
    elif kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")
    elif kind in (int, float) and not isinstance(value, Tensor):
        wanted = Integral if kind is int else Real
        if isinstance(value, bool) or not isinstance(value, wanted) or value not in numbers:
            raise ValueError(f"{name} must be a {'whole ' if kind is int else ''}number, {numbers}, not {value!r}")


def check_choice(name: str, value: Any, kind: Any) -> None:
    """Raise ValueError unless the value is one of a Literal."""
    if value not in get_args(kind):
        raise ValueError(f"{name} {value!r} is not known: choose one of {', '.join(get_args(kind))}")


def no_autocast(device: str) -> AbstractContextManager:
    """Under autocast a matrix product would be of half precision, whatever its factors are: too few digits here."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


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


def at_least_single(x: Tensor) -> Tensor:
    """x in float32, or as it is where it has more digits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def check_batch(
    features: Tensor, labels: Tensor, modality: Tensor, dims: tuple[int, ...] = (2,)
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch as the losses compute with it: features in float32 at least, labels and modality int64.

    Raises: ValueError unless features are (N, D) with N, D > 0, or have another number of dimensions that `dims` holds,
    labels are (N,) whole numbers and modality is (N,) of 0 and 1.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"features must be a tensor of floating-point numbers, not {kind}")
    labels, modality = whole_numbers(labels, "labels"), whole_numbers(modality, "modality")
    n = len(features) if features.ndim else 0
    if features.ndim not in dims or not features.numel() or labels.shape != (n,) or modality.shape != (n,):
        shapes = ", ".join(str(tuple(t.shape)) for t in (features, labels, modality))
        wanted = " or ".join({2: "(N, D)", 3: "(N, S, D)"}[d] for d in dims)
        raise ValueError(f"features, labels, modality are {shapes}: they must be {wanted}, (N,), (N,) with N, D > 0")
    if (odd := (modality != 0) & (modality != 1)).any():
        raise ValueError(f"modality has the value {modality[odd][0].item()}: 0 is visible and 1 is thermal")
    return at_least_single(features), labels, modality


def check_stripes(local: Tensor, features: Tensor) -> Tensor:
    """Features of stripes in float32 at least. Raises: ValueError unless they are (N, S, d) with the N of features."""
    if not isinstance(local, Tensor) or not local.is_floating_point():
        raise ValueError(f"local must be a tensor of floating-point numbers, not {type(local).__name__}")
    if local.ndim != 3 or len(local) != len(features) or not local.numel():
        raise ValueError(
            f"local is {tuple(local.shape)}: it must be (N, S, d) with the N = {len(features)} of features"
        )
    return at_least_single(local)


def whole_numbers(x: Tensor, name: str) -> Tensor:
    """x as int64. Raises: ValueError naming a value that is no whole number, or too large to be told from the next."""
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a tensor of whole numbers, not {type(x).__name__} of other things") from error
    if x.is_complex():
        raise ValueError(f"{name} must be whole numbers, not {x.dtype}")
    if x.is_floating_point():
        exact = (x == x.round()) & (x.abs() < 2 / torch.finfo(x.dtype).eps)
        if not exact.all():
            raise ValueError(f"{name} has the value {x[~exact][0].item()}: give whole numbers, as integers")
    return x.long()


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


@loss(dims=(2, 3), smoothing=FRACTION)
def identity(logits: Tensor, labels: Tensor, modality: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with label smoothing, S1 Eq. 5: q = 1 - (C-1)/C * zeta on the true class, zeta/C elsewhere.

    Args: logits (N, C), or (N, S, C) of S classifiers; labels (N,) in 0..C-1; modality (N,), unused; smoothing: zeta
        in [0, 1].
    Returns: () mean over the batch of the sum over the classifiers, in nats.
    Raises: ValueError if a label is no class.
    """
    logits = logits.unflatten(1, (-1, logits.shape[-1])) if logits.ndim == 2 else logits  # (N, S, C)
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise ValueError(
            f"labels are {labels.min().item()} to {labels.max().item()}: with {logits.shape[-1]} classes they must be "
            f"0 to {logits.shape[-1] - 1}"
        )
    each = to_device_of(labels, logits)[:, None].expand(logits.shape[:2])
    return F.cross_entropy(logits.mT, each, label_smoothing=smoothing) * logits.shape[1]


@loss()
def batch_hard_triplet(
    features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3, cross_modality: bool = False
) -> Tensor:
    """Batch-hard triplet loss: [margin + furthest positive - nearest negative]_+, both modalities in one pool.

    Source: Hermans et al. 2017, arXiv 1703.07737, Eq. 5; the metric part of the field's base recipe (S1's baseline).
    Args: features (N, D), not normalised; labels (N,); modality (N,); margin in feature-distance units;
        cross_modality: an anchor's positives and negatives are those of the other modality alone.
    Returns: () mean over the N anchors.
    Raises: ValueError naming an identity with one image (cross_modality: one modality), or if there is one identity.
    """
    near, far = hardest(features, labels, modality, cross_modality)
    return F.relu(margin + near - far).mean()


def hardest(features: Tensor, labels: Tensor, modality: Tensor, cross_modality: bool) -> tuple[Tensor, Tensor]:
    """Distances (N,) of each anchor of batch_hard_triplet() to its furthest positive and its nearest negative."""
    dist = pairwise_distance(features, features)  # (N, N)
    same = labels[:, None] == labels
    if cross_modality:
        members(features, labels, modality, least=2)
        candidate = modality[:, None] != modality
    else:
        candidate = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive, negative = same & candidate, ~same & candidate
    if (lonely := ~positive.any(1)).any():
        raise ValueError(f"identity {labels[lonely][0].item()} has one image in the batch: a triplet needs two")
    if same.all():
        raise ValueError(f"identity {labels[0].item()} is alone in the batch: a triplet needs a second identity")
    hardest_positive = dist.masked_fill(to_device_of(~positive, dist), -torch.inf).amax(1)
    hardest_negative = dist.masked_fill(to_device_of(~negative, dist), torch.inf).amin(1)
    return hardest_positive, hardest_negative


@loss()
def cmdc(
    features: Tensor,
    labels: Tensor,
    modality: Tensor,
    *,
    margin: float = 0.3,
    hinge: bool = True,
    bound: Bound = "hard",
) -> Tensor:
    """Cross-modality dual-constraint loss, S1 Eq. 4: an identity's samples lie nearer than any other's centre.

    For identity i: [ max_{x in i, m} d(x, c_i^m) - min_{j != i, m, m'} d(c_i^m, c_j^m') + margin ]_+, averaged over i;
    x runs over the samples of i in both modalities, so that the bound holds across modalities too.
    open: the paper prints no hinge (hinge=False is Eq. 4 to the letter), a sum over i instead of a mean, no margin.
    bound="awl", in no paper, puts the weighted means of awl_bounds() in the place of max and min.

    Args: features (N, D) before the BN neck; labels, modality (N,); margin in feature-distance units; hinge; bound.
    Returns: () mean over the P identities, in feature-distance units.
    Raises: ValueError naming an identity that lacks a modality, if there is one identity only, or on another bound.
    """
    upper, lower = bounds(features, labels, modality, bound)
    gap = upper - lower + margin
    return (F.relu(gap) if hinge else gap).mean()


def bounds(features: Tensor, labels: Tensor, modality: Tensor, bound: Bound) -> tuple[Tensor, Tensor]:
    """Upper and lower bound (P,) of cmdc() for every identity: how far its samples lie, how near another's centre."""
    member, identities, index = members(features, labels, modality, least=2)
    centre, p = centres(features, member), len(identities)  # (2, P, D)
    own = pairwise_distance(features, centre.flatten(0, 1)).view(-1, 2, p)  # (N, 2, P)
    if bound == "awl":
        return awl_bounds(features, centre, own, index)
    own = own.amax(1).gather(1, index[:, None])[:, 0]  # (N,) to the further of the two own centres
    return own.new_zeros(p).scatter_reduce(0, index, own, "amax"), nearest_other_centre(centre)


def awl_bounds(features: Tensor, centre: Tensor, own: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower bound (P,) of CMDC with the weights of S2's AWL: every distance counts instead of the extreme.

    sum_k w_k d_k / sum_k w_k over the pairs that Eq. 4 of S1 takes the max or min of, with S the pair's cosine
    similarity, w = W_p exp(-W_p (S - 0.5)) of a sample and a centre of its identity, w = W_n exp(W_n (S - 0.5)) of the
    centres of two identities, W of S2 Eq. 10.
    open: in AWL the W stand in exponents, so that the weight of a pair is that in AWL's gradient; as in AWL it is a
    constant for the gradient. The W alone differ by a factor of 4 at most and would leave next to a plain mean.
    differs: no pairs are mined, since a far one has next to no weight.

    Args: features (N, D); centre (2, P, D); own (N, 2, P) distances of samples and centres; index (N,) of identities.
    """
    sample, middle = unit(features.detach()), unit(centre.detach())
    mine = (index == torch.arange(centre.shape[1], device=index.device)[:, None])[:, :, None].expand(-1, -1, 2)
    near = (sample @ middle.mT).permute(2, 1, 0).flatten(1)  # (P, 2N) cosines of samples and centres
    far = torch.einsum("mid,njd->imnj", middle, middle).flatten(1)  # (P, 4P) of centres, as between_identities()
    (pull, _), (_, push) = pair_weights(near), pair_weights(far)
    between, other = between_identities(centre)

    def mean(dist: Tensor, log_weight: Tensor, pairs: Tensor) -> Tensor:
        return (log_weight.masked_fill(~pairs, -torch.inf).softmax(1) * dist).sum(1)

    upper = mean(own.permute(2, 0, 1).flatten(1), pull.log() - pull * (near - 0.5), mine.flatten(1))
    return upper, mean(between, push.log() + push * (far - 0.5), other)


@loss()
def center_constraint(features: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
    """Centre constraint, second term of S1 Eq. 3: 1/2 ||x - c||^2 to the centre of x's own identity and modality.

    open: the centre is the batch mean (a learned centre is the other reading), averaged over samples, not summed.
    Args: features (N, D); labels, modality (N,). Returns: () in squared feature units.
    Raises: ValueError naming an identity that lacks a modality.
    """
    member, _, index = members(features, labels, modality)
    own = centres(features, member)[to_device_of(modality.long(), features), index]  # (N, D)
    return (features - own).square().sum(1).mean() / 2


@loss()
def hetero_center(features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.0) -> Tensor:
    """Hetero-centre loss: [ ||c_i^v - c_i^t||^2 - margin ]_+ pulls the two centres of every identity together.

    Source: Zhu et al. 2020, Neurocomputing, arXiv 1910.09830; the margin is that of their public code (0.1 or more).
    differs: the mean over identities instead of their sum, so that a weight does not depend on P.
    Args: features (N, D); labels, modality (N,); margin in squared feature units. Returns: () in squared feature units.
    Raises: ValueError naming an identity that lacks a modality.
    """
    centre = centres(features, members(features, labels, modality)[0])  # (2, P, D)
    return F.relu((centre[0] - centre[1]).square().sum(1) - margin).mean()


@loss(local_weight=WEIGHT)
def hetero_center_triplet(
    features: Tensor,
    labels: Tensor,
    modality: Tensor,
    *,
    margin: float = 0.3,
    local: Tensor | None = None,
    local_weight: float = 1.0,
    over_stripes: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Hetero-centre triplet loss (HC-Tri): a triplet loss over the 2P centres instead of the samples.

    For each centre: [margin + d(the other modality's centre of its identity) - d(the nearest centre of another)]_+.
    Source: Liu and Tan 2020, arXiv 2008.06223. open: the mean over the 2P centres, as in public code, not their sum.

    Args: features (N, D), not normalised; labels, modality (N,); margin in feature-distance units; local: (N, S, d)
        stripe features, whose losses are added with local_weight (their code: 1 SYSU-MM01, 2 RegDB); over_stripes:
        "sum" as in their code, or "mean".
    Returns: () in feature-distance units.
    Raises: ValueError naming an identity that lacks a modality, or if there is one identity only.
    """

    def over_centres(x: Tensor) -> Tensor:  # (..., N, D) -> (...)
        near, far = centre_distances(x, labels, modality)
        return F.relu(margin + near - far).mean(-1)

    whole = over_centres(features)
    if local is None:
        return whole
    parts = over_centres(local.transpose(0, 1))  # (S,)
    return whole + local_weight * (parts.mean() if over_stripes == "mean" else parts.sum())


def centre_distances(features: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of the 2P centres of features (..., N, D), the distance to the same identity's other centre, and to the
    nearest centre of another, (..., 2P)."""
    first = features if features.ndim == 2 else features[0]
    member, identities, _ = members(first, labels, modality, least=2)
    own = torch.eye(len(identities), dtype=torch.bool, device=features.device).repeat(2, 2)  # (2P, 2P)
    centre = centres(features, member).flatten(-3, -2)  # (..., 2P, D)
    dist = pairwise_distance(centre, centre)
    across = dist.diagonal(len(identities), -2, -1)  # (..., P), visible to thermal
    return torch.cat([across, across], -1), dist.masked_fill(own, torch.inf).amin(-1)


@loss(instance_weight=WEIGHT)
def center_metric(
    features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.3, instance_weight: float = 1.0
) -> Tensor:
    """Centre-guided metric loss, in the spirit of CML (Ling et al. 2020, ACM MM): their exact terms are not public.

    Of identity i: [ d(c_i^v, c_i^t) - min_{j != i, m, m'} d(c_i^m, c_j^m') + margin ]_+, and of sample x: d(x, c_own).
    open: the form of both terms, their means over identities and samples, and the equal weight.

    Args: features (N, D), not normalised; labels, modality (N,); margin in feature-distance units; instance_weight: of
        the distance of a sample to the centre of its own identity and modality.
    Returns: () in feature-distance units.
    Raises: ValueError naming an identity that lacks a modality, or if there is one identity only.
    """
    member, _, index = members(features, labels, modality, least=2)
    centre = centres(features, member)  # (2, P, D)
    across = length(centre[0] - centre[1])  # (P,)
    own = centre[to_device_of(modality.long(), features), index]  # (N, D)
    inside = length(features - own)  # (N,)
    gap = F.relu(across - nearest_other_centre(centre) + margin)
    return gap.mean() + instance_weight * inside.mean()


@loss(kernels=Range(1, 100))
def margin_mmd(features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 1.4, kernels: int = 5) -> Tensor:
    """Margin MMD-ID: maximum mean discrepancy of each identity's visible and thermal features, where above a margin.

    MMD^2 = mean k(v, v') + mean k(t, t') - 2 mean k(v, t); k is a sum of exp(-distance^2 / (b * 2^(i - kernels // 2)))
    and b the mean squared distance of the identity's samples, a constant for the gradient.
    Source: Jambigi et al. 2021, BMVC, arXiv 2111.05059. As in their code the whole value counts above the margin, not
    its excess: both have the same gradient. Weight 0.25 and margin 1.4 are theirs.

    Args: features (N, D); labels, modality (N,); margin: of MMD^2, which is without unit; kernels: number of Gaussians.
    Returns: () mean over identities.
    Raises: ValueError naming an identity that lacks a modality.
    """
    member, _, index = members(features, labels, modality)
    features = features / magnitude(features)  # MMD^2 has no unit
    member = member.to(features.dtype)  # (2, P, N)
    square, mine = squared_distance(features, features), member.sum(0)  # (N, N), (P, N)
    count = mine.sum(1)
    bandwidth = ((mine @ square.detach()) * mine).sum(1) / (count * (count - 1))  # (P,)
    spread = bandwidth > 0  # else all rows coincide, and what is left of MMD^2 is rounding
    bandwidth = torch.where(spread, bandwidth, 1)[index, None]  # (N, 1) of each row's identity
    kernel = sum((-square / (bandwidth * 2.0 ** (i - kernels // 2))).exp() for i in range(kernels))
    sign = member[0] / member[0].sum(1, keepdim=True) - member[1] / member[1].sum(1, keepdim=True)  # (P, N)
    mmd = ((sign @ kernel) * sign).sum(1)
    return (mmd * (spread & (mmd > margin))).mean()


def mine_pairs(
    similarity: Tensor, positive: Tensor, negative: Tensor, mining: Mining, margin: float
) -> tuple[Tensor, Tensor]:
    """Which pairs of anchors (rows) and candidates (columns) are informative: kept positives and negatives.

    ms, S2 Eq. 6: compared with the hardest pairs of the same anchor. awl, S2 Eq. 8-9: with the hardest pairs of the
    same candidate, over the anchors' own set: ms on the transposed matrix. none: every pair is kept.

    Args: similarity (..., A, B); positive, negative (A, B) bool; mining "ms", "awl" or "none"; margin in similarity.
    Returns: two masks (..., A, B). Raises: ValueError on another mining.
    """
    check_choice("mining", mining, Mining)
    if mining == "none":
        return positive.expand(similarity.shape), negative.expand(similarity.shape)
    dim = -1 if mining == "ms" else -2
    hardest_negative = similarity.masked_fill(~negative, -torch.inf).amax(dim, keepdim=True)
    hardest_positive = similarity.masked_fill(~positive, torch.inf).amin(dim, keepdim=True)
    # not >= instead of <: a NaN is kept, so that broken features show in the loss instead of leaving it
    kept_positive = positive & ~(similarity >= hardest_negative + margin)
    return kept_positive, negative & ~(similarity <= hardest_positive - margin)


def pair_weights(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of a positive and of a negative pair, S2 Eq. 10: 10 and 3 at most, 5 and 1.5 at a similarity of 0.5."""
    step = (similarity - 0.5) / 0.5
    return 10 * torch.sigmoid(-step), 3 * torch.sigmoid(step)


def over_anchors(pull: Tensor, push: Tensor, kept: tuple[Tensor, Tensor], scale: tuple[float, float]) -> Tensor:
    """1/C sum_a { 1/scale_p log[1 + sum_p exp(pull)] + 1/scale_n log[1 + sum_n exp(push)] }, S2 Eq. 7 and 11.

    Args: pull, push: (..., A, B) exponents; kept: masks of the positives and negatives; C: anchors with a kept pair.
    Returns: (...); 0 where nothing is kept.
    """
    # log(1 + sum exp x) is logsumexp over [0, x]: the added zero column is that 1; no kept pair gives log 1 = 0
    parts = zip((pull, push), kept, scale, strict=True)
    value = sum(F.pad(x.masked_fill(~k, -torch.inf), (1, 0)).logsumexp(-1) / s for x, k, s in parts)
    return value.sum(-1) / (kept[0] | kept[1]).any(-1).sum(-1).clamp(min=1)


class Points(NamedTuple):
    """A batch's M = N + 2P points: visible, then thermal samples; visible, then thermal centres of its identities."""

    cosine: Tensor  # (..., M, M) similarities; 0 with a point of zeros
    labels: Tensor  # (M,)
    of: dict[str, tuple[slice, slice]]  # rows of the visible and of the thermal points: "i" samples, "c" centres


def points(features: Tensor, labels: Tensor, modality: Tensor) -> Points:
    """All similarities that the relations of S2 section 3.2 need, from one product of features (..., N, D).

    A centre is a mean of rows, so its dot products are means of theirs: only the (N, N) products ever see D numbers.
    Raises: ValueError naming an identity that lacks a modality or is alone.
    """
    first = features if features.ndim == 2 else features[0]
    member, identities, _ = members(first, labels, modality, least=2)
    order, n, p = modality.argsort(stable=True), len(labels), len(identities)
    visible = int((modality == 0).sum())
    mean = (member.to(features.dtype) / member.sum(2, keepdim=True)).flatten(0, 1)  # (2P, N)
    rows = torch.eye(n, dtype=features.dtype, device=features.device)[to_device_of(order, features)]
    mix = torch.cat([rows, mean])  # (M, N)
    cosine = cosine_of(mix @ gram(features / magnitude(features)) @ mix.mT)
    of = {"i": (slice(0, visible), slice(visible, n)), "c": (slice(n, n + p), slice(n + p, n + 2 * p))}
    return Points(cosine, torch.cat([labels[order], identities, identities]), of)


def directions(batch: Points, relation: Relation) -> Iterator[tuple[Tensor, Tensor]]:
    """Similarity (..., A, B) and positives (A, B) of an S2 relation, visible anchors first, then thermal ones.

    i2i: samples and the other modality's samples; c2i: centres and samples; c2c: centres and centres, S2 Eq. 2-4.
    Raises: ValueError naming another relation.
    """
    check_choice("relation", relation, Relation)
    for m in (0, 1):
        a, b = batch.of[relation[0]][m], batch.of[relation[2]][1 - m]
        yield batch.cosine[..., a, b], to_device_of(batch.labels[a, None] == batch.labels[b], batch.cosine)


@loss(alpha=SCALE, beta=SCALE)
def multi_similarity(
    features: Tensor,
    labels: Tensor,
    modality: Tensor,
    *,
    mining: Mining = "ms",
    alpha: float = 2.0,
    beta: float = 50.0,
    threshold: float = 0.5,
    mining_margin: float = 0.1,
    cross_modality: bool = True,
) -> Tensor:
    """Multi-similarity loss on cosine similarities, S2 Eq. 6-7, by default over pairs across modalities.

    Source: Wang et al. 2019, CVPR, whose values the defaults are. open: S2 does not say whether its MS loss pairs
    within a modality too (cross_modality=False is the MS paper's own form).

    Args: features (N, D), any scale; labels, modality (N,); mining: "ms", "awl" or "none"; alpha, beta: lambda_p and
        lambda_n of Eq. 7; threshold: lambda; mining_margin: m, in similarity; cross_modality: anchors of one modality,
        candidates of the other, both directions averaged; else every other sample is a candidate.
    Returns: () mean over the anchors with a kept pair.
    Raises: ValueError naming an identity that lacks a modality (cross_modality) or is alone, or an unknown mining.
    """
    matrices = pair_matrices(features, labels, modality, cross_modality)
    values = []
    for similarity, positive, negative in matrices:
        kept, above = mine_pairs(similarity, positive, negative, mining, mining_margin), similarity - threshold
        values.append(over_anchors(-alpha * above, beta * above, kept, (alpha, beta)))
    return torch.stack(values).mean()


def pair_matrices(
    features: Tensor, labels: Tensor, modality: Tensor, cross_modality: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Similarity, positives and negatives (A, B) of multi_similarity(): both directions, or the one pool."""
    if cross_modality:
        pairs = directions(points(features, labels, modality), "i2i")
        return [(similarity, positive, ~positive) for similarity, positive in pairs]
    same = labels[:, None] == labels
    if same.all():
        raise ValueError(f"identity {labels[0].item()} is alone in the batch: the loss needs a second identity")
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive, negative = to_device_of(same & ~itself, features), to_device_of(~same, features)
    return [(cosine_of(gram(features / magnitude(features))), positive, negative)]


@loss()
def adaptive_weighting(
    features: Tensor,
    labels: Tensor,
    modality: Tensor,
    *,
    relation: Relation = "i2i",
    mining: Mining = "awl",
    weighting: bool = True,
    detach_weights: bool = True,
    mining_margin: float = 0.2,
    threshold: float = 0.5,
) -> Tensor:
    """Adaptive weighting loss (AWL) of one relation across modalities, S2 Eq. 8-11, on cosine similarities.

    Each direction (visible anchors, thermal anchors) is a mean over its anchors with a kept pair; both are averaged.
    open: centres are means of the features as given; the weights are constants for the gradient.

    Args: features (N, D), any scale; labels, modality (N,); relation: "i2i", "c2i" or "c2c", samples and centres;
        mining: "awl" (Eq. 8-9), "ms" (Eq. 6) or "none"; weighting: Eq. 10, else its values at similarity 0.5;
        detach_weights: no gradient through the weights; mining_margin: m, and threshold: lambda, in similarity.
    Returns: () without unit.
    Raises: ValueError naming an identity that lacks a modality or is alone, an unknown relation or mining.
    """
    batch = points(features, labels, modality)
    return adaptive(batch, relation, mining, weighting, detach_weights, mining_margin, threshold)


def adaptive(
    batch: Points,
    relation: Relation,
    mining: Mining,
    weighting: bool,
    detach_weights: bool,
    mining_margin: float,
    threshold: float,
) -> Tensor:
    """adaptive_weighting() of the points of features (..., N, D) -> (...): all stripes at once."""
    values = []
    for similarity, positive in directions(batch, relation):
        kept, above = mine_pairs(similarity, positive, ~positive, mining, mining_margin), similarity - threshold
        known = similarity.detach() if detach_weights else similarity
        pull, push = pair_weights(known if weighting else torch.full_like(similarity, 0.5))
        values.append(over_anchors(-pull * above, push * above, kept, (1, 1)))
    return (values[0] + values[1]) / 2


@loss(alpha=WEIGHT, beta=WEIGHT, omega=WEIGHT)
def multi_constraint(
    features: Tensor,
    labels: Tensor,
    modality: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 1.0,
    omega: float = 0.2,
    local: Tensor | None = None,
    mining: Mining = "awl",
    weighting: bool = True,
    detach_weights: bool = True,
    mining_margin: float = 0.2,
    threshold: float = 0.5,
) -> Tensor:
    """Multi-constraint loss (MC), S2 Eq. 5: alpha * I2I + beta * C2I + omega * C2C, each an adaptive_weighting().

    With the features of stripes, C2C acts on these (mean over stripes) and I2I and C2I on the whole, S2 section 3.2.

    Args: features (N, D), any scale; labels, modality (N,); alpha, beta, omega: weights, 0 leaves a term out;
        local: (N, S, d) stripe features; the others as in adaptive_weighting().
    Returns: () without unit.
    Raises: ValueError as adaptive_weighting().
    """
    whole = points(features, labels, modality)
    parts = whole if local is None or not omega else points(local.transpose(0, 1), labels, modality)
    options = (mining, weighting, detach_weights, mining_margin, threshold)
    terms = zip((alpha, beta, omega), ("i2i", "c2i", "c2c"), (whole, whole, parts), strict=True)
    zero = 0 * whole.cosine.sum()  # a graph, even if every weight is 0
    return zero + sum(w * adaptive(batch, relation, *options).mean() for w, relation, batch in terms if w)


# name -> loss; `id` reads the classifier's logits, every other one the features of the place that its term names
LOSSES = {
    "id": identity,
    "batch_hard_triplet": batch_hard_triplet,
    "cmdc": cmdc,
    "center_constraint": center_constraint,
    "hetero_center": hetero_center,
    "hetero_center_triplet": hetero_center_triplet,
    "center_metric": center_metric,
    "margin_mmd": margin_mmd,
    "multi_similarity": multi_similarity,
    "adaptive_weighting": adaptive_weighting,
    "multi_constraint": multi_constraint,
}
