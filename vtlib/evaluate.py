"""Retrieval metrics and the protocols of SYSU-MM01 and RegDB, as pure functions of features.

Each image of one camera, the query, ranks the images of others, the gallery, by similarity. Public evaluators differ
in four points, which change the numbers. Here, as in the official code of both sets:
- of equal similarities the earlier image of the gallery ranks first;
- a query that has no match in its gallery is left out of every mean;
- rank-k on SYSU-MM01 counts each identity once, by its nearest image, while mAP and mINP count images;
- a query of camera 3 of SYSU-MM01 sees no image of camera 2 (same_place()).

Features, similarities, labels and masks may be lists, NumPy arrays or tensors on any device. Labels are whole numbers
or texts, compared for equality only. Half precision is computed in float32.
"""

import random
from collections.abc import Iterator, Mapping
from numbers import Integral

import numpy as np
import pandas as pd
from torch import Tensor

from . import ranking
from .ranking import Metrics, Ranked, rank_metrics

QUERY_CAMERAS = (3, 6)  # of SYSU-MM01: the thermal ones
GALLERY_CAMERAS = {"all": (1, 2, 4, 5), "indoor": (1, 2)}
BLIND = {3: 2}  # query camera -> the gallery camera at the same place, which it never searches


def row(metrics: Metrics, gallery: int, **names) -> dict:
    """One row of a protocol's table; rank-k beyond the gallery's length is its last value."""
    cmc = {f"rank{k}": float(metrics.cmc[min(k, len(metrics.cmc)) - 1]) for k in ranking.RANKS}
    return {**names, **cmc, "mAP": metrics.mAP, "mINP": metrics.mINP, "queries": metrics.valid, "gallery": gallery}


def same_place(query_cams, gallery_cams) -> np.ndarray:
    """Which gallery images a query may not see on SYSU-MM01, (Q, G) bool: of camera 2, for a query of camera 3.

    Both cameras stand in one place, so that the background would give the person away.
    Source: Wu et al. 2017 and their evaluation code, which never reverses the rule, as camera 2 never queries.
    Args: query_cams (Q,), gallery_cams (G,): numbers of the cameras, 1 to 6.
    """
    query_cams, gallery_cams = np.asarray(query_cams)[:, None], np.asarray(gallery_cams)
    return np.any([(query_cams == query) & (gallery_cams == gallery) for query, gallery in BLIND.items()], axis=0)


class SysuSearch:
    """SYSU-MM01: thermal cameras 3 and 6 search visible galleries drawn anew in each trial.

    Each query is compared once with every image that any gallery can hold: a mode, a number of shots and a trial are
    then a choice of columns. A query does not see the images that same_place() names.
    Source: Wu et al. 2017, official evaluation code.
    """

    def __init__(self, features, pids, cams, numbers, *, metric: str = "cosine"):
        """features (N, D); pids, cams, numbers (N,) of the test images, numbers 1-based within identity and camera."""
        features, pids = ranking.feature_rows(features), ranking.identities(pids)
        cams, numbers = ranking.numbers_only(cams, "cams"), ranking.numbers_only(numbers, "numbers")
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
            self.scores = ranking.finite(
                ranking.as_array(ranking.similarities(features[query], features[candidates], metric))
            )
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
        rows = []
        for trial, (found, columns) in enumerate(self.ranked(mode, shots, gallery, permutations, trials)):
            people = len(np.unique(self.pids[columns]))
            rows.append(row(ranking.mean_over_queries(found, people), len(columns), trial=trial))
        return pd.DataFrame(rows)

    def ranked(
        self, mode: str = "all", shots: int = 1, gallery: str = "official", permutations=None, trials: int = 10
    ) -> Iterator[tuple[Ranked, np.ndarray]]:
        """What the queries `self.query` find in each trial's gallery, and its columns of the scores, in one setting."""
        if not self.has_queries(mode):
            cameras = ", ".join(map(str, GALLERY_CAMERAS[mode]))
            raise ValueError(
                f"{mode} search has no query with a match: nobody has both a thermal image of cameras 3 and 6 and a "
                f"visible image of cameras {cameras} that it may see"
            )
        known = {}
        for columns in self.galleries(mode, shots, gallery, permutations, trials):
            # where nobody has more images than shots, every trial draws the same
            if (same := np.sort(columns).tobytes()) not in known:
                found = ranking.Gallery(self.pids[columns], count_identities=True).search(
                    self.scores.take(columns, axis=1), self.query_pids
                )
                known[same] = found, columns
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

    Args: features (N, D); pids, cams, numbers (N,) of the test images, numbers 1-based within identity and camera;
        mode: "all", galleries of cameras 1, 2, 4, 5, or "indoor", of 1, 2; shots: images of each identity and gallery
        camera; trials: how many galleries are drawn; metric: "cosine" or "euclidean"; gallery: "official" draws by
        `permutations` {(cam, pid): (trials, n) 1-based}, "community" by random.seed(trial) as public Python code does
        (whose draw of several shots cannot be repeated: that is ours).
    Returns: one row a trial: trial, rank1, rank5, rank10, rank20, mAP, mINP, queries, gallery; fractions in [0, 1].
    Raises: ValueError on an unknown option, missing permutations, or if no query has a match.
    """
    search = SysuSearch(features, pids, cams, numbers, metric=metric)
    return search.table(mode, shots, gallery, permutations, trials)


def draw_gallery(
    sets: dict[tuple, list[int]], trial: int, shots: int, gallery: str, permutations: Mapping | None
) -> list[tuple[int, int, int]]:
    """Gallery of one trial as (cam, pid, number), identities in ascending order, cameras ascending within each.

    Args: sets: (pid, cam), ascending -> the numbers of its images, ascending; trial, shots, gallery, permutations: as
        sysu().
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
    Args: visible (V, D); visible_pids (V,); thermal (T, D); thermal_pids (T,); metric: "cosine" or "euclidean".
    Returns: rows v2t and t2v (the transpose of the same matrix) with direction, rank1 ... mINP, queries, gallery.
    """
    return both_directions(ranking.similarity_matrix(visible, thermal, metric), visible_pids, thermal_pids)


def both_directions(similarity: Tensor, visible_pids, thermal_pids, exclude=None) -> pd.DataFrame:
    """Visible-to-thermal and thermal-to-visible of one (V, T) similarity, `exclude` (V, T) bool as in rank_metrics."""
    similarity, exclude = (
        x if x is None or isinstance(x, Tensor) else ranking.as_array(x) for x in (similarity, exclude)
    )
    back = None if exclude is None else exclude.T
    v2t = rank_metrics(similarity, visible_pids, thermal_pids, exclude=exclude)
    t2v = rank_metrics(similarity.T, thermal_pids, visible_pids, exclude=back)
    v, t = similarity.shape
    return pd.DataFrame([row(v2t, t, direction="v2t"), row(t2v, v, direction="t2v")])
