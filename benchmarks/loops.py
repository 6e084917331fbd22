"""Every metric loss as public code writes it: autograd, and a Python loop over anchors, identities or centres.

What is one matrix product in such code (all distances, all similarities) is one here too, and what it does with a
whole row stays a row operation: the loop is the only difference that counts. Equations: tests/oracles.py.
Inside `pair_by_pair()` the matrices too are filled by loops, one distance or similarity at a time, as equations read.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

_by_pair = False
NO_PAIRS = {"center_constraint", "hetero_center", "margin_mmd"}  # they compare no pairs across the batch


@contextmanager
def pair_by_pair():
    """Fill every matrix of distances or similarities by a double loop."""
    global _by_pair
    _by_pair = True
    try:
        yield
    finally:
        _by_pair = False


def each_pair(of, x: Tensor, y: Tensor) -> Tensor:
    """(N, M) values of a function of two rows."""
    return torch.stack([torch.stack([of(a, b) for b in y]) for a in x])


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (N, M) of rows, as re-identification code has them: squares, one product, clamp, root."""
    if _by_pair:
        return each_pair(lambda a, b: (a - b).square().sum().clamp(min=1e-12).sqrt(), x, y)
    square = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
    return square.clamp(min=1e-12).sqrt()


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Cosine similarities (N, M) of rows."""
    if _by_pair:
        return each_pair(lambda a, b: a @ b, F.normalize(x, dim=1), F.normalize(y, dim=1))
    return F.normalize(x, dim=1) @ F.normalize(y, dim=1).T


def centres(features: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means of identity and modality (2P, D), visible first; their identities (2P,) and modalities (2P,)."""
    identities = labels.unique()
    means = [features[(labels == i) & (modality == m)].mean(0) for m in (0, 1) for i in identities]
    return torch.stack(means), identities.repeat(2), torch.arange(2).repeat_interleave(len(identities))


def batch_hard_triplet(features, labels, modality, margin=0.3, cross_modality=False):
    dist, values = distances(features, features), []
    same = labels[:, None] == labels
    seen = modality[:, None] != modality if cross_modality else ~torch.eye(len(labels), dtype=torch.bool)
    positive, negative = same & seen, ~same & seen
    for a in range(len(labels)):
        values.append(F.relu(dist[a][positive[a]].max() - dist[a][negative[a]].min() + margin))
    return torch.stack(values).mean()


def cmdc(features, labels, modality, margin=0.3, hinge=True):
    centre, names, _ = centres(features, labels, modality)
    between, values = distances(centre, centre), []
    for i in labels.unique():
        upper = distances(features[labels == i], centre[names == i]).max()
        term = upper - between[names == i][:, names != i].min() + margin
        values.append(F.relu(term) if hinge else term)
    return torch.stack(values).mean()


def center_constraint(features, labels, modality):
    total = 0.0
    for i in labels.unique():
        for m in (0, 1):
            rows = features[(labels == i) & (modality == m)]
            total = total + (rows - rows.mean(0)).square().sum()
    return total / 2 / len(labels)


def hetero_center(features, labels, modality, margin=0.0):
    values = []
    for i in labels.unique():
        visible, thermal = (features[(labels == i) & (modality == m)].mean(0) for m in (0, 1))
        values.append(F.relu((visible - thermal).square().sum() - margin))
    return torch.stack(values).mean()


def hetero_center_triplet(features, labels, modality, margin=0.3, local=None, local_weight=1.0, over_stripes="sum"):
    centre, names, side = centres(features, labels, modality)
    dist, values = distances(centre, centre), []
    same, across = names[:, None] == names, side[:, None] != side
    positive, negative = same & across, ~same
    for c in range(len(centre)):
        values.append(F.relu(margin + dist[c][positive[c]].max() - dist[c][negative[c]].min()))
    loss = torch.stack(values).mean()
    stripes = [] if local is None else local.unbind(1)
    for stripe in stripes:
        weight = local_weight / len(stripes) if over_stripes == "mean" else local_weight
        loss = loss + weight * hetero_center_triplet(stripe, labels, modality, margin)
    return loss


def center_metric(features, labels, modality, margin=0.3, instance_weight=1.0):
    centre, names, side = centres(features, labels, modality)
    between, gaps, inside = distances(centre, centre), [], []
    for i in labels.unique():
        mine = names == i
        across = between[mine & (side == 0)][:, mine & (side == 1)].max()
        gaps.append(F.relu(across - between[mine][:, ~mine].min() + margin))
        for m in (0, 1):
            rows = features[(labels == i) & (modality == m)]
            inside.append((rows - centre[mine & (side == m)]).norm(dim=1))
    return torch.stack(gaps).mean() + instance_weight * torch.cat(inside).mean()


def margin_mmd(features, labels, modality, margin=1.4, kernels=5):
    total = 0 * features.sum()
    for i in labels.unique():
        visible, thermal = (features[(labels == i) & (modality == m)] for m in (0, 1))
        rows, n = torch.cat([visible, thermal]), len(visible)
        square = (rows[:, None] - rows).square().sum(2)
        bandwidth = square.detach().sum() / (len(rows) ** 2 - len(rows))
        if bandwidth == 0:
            continue
        kernel = sum(torch.exp(-square / (bandwidth * 2.0 ** (k - kernels // 2))) for k in range(kernels))
        mmd = kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()
        if mmd > margin:
            total = total + mmd
    return total / len(labels.unique())


def pairs(similarity, anchor_labels, candidate_labels, mining, margin, pool=False):
    """For each anchor the similarities of its kept positives and of its kept negatives, two vectors."""
    known, none = similarity.detach(), similarity.new_tensor(torch.inf)
    same = anchor_labels[:, None] == candidate_labels
    negative = ~same
    positive = same & ~torch.eye(len(same), dtype=torch.bool) if pool else same
    highest, lowest = [], []
    for c in range(len(candidate_labels) if mining == "awl" else 0):  # of every candidate, over the anchors
        pull, push = known[:, c][positive[:, c]], known[:, c][negative[:, c]]
        highest.append(push.max() if len(push) else -none)
        lowest.append(pull.min() if len(pull) else none)
    highest, lowest = (torch.stack(x) if x else None for x in (highest, lowest))
    for a in range(len(anchor_labels)):
        pull, push = similarity[a][positive[a]], similarity[a][negative[a]]
        if mining == "awl":
            above, below = highest[positive[a]], lowest[negative[a]]
        elif mining == "ms":
            above = push.detach().max() if len(push) else -none
            below = pull.detach().min() if len(pull) else none
        yield (pull, push) if mining == "none" else (pull[pull < above + margin], push[push > below - margin])


def over_anchors(similarity, kept, pull_term, push_term):
    """Mean over the anchors that keep a pair of pull_term(positives) + push_term(negatives)."""
    values = [pull_term(pull) + push_term(push) for pull, push in kept if len(pull) or len(push)]
    return torch.stack(values).mean() if values else 0 * similarity.sum()


def sides(features, labels, modality, relation="i2i"):
    """(anchors, their labels, candidates, their labels) in both directions, visible anchors first."""
    samples = [(features[modality == m], labels[modality == m]) for m in (0, 1)]
    if relation != "i2i":
        centre, names, side = centres(features, labels, modality)
        means = [(centre[side == m], names[side == m]) for m in (0, 1)]
    anchors, candidates = samples if relation == "i2i" else means, means if relation == "c2c" else samples
    return [(*anchors[m], *candidates[1 - m]) for m in (0, 1)]


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
    both = sides(features, labels, modality) if cross_modality else [(features, labels, features, labels)]
    values = []
    for anchors, own, candidates, other in both:
        similarity = cosines(anchors, candidates)
        values.append(
            over_anchors(
                similarity,
                pairs(similarity, own, other, mining, mining_margin, pool=not cross_modality),
                lambda pull: torch.log(1 + torch.exp(-alpha * (pull - threshold)).sum()) / alpha,
                lambda push: torch.log(1 + torch.exp(beta * (push - threshold)).sum()) / beta,
            )
        )
    return sum(values) / len(values)


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
    def weights(similarity, height, sign):
        known = similarity.detach() if detach_weights else similarity
        return height * torch.sigmoid(sign * (known - 0.5) / 0.5) if weighting else height / 2

    values = []
    for anchors, own, candidates, other in sides(features, labels, modality, relation):
        similarity = cosines(anchors, candidates)
        values.append(
            over_anchors(
                similarity,
                pairs(similarity, own, other, mining, mining_margin),
                lambda pull: torch.log(1 + torch.exp(-weights(pull, 10, -1) * (pull - threshold)).sum()),
                lambda push: torch.log(1 + torch.exp(weights(push, 3, 1) * (push - threshold)).sum()),
            )
        )
    return (values[0] + values[1]) / 2


def multi_constraint(features, labels, modality, alpha=0.5, beta=1.0, omega=0.2, local=None, **options):
    loss = 0 * features.sum()
    if alpha:
        loss = loss + alpha * adaptive_weighting(features, labels, modality, "i2i", **options)
    if beta:
        loss = loss + beta * adaptive_weighting(features, labels, modality, "c2i", **options)
    stripes = [features] if local is None else local.unbind(1)
    for stripe in stripes if omega else ():
        loss = loss + omega / len(stripes) * adaptive_weighting(stripe, labels, modality, "c2c", **options)
    return loss


# name -> loop form, names as in vtlib.losses.LOSSES; `id` needs none: it is one call of torch in public code too
LOOPS = {
    "batch_hard_triplet": batch_hard_triplet,
    "cmdc": cmdc,
    "center_constraint": center_constraint,
    "hetero_center": hetero_center,
    "hetero_center_triplet": hetero_center_triplet,
    "center_metric": center_metric,
    "margin_mmd": margin_mmd,
    "multi_similarity": multi_similarity,
    "adaptive_weighting": adaptive_weighting,
    "multi_constraint": multi_constraint,
}
