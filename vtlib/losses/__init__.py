"""Losses as pure functions that keep one contract: `loss(features, labels, modality, *, ...) -> scalar`.

A batch is features (N, D), float, of any scale; labels (N,), whole numbers, equal for one person; modality (N,), 0
visible, 1 thermal. Its rows may come in any order, and its P identities (persons) may have any numbers of images.
If no margin or pair is active, the value is zero and still has a graph. Half precision is computed in float32, under
autocast too. NaN and infinite features never give a finite value. A wrong batch or argument is a ValueError of one
sentence. A loss with an argument `local` also reads features (N, S, d) of S stripes, where the network has them.
Labels and modality stay on the CPU where features are on a GPU: masks of pairs are made on the CPU and sent over with
to_device_of(mask, features), so that no step waits for the GPU.
In docstrings d is the Euclidean distance, c_i^m the centre of identity i in modality m: the mean of its features in the
batch. [x]_+ is max(x, 0). `open:` marks what a paper leaves open, `differs:` where we leave the source.
S1 = Wang et al. 2022, "Spatial Dependence and Dual-Constraint Loss", Entropy 24(4) 443.
S2 = Ling et al. 2021, "Multi-Constraint Similarity Learning with Adaptive Weighting", IJCAI.
"""

from .contract import loss
from .dual_constraint import center_constraint, cmdc
from .field import batch_hard_triplet, center_metric, hetero_center, hetero_center_triplet, identity
from .multi_constraint import adaptive_weighting, multi_constraint, multi_similarity

# name -> loss; `id` reads the logits of the classifiers, each other loss the features that its term in a config names
LOSSES = {
    "id": identity,
    "batch_hard_triplet": batch_hard_triplet,
    "cmdc": cmdc,
    "center_constraint": center_constraint,
    "hetero_center": hetero_center,
    "hetero_center_triplet": hetero_center_triplet,
    "center_metric": center_metric,
    "multi_similarity": multi_similarity,
    "adaptive_weighting": adaptive_weighting,
    "multi_constraint": multi_constraint,
}
