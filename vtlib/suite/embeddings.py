"""What the features of a run look like: similarities across modalities, their separation, searches, batches."""

from collections.abc import Iterator
from itertools import islice
from numbers import Integral

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import objective, protocols, train
from ..data import images as im
from ..data.batches import Batches, normalise
from ..inference import by_modality
from ..losses.geometry import centres, members
from ..ranking import similarity_matrix
from ..runs import Run, load_data


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


@torch.inference_mode()
def training_batches(run: Run, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What the metric loss of a run reads in its first batches, network in evaluation mode, images not augmented.

    Yields: features (B, D), labels (B,), modality (B,), rows sorted by modality and identity.
    """
    table, store = load_data(run.experiment)
    rows = table[table.split == "train"]
    term = next((term for name, term in run.experiment.losses.items() if name != "id"), {})
    sampler, batches, net = (
        train.make_sampler(run.experiment, rows),
        Batches(rows, store.pixels, "cpu"),
        run.net(),
    )
    for index in islice(sampler.epoch(0), count):
        images, labels, modality = batches(index, normalise), batches.labels[index], batches.modality[index]
        order = torch.from_numpy(np.lexsort((labels, modality)))
        features = objective.read(net(images, modality), term)[0][0]
        yield features[order], labels[order], modality[order]


def examples(test: protocols.Embedded, store: im.Store, queries: int = 6, top: int = 8) -> dict:
    """Searches that go well, as usual, and badly, as arguments of plots.retrievals; `store` has the set's images."""
    chosen, found, right, titles = test.examples(queries, top)
    row = test.images["row"].numpy()
    shown = np.where(found < 0, -1, row[found])
    return {"pixels": store.pixels, "queries": row[chosen], "found": shown, "right": right, "names": titles}
