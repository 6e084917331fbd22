"""The searches that measure a test set, as values: which of them a set allows, and what each query finds.

In a search each query, an image of one modality, ranks a gallery, images of the other one, by similarity. The text of a
Search is the name of a protocol, such as "sysu all 1-shot official" or "folder t2v centred". It says all that a number
depends on besides features and data.

The name ends with the way in which the features were prepared, unless that is "plain". All other ways are transductive:
before the first search they look at all test images at once, queries included. No label is used, but such a number
holds for a closed set that is known beforehand: never compare it with plain ones without its name.
- "centred": the mean over the test images of a modality is subtracted from the features of that modality, and these are
  L2-normalised again (inference.centred). A shift common to all features of a modality is thereby removed.
- "adapted": the network's batch normalisations have the statistics of the test images (inference.adapted; Li et al.
  2016, Revisiting Batch Normalization For Practical Domain Adaptation, arXiv 1603.04779).
- "adapted centred": the features of the adapted network, centred.

A name that ends with "by" and a name is of a search other than by cosine: by one of systems.SEARCHES, which know the
whole gallery beforehand, so that the same holds for them; or by Euclidean distances after a projection of
systems.FITTED, which has been learned on training people and knows nothing of the test.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from numbers import Integral
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import bootstrap, evaluate, inference, ranking
from .common import unknown
from .ranking import as_array, finite, some_rows
from .systems import FITTED, SEARCHES

SHOTS = (1, 10)  # images of each identity and camera in a SYSU-MM01 gallery
GALLERIES = ("official", "community")  # how a SYSU-MM01 gallery is drawn
DIRECTIONS = ("v2t", "t2v")  # visible images search thermal ones, and the reverse
WAYS = ("plain", "centred", "adapted", "adapted centred")  # how features are prepared before a search


@dataclass(frozen=True)
class Search:
    """One way to search a test set."""

    layout: str  # sysu, regdb, folder, or val: the validation people of any set
    direction: str  # one of DIRECTIONS
    mode: str = ""  # "all" or "indoor"; this and the next two are of layout sysu only
    shots: int = 0  # one of SHOTS
    gallery: str = ""  # one of GALLERIES
    way: str = "plain"  # one of WAYS
    by: str = ""  # a name of systems.SEARCHES or systems.FITTED; "": by cosine

    def __str__(self) -> str:
        kind = f"{self.mode} {self.shots}-shot {self.gallery}" if self.mode else self.direction
        ends = [f" {self.way}"] * (self.way != "plain") + [f" by {self.by}"] * bool(self.by)
        return "".join([f"{self.layout} {kind}", *ends])


class Trial(NamedTuple):
    """One search of one gallery."""

    ranked: ranking.Ranked  # what each query finds
    gallery: np.ndarray  # (G,) rows of the gallery's images among the test images


SYSU = [Search("sysu", "t2v", m, s, g) for m in evaluate.GALLERY_CAMERAS for s in SHOTS for g in GALLERIES]
PLAIN = [*SYSU, *(Search(layout, d) for layout in ("regdb", "folder", "val") for d in DIRECTIONS)]
EVERY = {str(s): s for s in (replace(plain, way=way) for way, plain in product(WAYS, PLAIN))}
EVERY |= {str(s): s for s in (replace(plain, by=by) for by, plain in product((*SEARCHES, *FITTED), PLAIN))}


def named(protocol: str) -> Search:
    """The search with the name of a protocol. Raises: ValueError for an unknown name."""
    if protocol not in EVERY:
        raise ValueError(unknown("protocol", protocol, EVERY))
    return EVERY[protocol]


def known_way(way: str) -> str:
    """The way, if it is one of WAYS. Raises: ValueError for another name."""
    if way not in WAYS:
        raise ValueError(unknown("way", way, WAYS))
    return way


def columns(test: pd.DataFrame) -> dict[str, Tensor]:
    """What a search needs to know of the N images of a table (datasets.read), as tensors (N,) by name.

    pid, cam, modality and number are columns of the table; row is the index of the table; images of one moment have the
    same instant, and -1 where the table does not say.
    """
    instant = pd.factorize(test.frame.where(test.frame != "", None), use_na_sentinel=True)[0]
    columns = {c: torch.tensor(test[c].to_numpy()) for c in ("pid", "cam", "modality", "number")}
    return columns | {"row": torch.tensor(test.index.to_numpy()), "instant": torch.tensor(instant)}


class Embedded:
    """The N test images of a set as features, ready to be searched. A *row* below is a place among these images.

    Args: layout: sysu, regdb, folder or val; images: `features` (N, D) and columns() of the test images; permutations:
        of the official SYSU-MM01 galleries, None where they are missing; way: one of WAYS. Features are centred here,
        but an "adapted" way expects the features of the adapted network; by: of Search, of which a name of
        systems.FITTED expects projected features.
    Raises: ValueError for another way, and what inference.centred() raises.
    """

    def __init__(
        self,
        layout: str,
        images: Mapping[str, Tensor],
        permutations: Mapping | None = None,
        way: str = "plain",
        by: str = "",
    ):
        self.way, self.by, self.metric = known_way(way), by, "euclidean" if by in FITTED else "cosine"
        self.compare = partial(SEARCHES[by], layout=layout) if by in SEARCHES else None
        if way.endswith("centred"):
            images = {**images, "features": inference.centred(images["features"], images["modality"])}
        self.layout, self.images, self.permutations = layout, images, permutations
        self._ranked: dict[tuple[Search, int], tuple] = {}  # results of ranked(), which several methods share
        self.sides = tuple((images["modality"] == m).nonzero()[:, 0].numpy() for m in (0, 1))  # visible, thermal

    @cached_property
    def pids(self) -> np.ndarray:
        """(N,) identities."""
        return self.images["pid"].numpy()

    @cached_property
    def sysu(self) -> evaluate.SysuSearch:
        """The searches of SYSU-MM01; for that layout only."""
        return evaluate.SysuSearch(*(self.images[c] for c in ("features", "pid", "cam", "number")), metric=self.metric)

    @cached_property
    def similarity(self) -> Tensor:
        """(V, T) cosines, or negative distances, of all visible and all thermal images."""
        return ranking.similarity_matrix(*(self.images["features"][side] for side in self.sides), self.metric)

    @cached_property
    def hidden(self) -> Tensor:
        """(V, T) bool: pairs of images that no search may match.

        In SYSU-MM01 those of two cameras in one place, since the background would give the person away; elsewhere those
        of one person at one instant, since the pose would.
        """
        return torch.from_numpy(~self.seen(*self.sides[::-1]).T)

    def searches(self) -> list[Search]:
        """All searches that this set allows.

        On SYSU-MM01: the modes in which at least one query has a match; one shot, and ten where every identity has ten
        images in each camera; official galleries if there are permutations, and community galleries at one shot or if
        there are none.
        """
        if self.layout != "sysu":
            return [Search(self.layout, d, way=self.way, by=self.by) for d in DIRECTIONS]
        kinds = GALLERIES if self.permutations is not None else GALLERIES[1:]
        return [
            replace(s, way=self.way, by=self.by)
            for s in SYSU
            if self.sysu.has_queries(s.mode)
            and s.shots <= self.fewest(s.mode)
            and s.gallery in (kinds if s.shots == 1 else kinds[:1])
        ]

    def fewest(self, mode: str) -> int:
        """The smallest number of images that an identity has in a gallery camera of a mode; 0 without images."""
        cameras = evaluate.GALLERY_CAMERAS[mode]
        return min((len(numbers) for (_, cam), numbers in self.sysu.sets.items() if cam in cameras), default=0)

    def ranked(self, search: Search, trials: int) -> tuple[np.ndarray, list[Trial]]:
        """Rows of the queries (Q,), and what they find in each trial, of which there is one where nothing is drawn.

        Raises: ValueError for a search with another way, or by another similarity, than that of these features.
        """
        if search.by != self.by:
            raise ValueError(f"{str(search)!r} is no name for a search by {self.by or 'cosine'}")
        if search.way != self.way:
            raise ValueError(f"the features are {self.way}: {str(search)!r} is no name for what they find")
        if (key := (search, trials)) not in self._ranked:
            query, results = self.rank(search, trials)
            self._ranked[key] = query, list(results)
        return self._ranked[key]

    def rank(self, search: Search, trials: int) -> tuple[np.ndarray, Iterator[Trial]]:
        """As ranked(), but nothing is kept and each trial is computed when it is asked for."""
        if search.mode:
            candidates = np.flatnonzero(np.isin(self.images["cam"].numpy(), evaluate.GALLERY_CAMERAS["all"]))
            kind = search.mode, search.shots, search.gallery, self.permutations, trials
            results = self.sysu.ranked(*kind, compare=self.compare)
            return self.sysu.query, (Trial(ranked, candidates[columns]) for ranked, columns in results)
        query, gallery, similarity, hidden = self.sided(search.direction)
        exclude = hidden if hidden.any() else None
        ranked = ranking.rank_queries(similarity, self.pids[query], self.pids[gallery], exclude=exclude)
        return query, iter([Trial(ranked, gallery)])

    def sided(self, direction: str) -> tuple[np.ndarray, np.ndarray, Tensor, Tensor]:
        """Rows of one modality as queries (Q,) and of the other as gallery (G,); similarity and hidden (Q, G)."""
        if self.compare:
            query, gallery = self.sides if direction == "v2t" else self.sides[::-1]
            features, hidden = self.images["features"], self.hidden if direction == "v2t" else self.hidden.T
            return query, gallery, self.compare(features[query], features[gallery]), hidden
        if direction == "v2t":
            return *self.sides, self.similarity, self.hidden
        return *self.sides[::-1], self.similarity.T, self.hidden.T

    def hubness(self, direction: str, k: int = 10) -> dict[str, float]:
        """hubness() of all images of one modality searching all of the other, also of queries without a match."""
        _, _, similarity, hidden = self.sided(direction)
        return hubness(similarity, k, exclude=hidden)

    def chance_hubness(self, direction: str, k: int = 10, draws: int = 20) -> dict[str, float]:
        """The mean hubness() of some random orders, for comparison with hubness()."""
        _, _, similarity, hidden = self.sided(direction)
        g = np.random.default_rng(0)
        values = [hubness(g.random(similarity.shape), k, exclude=hidden) for _ in range(draws)]
        return pd.DataFrame(values).mean().to_dict()

    def seen(self, query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """(Q, G) bool: which images of a gallery each query may find. Args: query (Q,), gallery (G,): rows."""
        if self.layout == "sysu":
            cams = self.images["cam"].numpy()
            return ~evaluate.same_place(cams[query], cams[gallery])
        instant = self.images.get("instant", torch.full((len(self.pids),), -1)).numpy()
        together = (instant[query][:, None] == instant[gallery]) & (instant[query] >= 0)[:, None]
        return ~(together & (self.pids[query][:, None] == self.pids[gallery]))

    def table(self, search: Search, trials: int) -> pd.DataFrame:
        """The metrics of a search, a row a trial: trial or direction, rank1 ... mINP (fractions), queries, gallery."""
        rows = []
        for trial, (ranked, gallery) in enumerate(self.ranked(search, trials)[1]):
            length = len(np.unique(self.pids[gallery])) if search.mode else len(gallery)
            name = {"trial": trial} if search.mode else {"direction": search.direction}
            rows.append(evaluate.row(ranking.mean_over_queries(ranked, length), len(gallery), **name))
        return pd.DataFrame(rows)

    def tables(self, trials: int) -> dict[str, pd.DataFrame]:
        """table() of every search that the set allows, by name. Raises: ValueError where there is none."""
        tables = {str(search): self.table(search, trials) for search in self.searches()}
        if not tables:
            raise ValueError("no thermal test image has a visible image of its person that it may find")
        return tables

    def queries(self, search: Search, trials: int) -> pd.DataFrame:
        """What each query adds to the metrics, mean over trials: pid, row, and what of_queries() gives."""
        query, results = self.ranked(search, trials)
        table = of_queries(trial.ranked for trial in results)
        table.insert(0, "pid", self.pids[query])
        table.insert(1, "row", self.images["row"].numpy()[query])
        return table

    def chance(self, search: Search, trials: int) -> pd.DataFrame:
        """Expected rank1 and mAP (fractions) of a random order, a row a query, mean over trials; NaN: no match."""
        query, results = self.ranked(search, trials)
        tables = []
        for _, gallery in results:
            seen = self.seen(query, gallery)
            matches = ((self.pids[query][:, None] == self.pids[gallery]) & seen).sum(1)
            values = np.stack(chance(matches, seen.sum(1)), 1)
            tables.append(np.where(matches[:, None] > 0, values, np.nan))
        return pd.DataFrame(np.mean(tables, axis=0), columns=["rank1", "mAP"])

    def summary(self, trials: int) -> pd.DataFrame:
        """A row for each search, in percent: its metrics, mean over trials, with numbers to judge them by.

        rank1_low, rank1_high, mAP_low, mAP_high: 95 % interval over people (bootstrap_mean); chance_rank1, chance_mAP:
        of a random order; queries, people, gallery: counts; galleries: how many different ones the trials drew.
        """
        rows = {}
        for search in self.searches():
            table, queries = self.table(search, trials), self.queries(search, trials).dropna()
            metrics = 100 * table.drop(columns=["trial", "direction", "queries", "gallery"], errors="ignore")
            ends, random = {}, 100 * self.chance(search, trials).mean()
            for metric in ("rank1", "mAP"):
                low, high = bootstrap.bootstrap_mean(100 * queries[metric], queries.pid)
                ends |= {f"{metric}_low": low, f"{metric}_high": high, f"chance_{metric}": random[metric]}
            sizes = {"queries": len(queries), "people": queries.pid.nunique(), "gallery": table.gallery.iloc[0]}
            rows[str(search)] = {**metrics.mean(), **ends, **sizes, "galleries": self.galleries(search, trials)}
        return pd.DataFrame(rows).T.astype(dict.fromkeys(("queries", "people", "gallery", "galleries"), int))

    def galleries(self, search: Search, trials: int) -> int:
        """How many different galleries the trials of a search draw; 1 where nothing is drawn."""
        if not search.mode:
            return 1
        return self.sysu.distinct_galleries(search.mode, search.shots, search.gallery, self.permutations, trials)

    def examples(self, queries: int = 6, top: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """Some thermal images that search all visible ones, from the best to the worst average precision.

        Args: queries: at most this many, of different people; top: visible images for each.
        Returns: rows of the queries (n,), rows of the images found (n, top) nearest first, -1 where there is none,
        whether each is a match (n, top), and a title for each query.
        """
        visible, thermal = self.sides
        ranked = ranking.rank_queries(
            self.similarity.T,
            self.pids[thermal],
            self.pids[visible],
            exclude=self.hidden.T if self.hidden.any() else None,
        )
        order = np.argsort(-ranked.ap, kind="stable")[: int(np.isfinite(ranked.ap).sum())]  # NaN (no match) comes last
        order = order[np.sort(np.unique(self.pids[thermal][order], return_index=True)[1])]  # the best of each person
        places = np.unique(np.linspace(0, len(order) - 1, queries).round().astype(int))
        chosen, scores = order[places], self.similarity.T[order[places]].numpy()
        scores = np.where(self.hidden.T[chosen].numpy(), -np.inf, scores)
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        seen = np.isfinite(np.take_along_axis(scores, nearest, axis=1))
        right = seen & (self.pids[thermal][chosen, None] == self.pids[visible][nearest])
        cams = self.images["cam"].numpy()[thermal]
        titles = [
            f"person {self.pids[thermal][q]}, camera {cams[q]}: right at {ranked.first[q]} of {len(visible)}"
            for q in chosen
        ]
        return thermal[chosen], np.where(seen, visible[nearest], -1), right, titles


def of_queries(trials: Iterable[ranking.Ranked]) -> pd.DataFrame:
    """What each query adds to a protocol's metrics: rank1, ..., mAP, mINP (Q rows), fractions, mean over its trials.

    The mean of a column is the protocol's mean over trials, since every trial has the same valid queries: each gallery
    holds as many images of an identity and a camera. A query without a match is NaN, and in no mean.
    """
    tables = []
    for ranked in trials:
        found = {f"rank{k}": np.where(ranked.first > 0, ranked.first <= k, np.nan) for k in ranking.RANKS}
        tables.append(np.stack([*found.values(), ranked.ap, ranked.inp], 1))
    return pd.DataFrame(np.mean(tables, axis=0), columns=[*found, "mAP", "mINP"])


def rehearse(layout: str, test: pd.DataFrame, permutations: Mapping | None, trials: int) -> list[str]:
    """Run every search on random features: an error of the evaluation comes before the training, not after it.

    Args: layout, permutations: as Embedded; test: the table of the test images; trials: of each search.
    Returns: the names of the protocols. Raises: what the evaluation would raise.
    """
    features = torch.randn(len(test), 4, generator=torch.Generator().manual_seed(0))
    embedded = Embedded(layout, columns(test) | {"features": features}, permutations)
    for search in embedded.searches():
        embedded.galleries(search, trials)  # every gallery is drawn, and one of each search is searched
    return list(embedded.tables(1))


def chance(matches, gallery) -> tuple[np.ndarray, np.ndarray]:
    """Expected rank-1 and average precision (fractions, (Q,) each) of a gallery in random order.

    With m matches among g images rank-1 is m / g. The average precision is the mean over ranks k of the expected
    precision at a match there: H / g + (m - 1) (g - H) / (g (g - 1)), with H = 1 + 1/2 + ... + 1/g.
    Args: matches m, gallery g: whole numbers (Q,), m >= 1.
    """
    m, g = np.broadcast_arrays(np.asarray(matches, float), np.asarray(gallery, float))
    harmonic = np.concatenate([[0], (1 / np.arange(1, g.max(initial=1) + 1)).cumsum()])[g.astype(int)]
    return m / g, harmonic / g + (m - 1) * (g - harmonic) / np.maximum(g * (g - 1), 1)


def hubness(similarity, k: int = 10, *, exclude=None) -> dict[str, float]:
    """Whether few images of a gallery, the hubs, are near to most queries: hub_share and hub_skewness.

    hub_share: the share of the queries that have the most frequent nearest image as theirs, from about 1 / G to 1.
    hub_skewness: the skewness over the gallery of N_k, the number of queries that have an image among their k nearest:
    mean((N_k - mean)^3) / sd^3; 0 where all are chosen equally often, as with k >= G. Of equal similarities the earlier
    image is nearer. No label is read.
    Source: Radovanovic, Nanopoulos and Ivanovic 2010, Hubs in Space, JMLR 11, section 2, for points that search each
    other; here queries search a gallery.
    Args: similarity (Q, G), larger is nearer; k; exclude (Q, G) bool: images that a query may not see.
    Raises: ValueError as ranking.rank_queries(), or if k < 1.
    """
    shape = tuple(as_array(similarity).shape)
    if len(shape) != 2 or not all(shape) or not isinstance(k, Integral) or k < 1:
        raise ValueError(f"hubness needs a similarity (Q, G) with Q, G > 0 and k >= 1, not {shape} and k={k!r}")
    scores = finite(as_array(similarity))
    hidden = np.zeros(shape, bool) if exclude is None else some_rows(exclude, "exclude", np.arange(shape[0]), shape)
    order = np.argsort(np.where(hidden, np.inf, -scores), axis=1, kind="stable")[:, :k]
    seen = ~np.take_along_axis(hidden, order, axis=1)
    first, chosen = (np.bincount(o[s], minlength=shape[1]) for o, s in ((order[:, :1], seen[:, :1]), (order, seen)))
    spread = chosen - chosen.mean()
    skewness = (spread**3).mean() / spread.std() ** 3 if spread.any() else 0.0
    return {"hub_share": float(first.max() / shape[0]), "hub_skewness": float(skewness)}
