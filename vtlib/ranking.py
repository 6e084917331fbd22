"""Rank-k, mAP and mINP of one matrix of similarities: each query (a row) ranks the gallery (the columns).

The rank of a match is 1 + the number of gallery images that score higher, and of equal scores the earlier image ranks
first. Where a query has few matches that number is counted for each; where it has many it is looked up in the sorted
scores. We never argsort a gallery.

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
    """Mean over the valid queries, as fractions; cmc[r - 1] is rank-r."""

    cmc: np.ndarray  # (R,)
    mAP: float
    mINP: float
    valid: int  # queries that have a match


class Ranked(NamedTuple):
    """What each query found, (Q,) each; a query without a match has rank 0 and NaN."""

    first: np.ndarray  # 1-based rank of the first match
    ap: np.ndarray  # average precision: mean over the matches n of n / rank_n
    inp: np.ndarray  # matches / rank of the last match (Ye et al. 2021, AGW)


def rank_metrics(
    similarity, query_pids, gallery_pids, *, exclude=None, first_match_per_identity: bool = False
) -> Metrics:
    """CMC, mAP and mINP of a similarity matrix: rank_queries() averaged over the queries that have a match.

    Args, Raises: as rank_queries(), and ValueError if no query has a match.
    Returns: Metrics with R = G, or the number of gallery identities.
    """
    ranked = rank_queries(
        similarity, query_pids, gallery_pids, exclude=exclude, first_match_per_identity=first_match_per_identity
    )
    gallery = np.unique(identities(gallery_pids)) if first_match_per_identity else gallery_pids
    return mean_over_queries(ranked, len(gallery))


def mean_over_queries(ranked: Ranked, length: int) -> Metrics:
    """Metrics of the queries that have a match, their CMC up to rank `length`. Raises: ValueError if there is none."""
    valid = ranked.first > 0
    if not (count := int(valid.sum())):
        raise ValueError("no query has a match in the gallery: check the identities and the exclude mask")
    cmc = np.bincount(ranked.first[valid] - 1, minlength=length).cumsum() / count
    return Metrics(cmc, float(ranked.ap[valid].mean()), float(ranked.inp[valid].mean()), count)


def rank_queries(
    similarity, query_pids, gallery_pids, *, exclude=None, first_match_per_identity: bool = False
) -> Ranked:
    """Rank of the first match, AP and INP of every query; AP and INP rank images, as all public code does.

    Time grows with Q * G * matches a query. Where a function gives the rows, CHUNK of their numbers are held at once.

    Args: similarity (Q, G), larger is nearer, or a function that gives rows of it for an index (n,) of queries, where
        the whole does not fit in memory; query_pids (Q,); gallery_pids (G,); exclude (Q, G) bool, or such a function:
        gallery images that a query may not see; first_match_per_identity: `first` ranks identities by their first
        image, the CMC of SYSU-MM01.
    Raises: ValueError if there is no query or no gallery, shapes disagree, a similarity is not finite, labels are
        neither whole numbers nor texts, or exclude is not bool.
    """
    query_pids, gallery_pids = codes(query_pids, gallery_pids)
    shape = len(query_pids), len(gallery_pids)
    if not all(shape):
        raise ValueError(f"a search needs queries and a gallery, not {shape[0]} queries and {shape[1]} gallery images")
    similarity = matrix(similarity, "similarity", shape)
    exclude = None if exclude is None else matrix(exclude, "exclude", shape)
    gallery, parts = Gallery(gallery_pids, first_match_per_identity), []
    order = np.argsort(query_pids, kind="stable")  # queries of one identity share their matches
    size = max(1, CHUNK // shape[1])
    for rows in np.split(order, range(size, len(order), size)):
        scores = finite(some_rows(similarity, "similarity", rows, shape[1]))
        if exclude is not None:
            unseen = some_rows(exclude, "exclude", rows, shape[1])
            if unseen.dtype != bool:
                raise ValueError(f"exclude must be of type bool, not {unseen.dtype}: true where a query may not see")
            scores = np.where(unseen, -np.inf, scores)
        parts.append(gallery.search(scores, query_pids[rows]))
    back = np.argsort(order)
    return Ranked(*(np.concatenate(column)[back] for column in zip(*parts, strict=True)))


class Gallery:
    """Images that are searched: where those of each identity stand among the columns of the scores."""

    def __init__(self, pids: np.ndarray, count_identities: bool = False):
        """pids (G,) int64; count_identities: Ranked.first ranks identities, each by its best image."""
        order = np.argsort(pids, kind="stable")
        names, starts = np.unique(pids[order], return_index=True)
        self.own = dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))
        self.order, self.starts, self.count_identities = order, starts, count_identities
        self.in_order = bool((order[1:] > order[:-1]).all())

    def search(self, scores: np.ndarray, pids: np.ndarray) -> Ranked:
        """What queries find by their scores (Q, G), -inf where a query may not see; pids (Q,) sorted."""
        ranked = Ranked(np.zeros(len(pids), np.int64), np.full(len(pids), np.nan), np.full(len(pids), np.nan))
        names, starts = np.unique(pids, return_index=True)
        for pid, start, stop in zip(names.tolist(), starts, [*starts[1:], len(pids)], strict=True):
            if (own := self.own.get(pid)) is not None:
                for column, values in zip(ranked, self.ranks(scores[start:stop], own), strict=True):
                    column[start:stop] = values
        return ranked

    def ranks(self, scores: np.ndarray, own: np.ndarray) -> Ranked:
        """search() of the queries of one identity (q, G), whose images are the columns `own` (m,)."""
        value = scores[:, own]
        seen = value > -np.inf
        rank = by_counting(scores, own) if 2 ** len(own) < scores.shape[1] else by_sorting(scores, own)
        rank = np.sort(np.where(seen, rank, scores.shape[1] + 1), axis=1)
        n, matches = np.arange(1, len(own) + 1), seen.sum(1)
        with np.errstate(invalid="ignore"):  # 0 / 0 where all matches are excluded
            ap = (n / rank * (n <= matches[:, None])).sum(1) / matches
            inp = np.where(matches > 0, matches / rank[np.arange(len(rank)), matches - 1], np.nan)
        first = self.rank_of_identity(scores, value, own) if self.count_identities else rank[:, 0]
        return Ranked(np.where(matches > 0, first, 0), ap, inp)

    def rank_of_identity(self, scores: np.ndarray, value: np.ndarray, own: np.ndarray) -> np.ndarray:
        """1-based rank (q,) of the identity with the scores `value` (q, m) in the columns `own`, by its best image.

        An identity is ahead if one of its images is: if it scores higher, or as high in an earlier column.
        """
        v = value.max(1, keepdims=True)
        best = self.over_identities(np.maximum, scores)
        first, tied = 1 + (best > v).sum(1), (best == v).sum(1) > 1
        if tied.any():
            x, v, place = scores[tied], v[tied], own[value[tied].argmax(1), None]
            ahead = (x > v) | ((x == v) & (np.arange(x.shape[1]) < place))
            first[tied] = 1 + self.over_identities(np.logical_or, ahead).sum(1)
        return first

    def over_identities(self, reduce: np.ufunc, x: np.ndarray) -> np.ndarray:
        """x (q, G) reduced over the columns of each identity, (q, identities)."""
        return reduce.reduceat(x if self.in_order else x[:, self.order], self.starts, axis=1)


def by_counting(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """1-based rank (q, m) of the columns `own` (m,) in each row of scores (q, G): a comparison of the row for each."""
    rank = np.empty((len(scores), len(own)), np.int64)
    for j, place in enumerate(own):
        v = scores[:, place, None]
        rank[:, j] = 1 + count(scores[:, :place] >= v) + count(scores[:, place:] > v)
    return rank


def by_sorting(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """by_counting() where a row has many matches: look them up in the sorted row; rows with equal scores are counted.

    To sort values takes a sixth of the time of an argsort.
    """
    ordered, value = np.sort(scores, axis=1), scores[:, own]
    # NumPy's searchsorted takes one row at a time
    upto = np.stack([row.searchsorted(v, "right") for row, v in zip(ordered, value, strict=True)])  # (q, m)
    before = np.take_along_axis(ordered, np.maximum(upto - 2, 0), axis=1)
    tied = ((before == value) & (upto > 1) & (value > -np.inf)).any(1)
    rank = 1 + scores.shape[1] - upto
    if tied.any():
        rank[tied] = by_counting(scores[tied], own)
    return rank


def count(mask: np.ndarray) -> np.ndarray:
    """How many of each row of a mask (q, G) are true, (q,), in half the time of mask.sum(1)."""
    return mask.view(np.uint8).sum(1, dtype=np.uint32)


def identities(labels, name: str = "pids") -> np.ndarray:
    """Labels (n,) as int64, as Python's integers where these are too small, or as texts: equal labels stay equal.

    A float64 holds whole numbers up to 2^53 alone, so that larger ones must never pass through one.
    Raises: ValueError unless they are one whole number or one text for each image.
    """
    if isinstance(labels, Tensor):
        labels = whole_numbers(labels.detach().cpu(), name).numpy()
    array = np.array(labels, dtype=object if isinstance(labels, list | tuple) else None)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one label for each image, (n,), not {array.shape}")
    if array.dtype.kind == "O":
        plain = [x.item() if isinstance(x, Tensor | np.generic) else x for x in array]
        if all(isinstance(x, str) for x in plain):
            return np.array(plain, dtype=str)
        if all(isinstance(x, Integral) for x in plain):
            small = all(-(2**63) <= x < 2**63 for x in plain)
            return np.array([int(x) for x in plain], dtype=np.int64 if small else object)
        if not all(isinstance(x, Real) for x in plain):
            odd = next((x for x in plain if not isinstance(x, Real)), None)
            raise ValueError(f"{name} must be whole numbers or texts, of one kind, not {odd!r} among others")
        array = np.array(plain, dtype=float)
    if array.dtype.kind == "f":
        exact = (array == np.round(array)) & (np.abs(array) < min(2 / float(np.finfo(array.dtype).eps), 2.0**63))
        if not exact.all():
            raise ValueError(f"{name} has the label {array[~exact][0]}: give whole numbers, as integers, or texts")
    elif array.dtype.kind == "u" and array.size and array.max() >= 2**63:
        return array.astype(object)
    elif array.dtype.kind not in "biu":
        if array.dtype.kind in "UT":
            return array.astype(str)
        raise ValueError(f"{name} must be whole numbers or texts, not {array.dtype}")
    return array.astype(np.int64)


def numbers_only(x, name: str) -> np.ndarray:
    """identities() that are no texts. Raises: ValueError if they are."""
    x = identities(x, name)
    if x.dtype.kind == "U":
        raise ValueError(f"{name} must be whole numbers, not texts")
    return x


def codes(query_pids, gallery_pids) -> tuple[np.ndarray, np.ndarray]:
    """Labels of queries and gallery as numbers 0, 1, ... that are equal, and in order, where the labels are."""
    pids = identities(query_pids, "query_pids"), identities(gallery_pids, "gallery_pids")
    text = {x.dtype.kind == "U" for x in pids if len(x)}
    if len(text) == 2:
        raise ValueError("query_pids and gallery_pids must be of one kind, not texts and numbers: none would be equal")
    code = np.unique(np.concatenate([x for x in pids if len(x)] or [pids[0]]), return_inverse=True)[1]
    return code[: len(pids[0])], code[len(pids[0]) :]


def as_array(x) -> np.ndarray:
    """A NumPy array of a tensor on any device, a list or an array; half precision as float32."""
    try:
        if isinstance(x, list | tuple) and x and all(isinstance(part, Tensor) for part in x):
            x = torch.stack(list(x))
        if isinstance(x, Tensor):
            return at_least_single(x.detach()).cpu().numpy()
        x = np.asarray(x)
    except (ValueError, RuntimeError) as error:
        raise ValueError("rows of a list must be of one length") from error
    return x.astype(np.float32) if x.dtype == np.float16 else x


def matrix(x, name: str, shape: tuple[int, int]):
    """A function, or a tensor or array of this shape. Raises: ValueError on another shape."""
    if callable(x):
        return x
    x = x if isinstance(x, Tensor) else as_array(x)
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} must be (queries, gallery images) = {shape}, not {tuple(x.shape)}")
    return x


def some_rows(x, name: str, rows: np.ndarray, width: int) -> np.ndarray:
    """Rows (n, width) of a matrix, or what a function gives for them. Raises: ValueError on another shape."""
    block = as_array(x(rows) if callable(x) else x[rows])
    if block.shape != (len(rows), width):
        raise ValueError(f"{name} gives {block.shape} for {len(rows)} queries: it must be {(len(rows), width)}")
    return block


def finite(similarity: np.ndarray) -> np.ndarray:
    """The matrix, as floats. Raises: ValueError if an entry is no finite number."""
    if similarity.dtype.kind not in "fiub":
        raise ValueError(f"similarity must be real numbers, not {similarity.dtype}")
    if not np.isfinite(similarity).all():
        raise ValueError("similarity has NaN or infinite entries: the features are broken, no rank can be trusted")
    if similarity.dtype.kind == "f":
        return similarity
    if similarity.dtype.kind in "iu" and similarity.size and max(-int(similarity.min()), int(similarity.max())) > 2**53:
        raise ValueError("similarity has whole numbers above 2^53, which floats cannot tell apart: give smaller ones")
    return similarity.astype(float)


def feature_rows(x, name: str = "features") -> Tensor:
    """Features (n, D) as a tensor of float32 at least, from a tensor, an array or a list.

    Raises: ValueError unless they are finite numbers, a row for each image.
    """
    if not isinstance(x, Tensor):
        x = as_array(x)
        if x.dtype.kind not in "fiub":
            raise ValueError(f"{name} must be real numbers, not {x.dtype}")
        # torch takes no foreign byte order, no negative stride and, without a warning, nothing read-only
        x = torch.from_numpy(np.require(x, np.float32 if x.dtype == np.float32 else np.float64, ["C", "W"]))
    if x.is_complex():
        raise ValueError(f"{name} must be real numbers, not {x.dtype}")
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
    return similarities(query, gallery, metric)


def similarities(query: Tensor, gallery: Tensor, metric: str) -> Tensor:
    """similarity_matrix() of rows that feature_rows() has checked."""
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric {metric!r} is not known: choose cosine or euclidean")
    kind = torch.promote_types(query.dtype, gallery.dtype)
    query, gallery = query.to(kind), gallery.to(query.device, kind)
    with no_autocast(query.device.type):
        return unit(query) @ unit(gallery).T if metric == "cosine" else -pairwise_distance(query, gallery)
