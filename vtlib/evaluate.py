"""Retrieval metrics and the protocols of SYSU-MM01 and RegDB, as pure functions of features.

FIELD's traps are decided here once: ties keep the gallery's order, a probe without a match is skipped, rank-k on
SYSU-MM01 counts identities while mAP and mINP count images, and camera 3 never searches camera 2.
"""

import random
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import images as im
from .losses import centres, members, pairwise_distance

RANKS = (1, 5, 10, 20)
CHUNK = 2**24  # similarity entries ranked at once: 10 int64 and float64 helpers of that size stay near 1 GB
GALLERY_CAMERAS = {"all": (1, 2, 4, 5), "indoor": (1, 2)}
QUERY_CAMERAS = (3, 6)


class Metrics(NamedTuple):
    """Mean over the valid queries, as fractions; cmc[r - 1] is rank-r."""

    cmc: np.ndarray  # (R,)
    mAP: float
    mINP: float
    valid: int  # queries that have a match


def rank_metrics(
    similarity, query_pids, gallery_pids, *, exclude=None, first_match_per_identity: bool = False
) -> Metrics:
    """CMC, mAP and mINP of a similarity matrix.

    AP = mean over the matches n of n / rank_n; INP = matches / rank of the last match (Ye et al. 2021, AGW).
    Both always rank images; with `first_match_per_identity` the CMC ranks identities by their first image.

    Args: similarity (Q, G), larger is nearer; query_pids (Q,); gallery_pids (G,); exclude (Q, G) bool, gallery images
        that a query may not see; first_match_per_identity: the CMC of SYSU-MM01.
    Returns: Metrics with R = G, or the number of gallery identities.
    Raises: ValueError if shapes disagree, an entry is not finite, or no query has a match.
    """
    similarity = torch.as_tensor(similarity)
    query_pids, gallery_pids = (
        torch.as_tensor(np.asarray(p), device=similarity.device) for p in (query_pids, gallery_pids)
    )
    exclude = (
        torch.zeros((), dtype=torch.bool).expand(similarity.shape) if exclude is None else torch.as_tensor(exclude)
    )
    shape = (len(query_pids), len(gallery_pids))
    if similarity.shape != shape or exclude.shape != shape:
        raise ValueError(
            f"similarity {tuple(similarity.shape)} and exclude must be (queries, gallery images) = {shape}"
        )
    if not torch.isfinite(similarity).all():
        raise ValueError("similarity has NaN or infinite entries: the features are broken, no rank can be trusted")
    identities, column = gallery_pids.unique(return_inverse=True)  # (I,), (G,)
    sums, length = 0.0, len(identities) if first_match_per_identity else len(gallery_pids)
    first_ranks = []
    for rows in torch.arange(len(query_pids)).split(max(1, CHUNK // max(1, len(gallery_pids)))):
        rank, match = ranks(similarity[rows], query_pids[rows], gallery_pids, exclude[rows].to(similarity.device))
        rank, match = rank[match.any(1)], match[match.any(1)]
        sums = sums + average_precision_and_inp(rank, match)
        first = rank.masked_fill(~match, length + rank.shape[1]).amin(1)  # (q,) best rank of a match
        if first_match_per_identity:
            best = rank.new_full((len(rank), len(identities)), 2 * len(gallery_pids) + 1)
            best.scatter_reduce_(1, column.expand_as(rank), rank, "amin")  # (q, I) best rank of each identity
            first = (best < first[:, None]).sum(1) + 1
        first_ranks.append(first.cpu())
    first_ranks = torch.cat(first_ranks)
    if not (valid := len(first_ranks)):
        raise ValueError("no query has a match in the gallery: check the identities and the exclude mask")
    cmc = torch.bincount(first_ranks - 1, minlength=length)[:length].cumsum(0).double() / valid
    mean_ap, mean_inp = (sums / valid).tolist()
    return Metrics(cmc.numpy(), mean_ap, mean_inp, valid)


def ranks(similarity: Tensor, query_pids: Tensor, gallery_pids: Tensor, exclude: Tensor) -> tuple[Tensor, Tensor]:
    """1-based rank (Q, G) of every gallery image for each query, excluded ones behind all others; match (Q, G) bool."""
    score = similarity.masked_fill(exclude, -torch.inf)
    order = score.argsort(dim=1, descending=True, stable=True)  # as MATLAB's sort: ties keep the gallery's order
    if exclude.any() and similarity.isneginf().any():  # a real score of -inf: sort the excluded ones behind it
        order = order.gather(1, exclude.gather(1, order).to(torch.uint8).argsort(dim=1, stable=True))
    place = torch.arange(1, score.shape[1] + 1, device=score.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, place)
    return rank, (query_pids[:, None] == gallery_pids) & ~exclude


def average_precision_and_inp(rank: Tensor, match: Tensor) -> Tensor:
    """Sum over the queries of AP and INP, (2,) float64; rank (Q, G) 1-based, match (Q, G) with a match in each row."""
    hit = torch.zeros_like(match).scatter_(1, rank - 1, match)  # (Q, G) in ranked order
    place = torch.arange(1, match.shape[1] + 1, device=rank.device, dtype=torch.float64)
    count = hit.sum(1, dtype=torch.float64)
    precision = hit.cumsum(1, dtype=torch.float64) / place
    last = (hit * place).amax(1)
    return torch.stack([((precision * hit).sum(1) / count).sum(), (count / last).sum()]).cpu()


def similarity_matrix(query, gallery, metric: str = "cosine") -> Tensor:
    """(Q, D), (G, D) -> (Q, G): cosine, or the negative Euclidean distance. Raises: ValueError on another metric."""
    query, gallery = torch.as_tensor(query), torch.as_tensor(gallery)
    if metric == "cosine":
        return F.normalize(query, dim=1) @ F.normalize(gallery, dim=1).T
    if metric == "euclidean":
        return -pairwise_distance(query, gallery)
    raise ValueError(f"metric {metric!r} is not known: choose cosine or euclidean")


def row(metrics: Metrics, gallery: int, **names) -> dict:
    """One row of a protocol's table; rank-k beyond the gallery's length is its last value."""
    cmc = {f"rank{k}": float(metrics.cmc[min(k, len(metrics.cmc)) - 1]) for k in RANKS}
    return {**names, **cmc, "mAP": metrics.mAP, "mINP": metrics.mINP, "queries": metrics.valid, "gallery": gallery}


def sysu(
    features,
    pids,
    cams,
    numbers,
    *,
    mode: str = "all",
    shots: int = 1,
    gallery: str = "official",
    permutations: Mapping | None = None,
    trials: int = 10,
    metric: str = "cosine",
) -> pd.DataFrame:
    """SYSU-MM01 protocol: thermal cameras 3 and 6 search visible galleries drawn anew in each trial.

    Per trial and gallery camera (all: 1, 2, 4, 5; indoor: 1, 2) `shots` images of each identity. Cameras 2 and 3 stand
    at one place, so a probe of camera 3 sees no image of camera 2. Source: Wu et al. 2017, official evaluation code.

    Args: features (N, D); pids, cams, numbers (N,) of the test images, numbers 1-based within identity and camera;
        gallery: "official" draws by `permutations` {(cam, pid): (trials, n) 1-based}, "community" by
        random.seed(trial) as the public Python code does (its 10-shot form is ours: it has none that repeats).
    Returns: one row a trial: trial, rank1, rank5, rank10, rank20, mAP, mINP, queries, gallery; fractions in [0, 1].
    Raises: ValueError on an unknown option, missing permutations, or no valid probe.
    """
    if mode not in GALLERY_CAMERAS:
        raise ValueError(f"mode {mode!r} is not known: choose {' or '.join(GALLERY_CAMERAS)}")
    if shots < 1 or trials < 1:
        raise ValueError(f"shots and trials must be at least 1, not {shots} and {trials}")
    features = torch.as_tensor(features)
    pids, cams, numbers = (np.asarray(a) for a in (pids, cams, numbers))
    if not len(features) == len(pids) == len(cams) == len(numbers):
        lengths = [len(a) for a in (features, pids, cams, numbers)]
        raise ValueError(f"features, pids, cams and numbers must be as long as each other, not {lengths}")
    query = np.flatnonzero(np.isin(cams, QUERY_CAMERAS))
    # every camera whose images can be drawn is compared once; a trial is a choice of columns
    candidates = np.flatnonzero(np.isin(cams, GALLERY_CAMERAS[mode]))
    similarity = similarity_matrix(features[query], features[candidates], metric)
    column = {(cams[i], pids[i], numbers[i]): c for c, i in enumerate(candidates)}
    sets = pd.Series(numbers[candidates]).groupby([pids[candidates], cams[candidates]]).apply(sorted)
    rows, ranked = [], {}
    for trial in range(trials):
        drawn = draw_gallery(sets, trial, shots, gallery, permutations)
        if (same := frozenset(drawn)) not in ranked:  # who has no more images than shots draws the same in every trial
            columns = np.array([column[key] for key in drawn])
            blind = (cams[query] == 3)[:, None] & (cams[candidates[columns]] == 2)
            score = similarity[:, torch.from_numpy(columns)]
            ranked[same] = rank_metrics(
                score, pids[query], pids[candidates[columns]], exclude=blind, first_match_per_identity=True
            )
        rows.append(row(ranked[same], len(drawn), trial=trial))
    return pd.DataFrame(rows)


def draw_gallery(
    sets: pd.Series, trial: int, shots: int, gallery: str, permutations: Mapping | None
) -> list[tuple[int, int, int]]:
    """Gallery of one trial as (cam, pid, number), identities in ascending order, cameras ascending within each.

    Args: sets: the sorted image numbers, indexed by (pid, cam).
    """
    if gallery not in ("official", "community"):
        raise ValueError(f"gallery {gallery!r} is not known: choose official or community")
    if gallery == "official" and permutations is None:
        raise ValueError("the official gallery needs the permutations of exp/rand_perm_cam.mat: see data/README.md")
    stream = random.Random(trial)  # the same stream as random.seed(trial) on the module
    drawn = []
    for (pid, cam), numbers in sets.items():
        if gallery == "community":
            chosen = (
                [stream.choice(numbers)] if shots == 1 else stream.sample(numbers, min(shots, len(numbers)))
            )  # ours
        elif (cam, pid) not in permutations:
            raise ValueError(f"rand_perm_cam.mat has no permutation of identity {pid} in camera {cam}")
        elif trial >= len(permutations[cam, pid]):
            raise ValueError(f"rand_perm_cam.mat has {len(permutations[cam, pid])} trials, not {trial + 1}")
        else:
            chosen = permutations[cam, pid][trial][:shots].tolist()  # a place in the folder is a number
        if len(chosen) < shots or not set(chosen) <= set(numbers):
            raise ValueError(
                f"identity {pid} has {len(numbers)} images in camera {cam}: too few for {shots} shots, or some missing"
            )
        drawn += [(cam, pid, number) for number in chosen]
    return drawn


def regdb(visible, visible_pids, thermal, thermal_pids, *, metric: str = "cosine") -> pd.DataFrame:
    """RegDB protocol of one split: all visible images search all thermal ones and the reverse; nothing is left out.

    Source: Ye et al. 2018, HCML; one model per split, averaged over ten splits by the caller.
    Args: visible (V, D), visible_pids (V,), thermal (T, D), thermal_pids (T,).
    Returns: rows v2t and t2v (the transpose of the same matrix) with direction, rank1 ... mINP, queries, gallery.
    """
    return both_directions(similarity_matrix(visible, thermal, metric), visible_pids, thermal_pids)


def both_directions(similarity: Tensor, visible_pids, thermal_pids, exclude=None) -> pd.DataFrame:
    """Visible-to-thermal and thermal-to-visible of one (V, T) similarity, `exclude` (V, T) bool as in rank_metrics."""
    back = None if exclude is None else exclude.T
    v2t = rank_metrics(similarity, visible_pids, thermal_pids, exclude=exclude)
    t2v = rank_metrics(similarity.T, thermal_pids, visible_pids, exclude=back)
    v, t = similarity.shape
    return pd.DataFrame([row(v2t, t, direction="v2t"), row(t2v, v, direction="t2v")])


def hardest(similarity: Tensor, query_pids, gallery_pids, exclude: Tensor, queries: int, top: int):
    """The queries with the lowest average precision, one of each person, and what they found: for looking at.

    Returns: rows of the queries (n,), columns of the gallery (n, top) nearest first, whether each is a match (n, top).
    """
    query_pids, gallery_pids = (torch.as_tensor(np.asarray(p)) for p in (query_pids, gallery_pids))
    rank, match = ranks(similarity, query_pids, gallery_pids, exclude)
    valid = match.any(1).nonzero()[:, 0]
    precision = torch.stack([average_precision_and_inp(rank[q : q + 1], match[q : q + 1])[0] for q in valid.tolist()])
    worst = valid[precision.argsort(stable=True)]
    first = pd.Series(query_pids[worst].numpy()).drop_duplicates().index[:queries]
    chosen = worst[torch.tensor(first)]
    found = rank[chosen].argsort(dim=1)[:, :top]
    return chosen.numpy(), found.numpy(), match[chosen].gather(1, found).numpy()


@torch.inference_mode()
def extract(net: nn.Module, pixels: np.ndarray, rows: np.ndarray, modality: np.ndarray, batch: int = 256) -> Tensor:
    """L2-normalised retrieval features (n, D) float32 on the CPU, each image once.

    Args: pixels (N, 3, H, W) uint8, may be memory-mapped; rows (n,) into it; modality (n,) of these rows.
    """
    net.eval()
    device = next(net.parameters()).device
    features = []
    for start in tqdm(range(0, len(rows), batch), "features", leave=False):
        part = slice(start, start + batch)
        x = im.normalise(torch.from_numpy(pixels[rows[part]]).to(device)).contiguous(memory_format=torch.channels_last)
        out = net(x, torch.tensor(modality[part], device=device))
        features.append(F.normalize(out.features.float(), dim=1).cpu())
    return torch.cat(features)


def cross_similarities(features: Tensor, pids: np.ndarray, modality: np.ndarray, *, of_centres: bool = False):
    """Cosine similarities of all visible-thermal pairs: of the same person (n,), of different people (m,).

    Args: features (N, D); pids, modality (N,); of_centres: between centres (S2 Eq. 1) instead of images.
    """
    if of_centres:
        labels = torch.tensor(pids)
        member, identities, _ = members(features, labels, torch.tensor(modality))
        visible, thermal = centres(features, member)
        same = torch.eye(len(identities), dtype=torch.bool)
    else:
        visible, thermal = (features[np.flatnonzero(modality == m)] for m in (0, 1))
        same = torch.from_numpy(pids[modality == 0][:, None] == pids[modality == 1])
    similarity = similarity_matrix(visible, thermal).clamp(-1, 1)
    return similarity[same], similarity[~same]


def separation(
    features: Tensor, pids: np.ndarray, modality: np.ndarray, bins: int = 50, *, of_centres: bool = False
) -> dict[str, float]:
    """Mean cosine similarity of visible-thermal pairs: same person, different people, and their overlap.

    overlap is the shared area of both histograms on [-1, 1]: 0 where a threshold parts them, 1 where they are equal.
    Args: as in cross_similarities().
    """
    same, different = cross_similarities(features, pids, modality, of_centres=of_centres)
    parts = [torch.histc(s.float(), bins, -1, 1) / len(s) for s in (same, different)]
    means = {"same person": same.mean().item(), "different people": different.mean().item()}
    return means | {"overlap": torch.minimum(*parts).sum().item()}


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
