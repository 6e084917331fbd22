"""The protocols of SYSU-MM01 and RegDB, as pure functions of features.

Each image of one camera, the query, ranks the images of others, the gallery, by similarity. ranking.py counts the ranks
and says what features and labels may be. Public evaluators differ in four points, which change the numbers. Here, as in
the official code of both sets:
- of equal similarities the earlier image of the gallery ranks first;
- a query that has no match in its gallery is left out of every mean;
- rank-k on SYSU-MM01 counts each identity once, by its nearest image, while mAP and mINP count images;
- a query of camera 3 of SYSU-MM01 sees no image of camera 2 (same_place()).
"""

import random
from collections.abc import Iterator, Mapping
from numbers import Integral

import numpy as np
import pandas as pd
from torch import Tensor

from . import ranking
from .ranking import Metrics, Ranked, as_array, identities, mean_over_queries, rank_metrics, search, similarity_matrix

QUERY_CAMERAS = (3, 6)  # of SYSU-MM01: the thermal ones
GALLERY_CAMERAS = {"all": (1, 2, 4, 5), "indoor": (1, 2)}
BLIND = {3: 2}  # query camera -> the gallery camera at the same place, which it never searches


def row(metrics: Metrics, gallery: int, **names) -> dict:
    """One row of a protocol's table; rank-k beyond the gallery's length is its last value."""
    cmc = {f"rank{k}": float(metrics.cmc[min(k, len(metrics.cmc)) - 1]) for k in ranking.RANKS}
    return {**names, **cmc, "mAP": metrics.mAP, "mINP": metrics.mINP, "queries": metrics.valid, "gallery": gallery}


def same_place(query_cams, gallery_cams) -> np.ndarray:
    """Which gallery images a query may not see on SYSU-MM01, (Q, G) bool: of camera 2, for a query of camera 3.
    Both stand in one place, so that the background would give the person away. Source: Wu et al. 2017 and their code,
    which never reverses the rule, as camera 2 never queries. Args: query_cams (Q,), gallery_cams (G,): 1 to 6.
    """
    query_cams, gallery_cams = np.asarray(query_cams)[:, None], np.asarray(gallery_cams)
    return np.any([(query_cams == query) & (gallery_cams == gallery) for query, gallery in BLIND.items()], axis=0)


class SysuSearch:
    """SYSU-MM01: thermal cameras 3 and 6 search visible galleries drawn anew in each trial.
    Each query is compared once with every image that any gallery can hold: a mode, a number of shots and a trial are
    then a choice of columns. A query does not see the images that same_place() names. `setting` and `options` are the
    arguments of galleries(), by place and by name. Source: Wu et al. 2017, official evaluation code.
    """

    def __init__(self, features, pids, cams, numbers, *, metric: str = "cosine"):
        """features (N, D); pids, cams, numbers (N,) of the test images, numbers 1-based within identity and camera."""
        features, pids = ranking.feature_rows(features), identities(pids)
        cams, numbers = identities(cams, "cams", texts=False), identities(numbers, "numbers", texts=False)
        if len(set(lengths := [len(x) for x in (features, pids, cams, numbers)])) > 1:
            raise ValueError(f"features, pids, cams and numbers must be as long as each other, not {lengths}")
        if (odd := ~np.isin(cams, QUERY_CAMERAS + GALLERY_CAMERAS["all"])).any():
            raise ValueError(f"cams has the value {cams[odd][0]}: SYSU-MM01 has cameras 1 to 6")
        names, pids = np.unique(pids, return_inverse=True)  # from here on pids are places in `names`
        query = np.flatnonzero(np.isin(cams, QUERY_CAMERAS))
        self.query = query = query[np.argsort(pids[query], kind="stable")]  # (Q,) images, sorted for search()
        images = np.flatnonzero(np.isin(cams, GALLERY_CAMERAS["all"]))  # (G,) that galleries are drawn from
        self.query_pids, self.pids, self.cams = pids[query], pids[images], cams[images]
        unseen = same_place(cams[query], self.cams)
        self.matched = ((self.query_pids[:, None] == self.pids) & ~unseen).any(0)  # (G,): some query may find it
        self.unseen, self.features = unseen, (features[query], features[images])
        scores = similarity_matrix(*self.features, metric) if unseen.size else unseen
        self.scores = np.where(unseen, -np.inf, ranking.finite(as_array(scores)))  # (Q, G)
        self.sets: dict[tuple, dict[int, int]] = {}  # (pid, cam), ascending -> {number: its column}, ascending
        labels = names[self.pids].tolist(), self.cams.tolist(), numbers[images].tolist(), range(len(images))
        for pid, cam, number, column in sorted(zip(*labels, strict=True)):
            if self.sets.setdefault((pid, cam), {}).setdefault(number, column) != column:
                raise ValueError(f"identity {pid} has two images of number {number} in camera {cam}: count them from 1")

    def has_queries(self, mode: str) -> bool:
        """Whether any query has a match that it may see in mode "all" or "indoor". Raises: ValueError on another."""
        if mode not in list(GALLERY_CAMERAS):
            raise ValueError(f"mode {mode!r} is not known: choose {' or '.join(GALLERY_CAMERAS)}")
        return bool((self.matched & np.isin(self.cams, GALLERY_CAMERAS[mode])).any())

    def galleries(self, mode="all", shots=1, gallery="official", permutations=None, trials=10) -> Iterator[np.ndarray]:
        """Draw the gallery of each trial: its columns of `scores`, by identity and then by camera, ascending.
        Args: mode: "all" takes cameras 1, 2, 4 and 5, "indoor" 1 and 2; shots: images of each identity in each camera;
            gallery: "official" draws by `permutations`, "community" by random.seed(trial) as public Python code does
            (whose draw of several shots cannot be repeated: that is ours); permutations {(cam, pid): (trials, n)
            1-based numbers}, as datasets.sysu_permutations() returns them; trials: how many galleries.
        Raises: ValueError on an unknown option, missing permutations, or if no query has a match.
        """
        if not self.has_queries(mode):
            cameras = ", ".join(map(str, GALLERY_CAMERAS[mode]))
            lacks = f"both a thermal image of cameras 3 and 6 and a visible image of cameras {cameras} that it may see"
            raise ValueError(f"{mode} search has no query with a match: nobody has {lacks}")
        if not all(isinstance(n, Integral) and n >= 1 for n in (shots, trials)):
            raise ValueError(f"shots and trials must be whole numbers of at least 1, not {shots!r} and {trials!r}")
        if gallery not in ("official", "community"):
            raise ValueError(f"gallery {gallery!r} is not known: choose official or community")
        if gallery == "official" and not isinstance(permutations, Mapping):
            kind = f"{type(permutations).__name__}: the official gallery needs them, see data/README.md"
            raise ValueError(f"permutations must be what datasets.sysu_permutations(path) returns, not of type {kind}")
        for trial in range(trials):
            stream, columns = random.Random(trial), []  # the same stream as random.seed(trial) on the module
            for (pid, cam), images in self.sets.items():
                if cam not in GALLERY_CAMERAS[mode]:
                    continue
                if gallery == "community":  # a sample of one is what random.choice() draws
                    numbers = stream.sample(list(images), min(shots, len(images)))
                elif trial < len(draws := permutations.get((cam, pid), ())):
                    numbers = np.asarray(draws[trial])[:shots].tolist()
                else:
                    draw = f"permutation of identity {pid} in camera {cam} for trial {trial + 1}"
                    raise ValueError(f"rand_perm_cam.mat has no {draw}: it has {len(draws)}")
                if len(set(numbers)) < shots or not set(numbers) <= set(images):
                    few = f"too few for {shots} shots, or some missing"
                    raise ValueError(f"identity {pid} has {len(images)} images in camera {cam}: {few}")
                columns += [images[number] for number in numbers]
            yield np.array(columns)

    def distinct_galleries(self, *setting, **options) -> int:
        """How many different galleries the trials draw: 1 where no identity has more images in a camera than `shots`.
        All trials are then equal, and their spread says nothing. Args, Raises: as galleries().
        """
        return len({np.sort(columns).tobytes() for columns in self.galleries(*setting, **options)})

    def ranked(self, *setting, compare=None, **options) -> Iterator[tuple[Ranked, np.ndarray]]:
        """What the queries rank in each trial's gallery, and its columns of `scores`. Args, Raises: as galleries();
        compare: a function of features (Q, D) and (G, D) -> similarity (Q, G), for one that depends on the gallery."""
        results = {}
        for columns in self.galleries(*setting, **options):
            if (key := np.sort(columns).tobytes()) not in results:  # another trial may have drawn the same images
                scores = self.scores.take(columns, axis=1)
                if compare:
                    scores = as_array(compare(self.features[0], self.features[1][columns]))
                    scores = np.where(self.unseen[:, columns], -np.inf, ranking.finite(scores))
                results[key] = search(scores, self.query_pids, self.pids[columns], True), columns
            yield results[key]

    def table(self, *setting, **options) -> pd.DataFrame:
        """The table that sysu() returns. Args, Raises: as galleries()."""
        rows = []
        for trial, (ranked, columns) in enumerate(self.ranked(*setting, **options)):
            people = len(np.unique(self.pids[columns]))
            rows.append(row(mean_over_queries(ranked, people), len(columns), trial=trial))
        return pd.DataFrame(rows)


def sysu(
    features, pids, cams, numbers, *, mode: str = "all", shots: int = 1, gallery: str = "official",
    permutations: Mapping | None = None, trials: int = 10, metric: str = "cosine",
) -> pd.DataFrame:  # fmt: skip
    """SYSU-MM01 protocol, one setting of a SysuSearch.
    Args: features (N, D); pids, cams, numbers (N,) of the test images, numbers 1-based within identity and camera;
        mode, shots, gallery, permutations, trials: of SysuSearch.galleries(); metric: "cosine" or "euclidean".
    Returns: one row a trial: trial, rank1, rank5, rank10, rank20, mAP, mINP, queries, gallery; fractions in [0, 1].
    Raises: ValueError on an unknown option, missing permutations, or if no query has a match.
    """
    search = SysuSearch(features, pids, cams, numbers, metric=metric)
    return search.table(mode, shots, gallery, permutations, trials)


def regdb(visible, visible_pids, thermal, thermal_pids, *, metric: str = "cosine") -> pd.DataFrame:
    """RegDB protocol of one split: all visible images search all thermal ones and the reverse; nothing is left out.
    Source: Ye et al. 2018, HCML; one model per split, averaged over ten splits by the caller.
    Args: visible (V, D); visible_pids (V,); thermal (T, D); thermal_pids (T,); metric: "cosine" or "euclidean".
    Returns: rows v2t and t2v (the transpose of the same matrix) with direction, rank1 ... mINP, queries, gallery.
    """
    return both_directions(similarity_matrix(visible, thermal, metric), visible_pids, thermal_pids)


def both_directions(similarity, visible_pids, thermal_pids, exclude=None) -> pd.DataFrame:
    """Visible-to-thermal and thermal-to-visible of one (V, T) similarity, `exclude` (V, T) bool as in rank_metrics."""
    similarity, exclude = (x if x is None or isinstance(x, Tensor) else as_array(x) for x in (similarity, exclude))
    v2t = rank_metrics(similarity, visible_pids, thermal_pids, exclude=exclude)
    t2v = rank_metrics(similarity.T, thermal_pids, visible_pids, exclude=None if exclude is None else exclude.T)
    v, t = similarity.shape
    return pd.DataFrame([row(v2t, t, direction="v2t"), row(t2v, v, direction="t2v")])
