"""A run's network on a folder of images that it did not learn from, beside histograms of gradients and chance.

A *way* (protocols.WAYS) is how features are prepared before the search: plain, centred by modality, or adapted, with
the batch normalisation's statistics taken from the folder. A *direction* says which modality searches the other.
"""

from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import bootstrap, inference, protocols
from ..config import Experiment
from ..data import datasets
from ..runs import Run, features_of, load_data, read_table


def gradient_histogram(pixels: np.ndarray, cell: int = 8, bins: int = 9) -> Tensor:
    """Histograms of oriented gradients, which learn nothing: a baseline that any trained network should beat.

    Unsigned orientations, votes weighted by magnitude, blocks of 2 x 2 cells, L2-hys normalisation (0.2). Only grey
    levels are read, so both modalities are read in the same way. Source: Dalal and Triggs 2005.
    Args: pixels: (N, 3, H, W) uint8; cell: side of a cell in pixels; bins: orientations. Returns: (N, D) float32.
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


def transfer(run: Run, root: str | Path, *, histograms: bool = False, way: str = "plain") -> dict[str, pd.DataFrame]:
    """Search the test images of a folder with a run's network, in both directions; pairs of one instant are left out.

    Args: run; root: the folder; histograms: search with gradient_histogram() instead; way: one of protocols.WAYS.
    Returns: a table of metrics for each direction, by the name of the search.
    """
    return transferred(run, root, histograms, way).tables(1)


def transfer_queries(run: Run, root: str | Path, *, histograms: bool = False, way: str = "plain") -> pd.DataFrame:
    """As transfer(), but by query: a line for each query that has a match.

    Returns: columns direction, pid, rank1 (0 or 1), mAP (this query's average precision), and chance_rank1 and
        chance_mAP, which a random order would have. Means over queries are the numbers of transfer().
    """
    return by_query(transferred(run, root, histograms, way))


def by_query(test: protocols.Embedded) -> pd.DataFrame:
    """The table of transfer_queries(), from features of test images."""
    frames = []
    for search in test.searches():
        queries, chance = test.queries(search, 1), test.chance(search, 1)
        chances = {f"chance_{metric}": chance[metric] for metric in chance}
        frames.append(queries[["pid", "rank1", "mAP"]].assign(**chances, direction=search.direction).dropna())
    return pd.concat(frames, ignore_index=True)


def transfer_table(done: dict[str, list[Run]], root: str | Path, ways: Iterable[str] = ("plain",)) -> pd.DataFrame:
    """Networks on the test images of a folder, beside histograms of gradients and chance; all values are fractions.

    A query's value is its mean over the runs of a row. A `gain` is the difference to histograms, query by query, a
    `change` the difference to the same row searched plain. Intervals (bootstrap_mean, 95 %) are over queries, and over
    people where a name ends in _people. Histograms have no batch normalisation to adapt: adapted networks are compared
    to histograms that are not adapted, but centred where the networks are.

    Args: done: runs by row; root: the folder; ways: some of protocols.WAYS; plain is always added, as the first.
    Returns: a line for each way, direction, row, metric (rank1, mAP): value, low, high, low_people, high_people, gain
        with the same four, queries, people; way and protocol, the search's name; change with the same four; hub_share
        and hub_skewness (hubness) of all images of the folder, mean over runs, for chance over random orders.
    """
    ways = list(dict.fromkeys(["plain", *ways]))
    first, way_of_histograms = next(iter(done.values()))[0], {way: unadapted(way) for way in ways}
    histograms = in_ways(first, root, set(way_of_histograms.values()), histograms=True)
    networks = {row: [in_ways(run, root, ways) for run in group] for row, group in done.items()}
    plain, rows = {}, []
    for way in ways:
        tests = {"gradient histograms": [histograms[way]]} if way in histograms else {}
        tests |= {row: [run_in_ways[way] for run_in_ways in group] for row, group in networks.items()}
        base = by_query(histograms[way_of_histograms[way]])
        values = {row: sum(by_query(t)[["rank1", "mAP"]] for t in group) / len(group) for row, group in tests.items()}
        values["chance"] = base[["chance_rank1", "chance_mAP"]].set_axis(["rank1", "mAP"], axis=1)
        plain = plain or values
        for (direction, queries), (row, of_row) in product(base.groupby("direction", sort=False), values.items()):
            hubs = [t.hubness(direction) for t in tests.get(row, [])] or [histograms["plain"].chance_hubness(direction)]
            more = {"way": way, "protocol": str(protocols.Search("folder", direction, way=way))}
            more |= pd.DataFrame(hubs).mean().to_dict()
            for metric in of_row:
                value = of_row[metric][queries.index]
                facts = {"direction": direction, "row": row, "metric": metric} | intervals("value", value, queries.pid)
                facts |= intervals("gain", value - queries[metric], queries.pid)
                facts |= {"queries": len(queries), "people": queries.pid.nunique()}
                change = intervals("change", value - plain[row][metric][queries.index], queries.pid)
                rows.append(facts | more | change)
    return pd.DataFrame(rows)


def unadapted(way: str) -> str:
    """The way that does the same but does not adapt the network: "centred" of "adapted centred"."""
    return way.removeprefix("adapted").strip() or "plain"


def intervals(name: str, values: pd.Series, people: pd.Series) -> dict[str, float]:
    """The mean of values of queries, with its intervals over queries and over people, as columns for `name`."""
    low, high = bootstrap.bootstrap_mean(values)
    low_people, high_people = bootstrap.bootstrap_mean(values, people)
    ends = {"low": low, "high": high, "low_people": low_people, "high_people": high_people}
    return {name: values.mean()} | {(end if name == "value" else f"{name}_{end}"): v for end, v in ends.items()}


def names_training_people(root: str | Path) -> bool:
    """Whether a folder of images has people to train on, named in its split.csv."""
    return bool((datasets.read("folder", datasets.locate(root)).split == "train").any())


def searched_folder(experiment: Experiment, root: str | Path) -> Experiment:
    """The experiment with a folder as its data set, all of whose test images are searched."""
    fields = {"dataset": "folder", "data": str(root), "split": 1, "validation_identities": 0, "train_on": "train"}
    return experiment.but(**fields)


def transferred(run: Run, root: str | Path, histograms: bool = False, way: str = "plain") -> protocols.Embedded:
    """Features of a folder's test images, from a run's network or histograms, prepared in one of protocols.WAYS."""
    return in_ways(run, root, [way], histograms)[way]


def in_ways(run: Run, root: str | Path, ways: Iterable[str], histograms: bool = False) -> dict[str, protocols.Embedded]:
    """transferred() in several ways, by way. Features are computed once for all ways that do (or do not) adapt.

    Raises: ValueError for an unknown way, histograms in an adapted way, or a folder that cannot be searched.
    """
    ways = [protocols.known_way(way) for way in ways]
    if histograms and any(way != unadapted(way) for way in ways):
        raise ValueError("histograms of gradients have no batch normalisation to adapt: choose plain or centred")
    experiment = searched_folder(run.experiment, root)
    if problems := datasets.obstacles("folder", read_table(experiment), root=datasets.locate(root), train=False):
        raise ValueError(problems[0])
    table, store = load_data(experiment, anew=False)
    test = table[table.split == "test"]
    index, modality = test.index.to_numpy(), test.modality.to_numpy()

    def features(adapts: bool) -> Tensor:
        if histograms:
            return gradient_histogram(store.pixels[index])
        net = inference.adapted(run.net(), store.pixels, index, modality) if adapts else run.net()
        return features_of(net, test, store)

    adapts = {way: way != unadapted(way) for way in ways}
    computed, columns = {yes: features(yes) for yes in set(adapts.values())}, protocols.columns(test)
    return {
        way: protocols.Embedded("folder", columns | {"features": computed[yes]}, way=way) for way, yes in adapts.items()
    }
