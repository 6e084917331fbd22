"""HCML (Ye et al. 2018, AAAI): after the training, a linear map for each modality and a metric that they share.

The network is not changed: maps and metric are learned on its features of the training people.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.geometry import unit

WITHIN, COLUMNS, STEPS, RATE, DECAY, ENOUGH = 0.2, 600, 300, 0.1, 0.95, 1e-6


class Maps(NamedTuple):
    """V and T, which map rows (., d) of the visible and of the thermal modality, and the metric M (d, d)."""

    v: Tensor
    t: Tensor
    m: Tensor


class Cut(NamedTuple):
    """The training features as the objective reads them."""

    visible: Tensor  # (n, d) centred rows, less the mean of their person
    thermal: Tensor
    a: Tensor  # (I, d) visible means of the persons
    b: Tensor  # (I, d) thermal means
    threshold: float  # mean squared distance of the a and the b


def cut(visible: Tensor, visible_labels: Tensor, thermal: Tensor, thermal_labels: Tensor) -> Cut:
    """Rows (n, d) of both modalities and their labels -> Cut. The labels of both have the same set of values."""
    parts, means = [], []
    for rows, labels in ((visible, visible_labels), (thermal, thermal_labels)):
        index = labels.unique(return_inverse=True)[1]
        own = F.one_hot(index).to(rows.dtype)  # (n, I)
        means.append(own.mT @ rows / own.sum(0)[:, None])
        parts.append(rows - means[-1][index])
    return Cut(*parts, *means, (means[0][:, None] - means[1]).square().sum(2).mean().item())


def across(data: Cut, v: Tensor, t: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """F1 = sum_ij w_ij log(1 + exp(y_ij (D_ij - mu))), its derivative E (I, I) by D, and the mapped means.

    D_ij is the squared distance of visible person i and thermal person j under M; y is 1 for i = j, else -1; the
    weights w of either kind add up to 1.
    """
    a, b, n = data.a @ v, data.b @ t, len(data.a)
    am, bm = a @ m, b @ m
    dist = (am * a).sum(1)[:, None] + (bm * b).sum(1) - am @ b.mT - a @ bm.mT
    eye = torch.eye(n, dtype=a.dtype)
    y, w = 2 * eye - 1, eye / n + (1 - eye) / (n * (n - 1))
    margin = y * (dist - data.threshold)
    return (w * F.softplus(margin)).sum(), w * y * margin.sigmoid(), a, b


def gradients(data: Cut, v: Tensor, t: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of F1 by M, V and T, and of the mean log(1 + exp(|x - own mean|^2)) of either modality by V and T."""
    _, e, a, b = across(data, v, t, m)
    rows, columns = e.sum(1)[:, None], e.sum(0)[:, None]
    cross = a.mT @ e @ b
    by_m = a.mT @ (rows * a) - cross - cross.mT + b.mT @ (columns * b)
    by_v = 2 * data.a.mT @ (rows * a - e @ b) @ m
    by_t = 2 * data.b.mT @ (columns * b - e.mT @ a) @ m
    within = []
    for x, map_ in ((data.visible, v), (data.thermal, t)):
        moved = x @ map_
        within.append(2 / len(x) * x.mT @ (moved.square().sum(1, keepdim=True).sigmoid() * moved))
    return by_m, by_v, by_t, *within


def within(data: Cut, v: Tensor, t: Tensor) -> Tensor:
    """The mean log(1 + exp(|x - own mean|^2)) of the visible plus that of the thermal rows, mapped."""
    return sum(F.softplus((x @ m).square().sum(1)).mean() for x, m in ((data.visible, v), (data.thermal, t)))


def objective(data: Cut, v: Tensor, t: Tensor, m: Tensor) -> Tensor:
    """What HCML minimises: F1 + 0.2 within()."""
    return across(data, v, t, m)[0] + WITHIN * within(data, v, t)


def solve(data: Cut, steps: int = STEPS, enough: float = ENOUGH) -> tuple[Maps, list[dict]]:
    """Minimise objective() from V = T = M = 1: accelerated proximal steps of M, plain steps of V and T.

    Each step of M goes to the nearest positive semidefinite matrix and doubles L until its bound holds (Beck and
    Teboulle 2009, FISTA). differs: public code moves V and T by matrices that are no gradients.
    Args: steps: at most; enough: relative change of F1 at which to stop, 0 for none.
    Returns: the maps, and of each step L, F1 at S and after it, the objective and the rank of M.
    """
    d = data.a.shape[1]
    v = t = m = before = torch.eye(d, dtype=data.a.dtype)
    bound, alpha, history = 2.0**-8, 0.0, []
    for k in range(1, steps + 1):
        alpha, old = (1 + (1 + 4 * alpha**2) ** 0.5) / 2, alpha
        s = m + (old - 1) / alpha * (m - before)
        at_s = across(data, v, t, s)[0]
        by_m, by_v, by_t, in_v, in_t = gradients(data, v, t, s)
        while True:
            new, rank = positive(s - by_m / bound)
            after, moved = across(data, v, t, new)[0], new - s
            if after <= at_s + (moved * by_m).sum() + bound / 2 * moved.square().sum():
                break
            bound *= 2
        before, m = m, new
        rate = RATE * DECAY**k
        v, t = v - rate * (WITHIN * in_v + by_v), t - rate * (WITHIN * in_t + by_t)
        value = (at_s + WITHIN * within(data, v, t)).item()
        history.append({"L": bound, "F1_at_S": at_s.item(), "F1": after.item(), "objective": value, "rank": rank})
        if len(history) > 1 and abs(1 - history[-1]["F1"] / history[-2]["F1"]) < enough:
            break
    return Maps(v, t, m), history


def positive(m: Tensor) -> tuple[Tensor, int]:
    """The nearest positive semidefinite matrix to the symmetric part of m, and its rank."""
    values, vectors = torch.linalg.eigh((m + m.mT) / 2)
    kept = values > 0
    part = vectors[:, kept] * values[kept].sqrt()
    return part @ part.mT, int(kept.sum())


def fit(features: Tensor, labels: Tensor, modality: Tensor, layout: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Learn HCML's maps and metric on features (N, D) of training people, of which those with both modalities count.

    Source: Ye et al. 2018 and public code. differs: exact gradients; 600 principal components, or as many as there are.
    Returns: a function (features (n, D), modality (n,)) -> (n, r) whose Euclidean distances are the learned metric.
    Raises: ValueError if fewer than two people have both modalities.
    """
    x = unit(features.double().cpu())
    both = [pid for pid in labels.unique().tolist() if len(modality[labels == pid].unique()) == 2]
    if len(both) < 2:
        raise ValueError(f"HCML needs two people with both modalities to learn from, and has {len(both)}")
    mean = x.mean(0)
    principal = torch.linalg.svd(x - mean, full_matrices=False).Vh[:COLUMNS].mT  # (D, d)
    rows = (x - mean) @ principal
    sides = [(modality == m) & torch.isin(labels, torch.tensor(both)) for m in (0, 1)]
    maps, _ = solve(cut(rows[sides[0]], labels[sides[0]], rows[sides[1]], labels[sides[1]]))
    values, vectors = torch.linalg.eigh(maps.m)
    root = vectors * values.clamp(min=0).sqrt()
    both_maps = torch.stack([maps.v @ root, maps.t @ root])

    def project(features: Tensor, modality: Tensor) -> Tensor:
        rows = (unit(features.double().cpu()) - mean) @ principal
        return torch.where((modality == 0)[:, None], *(rows @ m for m in both_maps))

    return project
