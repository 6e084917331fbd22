"""Losses as pure functions with one contract: `loss(features, labels, modality, *, ...) -> scalar`.

features (N, D) float, any scale; labels (N,) integer identities, any values; modality (N,), 0 visible, 1 thermal.
Rows may come in any order and identities may have any counts. No active margin or pair gives zero that still has a
graph. A loss with an argument `local` (N, S, d) also reads the features of S stripes, where the network has them.
labels and modality may stay on the CPU where features are on a GPU: who belongs together is then found out there, and
nothing waits for the GPU.
S1 = Wang et al. 2022, "Spatial Dependence and Dual-Constraint Loss", Entropy 24(4) 443.
S2 = Ling et al. 2021, "Multi-Constraint Similarity Learning with Adaptive Weighting", IJCAI.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Mining = Literal["ms", "awl", "none"]
Relation = Literal["i2i", "c2i", "c2c"]
Bound = Literal["hard", "awl"]


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances (..., N, M) of the rows of a (..., N, D) and b (..., M, D).

    Written as differences of squares so that it is one matrix product, of rows moved to a common centre: far from the
    origin the squares would leave no digits for their difference. What is left within their rounding is zero.
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
    return torch.where(square > 32 * torch.finfo(square.dtype).eps * squares, square, 0)  # seen: 20 at D = 2,048


def pairwise_distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (..., N, M) of the rows of a and b; the gradient is zero where two rows coincide.

    The root never sees a zero: its slope there is infinite and would turn a zero into NaN in the backward pass.
    """
    square = squared_distance(a, b)
    return torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)


def gram(x: Tensor) -> Tensor:
    """Dot products (..., N, N) of the rows of x (..., N, D) with each other."""
    return x @ x.mT


def cosine_of(dot: Tensor) -> Tensor:
    """Cosine similarities (..., N, N) from dot products; 0 with a row of zeros, where the root sees no zero."""
    square = dot.diagonal(dim1=-2, dim2=-1)
    length = torch.where(square > 0, square, 1).sqrt()
    return dot / (length[..., :, None] * length[..., None, :])


def at_least_single(x: Tensor) -> Tensor:
    """x in float32, or as it is where it has more digits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def check_batch(features: Tensor, labels: Tensor, modality: Tensor) -> None:
    """Raise ValueError unless features are (N, D) with N > 0 and labels and modality are (N,)."""
    n = len(features)
    if features.ndim != 2 or not n or labels.shape != (n,) or modality.shape != (n,):
        shapes = ", ".join(str(tuple(t.shape)) for t in (features, labels, modality))
        raise ValueError(f"features, labels, modality are {shapes}: they must be (N, D), (N,), (N,) with N > 0")


def beside(x: Tensor, features: Tensor) -> Tensor:
    """x on the device of the features, or of images, without waiting for it."""
    return x.to(features.device, non_blocking=True)


def members(features: Tensor, labels: Tensor, modality: Tensor, least: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Who is on which row: member (2, P, N) bool by modality and identity; identities (P,) sorted; index (N,).

    member and index stand beside the features, identities beside the labels.

    Raises: ValueError naming an identity that lacks a modality, or that is alone where `least` is 2.
    """
    check_batch(features, labels, modality)
    identities, index = labels.unique(return_inverse=True)
    mine = index == torch.arange(len(identities), device=index.device)[:, None]  # (P, N)
    member = torch.stack([mine & (modality == m) for m in (0, 1)])
    if (lacking := ~member.any(2)).any():
        m, i = lacking.nonzero()[0].tolist()
        name = ("visible", "thermal")[m]
        raise ValueError(f"identity {identities[i].item()} has no {name} image in the batch: each needs both")
    if len(identities) < least:
        raise ValueError(f"identity {identities[0].item()} is alone in the batch: the loss needs a second identity")
    return beside(member, features), identities, beside(index, features)


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


def identity(logits: Tensor, labels: Tensor, modality: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with label smoothing, S1 Eq. 5: q = 1 - (C-1)/C * zeta on the true class, zeta/C elsewhere.

    Args: logits (N, C), or (N, S, C) of S classifiers; labels (N,) in 0..C-1; modality (N,), unused; smoothing: zeta
        in [0, 1].
    Returns: () mean over the batch of the sum over the classifiers, in nats.
    """
    logits = logits.unflatten(1, (-1, logits.shape[-1])) if logits.ndim == 2 else logits  # (N, S, C)
    each = beside(labels, logits)[:, None].expand(logits.shape[:2])
    return F.cross_entropy(logits.mT, each, label_smoothing=smoothing) * logits.shape[1]


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
    check_batch(features, labels, modality)
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
    hardest_positive = dist.masked_fill(beside(~positive, dist), -torch.inf).amax(1)
    hardest_negative = dist.masked_fill(beside(~negative, dist), torch.inf).amin(1)
    return F.relu(margin + hardest_positive - hardest_negative).mean()


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
    if bound not in get_args(Bound):
        raise ValueError(f"bound {bound!r} is not known: choose one of {', '.join(get_args(Bound))}")
    member, identities, index = members(features, labels, modality, least=2)
    centre, p = centres(features, member), len(identities)  # (2, P, D)
    own = pairwise_distance(features, centre.flatten(0, 1)).view(-1, 2, p)  # (N, 2, P)
    if bound == "awl":
        upper, lower = awl_bounds(features, centre, own, index)
    else:
        own = own.amax(1).gather(1, index[:, None])[:, 0]  # (N,) to the further of the two own centres
        upper, lower = own.new_zeros(p).scatter_reduce(0, index, own, "amax"), nearest_other_centre(centre)  # (P,)
    gap = upper - lower + margin
    return (F.relu(gap) if hinge else gap).mean()


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
    unit, middle = (F.normalize(x.detach(), dim=-1) for x in (features, centre))
    mine = (index == torch.arange(centre.shape[1], device=index.device)[:, None])[:, :, None].expand(-1, -1, 2)
    near = (unit @ middle.mT).permute(2, 1, 0).flatten(1)  # (P, 2N) cosines of samples and centres
    far = torch.einsum("mid,njd->imnj", middle, middle).flatten(1)  # (P, 4P) of centres, as between_identities()
    (pull, _), (_, push) = pair_weights(near), pair_weights(far)
    between, other = between_identities(centre)

    def mean(dist: Tensor, log_weight: Tensor, pairs: Tensor) -> Tensor:
        return (log_weight.masked_fill(~pairs, -torch.inf).softmax(1) * dist).sum(1)

    upper = mean(own.permute(2, 0, 1).flatten(1), pull.log() - pull * (near - 0.5), mine.flatten(1))
    return upper, mean(between, push.log() + push * (far - 0.5), other)


def center_constraint(features: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
    """Centre constraint, second term of S1 Eq. 3: 1/2 ||x - c||^2 to the centre of x's own identity and modality.

    open: the centre is the batch mean (a learned centre is the other reading), averaged over samples, not summed.
    Args: features (N, D); labels, modality (N,). Returns: () in squared feature units.
    Raises: ValueError naming an identity that lacks a modality.
    """
    member, _, index = members(features, labels, modality)
    own = centres(features, member)[beside(modality.long(), features), index]  # (N, D)
    return (features - own).square().sum(1).mean() / 2


def hetero_center(features: Tensor, labels: Tensor, modality: Tensor, *, margin: float = 0.0) -> Tensor:
    """Hetero-centre loss: [ ||c_i^v - c_i^t||^2 - margin ]_+ pulls the two centres of every identity together.

    Source: Zhu et al. 2020, Neurocomputing, arXiv 1910.09830; the margin is that of their public code (0.1 or more).
    differs: the mean over identities instead of their sum, so that a weight does not depend on P.
    Args: features (N, D); labels, modality (N,); margin in squared feature units. Returns: () in squared feature units.
    Raises: ValueError naming an identity that lacks a modality.
    """
    centre = centres(features, members(features, labels, modality)[0])  # (2, P, D)
    return F.relu((centre[0] - centre[1]).square().sum(1) - margin).mean()


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
    member, identities, _ = members(features, labels, modality, least=2)
    own = torch.eye(len(identities), dtype=torch.bool, device=features.device).repeat(2, 2)  # (2P, 2P)

    def over_centres(x: Tensor) -> Tensor:  # (..., N, D) -> (...)
        centre = centres(x, member).flatten(-3, -2)  # (..., 2P, D)
        dist = pairwise_distance(centre, centre)
        positive = dist.diagonal(len(identities), -2, -1)  # (..., P), visible to thermal
        nearest = dist.masked_fill(own, torch.inf).amin(-1)
        return F.relu(margin + torch.cat([positive, positive], -1) - nearest).mean(-1)

    loss = over_centres(features)
    if local is None:
        return loss
    parts = over_centres(stripes_first(local, features))  # (S,)
    return loss + local_weight * (parts.mean() if over_stripes == "mean" else parts.sum())


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
    across = torch.linalg.vector_norm(centre[0] - centre[1], dim=1)  # (P,)
    own = centre[beside(modality.long(), features), index]  # (N, D)
    inside = torch.linalg.vector_norm(features - own, dim=1)  # (N,)
    gap = F.relu(across - nearest_other_centre(centre) + margin)
    return gap.mean() + instance_weight * inside.mean()


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
    if mining not in get_args(Mining):
        raise ValueError(f"mining {mining!r} is not known: choose one of {', '.join(get_args(Mining))}")
    if mining == "none":
        return positive.expand(similarity.shape), negative.expand(similarity.shape)
    dim = -1 if mining == "ms" else -2
    hardest_negative = similarity.masked_fill(~negative, -torch.inf).amax(dim, keepdim=True)
    hardest_positive = similarity.masked_fill(~positive, torch.inf).amin(dim, keepdim=True)
    return positive & (similarity < hardest_negative + margin), negative & (similarity > hardest_positive - margin)


def pair_weights(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of a positive and of a negative pair, S2 Eq. 10: 10 and 3 at most, 5 and 1.5 at a similarity of 0.5."""
    step = (similarity - 0.5) / 0.5
    return 10 * torch.sigmoid(-step), 3 * torch.sigmoid(step)


def over_anchors(pull: Tensor, push: Tensor, kept: tuple[Tensor, Tensor], scale: tuple[float, float]) -> Tensor:
    """1/C sum_a { 1/scale_p log[1 + sum_p exp(pull)] + 1/scale_n log[1 + sum_n exp(push)] }, S2 Eq. 7 and 11.

    Args: pull, push: (..., A, B) exponents; kept: masks of the positives and negatives; C: anchors with a kept pair.
    Returns: (...); 0 where nothing is kept.
    """
    # a column of zeros is the 1 of the sum, and keeps rows without a pair at log 1
    parts = zip((pull, push), kept, scale, strict=True)
    value = sum(F.pad(x.masked_fill(~k, -torch.inf), (1, 0)).logsumexp(-1) / s for x, k, s in parts)
    return value.sum(-1) / (kept[0] | kept[1]).any(-1).sum(-1).clamp(min=1)


class Points(NamedTuple):
    """A batch's visible and thermal samples, then the visible and thermal centres of its identities."""

    cosine: Tensor  # (..., M, M) similarities, M = N + 2P; 0 with a point of zeros
    labels: Tensor  # (M,)
    of: dict[str, tuple[slice, slice]]  # "i" samples, "c" centres: their rows, visible and thermal


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
    rows = torch.eye(n, dtype=features.dtype, device=features.device)[beside(order, features)]
    mix = torch.cat([rows, mean])  # (M, N)
    cosine = cosine_of(mix @ gram(features) @ mix.mT)
    of = {"i": (slice(0, visible), slice(visible, n)), "c": (slice(n, n + p), slice(n + p, n + 2 * p))}
    return Points(cosine, torch.cat([labels[order], identities, identities]), of)


def directions(batch: Points, relation: Relation) -> Iterator[tuple[Tensor, Tensor]]:
    """Similarity (..., A, B) and positives (A, B) of an S2 relation, visible anchors first, then thermal ones.

    i2i: samples and the other modality's samples; c2i: centres and samples; c2c: centres and centres, S2 Eq. 2-4.
    Raises: ValueError naming another relation.
    """
    if relation not in get_args(Relation):
        raise ValueError(f"relation {relation!r} is not known: choose one of {', '.join(get_args(Relation))}")
    for m in (0, 1):
        a, b = batch.of[relation[0]][m], batch.of[relation[2]][1 - m]
        yield batch.cosine[..., a, b], beside(batch.labels[a, None] == batch.labels[b], batch.cosine)


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
    if cross_modality:
        pairs = directions(points(features, labels, modality), "i2i")
        matrices = [(similarity, positive, ~positive) for similarity, positive in pairs]
    else:
        check_batch(features, labels, modality)
        same = labels[:, None] == labels
        if same.all():
            raise ValueError(f"identity {labels[0].item()} is alone in the batch: the loss needs a second identity")
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        positive, negative = beside(same & ~itself, features), beside(~same, features)
        matrices = [(cosine_of(gram(features)), positive, negative)]
    values = []
    for similarity, positive, negative in matrices:
        kept, above = mine_pairs(similarity, positive, negative, mining, mining_margin), similarity - threshold
        values.append(over_anchors(-alpha * above, beta * above, kept, (alpha, beta)))
    return torch.stack(values).mean()


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
    check_batch(features, labels, modality)
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
    check_batch(features, labels, modality)
    whole = points(features, labels, modality)
    parts = whole if local is None or not omega else points(stripes_first(local, features), labels, modality)
    options = (mining, weighting, detach_weights, mining_margin, threshold)
    terms = zip((alpha, beta, omega), ("i2i", "c2i", "c2c"), (whole, whole, parts), strict=True)
    loss = 0 * whole.cosine.sum()  # a graph, though every weight be 0
    return loss + sum(w * adaptive(batch, relation, *options).mean() for w, relation, batch in terms if w)


def stripes_first(local: Tensor, features: Tensor) -> Tensor:
    """(N, S, d) -> (S, N, d). Raises: ValueError unless local has three dimensions and the rows of features."""
    if local.ndim != 3 or len(local) != len(features) or not local.shape[1]:
        raise ValueError(
            f"local is {tuple(local.shape)}: it must be (N, S, d) with the N = {len(features)} of features"
        )
    return local.transpose(0, 1)


# name -> loss; `id` reads the classifier's logits, every other one the features that Experiment.metric_on names
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
