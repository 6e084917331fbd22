"""What the systems of other papers need beyond the heart, which does not know them: one file each.

A system is an entry of methods.METHODS. What it needs besides fields has one of six forms, each under a name in the
table of its form below. Options are the arguments behind the *, and fields of an experiment.

LOSSES: a function as in losses/, or a class with parameters of its own (learned.py). A loss may also ask for these, as
    arguments behind the * : local (N, S, d), stripes or branches of the feature; pooled (N, D), before the BN neck;
    neck (N, D), behind it; logits (N, C); source (N,), the row that an image of a view was made of, -1 for an image of
    the set. A loss that asks for source reads all rows; each other one but `id` reads the images of the set alone.
TRUNK: a function (stages, *, options) that changes the stages 0 to 4 of a ResNet, each a list of modules. A module with
    the attribute by_modality = True at the end of a stage is called with (maps, modality).
HEADS: a class Head(channels, num_classes, pool, *, options) in the place of pooling, BN neck and classifier. It has
    widths and dim, as TwoStreamNet, and a `classifier`; called with (maps, modality) it returns a model.Output.
VIEWS: a class View(*, options), called in training with (images, labels, modality, numbers, second), which gives the
    images of the batch, changed or not, followed by one more image for each visible one, and the stream of each row.
SEARCHES: a function (query, gallery, layout) of features (Q, D), (G, D) -> similarity (Q, G).
FITTED: a function (features, labels, modality, layout) of training people -> a function (features, modality) -> features.
"""

from collections import ChainMap

from .. import losses
from .crossed import adaptive_cmdc

OWN = {"adaptive_cmdc": adaptive_cmdc}
LOSSES = ChainMap(OWN, losses.LOSSES)  # all losses of ours that an experiment may name
