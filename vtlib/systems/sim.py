"""SIM (Jia et al. 2020, IJCAI): a search that also looks at how near the images of the gallery are to each other.

Nothing is trained. Two steps change the distances D (Q, G) of queries and gallery by those inside the gallery, E (G,
G). A query is treated alone: other queries change nothing. But the whole gallery is known beforehand, so a result of
SIM is compared with that of a plain search of the same features, and named. Source: a pre-release of the authors' code.
differs: a step of that code overwrites column after column, so that its result depends on the order of the gallery, and
it rounds distances to 16 bits; here all columns are computed from the old ones, in 32 bits at least.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..losses.geometry import pairwise_distance, unit
from ..ranking import feature_rows

CHUNK = 1 << 24  # numbers that one step holds at a time


class Setting(NamedTuple):
    """The constants of SIM: of the graph (lam, k, neighbours), of mutual neighbours (k0, k1), of their sum (mix)."""

    lam: float
    k: int
    k0: int
    mix: float
    k1: int = 20
    neighbours: int = 20


SYSU, REGDB = Setting(0.01, 9, 12, 0.3), Setting(0.1, 5, 9, 0.7)
# open: for galleries with about three images of a person; k = 2 would give ties of two images on each other's paths
FEW = Setting(0.01, 3, 3, 0.3, k1=5, neighbours=5)
SETTINGS = {"sysu": SYSU, "regdb": REGDB, "folder": SYSU, "val": SYSU}


def nearest(distances: Tensor, count: int) -> Tensor:
    """Columns (n, k) of the k nearest of each row, k = count or as many as there are; of equal ones the first."""
    order = np.argsort(distances.numpy(), axis=1, kind="stable")
    return torch.from_numpy(order[:, :count])


def similarity_graph(query: Tensor, gallery: Tensor, *, lam: float, k: int, neighbours: int = 20) -> Tensor:
    """Similarity graph reasoning: D'_pj = mean of the k smallest of D_pi + lam E_ji over the neighbours i of j.
    Args: query D (Q, G), gallery E (G, G): distances; neighbours: of j in the gallery, itself included.
    Returns: (Q, G).
    """
    near = nearest(gallery, neighbours)  # (G, n)
    paths = lam * gallery.gather(1, near)  # (G, n)
    rows = max(1, CHUNK // near.numel())
    parts = [(part[:, near] + paths).topk(min(k, near.shape[1]), 2, largest=False) for part in query.split(rows)]
    return torch.cat([part.values.mean(2) for part in parts])


def mutual_neighbours(query: Tensor, gallery: Tensor, *, k0: int, k1: int = 20, mix: float) -> Tensor:
    """Mutual nearest neighbour reasoning: (1 - mix) J + mix A, J one minus the overlap of two sets of the gallery.
    A and F are D^2 and E^2, each row divided by its largest. The set of a query is its k0 + 1 nearest images, with the
    weights exp(-A); that of an image j all i among its k1 + 1 nearest that have j among theirs, and such sets of half
    the size of each i that lie in it by more than two thirds, with the weights exp(-F). Weights of a set add up to 1;
    the overlap is m / (2 - m), m the sum of the smaller weights.
    Args: query D (Q, G), gallery E (G, G): distances. Returns: (Q, G) from 0 to 1.
    """
    a, f = (
        x.square() / x.square().amax(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny) for x in (query, gallery)
    )
    whole, half = (reciprocal(nearest(f, size + 1)).to(f.dtype) for size in (k1, round(k1 / 2)))
    inside = (whole @ half.mT > 2 / 3 * half.sum(1)) & (whole > 0)
    members = (whole + inside.to(f.dtype) @ half) > 0
    sets = torch.where(members, (-f).exp(), 0)
    sets /= sets.sum(1, keepdim=True)
    near = nearest(a, k0 + 1)  # (Q, k)
    weights = (-a.gather(1, near)).exp()
    weights /= weights.sum(1, keepdim=True)
    rows = max(1, CHUNK // (len(f) * near.shape[1]))
    parts = zip(near.split(rows), weights.split(rows), strict=True)
    shared = torch.cat([torch.minimum(sets.T[n], w[:, :, None]).sum(1) for n, w in parts])  # (Q, G)
    return (1 - mix) * (1 - shared / (2 - shared)) + mix * a


def reciprocal(near: Tensor) -> Tensor:
    """(G, G) bool: pairs of images that each have the other among their nearest (G, k)."""
    mask = torch.zeros(len(near), len(near), dtype=torch.bool).scatter_(1, near, True)
    return mask & mask.T


def sim(query, gallery, setting: Setting, *, graph: bool = True, mutual: bool = True) -> Tensor:
    """Distances (Q, G) of features (Q, D) and (G, D) by SIM, or by one of its two steps.
    Raises: ValueError for features that are not finite or no matrix.
    """
    q, g = (unit(torch.as_tensor(feature_rows(x)).cpu()) for x in (query, gallery))
    if not (q.isfinite().all() and g.isfinite().all()):
        raise ValueError("features must be finite numbers to be searched by SIM")
    distances, inside = pairwise_distance(q, g), pairwise_distance(g, g)
    if graph:
        distances = similarity_graph(distances, inside, lam=setting.lam, k=setting.k, neighbours=setting.neighbours)
    if mutual:
        distances = mutual_neighbours(distances, inside, k0=setting.k0, k1=setting.k1, mix=setting.mix)
    return distances


def search(query, gallery, layout: str, *, setting: Setting | None = None, graph=True, mutual=True) -> Tensor:
    """Similarity (Q, G) of features: minus sim() with the constants of a layout."""
    return -sim(query, gallery, setting or SETTINGS[layout], graph=graph, mutual=mutual)


# name of a search -> (query, gallery, layout) -> similarity
SEARCHES = {
    "sim": search,
    "sim-graph": partial(search, mutual=False),
    "sim-mutual": partial(search, graph=False),
    "sim-few": partial(search, setting=FEW),
}
