"""A run's network on images of a folder that it has never seen, beside histograms of gradients and chance."""

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


def transfer(run: Run, root: str | Path, *, histograms: bool = False, way: str = "plain") -> dict[str, pd.DataFrame]:
    """Both directions of a run's network on the test rows of a plain folder of images, same-instant pairs left out.

    Args: histograms: the untrained baseline on the same images instead of the network; way: one of protocols.WAYS.
    """
    return transferred(run, root, histograms, way).tables(1)


def transfer_queries(run: Run, root: str | Path, *, histograms: bool = False, way: str = "plain") -> pd.DataFrame:
    """The same by query, a row for each that has a match: direction, pid, rank1 (0 or 1), mAP (its own precision).

    Its means are those of transfer(). Beside them chance_rank1 and chance_mAP, which a random order would have.
    """
    return by_query(transferred(run, root, histograms, way))


def by_query(test: protocols.Embedded) -> pd.DataFrame:
    """transfer_queries() of the features of a set whose searches have two sides."""
    frames = []
    for search in test.searches():
        each, lowest = test.queries(search, 1), test.chance(search, 1)
        chances = {f"chance_{metric}": lowest[metric] for metric in lowest}
        frames.append(each[["pid", "rank1", "mAP"]].assign(**chances, direction=search.direction).dropna())
    return pd.concat(frames, ignore_index=True)


def transfer_table(done: dict[str, list[Run]], root: str | Path, ways: Iterable[str] = ("plain",)) -> pd.DataFrame:
    """Networks on the test rows of a plain folder beside histograms of gradients and chance, with intervals, fractions.

    A query's value is its mean over the runs of a row. Intervals (bootstrap_mean, 95 %) are over queries, and
    over people where a name ends in _people. Those of `gain` are of the difference to histograms, query by query, those
    of `change` of the difference to the same row searched plain. Histograms have no statistics to adapt: networks that
    are adapted stand beside histograms that are not, and centred where the networks are.

    Args: ways: some of protocols.WAYS; plain is always among them, and first.
    Returns: a row for each way, direction, row and metric (rank1, mAP): value, low, high, low_people, high_people, gain
        with the same four, queries, people; way and protocol, the search's name; change with the same four; hub_share
        and hub_skewness (hubness) of all images of the folder, mean over runs, for chance over random orders.
    """
    ways = list(dict.fromkeys(["plain", *ways]))
    first, of_histograms = next(iter(done.values()))[0], {way: unadapted(way) for way in ways}
    histograms = in_ways(first, root, set(of_histograms.values()), histograms=True)
    networks = {row: [in_ways(run, root, ways) for run in group] for row, group in done.items()}
    plain, rows = {}, []
    for way in ways:
        tests = {"gradient histograms": [histograms[way]]} if way in histograms else {}
        tests |= {row: [of[way] for of in group] for row, group in networks.items()}
        base = by_query(histograms[of_histograms[way]])
        of_row = {row: sum(by_query(t)[["rank1", "mAP"]] for t in group) / len(group) for row, group in tests.items()}
        of_row["chance"] = base[["chance_rank1", "chance_mAP"]].set_axis(["rank1", "mAP"], axis=1)
        plain = plain or of_row
        for (direction, queries), (row, found) in product(base.groupby("direction", sort=False), of_row.items()):
            hubs = [t.hubness(direction) for t in tests.get(row, [])] or [histograms["plain"].chance_hubness(direction)]
            more = {"way": way, "protocol": str(protocols.Search("folder", direction, way=way))}
            more |= pd.DataFrame(hubs).mean().to_dict()
            for metric in found:
                value = found[metric][queries.index]
                facts = {"direction": direction, "row": row, "metric": metric} | intervals("value", value, queries.pid)
                facts |= intervals("gain", value - queries[metric], queries.pid)
                facts |= {"queries": len(queries), "people": queries.pid.nunique()}
                change = intervals("change", value - plain[row][metric][queries.index], queries.pid)
                rows.append(facts | more | change)
    return pd.DataFrame(rows)


def unadapted(way: str) -> str:
    """The one of protocols.WAYS that leaves the network as it is and does the rest."""
    return way.removeprefix("adapted").strip() or "plain"


def intervals(name: str, values: pd.Series, people: pd.Series) -> dict[str, float]:
    """The mean, and its intervals over queries and over people."""
    low, high = bootstrap.bootstrap_mean(values)
    whole = bootstrap.bootstrap_mean(values, people)
    ends = {"low": low, "high": high, "low_people": whole[0], "high_people": whole[1]}
    return {name: values.mean()} | {(end if name == "value" else f"{name}_{end}"): v for end, v in ends.items()}


def names_training_people(root: str | Path) -> bool:
    """Whether a folder of images has people to train on, named in its split.csv."""
    return bool((datasets.read("folder", datasets.locate(root)).split == "train").any())


def searched_folder(experiment: Experiment, root: str | Path) -> Experiment:
    """An experiment as if it were of a folder, whose images its network searches."""
    own = {"dataset": "folder", "data": str(root), "split": 1, "validation_identities": 0, "train_on": "train"}
    return experiment.but(**own)


def transferred(run: Run, root: str | Path, histograms: bool = False, way: str = "plain") -> protocols.Embedded:
    """The test rows of a folder as features of a run's network, or as histograms, prepared in one of protocols.WAYS."""
    return in_ways(run, root, [way], histograms)[way]


def in_ways(run: Run, root: str | Path, ways: Iterable[str], histograms: bool = False) -> dict[str, protocols.Embedded]:
    """transferred() in several ways, of which those of one network share its features."""
    ways = [protocols.known_way(way) for way in ways]
    if histograms and any(way != unadapted(way) for way in ways):
        raise ValueError("histograms of gradients have no batch normalisation to adapt: choose plain or centred")
    wanted = searched_folder(run.experiment, root)
    if found := datasets.obstacles("folder", read_table(wanted), root=datasets.locate(root), train=False):
        raise ValueError(found[0])
    table, store = load_data(wanted)
    test = table[table.split == "test"]
    index, modality = test.index.to_numpy(), test.modality.to_numpy()

    def features(adapts: bool) -> Tensor:
        if histograms:
            return gradient_histogram(store.pixels[index])
        net = inference.adapted(run.net(), store.pixels, index, modality) if adapts else run.net()
        return features_of(net, test, store)

    of = {way: way != unadapted(way) for way in ways}
    made, columns = {adapts: features(adapts) for adapts in set(of.values())}, protocols.columns(test)
    return {
        way: protocols.Embedded("folder", columns | {"features": made[adapts]}, way=way) for way, adapts in of.items()
    }
