"""Retrieval metrics and the protocols of SYSU-MM01 and RegDB, as pure functions of features.

Each image of one camera, the query, ranks the images of others, the gallery, by similarity. Public evaluators differ
in four points, which change the numbers. Here, as in the official code of both sets:
- of equal similarities the earlier image of the gallery ranks first;
- a query that has no match in its gallery is left out of every mean;
- rank-k on SYSU-MM01 counts each identity once, by its nearest image, while mAP and mINP count images;
- a query of camera 3 of SYSU-MM01 sees no image of camera 2 (same_place()).

Features, similarities, labels and masks may be lists, NumPy arrays or tensors on any device. Labels are whole numbers
or texts, compared for equality only. Half precision is computed in float32.

We never argsort the gallery. The rank of a match is 1 + the number of gallery images that score higher: counted one
match at a time where a query has few, and looked up in the sorted scores where it has many.
"""

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import images as im
from .datasets import BLIND, GALLERY_CAMERAS, QUERY_CAMERAS
from .losses import at_least_single, centres, members, no_autocast, pairwise_distance, unit, whole_numbers

RANKS = (1, 5, 10, 20)
CHUNK = 2**25  # similarities held at once, 128 MB: 32 queries of a gallery of a million
LONG = 2**15  # similarities of one identity's queries, from which on a thread pays


class Metrics(NamedTuple):
    """Mean over the valid queries, as fractions; cmc[r - 1] is rank-r."""

    cmc: np.ndarray  # (R,)
    mAP: float
    mINP: float
    valid: int  # queries that have a match


class Ranked(NamedTuple):
    """What each query found, (Q,) each; a query without a match has rank 0 and NaN."""

    first: np.ndarray  # 1-based rank of the first match
    ap: np.ndarray  # mean over the matches n of n / rank_n
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
    gallery, ranked = Gallery(gallery_pids, first_match_per_identity), nothing_found(len(query_pids))
    order = np.argsort(query_pids, kind="stable")  # queries of one identity share their matches
    size = max(1, CHUNK // shape[1])
    for rows in np.split(order, range(size, len(order), size)):
        scores = finite(some_rows(similarity, "similarity", rows, shape[1]))
        if exclude is not None:
            unseen = some_rows(exclude, "exclude", rows, shape[1])
            if unseen.dtype != bool:
                raise ValueError(f"exclude must be of type bool, not {unseen.dtype}: true where a query may not see")
            scores = np.where(unseen, -np.inf, scores)
        fill(ranked, rows, query_pids, scores, gallery)
    return ranked


def of_queries(trials: Iterable[Ranked]) -> pd.DataFrame:
    """What each query adds to a protocol's metrics: rank1, ..., mAP, mINP (Q rows), fractions, mean over its trials.

    The mean of a column is the protocol's mean over trials, since every trial has the same valid queries: each gallery
    holds as many images of an identity and a camera. A query without a match is NaN, and in no mean.
    """
    tables = []
    for ranked in trials:
        found = {f"rank{k}": np.where(ranked.first > 0, ranked.first <= k, np.nan) for k in RANKS}
        tables.append(np.stack([*found.values(), ranked.ap, ranked.inp], 1))
    return pd.DataFrame(np.mean(tables, axis=0), columns=[*found, "mAP", "mINP"])


def nothing_found(queries: int) -> Ranked:
    return Ranked(np.zeros(queries, np.int64), np.full(queries, np.nan), np.full(queries, np.nan))


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


def matrix(given, name: str, shape: tuple[int, int]):
    """A function, or a tensor or array of this shape. Raises: ValueError on another shape."""
    if callable(given):
        return given
    given = given if isinstance(given, Tensor) else as_array(given)
    if tuple(given.shape) != shape:
        raise ValueError(f"{name} must be (queries, gallery images) = {shape}, not {tuple(given.shape)}")
    return given


def some_rows(given, name: str, rows: np.ndarray, width: int) -> np.ndarray:
    """Rows (n, width) of a matrix, or what a function gives for them. Raises: ValueError on another shape."""
    block = as_array(given(rows) if callable(given) else given[rows])
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


class Gallery:
    """Where the images of each identity stand in a gallery."""

    def __init__(self, pids: np.ndarray, count_identities: bool, columns: np.ndarray | None = None):
        """pids (G,) int64; columns (G,): the gallery is these columns of the similarities; None: all of them."""
        self.columns, self.count_identities = columns, count_identities
        order = np.argsort(pids, kind="stable")
        self.identities, starts = np.unique(pids[order], return_index=True)
        self.own = dict(zip(self.identities.tolist(), np.split(order, starts[1:]), strict=True))
        self.starts, self.order, self.in_order = starts, order, bool((order[1:] > order[:-1]).all())


def fill(ranked: Ranked, rows: np.ndarray, query_pids: np.ndarray, scores: np.ndarray, gallery: Gallery) -> None:
    """Write into `ranked` what the queries `rows` find by their scores (len(rows), all columns).

    Args: rows: sorted by identity, so that the queries of one stand in a block.
    """
    pids = query_pids[rows]
    edges = np.flatnonzero(np.concatenate([[True], pids[1:] != pids[:-1], [True]])) if len(rows) else np.zeros(1, int)

    def rank_blocks(bounds: np.ndarray) -> None:
        for start, stop in bounds:
            if (own := gallery.own.get(pids[start].item())) is not None:
                block = scores[start:stop]
                block = block if gallery.columns is None else block.take(gallery.columns, axis=1)
                for column, found in zip(ranked, rank_block(block, own, gallery), strict=True):
                    column[rows[start:stop]] = found

    # NumPy's loops release the interpreter's lock, so threads help; where loops are short they only wait for it
    block = len(rows) * len(gallery.order) / max(1, len(edges) - 1)
    workers = torch.get_num_threads() if block > LONG else 1
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(rank_blocks, np.array_split(np.stack([edges[:-1], edges[1:]], 1), workers)))


def rank_block(scores: np.ndarray, own: np.ndarray, gallery: Gallery) -> Ranked:
    """Ranks of the queries of one identity: scores (q, G), -inf where excluded; own (m,) the places of its images."""
    value = scores[:, own]  # (q, m)
    seen = value > -np.inf
    matches = seen.sum(1)
    rank = rank_by_counting(scores, own) if 2 ** len(own) < scores.shape[1] else rank_by_sorting(scores, own)
    rank = np.sort(np.where(seen, rank, scores.shape[1] + 1), axis=1)
    n = np.arange(1, len(own) + 1)
    with np.errstate(invalid="ignore"):  # 0 / 0 where all matches are excluded
        ap = (n / rank * (n <= matches[:, None])).sum(1) / matches
        inp = np.where(matches > 0, matches / rank[np.arange(len(rank)), matches - 1], np.nan)
    first = rank[:, 0]
    if gallery.count_identities:
        first = rank_of_identity(scores, value, own, gallery)
    return Ranked(np.where(matches > 0, first, 0), ap, inp)


def rank_of_identity(scores: np.ndarray, value: np.ndarray, own: np.ndarray, gallery: Gallery) -> np.ndarray:
    """1-based rank (q,) of the identity with the scores `value` (q, m) at the places `own`, each by its best image."""

    def over_identities(reduce: np.ufunc, x: np.ndarray) -> np.ndarray:
        return reduce.reduceat(x if gallery.in_order else x[:, gallery.order], gallery.starts, axis=1)

    v, best = value.max(1, keepdims=True), over_identities(np.maximum, scores)
    first, tied = 1 + (best > v).sum(1), (best == v).sum(1) > 1
    if tied.any():  # of equal scores the earlier place comes first
        x, v, place = scores[tied], v[tied], own[value[tied].argmax(1), None]
        before = (x > v) | ((x == v) & (np.arange(x.shape[1]) < place))
        first[tied] = 1 + over_identities(np.logical_or, before).sum(1)
    return first


def rank_by_counting(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """1-based rank (q, m) of the columns `own` in each row; of equal scores the earlier column comes first."""
    rank = np.empty((len(scores), len(own)), np.int64)
    for j, place in enumerate(own):
        v = scores[:, place, None]
        rank[:, j] = 1 + count(scores[:, :place] >= v) + count(scores[:, place:] > v)
    return rank


def rank_by_sorting(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """rank_by_counting() where a row has many matches: sorting the values takes a sixth of the time of an argsort."""
    ordered, value = np.sort(scores, axis=1), scores[:, own]
    # NumPy's searchsorted takes one row at a time; torch's takes all, but starts threads inside each of our threads
    upto = np.stack([row.searchsorted(v, "right") for row, v in zip(ordered, value, strict=True)])  # (q, m)
    nearer = scores.shape[1] - upto
    before = np.take_along_axis(ordered, np.maximum(upto - 2, 0), axis=1)
    tied = ((before == value) & (upto > 1) & (value > -np.inf)).any(1)
    if tied.any():
        nearer[tied] = rank_by_counting(scores[tied], own) - 1
    return nearer + 1


def count(mask: np.ndarray) -> np.ndarray:
    """How many of each row of a mask (q, G) are true, (q,), in half the time of mask.sum(1)."""
    return mask.view(np.uint8).sum(1, dtype=np.uint32)


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


def row(metrics: Metrics, gallery: int, **names) -> dict:
    """One row of a protocol's table; rank-k beyond the gallery's length is its last value."""
    cmc = {f"rank{k}": float(metrics.cmc[min(k, len(metrics.cmc)) - 1]) for k in RANKS}
    return {**names, **cmc, "mAP": metrics.mAP, "mINP": metrics.mINP, "queries": metrics.valid, "gallery": gallery}


def same_place(query_cams, gallery_cams) -> np.ndarray:
    """Which gallery images a query may not see on SYSU-MM01, (Q, G) bool: of camera 2, for a query of camera 3.

    Both cameras stand in one place, so that the background would give the person away.
    Source: Wu et al. 2017 and their evaluation code, which never reverses the rule, as camera 2 never queries.
    Args: query_cams (Q,), gallery_cams (G,): numbers of the cameras, 1 to 6.
    """
    query_cams, gallery_cams = np.asarray(query_cams)[:, None], np.asarray(gallery_cams)
    return np.any([(query_cams == query) & (gallery_cams == gallery) for query, gallery in BLIND.items()], axis=0)


def numbers_only(x, name: str) -> np.ndarray:
    """identities() that are no texts. Raises: ValueError if they are."""
    x = identities(x, name)
    if x.dtype.kind == "U":
        raise ValueError(f"{name} must be whole numbers, not texts")
    return x


class SysuSearch:
    """SYSU-MM01: thermal cameras 3 and 6 search visible galleries drawn anew in each trial.

    Each query is compared once with every image that any gallery can hold: a mode, a number of shots and a trial are
    then a choice of columns. A query does not see the images that same_place() names.
    Source: Wu et al. 2017, official evaluation code.
    """

    def __init__(self, features, pids, cams, numbers, *, metric: str = "cosine"):
        """features (N, D); pids, cams, numbers (N,) of the test images, numbers 1-based within identity and camera."""
        features, pids = feature_rows(features), identities(pids)
        cams, numbers = numbers_only(cams, "cams"), numbers_only(numbers, "numbers")
        if not len(features) == len(pids) == len(cams) == len(numbers):
            lengths = [len(a) for a in (features, pids, cams, numbers)]
            raise ValueError(f"features, pids, cams and numbers must be as long as each other, not {lengths}")
        if (odd := ~np.isin(cams, QUERY_CAMERAS + GALLERY_CAMERAS["all"])).any():
            raise ValueError(f"cams has the value {cams[odd][0]}: SYSU-MM01 has cameras 1 to 6")
        names, pids = np.unique(pids, return_inverse=True)  # from here on pids are places in `names`
        query = np.flatnonzero(np.isin(cams, QUERY_CAMERAS))
        query = query[np.argsort(pids[query], kind="stable")]
        candidates = np.flatnonzero(np.isin(cams, GALLERY_CAMERAS["all"]))
        self.query, self.query_pids, self.pids = query, pids[query], pids[candidates]
        self.cams, unseen = cams[candidates], same_place(cams[query], cams[candidates])
        self.found_by_any = ((self.query_pids[:, None] == self.pids) & ~unseen).any(0)  # (columns,)
        self.scores = np.zeros(unseen.shape)  # without queries or gallery there is nothing to compare
        if unseen.size:
            self.scores = finite(as_array(similarities(features[query], features[candidates], metric)))
        self.scores[unseen] = -np.inf
        keys = zip(self.cams.tolist(), names[self.pids].tolist(), numbers[candidates].tolist(), strict=True)
        self.column: dict[tuple, int] = {}  # (cam, pid, number) -> its column of the scores
        for column, key in enumerate(keys):
            if self.column.setdefault(key, column) != column:
                cam, pid, number = key
                raise ValueError(f"identity {pid} has two images of number {number} in camera {cam}: count them from 1")
        self.sets: dict[tuple, list[int]] = {}  # (pid, cam), ascending -> the numbers of its images, ascending
        for cam, pid, number in sorted(self.column, key=lambda key: (key[1], key[0], key[2])):
            self.sets.setdefault((pid, cam), []).append(number)

    def has_queries(self, mode: str) -> bool:
        """Whether any query has a match that it may see in the cameras of a mode: if not, table() raises.

        Args: mode: "all" or "indoor". Raises: ValueError on another mode.
        """
        return bool((self.found_by_any & np.isin(self.cams, gallery_cameras(mode))).any())

    def distinct_galleries(
        self, mode: str = "all", shots: int = 1, gallery: str = "official", permutations=None, trials: int = 10
    ) -> int:
        """How many different galleries the trials of a setting draw; nothing is ranked.

        It is 1 where no set of an identity and a camera has more images than `shots`: all trials are then equal, and
        their spread says nothing. Args, Raises: as table().
        """
        draws = self.galleries(mode, shots, gallery, permutations, trials)
        return len({np.sort(columns).tobytes() for columns in draws})

    def table(
        self, mode: str = "all", shots: int = 1, gallery: str = "official", permutations=None, trials: int = 10
    ) -> pd.DataFrame:
        """The table of sysu() for one setting."""
        found = enumerate(self.ranked(mode, shots, gallery, permutations, trials))
        rows = [row(mean_over_queries(r, len(g.identities)), len(g.columns), trial=trial) for trial, (r, g) in found]
        return pd.DataFrame(rows)

    def ranked(
        self, mode: str = "all", shots: int = 1, gallery: str = "official", permutations=None, trials: int = 10
    ) -> Iterator[tuple[Ranked, Gallery]]:
        """What the queries `self.query` find in each trial's gallery, and that gallery, in one setting."""
        if not self.has_queries(mode):
            cameras = ", ".join(map(str, GALLERY_CAMERAS[mode]))
            raise ValueError(
                f"{mode} search has no query with a match: nobody has both a thermal image of cameras 3 and 6 and a "
                f"visible image of cameras {cameras} that it may see"
            )
        known, every = {}, np.arange(len(self.query_pids))
        for columns in self.galleries(mode, shots, gallery, permutations, trials):
            # who has no more images than shots draws the same in every trial
            if (same := np.sort(columns).tobytes()) not in known:
                found, chosen = nothing_found(len(every)), Gallery(self.pids[columns], True, columns)
                fill(found, every, self.query_pids, self.scores, chosen)
                known[same] = found, chosen
            yield known[same]

    def galleries(self, mode: str, shots: int, gallery: str, permutations, trials: int) -> Iterator[np.ndarray]:
        """The columns of `self.scores` that each trial's gallery holds, in its order."""
        cameras = gallery_cameras(mode)
        if not all(isinstance(n, Integral) and n >= 1 for n in (shots, trials)):
            raise ValueError(f"shots and trials must be whole numbers of at least 1, not {shots!r} and {trials!r}")
        sets = {key: numbers for key, numbers in self.sets.items() if key[1] in cameras}
        for trial in range(trials):
            yield np.array([self.column[key] for key in draw_gallery(sets, trial, shots, gallery, permutations)])


def gallery_cameras(mode: str) -> tuple[int, ...]:
    """The visible cameras of a mode. Raises: ValueError unless it is "all" or "indoor"."""
    if mode not in list(GALLERY_CAMERAS):
        raise ValueError(f"mode {mode!r} is not known: choose {' or '.join(GALLERY_CAMERAS)}")
    return GALLERY_CAMERAS[mode]


def sysu(
    features,
    pids,
    cams,
    numbers,
    *,
    mode: str = "all",
    shots: int = 1,
    gallery: str = "official",
    permutations: Mapping | None = None,
    trials: int = 10,
    metric: str = "cosine",
) -> pd.DataFrame:
    """SYSU-MM01 protocol, one setting of a SysuSearch.

    Per trial and gallery camera (all: 1, 2, 4, 5; indoor: 1, 2) `shots` images of each identity.

    Args: features (N, D); pids, cams, numbers (N,) of the test images, numbers 1-based within identity and camera;
        gallery: "official" draws by `permutations` {(cam, pid): (trials, n) 1-based}; "community" draws by
        random.seed(trial) as public Python code does (whose draw of several shots cannot be repeated: that is ours).
    Returns: one row a trial: trial, rank1, rank5, rank10, rank20, mAP, mINP, queries, gallery; fractions in [0, 1].
    Raises: ValueError on an unknown option, missing permutations, or if no query has a match.
    """
    search = SysuSearch(features, pids, cams, numbers, metric=metric)
    return search.table(mode, shots, gallery, permutations, trials)


def draw_gallery(
    sets: dict[tuple, list[int]], trial: int, shots: int, gallery: str, permutations: Mapping | None
) -> list[tuple[int, int, int]]:
    """Gallery of one trial as (cam, pid, number), identities in ascending order, cameras ascending within each.

    Args: sets: (pid, cam), ascending -> the numbers of its images, ascending.
    """
    if gallery not in ("official", "community"):
        raise ValueError(f"gallery {gallery!r} is not known: choose official or community")
    if gallery == "official" and permutations is None:
        raise ValueError("the official gallery needs the permutations of exp/rand_perm_cam.mat: see data/README.md")
    if gallery == "official" and not isinstance(permutations, Mapping):
        kind = type(permutations).__name__
        raise ValueError(f"permutations must be what datasets.sysu_permutations(path) returns, not of type {kind}")
    stream = random.Random(trial)  # the same stream as random.seed(trial) on the module
    drawn = []
    for (pid, cam), numbers in sets.items():
        if gallery == "community" and shots == 1:
            chosen = [stream.choice(numbers)]
        elif gallery == "community":
            chosen = stream.sample(numbers, min(shots, len(numbers)))
        elif (cam, pid) not in permutations:
            raise ValueError(f"rand_perm_cam.mat has no permutation of identity {pid} in camera {cam}")
        elif trial >= len(permutations[cam, pid]):
            raise ValueError(f"rand_perm_cam.mat has {len(permutations[cam, pid])} trials, not {trial + 1}")
        else:
            chosen = np.asarray(permutations[cam, pid][trial])[:shots].tolist()  # a place in the folder is a number
        if len(set(chosen)) < shots or not set(chosen) <= set(numbers):
            raise ValueError(
                f"identity {pid} has {len(numbers)} images in camera {cam}: too few for {shots} shots, or some missing"
            )
        drawn += [(cam, pid, number) for number in chosen]
    return drawn


def regdb(visible, visible_pids, thermal, thermal_pids, *, metric: str = "cosine") -> pd.DataFrame:
    """RegDB protocol of one split: all visible images search all thermal ones and the reverse; nothing is left out.

    Source: Ye et al. 2018, HCML; one model per split, averaged over ten splits by the caller.
    Args: visible (V, D), visible_pids (V,), thermal (T, D), thermal_pids (T,).
    Returns: rows v2t and t2v (the transpose of the same matrix) with direction, rank1 ... mINP, queries, gallery.
    """
    return both_directions(similarity_matrix(visible, thermal, metric), visible_pids, thermal_pids)


def both_directions(similarity: Tensor, visible_pids, thermal_pids, exclude=None) -> pd.DataFrame:
    """Visible-to-thermal and thermal-to-visible of one (V, T) similarity, `exclude` (V, T) bool as in rank_metrics."""
    similarity, exclude = (x if x is None or isinstance(x, Tensor) else as_array(x) for x in (similarity, exclude))
    back = None if exclude is None else exclude.T
    v2t = rank_metrics(similarity, visible_pids, thermal_pids, exclude=exclude)
    t2v = rank_metrics(similarity.T, thermal_pids, visible_pids, exclude=back)
    v, t = similarity.shape
    return pd.DataFrame([row(v2t, t, direction="v2t"), row(t2v, v, direction="t2v")])


def chance(matches, gallery) -> tuple[np.ndarray, np.ndarray]:
    """Expected rank-1 and average precision of a random order, as fractions, of queries with `matches` in `gallery`.

    m / g, and the mean over ranks k of the expected precision there: with H = 1 + 1/2 + ... + 1/g it is
    H / g + (m - 1) (g - H) / (g (g - 1)). Args: matches m, gallery g: whole numbers (Q,), m >= 1.
    """
    m, g = np.broadcast_arrays(np.asarray(matches, float), np.asarray(gallery, float))
    harmonic = np.concatenate([[0], (1 / np.arange(1, g.max(initial=1) + 1)).cumsum()])[g.astype(int)]
    return m / g, harmonic / g + (m - 1) * (g - harmonic) / np.maximum(g * (g - 1), 1)


def interval(values: np.ndarray, groups, *, draws: int = 10_000, seed: int = 0, level: float = 0.95) -> np.ndarray:
    """Percentile bootstrap interval (2, K) of the means of values (n, K), whole groups (n,) drawn with replacement.

    A group is what is found or missed together, such as the images of one person: drawn one by one they would count as
    independent, and the interval would be too narrow. groups=range(n) draws each value by itself.
    Raises: ValueError if groups are not as many as values, or on draws < 1 or a level outside of 0 to 1.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, sections 8.6 and 13.3.
    """
    if len(values) != len(groups) or draws < 1 or not 0 < level < 1:
        raise ValueError(
            f"an interval needs a group for each value, draws and a level between 0 and 1, not {len(values)} values, "
            f"{len(groups)} groups, {draws} draws and level {level}"
        )
    _, index, count = np.unique(groups, return_inverse=True, return_counts=True)
    sums, g, means, n = np.zeros((len(count), values.shape[1])), np.random.default_rng(seed), [], len(count)
    np.add.at(sums, index, values)
    while draws > 0:  # CHUNK numbers at once
        part = min(draws, max(1, CHUNK // n))
        times = g.multinomial(n, np.full(n, 1 / n), size=part).astype(float)  # (part, n): how often each group is drawn
        means.append((times @ sums) / (times @ count)[:, None])
        draws -= part
    return np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0)


def bootstrap_mean(values, groups=None, **options) -> tuple[float, float]:
    """interval() of one mean, (low, high): the spread that other queries of this kind would give.

    Args: values (n,) finite; groups (n,): what is drawn at once, such as the person; none: each value by itself.
    Raises: ValueError if there is no value or one is not finite.
    """
    values = np.asarray(values, float)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"an interval needs finite values, at least one: {len(values)} given, some maybe NaN")
    low, high = interval(values[:, None], np.arange(len(values)) if groups is None else groups, **options)[:, 0]
    return float(low), float(high)


def forward_only(call: Callable) -> Callable:
    """A function that runs without gradients and uncompiled: what is compiled expects the shape of a training batch."""

    @wraps(call)
    def eager(*given, **named):
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"):  # imports torch._dynamo, so not earlier
            return call(*given, **named)

    return eager


@forward_only
def extract(
    net: nn.Module, pixels: np.ndarray, rows: np.ndarray, modality: np.ndarray, batch: int = 256, *, bar: bool = True
) -> Tensor:
    """L2-normalised retrieval features (n, D) float32 on the CPU, each image once.

    Args: pixels (N, 3, H, W) uint8, may be memory-mapped; rows (n,) into it; modality (n,) of these rows;
        bar: whether to show how far it is.
    Raises: ValueError if there are no rows.
    """
    if not len(rows):
        raise ValueError("there are no images to take features of")
    net.eval()
    device = next(net.parameters()).device
    features = []
    for start in tqdm(range(0, len(rows), batch), "features", leave=False, disable=not bar):
        part = slice(start, start + batch)
        x = im.normalise(torch.from_numpy(pixels[rows[part]]).to(device))
        out = net(x, torch.tensor(modality[part]))
        features.append(unit(out.features.float()).cpu())
    return torch.cat(features)


def adapted(net: nn.Module, pixels: np.ndarray, rows: np.ndarray, modality: np.ndarray, batch: int = 256) -> nn.Module:
    """A copy of a network whose batch normalisations have the statistics of these images; `net` stays as it was.

    Layer by layer, in the order in which a forward pass calls them: mean and variance, divided by the number of values,
    of all that reaches the layer from these images once the layers before it are adapted. So they are what one forward
    pass of all images at once in training mode would normalise by, however the images are dealt into batches, and the
    copy adapted again is itself. Images go where they always go: a modality's own layers see that modality, shared ones
    see both, each image counting once. Weights, scales and shifts are those of the network. No label is read; who
    searches by it has looked at all test images (protocols.WAYS). As many passes over the images as there are layers.
    Source: Li et al. 2016, Revisiting Batch Normalization For Practical Domain Adaptation (arXiv 1603.04779), Alg. 1.
    open: the paper does not say whether the statistics of a layer are taken behind adapted layers; here they are.

    Args, Raises: as extract().
    """
    net, called, sums = copy.deepcopy(net), {}, []
    layers = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    hooks = [layer.register_forward_pre_hook(lambda layer, _: called.setdefault(layer)) for layer in layers]
    first = np.unique(modality, return_index=True)[1]
    extract(net, pixels, rows[first], modality[first], bar=False)
    for hook in hooks:
        hook.remove()

    def add(_, given: tuple[Tensor]) -> None:
        x = given[0]  # (B, C) or (B, C, H, W)
        variance, mean = (s.double() for s in torch.var_mean(x, [0, *range(2, x.ndim)], correction=0))
        sums.append(x[:, 0].numel() * torch.stack([torch.ones_like(mean), mean, variance + mean.square()]))

    for layer in tqdm(called, "statistics", leave=False):
        with layer.register_forward_pre_hook(add):
            extract(net, pixels, rows, modality, batch, bar=False)
        count, total, squares = sum(sums)
        mean = total / count
        layer.running_mean.copy_(mean)
        layer.running_var.copy_((squares / count - mean.square()).clamp(min=0))
        sums.clear()
    return net


def by_modality(features, pids, modality) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Features (N, D), pids (N,) and modality (N,) int64, checked.

    Raises: ValueError unless there are as many of each, and each modality is 0 (visible) or 1 (thermal).
    """
    features, pids, modality = feature_rows(features), identities(pids), numbers_only(modality, "modality")
    if not len(features) == len(pids) == len(modality):
        lengths = [len(features), len(pids), len(modality)]
        raise ValueError(f"features, pids and modality must be as long as each other, not {lengths}")
    if (odd := ~np.isin(modality, (0, 1))).any():
        raise ValueError(f"modality has the value {modality[odd][0]}: 0 is visible and 1 is thermal")
    return features, pids, modality


def centred(features, modality) -> Tensor:
    """Features (N, D) less the mean of their modality, rows at length 1 again; modality (N,), 0 visible, 1 thermal.

    Whatever is added to all features of a modality alike changes nothing. No label is read; who searches by it has
    looked at all test images (protocols.WAYS).
    Raises: ValueError where nothing is left of a feature, such as that of a modality's only image.
    """
    features, _, modality = by_modality(features, np.zeros(len(features), int), modality)
    left = features.double().clone()  # sums of float32 numbers are exact in it: equal ones leave 0 and no rounding
    for rows in (np.flatnonzero(modality == m) for m in np.unique(modality)):
        left[rows] = left[rows] - left[rows].mean(0)
    if not (left := unit(left)).any(1).all():
        raise ValueError(
            "a feature is the mean of its modality, of which nothing is left when centred: search it plain"
        )
    return left.to(features.dtype)


def hubness(similarity, k: int = 10, *, exclude=None) -> dict[str, float]:
    """How unevenly queries choose from a gallery: hub_share and hub_skewness of a similarity (Q, G), larger is nearer.

    hub_share: the share of the queries whose nearest image is the one that is nearest most often, from about 1 / G to
    1. hub_skewness: that of N_k, how often an image is among the k nearest of a query, over the gallery:
    mean((N_k - mean)^3) / sd^3; 0 where all are chosen equally often, as with k >= G. k is at most G. Of equal
    similarities the earlier image is nearer. No label is read.
    Source: Radovanovic, Nanopoulos and Ivanovic 2010, Hubs in Space, JMLR 11, section 2, for points that search each
    other; here queries search a gallery.
    Args: exclude (Q, G) bool: images that a query may not see. Raises: ValueError as rank_queries(), or if k < 1.
    """
    shape = tuple(as_array(similarity).shape)
    if len(shape) != 2 or not all(shape) or not isinstance(k, Integral) or k < 1:
        raise ValueError(f"hubness needs a similarity (Q, G) with Q, G > 0 and k >= 1, not {shape} and k={k!r}")
    scores = finite(as_array(similarity))
    hidden = np.zeros(shape, bool) if exclude is None else some_rows(exclude, "exclude", np.arange(shape[0]), shape[1])
    order = np.argsort(np.where(hidden, np.inf, -scores), axis=1, kind="stable")[:, :k]
    seen = ~np.take_along_axis(hidden, order, axis=1)
    first, chosen = (np.bincount(o[s], minlength=shape[1]) for o, s in ((order[:, :1], seen[:, :1]), (order, seen)))
    spread = chosen - chosen.mean()
    skewness = (spread**3).mean() / spread.std() ** 3 if spread.any() else 0.0
    return {"hub_share": float(first.max() / shape[0]), "hub_skewness": float(skewness)}


def cross_similarities(features, pids, modality, *, of_centres: bool = False) -> tuple[Tensor, Tensor]:
    """Cosine similarities of all visible-thermal pairs: of the same person (n,), of different people (m,).

    Args: features (N, D); pids (N,); modality (N,), 0 visible, 1 thermal; of_centres: between the people's centres
        (S2 Eq. 1) instead of images.
    Raises: ValueError if there is no pair of one kind, or (of_centres) a person lacks a modality.
    """
    features, pids, modality = by_modality(features, pids, modality)
    visible, thermal = (features[np.flatnonzero(modality == m)] for m in (0, 1))
    people = [pids[modality == m] for m in (0, 1)]
    if of_centres:
        if lacking := set(people[0].tolist()) ^ set(people[1].tolist()):
            raise ValueError(f"identity {min(lacking)} has images of one modality: a centre of each needs both")
        labels = torch.from_numpy(np.unique(pids, return_inverse=True)[1])
        visible, thermal = centres(features, members(features, labels, torch.from_numpy(modality))[0])
        people = [np.unique(pids)] * 2
    same = torch.from_numpy(people[0][:, None] == people[1])
    if not same.any() or same.all():
        raise ValueError("visible-thermal pairs of one person and of two are needed: one kind is missing")
    similarity = similarity_matrix(visible, thermal).clamp(-1, 1).cpu()
    return similarity[same], similarity[~same]


def separation(features, pids, modality, bins: int = 50, *, of_centres: bool = False) -> dict[str, float]:
    """Mean cosine similarity of visible-thermal pairs: same person, different people, and their overlap.

    overlap is the shared area of both histograms, 0 where a threshold parts them, 1 where they are equal. Its bins
    divide the range of all these similarities, from the smallest to the largest: features of an untrained network
    have cosines in a range so narrow that fixed bins over [-1, 1] would hold them all in one. Where the similarities
    differ by rounding alone overlap is 1.
    Args, Raises: as cross_similarities().
    """
    if not isinstance(bins, Integral) or bins < 1:
        raise ValueError(f"bins must be a whole number of at least 1, not {bins!r}")
    parts = cross_similarities(features, pids, modality, of_centres=of_centres)
    means = {"same person": parts[0].mean().item(), "different people": parts[1].mean().item()}
    low, high = torch.cat(parts).aminmax()
    if high - low <= bins * torch.finfo(low.dtype).eps:
        return means | {"overlap": 1.0}
    shares = [torch.histc(x.double(), bins, low.item(), high.item()) / len(x) for x in parts]
    return means | {"overlap": torch.minimum(*shares).sum().item()}


def margins(features, pids, modality) -> pd.DataFrame:
    """By how much a person's images of both modalities agree more than with others': pid (index), margin.

    margin: mean cosine similarity of the person's visible-thermal pairs less that of the pairs of its thermal images
    with other people's visible ones, times 100. People who lack a modality have none. Args: as cross_similarities().
    Raises: ValueError if no person has both modalities, or only one person is visible.
    """
    features, pids, modality = by_modality(features, pids, modality)
    visible, thermal = (np.flatnonzero(modality == m) for m in (0, 1))
    thermal = thermal[np.isin(pids[thermal], pids[visible])]
    same = pids[thermal][:, None] == pids[visible]
    if not same.any() or same.all(1).any():
        raise ValueError("a margin needs visible and thermal images of a person, and visible ones of another")
    similarity = 100 * similarity_matrix(features[thermal], features[visible]).double().cpu().numpy()
    margin = (similarity * same).sum(1) / same.sum(1) - (similarity * ~same).sum(1) / (~same).sum(1)
    return pd.DataFrame({"pid": pids[thermal], "margin": margin}).groupby("pid").mean()


def gradient_histogram(pixels: np.ndarray, cell: int = 8, bins: int = 9) -> Tensor:
    """Histograms of oriented gradients (N, D) float32: the untrained baseline that any trained network should beat.

    Unsigned orientations, votes weighted by magnitude, 2 x 2 cells to a block, L2-hys (0.2). Grey levels only, so it
    reads both modalities alike. Source: Dalal and Triggs 2005. Args: pixels (N, 3, H, W) uint8; cell in pixels.
    """
    grey = torch.from_numpy(np.asarray(pixels)).float().mean(1, keepdim=True)  # (N, 1, H, W)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    dx, dy = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2], padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    bin_of = (torch.atan2(dy, dx).remainder(torch.pi) * (bins / torch.pi)).long().clamp(max=bins - 1)
    votes = torch.zeros(len(grey), bins, *grey.shape[2:]).scatter_(1, bin_of, (dx.square() + dy.square()).sqrt())
    cells = F.avg_pool2d(votes, cell)  # (N, bins, h, w)
    blocks = F.unfold(cells, 2)  # (N, 4 * bins, blocks)
    blocks = F.normalize(F.normalize(blocks, dim=1).clamp(max=0.2), dim=1)
    return F.normalize(blocks.flatten(1), dim=1)
