"""Rank-k, mAP and mINP of one matrix of similarities: each query (a row) ranks the gallery (the columns).

We sort the scores of each query, but never argsort them. The rank of a match is 1 + the number of gallery images that
score higher, which is its place in the sorted scores. Of equal scores the earlier image ranks first: they are counted.

Features, similarities, labels and masks may be lists, NumPy arrays or tensors on any device. Labels are whole numbers
or texts, compared for equality only. Half precision is computed in float32.
"""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .losses.contract import at_least_single, no_autocast, whole_numbers
from .losses.geometry import pairwise_distance, unit

RANKS = (1, 5, 10, 20)
CHUNK = 2**25  # similarities held at once, 128 MB: 32 queries of a gallery of a million


class Metrics(NamedTuple):
    """Means over the valid queries, fractions; cmc[r - 1] is rank-r, the share with their first match by rank r."""

    cmc: np.ndarray  # (R,)
    mAP: float
    mINP: float
    valid: int  # queries that have a match


class Ranked(NamedTuple):
    """Where each query ranks its matches, (Q,) each; without a match `first` is 0 and the others are NaN."""

    first: np.ndarray  # 1-based rank of the first match
    ap: np.ndarray  # average precision: mean over the matches n = 1, 2, ... of n / rank_n
    inp: np.ndarray  # inverse negative penalty: matches / rank of the last match (Ye et al. 2021, AGW)


def rank_metrics(similarity, query_pids, gallery_pids, *, exclude=None, first_match_per_identity=False) -> Metrics:
    """CMC, mAP and mINP of a similarity matrix: rank_queries() averaged over the queries that have a match.
    Args, Raises: as rank_queries(), and ValueError if no query has a match.
    Returns: Metrics with R = G, or the number of gallery identities if `first` ranks identities.
    """
    options = {"exclude": exclude, "first_match_per_identity": first_match_per_identity}
    ranked = rank_queries(similarity, query_pids, gallery_pids, **options)
    gallery = np.unique(identities(gallery_pids)) if first_match_per_identity else gallery_pids
    return mean_over_queries(ranked, len(gallery))


def mean_over_queries(ranked: Ranked, length: int) -> Metrics:
    """Metrics of the queries that have a match, their CMC up to rank `length`. Raises: ValueError if there is none."""
    valid = ranked.first > 0
    if not (count := int(valid.sum())):
        raise ValueError("no query has a match in the gallery: check the identities and the exclude mask")
    cmc = np.bincount(ranked.first[valid] - 1, minlength=length).cumsum() / count
    return Metrics(cmc, float(ranked.ap[valid].mean()), float(ranked.inp[valid].mean()), count)


def rank_queries(similarity, query_pids, gallery_pids, *, exclude=None, first_match_per_identity=False) -> Ranked:
    """Rank of the first match, AP and INP of every query. Time grows with Q * G * matches a query.
    Args: similarity (Q, G), larger is nearer; query_pids (Q,); gallery_pids (G,); exclude (Q, G) bool: gallery images
        that a query may not see; first_match_per_identity: `first` ranks identities by their first image, as the CMC of
        SYSU-MM01, while AP and INP rank images, as in all public code. Where similarity or exclude do not fit in memory
        they may be a function that gives rows for an index (n,) of queries: CHUNK of the numbers are held at once.
    Raises: ValueError if there is no query or no gallery, shapes disagree, a similarity is not finite, labels are
        neither whole numbers nor texts, or exclude is not bool.
    """
    pids = identities(query_pids, "query_pids"), identities(gallery_pids, "gallery_pids")
    queries, images = shape = len(pids[0]), len(pids[1])
    if not all(shape):
        raise ValueError(f"a search needs queries and a gallery, not {queries} queries and {images} gallery images")
    if (pids[0].dtype.kind == "U") != (pids[1].dtype.kind == "U"):
        raise ValueError("query_pids and gallery_pids must be of one kind, not texts and numbers: none would be equal")
    query, gallery = np.split(np.unique(np.concatenate(pids), return_inverse=True)[1], [queries])
    similarity, exclude = (
        x if x is None or callable(x) or isinstance(x, Tensor) else as_array(x) for x in (similarity, exclude)
    )
    found, size = [], max(1, CHUNK // images)
    for rows in np.split(np.arange(queries), range(size, queries, size)):
        scores = finite(some_rows(similarity, "similarity", rows, shape))
        if exclude is not None:
            unseen = some_rows(exclude, "exclude", rows, shape)
            if unseen.dtype != bool:
                raise ValueError(f"exclude must be of type bool, not {unseen.dtype}: true where a query may not see")
            scores = np.where(unseen, -np.inf, scores)
        found.append(search(scores, query[rows], gallery, first_match_per_identity))
    return Ranked(*(np.concatenate(column) for column in zip(*found, strict=True)))


def search(scores: np.ndarray, query: np.ndarray, gallery: np.ndarray, rank_identities: bool = False) -> Ranked:
    """Rank the matches of each query.
    Args: scores (Q, G), -inf where a query may not see an image; query (Q,) and gallery (G,): their identities, whole
        numbers from 0; rank_identities: `first` ranks identities, each by its best image.
    """
    order = np.argsort(gallery, kind="stable")  # columns, those of an identity side by side
    place, end = (np.searchsorted(gallery, query, side, sorter=order) for side in ("left", "right"))
    place = place[:, None] + np.arange(max(1, (end - place).max()))
    columns = order[np.minimum(place, len(order) - 1)]  # (Q, m) of the matches, and others where there are fewer than m
    own = np.where(place < end[:, None], np.take_along_axis(scores, columns, axis=1), -np.inf)
    rank = np.sort(np.where(own > -np.inf, ranks(scores, columns, own), np.inf), axis=1)
    number = np.isfinite(rank).sum(1)
    with np.errstate(invalid="ignore"):  # 0 / 0 = NaN where a query may see no match
        ap = (np.arange(1, rank.shape[1] + 1) / rank).sum(1) / number
        inp = number / rank.max(1, where=np.isfinite(rank), initial=0)
    first = rank[:, 0]
    if rank_identities:
        starts, in_order = np.flatnonzero(np.diff(gallery[order], prepend=-1)), bool((np.diff(order) == 1).all())
        best = np.maximum.reduceat(scores if in_order else scores[:, order], starts, axis=1)  # of each identity
        first = 1 + (best > (nearest := own.max(1, keepdims=True))).sum(1)
        for q in np.flatnonzero((best == nearest).sum(1) > 1):  # of equal ones that of the earlier image is ahead
            column = columns[q, own[q].argmax()]
            ahead = np.append(scores[q, :column] >= nearest[q], scores[q, column:] > nearest[q])
            first[q] = 1 + len(np.unique(gallery[ahead]))
    return Ranked(np.where(number > 0, first, 0).astype(np.int64), ap, inp)


def ranks(scores: np.ndarray, columns: np.ndarray, own: np.ndarray) -> np.ndarray:
    """1-based ranks (Q, m) of `own`, the scores in some columns (Q, m), in the rows of scores (Q, G)."""
    ordered = np.sort(scores, axis=1)
    # numbers of the row that are not larger; NumPy's searchsorted takes one row at a time
    upto = np.stack([row.searchsorted(x, "right") for row, x in zip(ordered, own, strict=True)])
    rank = 1 + scores.shape[1] - upto
    equal = np.take_along_axis(ordered, np.maximum(upto - 2, 0), axis=1) == own
    for q, j in zip(*np.nonzero(equal & (upto > 1) & (own > -np.inf)), strict=True):
        rank[q, j] += np.count_nonzero(scores[q, : columns[q, j]] == own[q, j])
    return rank


def identities(labels, name: str = "pids", texts: bool = True) -> np.ndarray:
    """Labels (n,) as int64, as Python's integers where these are too small, or as texts: equal labels stay equal.
    A float64 holds whole numbers up to 2^53 alone, so that larger ones must never pass through one.
    Raises: ValueError unless they are one whole number, or one text where `texts` are allowed, for each image.
    """
    if isinstance(labels, Tensor):
        labels = whole_numbers(labels.detach().cpu(), name).numpy()
    array = np.array(labels, dtype=object if isinstance(labels, list | tuple) else None)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one label for each image, (n,), not {array.shape}")
    if array.dtype.kind in "OT":
        values = [x.item() if isinstance(x, Tensor | np.generic) else x for x in array]
        all_texts, all_whole = (all(isinstance(x, kind) for x in values) for kind in (str, Integral))
        if odd := [x for x in values if not (all_texts or isinstance(x, Real))]:
            raise ValueError(f"{name} must be whole numbers or texts, of one kind, not {odd[0]!r} among others")
        array = np.array(values, dtype=str if all_texts else object if all_whole else float)
    if array.dtype.kind == "U":
        if not texts:
            raise ValueError(f"{name} must be whole numbers, not texts")
        return array
    if array.dtype.kind not in "biufO":
        raise ValueError(f"{name} must be whole numbers or texts, not {array.dtype}")
    if array.dtype.kind == "f":
        exact = (array == np.round(array)) & (np.abs(array) < min(2 / float(np.finfo(array.dtype).eps), 2.0**63))
        if not exact.all():
            raise ValueError(f"{name} has the label {array[~exact][0]}: give whole numbers, as integers, or texts")
    small = not array.size or (int(array.min()) >= -(2**63) and int(array.max()) < 2**63)
    return array.astype(np.int64 if small else object)


def as_array(x) -> np.ndarray:
    """A NumPy array of a tensor on any device, a list or an array; half precision as float32."""
    if isinstance(x, Tensor):
        return at_least_single(x.detach()).cpu().numpy()
    try:
        rows = [as_array(row) if isinstance(row, Tensor) else row for row in x] if isinstance(x, list | tuple) else x
        x = np.asarray(rows)
    except ValueError as error:
        raise ValueError("rows of a list must be of one length") from error
    return x.astype(np.float32) if x.dtype == np.float16 else x


def some_rows(x, name: str, rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Rows (n, G) of a matrix (Q, G) or of what a function gives for them. Raises: ValueError on another shape."""
    if not callable(x) and tuple(np.shape(x)) != shape:
        raise ValueError(f"{name} must be (queries, gallery images) = {shape}, not {tuple(np.shape(x))}")
    block = as_array(x(rows) if callable(x) else x[rows])
    if block.shape != (len(rows), shape[1]):
        raise ValueError(f"{name} gives {block.shape} for {len(rows)} queries: it must be {(len(rows), shape[1])}")
    return block


def finite(similarity: np.ndarray) -> np.ndarray:
    """The matrix, as floats. Raises: ValueError if an entry is no finite number."""
    if similarity.dtype.kind not in "fiub":
        raise ValueError(f"similarity must be real numbers, not {similarity.dtype}")
    if not np.isfinite(similarity).all():
        raise ValueError("similarity has NaN or infinite entries: the features are broken, no rank can be trusted")
    whole = similarity.dtype.kind != "f"
    if whole and max(-int(similarity.min(initial=0)), int(similarity.max(initial=0))) > 2**53:
        raise ValueError("similarity has whole numbers above 2^53, which floats cannot tell apart: give smaller ones")
    return similarity.astype(float) if whole else similarity


def feature_rows(x, name: str = "features") -> Tensor:
    """Features (n, D), a row for each image, as float32 at least. Raises: ValueError unless they are finite numbers."""
    real = not x.is_complex() if isinstance(x, Tensor) else (x := as_array(x)).dtype.kind in "fiub"
    if not real:
        raise ValueError(f"{name} must be real numbers, not {x.dtype}")
    if isinstance(x, np.ndarray):  # torch takes no foreign byte order, no negative stride, nothing read-only
        x = torch.from_numpy(np.require(x, np.float32 if x.dtype == np.float32 else np.float64, ["C", "W"]))
    x = at_least_single(x) if x.is_floating_point() else x.double()
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"{name} must be (n, D), a row of D numbers for each image, not {tuple(x.shape)}")
    if broken := int((~torch.linalg.vector_norm(x.detach(), torch.inf, dim=1).isfinite()).sum()):
        raise ValueError(f"{name} of {broken} of {len(x)} images are NaN or infinite: no rank can be trusted")
    return x


def similarity_matrix(query, gallery, metric: str = "cosine") -> Tensor:
    """Similarity (Q, G) of features (Q, D) and (G, D): the cosine, or the negative Euclidean distance.
    Raises: ValueError on another metric, other shapes, and features that are no finite numbers.
    """
    query, gallery = feature_rows(query, "query features"), feature_rows(gallery, "gallery features")
    if query.shape[1] != gallery.shape[1] or not len(query) or not len(gallery):
        shapes = f"{tuple(query.shape)} and {tuple(gallery.shape)}"
        raise ValueError(f"query and gallery features are {shapes}: they must be (Q, D) and (G, D) with Q, G > 0")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric {metric!r} is not known: choose cosine or euclidean")
    kind = torch.promote_types(query.dtype, gallery.dtype)
    query, gallery = query.to(kind), gallery.to(query.device, kind)
    with no_autocast(query.device.type):
        return unit(query) @ unit(gallery).T if metric == "cosine" else -pairwise_distance(query, gallery)
