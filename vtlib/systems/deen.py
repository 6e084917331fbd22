"""DEEN (Zhang and Wang 2023, CVPR): maps of two stages aggregated, and each image expanded to three embeddings."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import geometry as g
from ..losses.contract import FRACTION, at_least_single, check_option, loss
from ..losses.field import batch_hard_triplet
from ..model import Output
from .stages import channels, stride


class Aggregation(nn.Module):
    """A stage with multi-stage feature aggregation: h + BN(W_c y_c), then + BN(W_p y_p), h its map and l its input.

    y_c mixes the channels of l by their products with those of h, y_p its places; no softmax, both scaled by the number
    of terms, so that no matrix of places is built. The scales of BN start at 0: at first the stage is as it was.
    pairs: as in public code, whose reshape makes each token of y_p a pair of places, half an image apart.
    """

    def __init__(self, stage: nn.Module, high: int, low: int, step: int, pairs: bool = False):
        super().__init__()
        half = max(1, low // 2)
        self.stage, self.pairs = stage, pairs
        self.query, self.key = nn.Conv2d(high, low, 1), nn.Conv2d(low, low, 1, step)
        self.value, self.back = nn.Conv2d(low, low, 1), nn.Conv2d(low, high, 1, step)
        self.at_query, self.at_key = nn.Conv2d(high, half, 1), nn.Conv2d(low, half, 1)
        self.at_value, self.at_back = nn.Conv2d(low, half, 1), nn.Conv2d(half, high, 1)
        self.norm, self.at_norm = nn.BatchNorm2d(high), nn.BatchNorm2d(high)
        for norm in (self.norm, self.at_norm):
            nn.init.zeros_(norm.weight)

    def forward(self, low: Tensor) -> Tensor:
        """(B, C_low, H, W) -> (B, C_high, h, w)."""
        return self.places(self.channels(self.stage(low), low), low)

    def channels(self, high: Tensor, low: Tensor) -> Tensor:
        """high + BN(W y), y = theta(high) phi(low)^T g(low) / C_low over channels."""
        theta, phi, value = (x.flatten(2) for x in (self.query(high), self.key(low), self.value(low)))
        mixed = (theta @ phi.mT / theta.shape[1]) @ value  # (B, C_low, N_low)
        return high + self.norm(self.back(mixed.view(len(low), -1, *low.shape[2:])))

    def places(self, high: Tensor, low: Tensor) -> Tensor:
        """high + BN(W y), y_i = 1 / N_low sum_j (theta(high)_i . phi(low)_j) g(low)_j over places, or pairs of them.
        Raises: ValueError for pairs of maps with an odd number of places.
        """
        if self.pairs:
            for x in (high, low):
                if x.shape[2] * x.shape[3] % 2:
                    raise ValueError(
                        f"pairs needs an even number of places, not {x.shape[2]} x {x.shape[3]}: set pairs=false"
                    )
        theta, phi, value = (x.flatten(2) for x in (self.at_query(high), self.at_key(low), self.at_value(low)))
        if self.pairs:  # row k of N places becomes two of N / 2: its first and its second half
            theta, phi, value = (x.unflatten(2, (2, -1)).flatten(1, 2) for x in (theta, phi, value))
        mixed = (value @ phi.mT / phi.shape[2]) @ theta  # (B, C_low / 2, N_high)
        return high + self.at_norm(self.at_back(mixed.view(len(high), -1, *high.shape[2:])))


class Expansion(nn.Module):
    """Diverse embedding expansion: (B, C, h, w) -> (3 B, C, h, w), the maps and two branches of wide convolutions."""

    def __init__(self, channels: int, dropout: float):
        super().__init__()
        quarter, self.dropout = max(1, channels // 4), dropout
        self.wide = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(channels, quarter, 3, padding=d, dilation=d, bias=False) for d in (1, 2, 3))
            for _ in range(2)
        )
        self.up = nn.ModuleList(nn.Conv2d(quarter, channels, 1) for _ in range(2))
        for layer in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            up(F.relu(sum(layer(x) for layer in wide) / 3)) for wide, up in zip(self.wide, self.up, strict=True)
        ]
        return F.dropout(torch.cat([x, *branches]), self.dropout, self.training)


def diverse_expansion(stages: list[list[nn.Module]], *, dropout: float = 0.01, pairs: bool = False) -> None:
    """Aggregate stages 1 to 3 with their inputs, and expand the batch to three times its size behind stage 3.
    Needs the head `branches`. Args: dropout: probability behind the expansion; pairs: as Aggregation.
    """
    for at in (1, 2, 3):
        high, low = channels(stages[at]), channels(stages[at - 1])
        stages[at][0] = Aggregation(stages[at][0], high, low, stride(stages[at]) if at > 1 else 1, pairs)
    stages[3].append(Expansion(channels([stages[3][0].stage]), dropout))


def _check(dropout: float = 0.01, pairs: bool = False) -> None:
    check_option("dropout", dropout, float, FRACTION)
    check_option("pairs", pairs, bool)


diverse_expansion.check = _check


class Branches(nn.Module):
    """Head behind diverse_expansion(): pooling, BN neck and classifier for the three embeddings of an image.

    The retrieval feature is the three, each at length 1, side by side; local (B, 3, D) are the three.
    Args: place: of local: before the neck, as in the paper, or behind it, where distances of a small network differ;
        shared_neck: one neck for all three, as in public code. Embeddings differ more than persons do at first, so
        that little of the variance behind a shared neck says who it is: a short training wants one for each.
    """

    fast = True

    def __init__(
        self, channels: int, num_classes: int, pool: nn.Module, *, place: Literal["pooled", "neck"] = "pooled",
        shared_neck: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.place, self.pool, self.shared = place, pool, shared_neck
        self.neck = nn.BatchNorm1d(channels * (1 if shared_neck else 3))
        self.classifier = nn.Linear(channels, num_classes, bias=False)
        self.neck.bias.requires_grad_(False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.widths, self.dim = [3 * channels], 3 * channels

    def forward(self, maps: Tensor, modality: Tensor) -> Output:
        """maps (3 B, C, h, w) -> Output of B images with logits (B, 3, classes)."""
        pooled = at_least_single(self.pool(maps))
        if self.shared:
            behind = self.neck(pooled)
        else:
            behind = self.neck(torch.cat(pooled.tensor_split(3), 1))
            behind = torch.cat(behind.tensor_split(3, 1))
        local, features, logits = (
            x.unflatten(0, (3, -1)).transpose(0, 1)
            for x in (
                behind if self.place == "neck" else pooled,
                F.normalize(behind),
                self.classifier(behind),
            )
        )
        return Output((local.flatten(1),), (local,), features.flatten(1), logits)


def check_branches(local: Tensor) -> None:
    """Raise ValueError unless local has the three embeddings of an image."""
    if local.shape[1] != 3:
        raise ValueError(f"local is {tuple(local.shape)}: the loss needs the (N, 3, D) of the head `branches`")


def centre_distances(local: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
    """Distances (6, P, 6, P) of the centres of branch b and modality m, in the order b0 v, b0 t, b1 v, b1 t, ..."""
    check_branches(local)
    x = local.transpose(0, 1)  # (3, N, D)
    centre = g.centres(x, g.members(local[:, 0], labels, modality, least=2)[0])  # (3, 2, P, D)
    p = centre.shape[2]
    flat = centre.flatten(0, 2)
    return g.pairwise_distance(flat, flat).view(6, p, 6, p)


@loss()
def centre_pull_mining(
    features: Tensor, labels: Tensor, modality: Tensor, *, local: Tensor, margin: float = 0.2
) -> Tensor:
    """Centre-guided pair mining: the centre of an expanded branch shall lie nearer to the other modality's plain centre
    than that lies to its own plain one, and than other persons' centres lie to each other.
    Of branch b, with its centres V, T and the plain ones V0, T0: mean_i of
    [margin + d(T0, V) - d(V0, V)]_+ + 1/2 [margin + d(T0, V) - min_j d(V, V_j)]_+
    + 1/2 [margin + d(T0, V) - min_j d(V0, V0_j)]_+, where d(V0, V) is a constant for the gradient; the same with V and
    T exchanged; half their sum, and the sum over both branches. Source: public code.
    Args: features: unused; labels, modality; local (N, 3, D): plain and two expanded features; margin: in units of d.
    Returns: () in the unit of d. Raises: ValueError naming an identity that lacks a modality or is alone.
    """
    dist = centre_distances(local, labels, modality)
    other = torch.diag(torch.full_like(dist[0, 0, 0], torch.inf))
    at = {place: (dist[a, :, b] if a != b else dist[a, :, a] + other) for place, (a, b) in _PAIRS.items()}
    value = 0
    for branch in (1, 2):
        for m in (0, 1):
            pull = at[branch, m, "across"].diagonal()
            to_own = at[branch, m, "own"].diagonal().detach()
            value = value + F.relu(margin + pull - to_own).mean()
            for place in ((branch, m, "others"), (0, m, "others")):
                value = value + F.relu(margin + pull - at[place].amin(1)).mean() / 2
    return value / 2


# (branch, modality, which) -> the two of six groups of centres: 2 branch + modality
_PAIRS = {(b, m, "others"): (2 * b + m, 2 * b + m) for b in (0, 1, 2) for m in (0, 1)}
_PAIRS |= {(b, m, "across"): (1 - m, 2 * b + m) for b in (1, 2) for m in (0, 1)}
_PAIRS |= {(b, m, "own"): (m, 2 * b + m) for b in (1, 2) for m in (0, 1)}


@loss()
def branch_orthogonality(features: Tensor, labels: Tensor, modality: Tensor, *, local: Tensor) -> Tensor:
    """Dot product of the two expanded features of an image, summed and divided by three times the number of images.
    Args: features, labels, modality: unused; local (N, 3, D). Returns: () in squared feature units.
    """
    check_branches(local)
    return (local[:, 1] * local[:, 2]).sum() / (3 * len(local))


@loss()
def branch_triplet(features: Tensor, labels: Tensor, modality: Tensor, *, local: Tensor, margin: float = 0.3) -> Tensor:
    """batch_hard_triplet() over all three features of all images, in one pool. Args: as centre_pull_mining()."""
    check_branches(local)
    return batch_hard_triplet(local.transpose(0, 1).flatten(0, 1), labels.repeat(3), modality.repeat(3), margin=margin)
