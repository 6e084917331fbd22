"""The searches that a test set is measured by: which there are, and what each query finds.

A search is a value. Its text is the name of a protocol, such as "sysu all 1-shot official" or "folder t2v centred", and
says all that a number depends on besides features and data.

Its last words are the way in which the features were prepared, where that was not "plain". All ways but plain are
transductive: they look at all test images at once, queries included, before the first search. No label is used, but
such a number says what a network finds in a set that is closed and known, and is never to be set beside plain ones
without its name.
- "centred": the mean over the test images of a modality is taken off the features of that modality, and these are
  L2-normalised again (inference.centred): what moved all features of a camera alike is gone.
- "adapted": the network's batch normalisations have the statistics of the test images (inference.adapted; Li et al.
  2016, Revisiting Batch Normalization For Practical Domain Adaptation, arXiv 1603.04779).
- "adapted centred": the features of the adapted network, centred.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from numbers import Integral

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import bootstrap, evaluate, inference, ranking
from .common import unknown
from .ranking import as_array, finite, some_rows

SHOTS = (1, 10)  # images of each identity and camera in a SYSU-MM01 gallery
GALLERIES = ("official", "community")  # how a SYSU-MM01 gallery is drawn
DIRECTIONS = ("v2t", "t2v")  # visible images search thermal ones, and the reverse
WAYS = ("plain", "centred", "adapted", "adapted centred")  # how features are prepared before a search


@dataclass(frozen=True)
class Search:
    """One way to search a test set."""

    layout: str  # sysu, regdb, folder, or val: the validation people of any set
    direction: str
    mode: str = ""  # of sysu, with shots and gallery: "all" or "indoor"
    shots: int = 0
    gallery: str = ""
    way: str = "plain"  # one of WAYS

    def __str__(self) -> str:
        what = f"{self.mode} {self.shots}-shot {self.gallery}" if self.mode else self.direction
        return f"{self.layout} {what}" + (f" {self.way}" if self.way != "plain" else "")


SYSU = [Search("sysu", "t2v", m, s, g) for m in evaluate.GALLERY_CAMERAS for s in SHOTS for g in GALLERIES]
PLAIN = [*SYSU, *(Search(layout, d) for layout in ("regdb", "folder", "val") for d in DIRECTIONS)]
EVERY = {str(s): s for s in (replace(plain, way=way) for way, plain in product(WAYS, PLAIN))}


def named(protocol: str) -> Search:
    """The search of a protocol's name. Raises: ValueError for a name that is none."""
    if protocol not in EVERY:
        raise ValueError(unknown("protocol", protocol, EVERY))
    return EVERY[protocol]


def known_way(way: str) -> str:
    """One of WAYS. Raises: ValueError for another name."""
    if way not in WAYS:
        raise ValueError(unknown("way", way, WAYS))
    return way


def columns(test: pd.DataFrame) -> dict[str, Tensor]:
    """What a search has to know of the images of a table (datasets.read), (N,) each.

    pid, cam, modality, number as there; row, the place in the table; instant, equal for images of one moment, -1 where
    it is not known.
    """
    instant = pd.factorize(test.frame.where(test.frame != "", None), use_na_sentinel=True)[0]
    known = {c: torch.tensor(test[c].to_numpy()) for c in ("pid", "cam", "modality", "number")}
    return known | {"row": torch.tensor(test.index.to_numpy()), "instant": torch.tensor(instant)}


class Embedded:
    """The test images of a set as features, ready to be searched.

    Args: layout: sysu, regdb, folder or val; images: features (N, D), and columns() of the test images; permutations:
        of the official SYSU-MM01 galleries, where they are at hand; way: one of WAYS, part of the name of every search.
        Centring happens here; features of an adapted network are for the caller to bring.
    Raises: ValueError for another way, and what inference.centred() raises.
    """

    def __init__(
        self, layout: str, images: Mapping[str, Tensor], permutations: Mapping | None = None, way: str = "plain"
    ):
        self.way = known_way(way)
        if way.endswith("centred"):
            images = {**images, "features": inference.centred(images["features"], images["modality"])}
        self.layout, self.images, self.permutations = layout, images, permutations
        self.found: dict[tuple[Search, int], tuple] = {}  # ranked() once: metrics, single queries and chance share it
        self.sides = tuple((images["modality"] == m).nonzero()[:, 0].numpy() for m in (0, 1))  # visible, thermal

    @cached_property
    def pids(self) -> np.ndarray:
        return self.images["pid"].numpy()

    @cached_property
    def sysu(self) -> evaluate.SysuSearch:
        return evaluate.SysuSearch(*(self.images[c] for c in ("features", "pid", "cam", "number")))

    @cached_property
    def similarity(self) -> Tensor:
        """(V, T) of all visible and all thermal images."""
        return ranking.similarity_matrix(*(self.images["features"][side] for side in self.sides))

    @cached_property
    def hidden(self) -> Tensor:
        """(V, T) bool, the pairs that no search may find.

        Two images of one person at one instant: the pose gives the answer away. In SYSU-MM01, cameras of one place.
        """
        return torch.from_numpy(~self.seen(*self.sides[::-1]).T)

    def searches(self) -> list[Search]:
        """Those that this set allows.

        SYSU-MM01: a mode in which at least one query has a match, by the official galleries where there are
        permutations, and by the community's at one shot; ten shots where every identity has ten images in each camera.
        """
        if self.layout != "sysu":
            return [Search(self.layout, d, way=self.way) for d in DIRECTIONS]
        kinds = GALLERIES if self.permutations is not None else GALLERIES[1:]
        return [
            replace(s, way=self.way)
            for s in SYSU
            if self.sysu.has_queries(s.mode)
            and s.shots <= self.fewest(s.mode)
            and s.gallery in (kinds if s.shots == 1 else kinds[:1])
        ]

    def fewest(self, mode: str) -> int:
        """Images of the identity and gallery camera of a mode that has the fewest."""
        cameras = evaluate.GALLERY_CAMERAS[mode]
        return min((len(numbers) for (_, cam), numbers in self.sysu.sets.items() if cam in cameras), default=0)

    def ranked(self, search: Search, trials: int) -> tuple[np.ndarray, list[tuple[ranking.Ranked, np.ndarray]]]:
        """Rows of the queries (Q,), and of each trial what they find and the rows of its gallery (G,).

        Raises: ValueError for a search whose name says another way than that of these features.
        """
        if search.way != self.way:
            raise ValueError(f"the features are {self.way}: {str(search)!r} is no name for what they find")
        if (key := (search, trials)) not in self.found:
            query, found = self.rank(search, trials)
            self.found[key] = query, list(found)
        return self.found[key]

    def rank(self, search: Search, trials: int) -> tuple[np.ndarray, Iterator[tuple[ranking.Ranked, np.ndarray]]]:
        """What ranked() keeps."""
        if search.mode:
            candidates = np.flatnonzero(np.isin(self.images["cam"].numpy(), evaluate.GALLERY_CAMERAS["all"]))
            found = self.sysu.ranked(search.mode, search.shots, search.gallery, self.permutations, trials)
            return self.sysu.query, ((ranked, candidates[columns]) for ranked, columns in found)
        query, gallery, similarity, hidden = self.sided(search.direction)
        exclude = hidden if hidden.any() else None
        ranked = ranking.rank_queries(similarity, self.pids[query], self.pids[gallery], exclude=exclude)
        return query, iter([(ranked, gallery)])

    def sided(self, direction: str) -> tuple[np.ndarray, np.ndarray, Tensor, Tensor]:
        """Rows of all images of either modality as queries (Q,) and gallery (G,), similarity and hidden (Q, G)."""
        if direction == "v2t":
            return *self.sides, self.similarity, self.hidden
        return *self.sides[::-1], self.similarity.T, self.hidden.T

    def hubness(self, direction: str, k: int = 10) -> dict[str, float]:
        """hubness() of all images of one modality that search all of the other, with a match or without."""
        _, _, similarity, hidden = self.sided(direction)
        return hubness(similarity, k, exclude=hidden)

    def chance_hubness(self, direction: str, k: int = 10, draws: int = 20) -> dict[str, float]:
        """The same of random orders, the mean of some."""
        _, _, similarity, hidden = self.sided(direction)
        g = np.random.default_rng(0)
        found = [hubness(g.random(similarity.shape), k, exclude=hidden) for _ in range(draws)]
        return pd.DataFrame(found).mean().to_dict()

    def seen(self, query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Which gallery images each query may find, (Q, G) bool, of their rows."""
        if self.layout == "sysu":
            cams = self.images["cam"].numpy()
            return ~evaluate.same_place(cams[query], cams[gallery])
        instant = self.images.get("instant", torch.full((len(self.pids),), -1)).numpy()
        together = (instant[query][:, None] == instant[gallery]) & (instant[query] >= 0)[:, None]
        return ~(together & (self.pids[query][:, None] == self.pids[gallery]))

    def table(self, search: Search, trials: int) -> pd.DataFrame:
        """The metrics of a search, a row a trial: trial or direction, rank1 ... mINP, queries, gallery; fractions."""
        rows = []
        for trial, (ranked, gallery) in enumerate(self.ranked(search, trials)[1]):
            length = len(np.unique(self.pids[gallery])) if search.mode else len(gallery)
            name = {"trial": trial} if search.mode else {"direction": search.direction}
            rows.append(evaluate.row(ranking.mean_over_queries(ranked, length), len(gallery), **name))
        return pd.DataFrame(rows)

    def tables(self, trials: int) -> dict[str, pd.DataFrame]:
        """table() of every search that the set allows, by name. Raises: ValueError where there is none."""
        found = {str(search): self.table(search, trials) for search in self.searches()}
        if not found:
            raise ValueError("no thermal test image has a visible image of its person that it may find")
        return found

    def queries(self, search: Search, trials: int) -> pd.DataFrame:
        """What each query adds to the metrics, mean over trials: pid, row, and what ranking.of_queries() gives."""
        query, found = self.ranked(search, trials)
        table = ranking.of_queries(ranked for ranked, _ in found)
        table.insert(0, "pid", self.pids[query])
        table.insert(1, "row", self.images["row"].numpy()[query])
        return table

    def chance(self, search: Search, trials: int) -> pd.DataFrame:
        """What a random order would give each query, mean over trials: rank1 and mAP (Q rows), NaN without a match."""
        query, found = self.ranked(search, trials)
        tables = []
        for _, gallery in found:
            seen = self.seen(query, gallery)
            matches = ((self.pids[query][:, None] == self.pids[gallery]) & seen).sum(1)
            values = np.stack(chance(matches, seen.sum(1)), 1)
            tables.append(np.where(matches[:, None] > 0, values, np.nan))
        return pd.DataFrame(np.mean(tables, axis=0), columns=["rank1", "mAP"])

    def summary(self, trials: int) -> pd.DataFrame:
        """What each search finds, in percent, a row a search: the metrics, mean over trials, and a scale.

        rank1_low, rank1_high, mAP_low, mAP_high: 95 % interval over people (bootstrap_mean); chance_rank1,
        chance_mAP; queries, people, gallery, and galleries: how many different ones the trials drew.
        """
        rows = {}
        for search in self.searches():
            table, each = self.table(search, trials), self.queries(search, trials).dropna()
            metrics = 100 * table.drop(columns=["trial", "direction", "queries", "gallery"], errors="ignore")
            ends, lowest = {}, 100 * self.chance(search, trials).mean()
            for metric in ("rank1", "mAP"):
                low, high = bootstrap.bootstrap_mean(100 * each[metric], each.pid)
                ends |= {f"{metric}_low": low, f"{metric}_high": high, f"chance_{metric}": lowest[metric]}
            sizes = {"queries": len(each), "people": each.pid.nunique(), "gallery": table.gallery.iloc[0]}
            rows[str(search)] = {**metrics.mean(), **ends, **sizes, "galleries": self.galleries(search, trials)}
        return pd.DataFrame(rows).T.astype(dict.fromkeys(("queries", "people", "gallery", "galleries"), int))

    def galleries(self, search: Search, trials: int) -> int:
        """How many different galleries the trials of a search draw."""
        if not search.mode:
            return 1
        return self.sysu.distinct_galleries(search.mode, search.shots, search.gallery, self.permutations, trials)

    def examples(self, queries: int = 6, top: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """Thermal images that search all visible ones, evenly from the best to the worst by average precision.

        One of each person. Returns: rows of the queries (n,), rows of what they found
        (n, top) nearest first, whether each is a match (n, top), and a title for each query.
        """
        visible, thermal = self.sides
        found = ranking.rank_queries(
            self.similarity.T,
            self.pids[thermal],
            self.pids[visible],
            exclude=self.hidden.T if self.hidden.any() else None,
        )
        order = np.argsort(-found.ap, kind="stable")[: int(np.isfinite(found.ap).sum())]  # NaN, no match, comes last
        order = order[np.sort(np.unique(self.pids[thermal][order], return_index=True)[1])]
        places = np.unique(np.linspace(0, len(order) - 1, queries).round().astype(int))
        chosen, scores = order[places], self.similarity.T[order[places]].numpy()
        scores = np.where(self.hidden.T[chosen].numpy(), -np.inf, scores)
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        seen = np.isfinite(np.take_along_axis(scores, nearest, axis=1))
        right = seen & (self.pids[thermal][chosen, None] == self.pids[visible][nearest])
        cams = self.images["cam"].numpy()[thermal]
        titles = [
            f"person {self.pids[thermal][q]}, camera {cams[q]}: right at {found.first[q]} of {len(visible)}"
            for q in chosen
        ]
        return thermal[chosen], np.where(seen, visible[nearest], -1), right, titles


def rehearse(layout: str, test: pd.DataFrame, permutations: Mapping | None, trials: int) -> list[str]:
    """Run every search on random features, so that what stops an evaluation stops it before the training.

    Returns: the names of the protocols. Raises: what the evaluation would raise.
    """
    features = torch.randn(len(test), 4, generator=torch.Generator().manual_seed(0))
    return list(Embedded(layout, columns(test) | {"features": features}, permutations).tables(trials))


def chance(matches, gallery) -> tuple[np.ndarray, np.ndarray]:
    """Expected rank-1 and average precision of a random order, as fractions, of queries with `matches` in `gallery`.

    m / g, and the mean over ranks k of the expected precision there: with H = 1 + 1/2 + ... + 1/g it is
    H / g + (m - 1) (g - H) / (g (g - 1)). Args: matches m, gallery g: whole numbers (Q,), m >= 1.
    """
    m, g = np.broadcast_arrays(np.asarray(matches, float), np.asarray(gallery, float))
    harmonic = np.concatenate([[0], (1 / np.arange(1, g.max(initial=1) + 1)).cumsum()])[g.astype(int)]
    return m / g, harmonic / g + (m - 1) * (g - harmonic) / np.maximum(g * (g - 1), 1)


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
