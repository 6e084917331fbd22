"""What the systems of other papers need beyond the heart, which does not know them: one file each.

A system is an entry of methods.METHODS. What it needs besides fields has one of six forms, each under a name in the
table of its form below. Options are the arguments behind the *, and fields of an experiment.

LOSSES: a function as in losses/, or a class with parameters of its own (learned.py). A loss may also ask for these, as
    arguments behind the * : local (N, S, d), stripes or branches of the feature; neck (N, D), the retrieval feature;
    logits (N, C); images (N, 3, H, W), normalised and augmented, such as a decoder shall give; source (N,), the row of
    the image that an image of a view was made of, -1 for an image of the set. A loss that asks for source reads all
    rows; each other one but `id` reads the images of the set alone. A class with a method rival(features, labels,
    modality, *, ...) has a part of its weights trained against the network, such as a discriminator: own_parameters()
    gives them; in each step an optimizer of theirs, of rate own_lr, first lowers rival() of constant features, and the
    network then learns from the value of the loss, which does not move them.
TRUNK: a function (stages, *, options) that changes the stages 0 to 4 of a ResNet, each a list of modules. A module
    with the attribute by_modality at the end of a stage is called with (maps, modality).
HEADS: a class Head(channels, num_classes, pool, *, options) in the place of pooling, BN neck and classifier. It has
    widths and dim, as TwoStreamNet, and a `classifier`; called with (maps, modality) it returns a model.Output.
VIEWS: a class View(*, options), called in training with (images, labels, modality, numbers, second). It returns the
    images of the batch, changed or not, and behind them, if it adds any, one for each visible one; and the stream of
    each. Its attributes: own_crop, whether `second` are other crops of the visible images; numbers, how many random
    ones an image it gets.
SEARCHES: a function (query, gallery, layout) of features (Q, D), (G, D) -> similarity (Q, G).
FITTED: a function (features, labels, modality, layout) of training people, which returns a function (features,
    modality) -> features.

A module of TRUNK, HEADS or VIEWS may have these attributes: fast, it learns at the rate of new layers; decayed = False,
without weight decay; a method at_epoch(epoch, epochs), called before each epoch (0-based) of a training.
"""

from collections import ChainMap

from .. import losses
from . import agw, bdtr, caj, cml, cmsp, crossed, ddag, deen, dfe, hat, hcml, hsme, mac, mmd_reid, msr, sim, xiv

ASKED = ("local", "neck", "logits", "images", "source")  # arguments of a loss that training fills in
OWN = {
    "adaptive_cmdc": crossed.adaptive_cmdc,
    "bidirectional_ranking": bdtr.bidirectional_ranking,
    "branch_orthogonality": deen.branch_orthogonality,
    "branch_triplet": deen.branch_triplet,
    "centre_pull_mining": deen.centre_pull_mining,
    "centre_triplet": xiv.centre_triplet,
    "contrastive": bdtr.contrastive,
    "correlation_alignment": dfe.correlation_alignment,
    "distribution_alignment": dfe.distribution_alignment,
    "euclidean_constraint": msr.euclidean_constraint,
    "graph_attention": ddag.GraphAttention,
    "homogeneous_invariance": hat.homogeneous_invariance,
    "margin_mmd": mmd_reid.margin_mmd,
    "modality_classifiers": mac.ModalityClassifiers,
    "modality_kl": cml.modality_kl,
    "similarity_preserving": cmsp.similarity_preserving,
    "tri_directional": hat.tri_directional,
    "weighted_regularised_triplet": agw.weighted_regularised_triplet,
    "within_modality_triplet": msr.within_modality_triplet,
    "within_view_triplet": xiv.within_view_triplet,
}
LOSSES = ChainMap(OWN, losses.LOSSES)  # all losses of ours that an experiment may name
TRUNK = {  # in the order in which they change a network: the last wraps stages whole
    "non_local": agw.non_local,
    "modality_gates": cmsp.modality_gates,
    "diverse_expansion": deen.diverse_expansion,
}
HEADS = {
    "branches": deen.Branches,
    "modality_heads": msr.ModalityHeads,
    "part_attention": ddag.PartAttention,
    "sphere": hsme.Sphere,
}
VIEWS = {"exchange": caj.Exchange, "grey": hat.Grey, "mix": cml.ModalityMix, "x": xiv.XModality}
SEARCHES = sim.SEARCHES
FITTED = {"hcml": hcml.fit}
