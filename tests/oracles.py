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
    Logits (N, S, C) of S classifiers: mean over samples of the sum over classifiers.
    """
    if np.ndim(logits) == 3:
        return sum(identity(logits[:, s], labels, smoothing) for s in range(logits.shape[1]))
    total, classes = 0.0, len(logits[0])
    for row, label in zip(logits, labels, strict=True):
        top = max(float(v) for v in row)
        log_sum = top + math.log(sum(math.exp(float(v) - top) for v in row))
        for i in range(classes):
            q = 1 - (classes - 1) / classes * smoothing if i == label else smoothing / classes
            total -= q * (float(row[i]) - log_sum)
    return total / len(labels)


def batch_hard_triplet(features, labels, modality=None, margin=0.3, cross_modality=False):
    """Batch-hard triplet: mean over anchors a of [max_p d(a, p) - min_n d(a, n) + margin]_+ on the joint batch.

    p: same label, any modality, another sample than a. n: another label, any modality. d Euclidean.
    cross_modality: p and n only of the modality that a has not.
    """
    total, rows = 0.0, range(len(labels))
    for a in rows:
        seen = [b for b in rows if b != a and not (cross_modality and modality[b] == modality[a])]
        hardest_positive = max(distance(features[a], features[p]) for p in seen if labels[p] == labels[a])
        hardest_negative = min(distance(features[a], features[n]) for n in seen if labels[n] != labels[a])
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


def adaptive_cmdc(features, labels, modality, margin=0.3, hinge=True, weights_of=None):
    """cmdc() with, instead of max and min, the means of the same distances, weighted by W_p exp(-W_p (S - 1/2)) and
    W_n exp(W_n (S - 1/2)), S the cosine of the pair and W of Eq. 10 of Ling et al. 2021.

    weights_of: other features, whose cosines give the weights.
    """
    centre, identities, total = centres(features, labels, modality), sorted({int(i) for i in labels}), 0.0
    given = features if weights_of is None else weights_of
    middle = centres(given, labels, modality)
    for i in identities:
        up, up_weight, low, low_weight = 0.0, 0.0, 0.0, 0.0
        for m in (0, 1):
            for x, known, label in zip(features, given, labels, strict=True):
                if label == i:
                    s = cosine(known, middle[i, m])
                    weight = positive_weight(s) * math.exp(-positive_weight(s) * (s - 0.5))
                    up, up_weight = up + weight * distance(x, centre[i, m]), up_weight + weight
            for (j, other), c in centre.items():
                if j != i:
                    s = cosine(middle[i, m], middle[j, other])
                    weight = negative_weight(s) * math.exp(negative_weight(s) * (s - 0.5))
                    low, low_weight = low + weight * distance(centre[i, m], c), low_weight + weight
        term = up / up_weight - low / low_weight + margin
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


def hetero_center(features, labels, modality, margin=0.0):
    """Hetero-center loss of Zhu et al. 2020: mean over identities i of [||c_i^v - c_i^t||^2 - margin]_+."""
    centre, identities, total = centres(features, labels, modality), sorted({int(i) for i in labels}), 0.0
    for i in identities:
        total += max(0.0, distance(centre[i, 0], centre[i, 1]) ** 2 - margin)
    return total / len(identities)


def hetero_center_triplet(features, labels, modality, margin=0.3, local=None, local_weight=1.0, over_stripes="sum"):
    """HC-Tri of Liu and Tan 2020: mean over the 2P centres of [margin + d_positive - d_negative]_+.

    Positive: the identity's centre of the other modality. Negative: the nearest of the 2P-2 centres of other
    identities, both modalities. local (N, S, d) adds local_weight times the sum (mean) over stripes of the same there.
    """
    centre, total = centres(features, labels, modality), 0.0
    for i, m in centre:
        nearest = math.inf
        for j, other in centre:
            if j != i:
                nearest = min(nearest, distance(centre[i, m], centre[j, other]))
        total += max(0.0, margin + distance(centre[i, m], centre[i, 1 - m]) - nearest)
    value = total / len(centre)
    for s in range(0 if local is None else local.shape[1]):
        part = hetero_center_triplet(local[:, s], labels, modality, margin)
        value += local_weight * (part / local.shape[1] if over_stripes == "mean" else part)
    return value


def center_metric(features, labels, modality, margin=0.3, instance_weight=1.0):
    """CML of Ling et al. 2020: mean over identities of a hinge on the centres, plus instances pulled to their centre.

    Hinge: [d(c_i^v, c_i^t) - min over j != i, m, m' of d(c_i^m, c_j^m') + margin]_+. Instances: instance_weight times
    mean_x d(x, c_own), c_own of x's identity and modality. d Euclidean, not squared.
    """
    centre, identities, total = centres(features, labels, modality), sorted({int(i) for i in labels}), 0.0
    for i in identities:
        nearest = math.inf
        for j in identities:
            for m in (0, 1):
                for other in (0, 1):
                    if j != i:
                        nearest = min(nearest, distance(centre[i, m], centre[j, other]))
        total += max(0.0, distance(centre[i, 0], centre[i, 1]) - nearest + margin)
    pull = 0.0
    for x, i, m in zip(features, labels, modality, strict=True):
        pull += distance(x, centre[int(i), int(m)])
    return total / len(identities) + instance_weight * pull / len(labels)


def squared_mmd(visible, thermal, kernels=5):
    """MMD^2 of two lists of vectors: mean k(x, x') + mean k(y, y') - 2 mean k(x, y), the diagonal included.

    k(a, b) = sum over i = 0..kernels-1 of exp(-||a - b||^2 / (bandwidth * 2^(i - kernels // 2))); bandwidth = mean of
    ||z_a - z_b||^2 over the ordered pairs a != b of all rows. 0 where all rows coincide.
    """
    rows, total = [*visible, *thermal], 0.0
    for a in rows:
        for b in rows:
            total += distance(a, b) ** 2
    bandwidth = total / (len(rows) ** 2 - len(rows))
    if bandwidth == 0:
        return 0.0

    def mean_kernel(left, right):
        value = 0.0
        for a in left:
            for b in right:
                for i in range(kernels):
                    value += math.exp(-(distance(a, b) ** 2) / (bandwidth * 2.0 ** (i - kernels // 2)))
        return value / (len(left) * len(right))

    return mean_kernel(visible, visible) + mean_kernel(thermal, thermal) - 2 * mean_kernel(visible, thermal)


def margin_mmd(features, labels, modality, margin=1.4, kernels=5):
    """Mean over identities of MMD^2 between their visible and thermal samples where it exceeds margin, else 0."""
    identities, total = sorted({int(i) for i in labels}), 0.0
    for i in identities:
        groups = [], []
        for x, label, m in zip(features, labels, modality, strict=True):
            if label == i:
                groups[int(m)].append(x)
        value = squared_mmd(*groups, kernels=kernels)
        total += value if value > margin else 0.0
    return total / len(identities)


# Pair losses on the cosine similarity, Ling et al. 2021.


def cosine(x, y):
    """Cosine similarity of two vectors (D,); 0 where one of them is all zeros."""
    product = sum(float(a) * float(b) for a, b in zip(x, y, strict=True))
    norms = distance(x, [0.0] * len(x)) * distance(y, [0.0] * len(y))
    return product / norms if norms else 0.0


def directions(features, labels, modality, relation="i2i"):
    """[(anchors, their labels, candidates, their labels)]: visible anchors and thermal candidates, then the reverse.

    Anchors are samples (i2i) or centres (c2i, c2c); candidates are samples (i2i, c2i) or centres (c2c).
    """
    samples, means = (([], []), ([], [])), (([], []), ([], []))
    for x, i, m in zip(features, labels, modality, strict=True):
        samples[int(m)][0].append(x)
        samples[int(m)][1].append(int(i))
    for (i, m), centre in centres(features, labels, modality).items():
        means[m][0].append(centre)
        means[m][1].append(i)
    anchors, candidates = samples if relation == "i2i" else means, means if relation == "c2c" else samples
    return [(*anchors[m], *candidates[1 - m]) for m in (0, 1)]


def kept_pairs(similarity, anchor_labels, candidate_labels, mining, margin, pool=False):
    """Mined pairs: for each anchor (its kept positives, its kept negatives), as candidate numbers.

    similarity[a][c] of anchor a and candidate c. pool: anchors and candidates are one list, never paired with itself.
    "awl", Eq. 8-9: positive p when S(a, p) < max_n S(p, n) + margin, n among the anchors with another label than p;
    negative n when S(a, n) > min_q S(n, q) - margin, q among the anchors with the label of n.
    "ms", Eq. 6: the max and min over the candidates that a sees, max_n S(a, n) and min_p S(a, p).
    "none": every pair. An empty max or min keeps nothing.
    """
    anchors, candidates, kept = range(len(anchor_labels)), range(len(candidate_labels)), []
    for a in anchors:
        positives, negatives = [], []
        for c in candidates:
            if pool and c == a:
                continue
            highest, lowest = -math.inf, math.inf
            if mining == "awl":
                for q in anchors:
                    if anchor_labels[q] != candidate_labels[c]:
                        highest = max(highest, similarity[q][c])
                    elif not (pool and q == c):
                        lowest = min(lowest, similarity[q][c])
            if mining == "ms":
                for q in candidates:
                    if candidate_labels[q] != anchor_labels[a]:
                        highest = max(highest, similarity[a][q])
                    elif not (pool and q == a):
                        lowest = min(lowest, similarity[a][q])
            if candidate_labels[c] == anchor_labels[a]:
                if mining == "none" or similarity[a][c] < highest + margin:
                    positives.append(c)
            elif mining == "none" or similarity[a][c] > lowest - margin:
                negatives.append(c)
        kept.append((positives, negatives))
    return kept


def per_selected_anchor(similarity, kept, positive_term, negative_term):
    """1/C sum over anchors of positive_term + negative_term, each of a list of similarities; 0 if C is 0.

    C is the number of anchors with at least one kept pair.
    """
    total, selected = 0.0, 0
    for row, (positives, negatives) in zip(similarity, kept, strict=True):
        if positives or negatives:
            selected += 1
            total += positive_term([row[p] for p in positives]) + negative_term([row[n] for n in negatives])
    return total / selected if selected else 0.0


def multi_similarity(
    features,
    labels,
    modality,
    mining="ms",
    alpha=2.0,
    beta=50.0,
    threshold=0.5,
    mining_margin=0.1,
    cross_modality=True,
):
    """MS loss, Eq. 7 of Ling et al. 2021 with lambda_p = alpha, lambda_n = beta, lambda = threshold.

    1/C sum_a { 1/alpha log[1 + sum_p exp(-alpha (S - threshold))] + 1/beta log[1 + sum_n exp(beta (S - threshold))] };
    cross_modality: half the sum of both directions, each with its own C; else one pool of all samples with one C.
    """

    def positive_term(kept):
        return math.log(1 + sum(math.exp(-alpha * (s - threshold)) for s in kept)) / alpha

    def negative_term(kept):
        return math.log(1 + sum(math.exp(beta * (s - threshold)) for s in kept)) / beta

    if cross_modality:
        sets = directions(features, labels, modality)
    else:
        sets = [(features, [int(i) for i in labels], features, [int(i) for i in labels])]
    total = 0.0
    for anchors, anchor_labels, candidates, candidate_labels in sets:
        similarity = [[cosine(a, c) for c in candidates] for a in anchors]
        kept = kept_pairs(similarity, anchor_labels, candidate_labels, mining, mining_margin, pool=not cross_modality)
        total += per_selected_anchor(similarity, kept, positive_term, negative_term)
    return total / len(sets)


def positive_weight(s):
    """W_p of Eq. 10: 10 * sigmoid(-(S - 0.5) / 0.5)."""
    return 10 / (1 + math.exp((s - 0.5) / 0.5))


def negative_weight(s):
    """W_n of Eq. 10: 3 * sigmoid((S - 0.5) / 0.5)."""
    return 3 / (1 + math.exp(-(s - 0.5) / 0.5))


def adaptive_weighting(
    features,
    labels,
    modality,
    relation="i2i",
    mining="awl",
    weighting=True,
    detach_weights=True,
    mining_margin=0.2,
    threshold=0.5,
):
    """AWL, Eq. 11 of Ling et al. 2021: half the sum of both directions, each divided by its own C.

    1/C sum_a { log[1 + sum_p exp(-W_p (S - threshold))] + log[1 + sum_n exp(W_n (S - threshold))] }; W of Eq. 10,
    without weighting W_p = 5 and W_n = 1.5. detach_weights says what the gradient sees and has no part in the value.
    """

    def positive_term(kept):
        return math.log(1 + sum(math.exp(-(positive_weight(s) if weighting else 5.0) * (s - threshold)) for s in kept))

    def negative_term(kept):
        return math.log(1 + sum(math.exp((negative_weight(s) if weighting else 1.5) * (s - threshold)) for s in kept))

    total = 0.0
    for anchors, anchor_labels, candidates, candidate_labels in directions(features, labels, modality, relation):
        similarity = [[cosine(a, c) for c in candidates] for a in anchors]
        kept = kept_pairs(similarity, anchor_labels, candidate_labels, mining, mining_margin)
        total += per_selected_anchor(similarity, kept, positive_term, negative_term)
    return total / 2


def multi_constraint(
    features, labels, modality, alpha=0.5, beta=1.0, omega=0.2, local=None, mining="awl", weighting=True, **given
):
    """Eq. 5 of Ling et al. 2021: alpha * I2I + beta * C2I + omega * C2C, each an adaptive_weighting.

    With local (N, S, d) the C2C term is the mean over stripes s of C2C on local[:, s]. given: detach_weights,
    mining_margin, threshold.
    """
    given = {"mining": mining, "weighting": weighting, **given}
    instances = adaptive_weighting(features, labels, modality, "i2i", **given)
    mixed = adaptive_weighting(features, labels, modality, "c2i", **given)
    stripes = [features] if local is None else [local[:, s] for s in range(local.shape[1])]
    between = 0.0
    for stripe in stripes:
        between += adaptive_weighting(stripe, labels, modality, "c2c", **given)
    return alpha * instances + beta * mixed + omega * between / len(stripes)


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


def centred(features, modality):
    """Each feature less the mean of its modality, divided by its length."""
    moved = []
    for x, m in zip(features, modality, strict=True):
        mean = mean_vector([y for y, other in zip(features, modality, strict=True) if other == m])
        left = [float(a) - b for a, b in zip(x, mean, strict=True)]
        length = math.sqrt(sum(a * a for a in left))
        moved.append([a / length for a in left])
    return moved


def hubness(similarity, k=10, exclude=None):
    """Radovanovic et al. 2010: N_k(x) counts the queries that have x among their k nearest; its skewness.

    S = E[(N_k - mean)^3] / sd^3. And the share of the queries whose nearest is the image that is nearest most often.
    """
    gallery = len(similarity[0])
    nearest, among = [0] * gallery, [0] * gallery
    for q, row in enumerate(similarity):
        seen = [g for g in range(gallery) if exclude is None or not exclude[q][g]]
        for place, g in enumerate(sorted(seen, key=lambda g: (-row[g], g))[:k]):
            nearest[g] += place == 0
            among[g] += 1
    mean = sum(among) / gallery
    sd = math.sqrt(sum((n - mean) ** 2 for n in among) / gallery)
    skewness = sum((n - mean) ** 3 for n in among) / gallery / sd**3 if sd else 0.0
    return max(nearest) / len(similarity), skewness
