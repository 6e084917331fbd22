"""Features of a run, prepared for figures: similarities across modalities, their separation, searches, batches."""

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
    """Cosine similarities of all pairs of a visible and a thermal image.

    Args: features: (N, D); pids: (N,) numbers of people; modality: (N,), 0 visible, 1 thermal; of_centres: compare the
        people's centres, the mean features of their images in a modality (S2 Eq. 1), instead of images.
    Returns: those of pairs of the same person (n,), and those of pairs of different people (m,).
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

    The overlap is the shared area of the histograms of both kinds: 0 where a threshold separates them, 1 where they are
    equal. The bins divide the range from the smallest to the largest similarity, because cosines of an untrained
    network are so close together that one of fixed bins over [-1, 1] would hold them all. Where the similarities
    differ only by rounding the overlap is 1.
    Args: features, pids, modality, of_centres: as cross_similarities(); bins: their number.
    Returns: {"same person", "different people", "overlap"}.
    Raises: ValueError if bins is no whole number of 1 or more, or as cross_similarities().
    """
    if not isinstance(bins, Integral) or bins < 1:
        raise ValueError(f"bins must be a whole number of at least 1, not {bins!r}")
    same, different = cross_similarities(features, pids, modality, of_centres=of_centres)
    means = {"same person": same.mean().item(), "different people": different.mean().item()}
    low, high = torch.cat([same, different]).aminmax()
    if high - low <= bins * torch.finfo(low.dtype).eps:
        return means | {"overlap": 1.0}
    shares = [torch.histc(x.double(), bins, low.item(), high.item()) / len(x) for x in (same, different)]
    return means | {"overlap": torch.minimum(*shares).sum().item()}


def margins(features, pids, modality) -> pd.DataFrame:
    """How much more a person's thermal images resemble its own visible images than those of other people.

    Args: as cross_similarities().
    Returns: pid (index), margin: 100 times the mean cosine of the person's thermal images with its visible ones, less
        100 times that with other people's visible ones. People who lack a modality are left out.
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
    """The first batches of a run as its metric loss reads them, but network in evaluation mode, images not augmented.

    Args: run: a finished one; count: number of batches.
    Yields: features (B, D), labels (B,), modality (B,), sorted by modality and then by label.
    """
    table, store = load_data(run.experiment, anew=False)
    rows = table[table.split == "train"]
    term = next((term for name, term in run.experiment.losses.items() if name != "id"), {})
    sampler, batches, net = train.make_sampler(run.experiment, rows), Batches(rows, store.pixels, "cpu"), run.net()
    for index in islice(sampler.epoch(0), count):
        images, labels, modality = batches(index, normalise), batches.labels[index], batches.modality[index]
        order = torch.from_numpy(np.lexsort((labels, modality)))
        features = objective.read(net(images, modality), term)[0][0]
        yield features[order], labels[order], modality[order]


def examples(test: protocols.Embedded, store: im.Store, queries: int = 6, top: int = 8) -> dict:
    """Searches that go well, as usual, and badly, as arguments of plots.retrievals().

    Args: test: features of the test images; store: images of the set; queries: how many searches; top: how many of
        the nearest images of each.
    """
    chosen, found, right, titles = test.examples(queries, top)
    line = test.images["row"].numpy()  # of each test image in the store
    found = np.where(found < 0, -1, line[found])
    return {"pixels": store.pixels, "queries": line[chosen], "found": found, "right": right, "names": titles}
