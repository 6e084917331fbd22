"""Loop oracles: every loss, the attention and both protocols again, one plain Python loop per sum, max or min.

Written from the equations of the papers and the published protocols, never from vtlib. Slow and obvious on purpose:
NumPy holds the numbers, the loops do the arithmetic. Inputs are float64 arrays, results Python floats.
"""

import math
import random
from collections import namedtuple

import numpy as np

Ranks = namedtuple("Ranks", "cmc mAP mINP valid")

VISIBLE_CAMERAS = {"all": [1, 2, 4, 5], "indoor": [1, 2]}
THERMAL_CAMERAS = [3, 6]


# Losses: features (N, D), labels (N,), modality (N,) with 0 visible and 1 thermal.


def distance(x, y):
    """Euclidean distance of two vectors (D,)."""
    return math.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True)))


def mean_vector(rows):
    """Mean of a list of vectors (D,), component by component."""
    return [sum(float(row[d]) for row in rows) / len(rows) for d in range(len(rows[0]))]


def identity(logits, labels, smoothing=0.1):
    """Eq. 5 of Wang et al. 2022: mean over samples of sum_i -q_i log p_i with C classes.

    q_i = 1 - (C-1)/C * zeta on the true class, zeta/C elsewhere; p = softmax of the logits (N, C).
    """
    total, classes = 0.0, len(logits[0])
    for row, label in zip(logits, labels, strict=True):
        top = max(float(v) for v in row)
        log_sum = top + math.log(sum(math.exp(float(v) - top) for v in row))
        for i in range(classes):
            q = 1 - (classes - 1) / classes * smoothing if i == label else smoothing / classes
            total -= q * (float(row[i]) - log_sum)
    return total / len(labels)


def batch_hard_triplet(features, labels, margin=0.3):
    """Batch-hard triplet: mean over anchors a of [max_p d(a, p) - min_n d(a, n) + margin]_+ on the joint batch.

    p: same label, any modality, another sample than a. n: another label, any modality. d Euclidean.
    """
    total, rows = 0.0, range(len(labels))
    for a in rows:
        hardest_positive = max(distance(features[a], features[p]) for p in rows if labels[p] == labels[a] and p != a)
        hardest_negative = min(distance(features[a], features[n]) for n in rows if labels[n] != labels[a])
        total += max(0.0, hardest_positive - hardest_negative + margin)
    return total / len(labels)


def centres(features, labels, modality):
    """c_i^m of Eq. 3-4: {(identity, modality): mean of the identity's features of that modality}."""
    groups = {}
    for x, i, m in zip(features, labels, modality, strict=True):
        groups.setdefault((int(i), int(m)), []).append(x)
    return {key: mean_vector(rows) for key, rows in groups.items()}


def cmdc(features, labels, modality, margin=0.3, hinge=True):
    """Eq. 4 of Wang et al. 2022, mean over identities i of [upper - lower + margin]_+ (as it is without the hinge).

    upper = max over all samples x of i (both modalities) and m of d(x, c_i^m);
    lower = min over identities j != i and modalities m, m' of d(c_i^m, c_j^m').
    """
    centre, identities, total = centres(features, labels, modality), sorted({int(i) for i in labels}), 0.0
    for i in identities:
        upper, lower = 0.0, math.inf
        for x, label in zip(features, labels, strict=True):
            for m in (0, 1):
                if label == i:
                    upper = max(upper, distance(x, centre[i, m]))
        for j in identities:
            for m in (0, 1):
                for other in (0, 1):
                    if j != i:
                        lower = min(lower, distance(centre[i, m], centre[j, other]))
        term = upper - lower + margin
        total += max(0.0, term) if hinge else term
    return total / len(identities)


def center_constraint(features, labels, modality):
    """Eq. 3 (second term) of Wang et al. 2022: 1/2 mean_x ||x - c_own||^2, c_own the batch centre of x's group.

    The group of x is its own identity and its own modality.
    """
    centre, total = centres(features, labels, modality), 0.0
    for x, i, m in zip(features, labels, modality, strict=True):
        total += distance(x, centre[int(i), int(m)]) ** 2
    return 0.5 * total / len(labels)


# Position attention.


def convolve(image, weight, bias):
    """1x1 convolution: image (C, N), weight (K, C), bias (K,) or None -> (K, N) nested lists."""
    return [
        [
            sum(float(weight[k][c]) * float(image[c][n]) for c in range(len(image)))
            + (0.0 if bias is None else float(bias[k]))
            for n in range(len(image[0]))
        ]
        for k in range(len(weight))
    ]


def attention_map(image, b, c):
    """Eq. 1 of Wang et al. 2022: S_ji = exp(B_i . C_j) / sum_i exp(B_i . C_j), S (N, N) with rows j.

    image (C, N); b and c are (weight (K, C), bias (K,) or None).
    """
    keys, queries = convolve(image, *b), convolve(image, *c)
    positions, rows = range(len(image[0])), []
    for j in positions:
        scores = [sum(keys[k][i] * queries[k][j] for k in range(len(keys))) for i in positions]
        top = max(scores)
        weights = [math.exp(s - top) for s in scores]
        rows.append([w / sum(weights) for w in weights])
    return np.array(rows)


def position_attention(images, b, c, d, alpha):
    """Eq. 1-2 of Wang et al. 2022: E_j = alpha * sum_i S_ji D_i + A_j for images A (B, C, H, W).

    b, c, d are (weight, bias or None) of the three 1x1 convolutions; position n runs over H*W row by row.
    """
    out = np.empty(images.shape)
    for index, image in enumerate(images):
        flat = image.reshape(image.shape[0], -1)
        attention, values = attention_map(flat, b, c), convolve(flat, *d)
        result = np.empty(flat.shape)
        for channel in range(flat.shape[0]):
            for j in range(flat.shape[1]):
                pulled = sum(attention[j][i] * values[channel][i] for i in range(flat.shape[1]))
                result[channel, j] = alpha * pulled + flat[channel, j]
        out[index] = result.reshape(image.shape)
    return out


# Ranking.


def ranked_identities(similarity, gallery_pids, dropped):
    """Gallery identities of one query, best first; equal similarities keep gallery order, the dropped are left out."""
    kept = [g for g in range(len(gallery_pids)) if not dropped[g]]
    return [int(gallery_pids[g]) for g in sorted(kept, key=lambda g: -similarity[g])]  # sorted() is stable


def average_precision(ranked, pid):
    """AP = mean over the n-th match of n / rank_n, all matches of the list counted, ranks from 1."""
    precisions = []
    for rank, other in enumerate(ranked, start=1):
        if other == pid:
            precisions.append((len(precisions) + 1) / rank)
    return sum(precisions) / len(precisions)


def inverse_negative_penalty(ranked, pid):
    """INP = number of matches / rank of the last match."""
    ranks = [rank for rank, other in enumerate(ranked, start=1) if other == pid]
    return len(ranks) / ranks[-1]


def first_rank(ranked, pid, first_match_per_identity):
    """Rank (from 1) of the first match, on the list that keeps each identity's best entry only if so asked."""
    seen = []
    for other in ranked:
        if not (first_match_per_identity and other in seen):
            seen.append(other)
        if other == pid:
            return len(seen)
    return None


def rank_metrics(similarity, query_pids, gallery_pids, exclude=None, first_match_per_identity=False):
    """CMC, mAP and mINP, each a mean over the queries that have a match left in their list.

    AP and INP use the list with all entries, whatever first_match_per_identity says. CMC (R,): R is the number of
    gallery entries, or of gallery identities; entry r is the share of queries whose first match has rank <= r + 1.
    """
    length = len(set(map(int, gallery_pids))) if first_match_per_identity else len(gallery_pids)
    hits, precisions, penalties = [0] * length, [], []
    for q, pid in enumerate(map(int, query_pids)):
        dropped = [False] * len(gallery_pids) if exclude is None else exclude[q]
        ranked = ranked_identities(similarity[q], gallery_pids, dropped)
        if pid not in ranked:
            continue
        precisions.append(average_precision(ranked, pid))
        penalties.append(inverse_negative_penalty(ranked, pid))
        first = first_rank(ranked, pid, first_match_per_identity)
        for r in range(first - 1, length):
            hits[r] += 1
    valid = len(precisions)
    return Ranks([h / valid for h in hits], sum(precisions) / valid, sum(penalties) / valid, valid)


def similarities(queries, gallery, metric):
    """Larger is closer: cosine of two vectors, or minus their Euclidean distance. (Q, D), (G, D) -> Q lists of G."""
    if metric == "euclidean":
        return [[-distance(q, g) for g in gallery] for q in queries]
    zero, rows = np.zeros(len(queries[0])), []
    for q in queries:
        rows.append([])
        for g in gallery:
            product = sum(float(a) * float(b) for a, b in zip(q, g, strict=True))
            rows[-1].append(product / (distance(q, zero) * distance(g, zero)))
    return rows


# SYSU-MM01 and RegDB.


def official_gallery(pids, cams, numbers, mode, shots, permutations, trial):
    """Rows of the official gallery: images permutations[cam, pid][trial, :shots] of each identity and camera."""
    rows = []
    for cam in VISIBLE_CAMERAS[mode]:
        for pid in sorted({int(p) for p in pids}):
            for number in permutations[cam, pid][trial][:shots] if (cam, pid) in permutations else []:
                for row in range(len(pids)):
                    if pids[row] == pid and cams[row] == cam and numbers[row] == number:
                        rows.append(row)
    return rows


def community_gallery(pids, cams, numbers, mode, trial):
    """Rows of the community gallery: one random.choice per identity (sorted), then per camera that has it.

    The seed is the trial's number, 0 to 9, and the choice is among that folder's images in sorted order.
    """
    rows = []
    random.seed(trial)
    for pid in sorted({int(p) for p in pids}):
        for cam in VISIBLE_CAMERAS[mode]:
            folder = [row for row in range(len(pids)) if pids[row] == pid and cams[row] == cam]
            if folder:
                rows.append(random.choice(sorted(folder, key=lambda row: numbers[row])))
    return rows


def sysu_trial(features, pids, cams, gallery, metric):
    """One trial: all thermal images against the gallery rows; CMC on the first match of each identity.

    Cameras 2 and 3 stand at one place, so a query of camera 3 never sees camera 2, whoever is on the image.
    """
    queries = [row for row in range(len(pids)) if cams[row] in THERMAL_CAMERAS]
    exclude = [[bool(cams[q] == 3 and cams[g] == 2) for g in gallery] for q in queries]
    scores = similarities([features[q] for q in queries], [features[g] for g in gallery], metric)
    return rank_metrics(scores, [pids[q] for q in queries], [pids[g] for g in gallery], exclude, True)


def sysu(features, pids, cams, numbers, mode, shots, gallery, permutations, trials, metric):
    """The SYSU-MM01 protocol: a list of (Ranks, gallery size), one per trial."""
    results = []
    for trial in range(trials):
        if gallery == "official":
            rows = official_gallery(pids, cams, numbers, mode, shots, permutations, trial)
        else:
            rows = community_gallery(pids, cams, numbers, mode, trial)
        results.append((sysu_trial(features, pids, cams, rows, metric), len(rows)))
    return results


def regdb(visible, visible_pids, thermal, thermal_pids, metric):
    """The RegDB protocol: Ranks of visible -> thermal and of thermal -> visible; all pairs kept, plain CMC."""
    forth = rank_metrics(similarities(visible, thermal, metric), visible_pids, thermal_pids)
    back = rank_metrics(similarities(thermal, visible, metric), thermal_pids, visible_pids)
    return forth, back
