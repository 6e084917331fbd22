"""What an experiment trains, in words and formulas, for a notebook. The text is made from the fields of what runs."""

import inspect

from .. import config
from ..config import Experiment
from ..methods import METHODS
from ..systems import HEADS, LOSSES, TRUNK, VIEWS

SYMBOLS = (
    "A batch has $P$ people with $K$ images in each modality. $x$ is the feature of an image, $c_i^m$ the mean feature "
    "(the *centre*) of person $i$ in modality $m$ (visible or thermal) within the batch, $d$ the Euclidean distance, "
    "$S$ the cosine similarity, and $[z]_+ = \\max(z, 0)$."
)
FORMULAS = {  # each loss in words, and in the symbols above
    "id": (
        "The *identity loss*, cross-entropy of a classifier of the training people, whose label is smoothed (S1 "
        "Eq. 5): $L = -\\sum_k q_k \\log p_k$, with $q$ near 1 for the person and small elsewhere."
    ),
    "batch_hard_triplet": (
        "The *batch-hard triplet loss*: of each image (the *anchor*) the furthest image of the same person must "
        "be nearer, by a margin, than the nearest image of another: $[\\,\\text{margin} + \\max_{p} d(x, p) - "
        "\\min_{n} d(x, n)\\,]_+$, mean over the anchors."
    ),
    "cmdc": (
        "The *cross-modality dual-constraint loss* (CMDC, S1 Eq. 4): the images of a person lie nearer to the "
        "person's two centres than any other person's centre does: $\\frac{1}{P} \\sum_i [\\,\\max_{x \\in i,\\, "
        "m} d(x, c_i^m) - \\min_{j \\neq i,\\, m, m'} d(c_i^m, c_j^{m'}) + \\text{margin}\\,]_+$. The hinge, the "
        "mean and the margin are our reading."
    ),
    "adaptive_cmdc": (
        "CMDC with weighted means in place of the maximum and the minimum: a distance counts by the weight that S2's "
        "adaptive weighting gives its pair. In no paper."
    ),
    "center_constraint": (
        "The *centre constraint* (second term of S1 Eq. 3): $\\frac{1}{2} \\lVert x - c \\rVert^2$ to the centre "
        "of the image's own person and modality."
    ),
    "hetero_center": (
        "The *hetero-centre loss*: the two centres of a person are pulled together, $\\lVert c_i^v - c_i^t \\rVert^2$."
    ),
    "hetero_center_triplet": (
        "The *hetero-centre triplet loss* (HC-Tri): a triplet loss over centres, $[\\,\\text{margin} + d(c_i^v, "
        "c_i^t) - \\min_{j \\neq i} d(c_i, c_j)\\,]_+$ for each centre."
    ),
    "center_metric": (
        "A *centre-guided metric loss* in the spirit of CML: the two centres of a person are nearer to each "
        "other than to those of others, and images are near to their centre."
    ),
    "margin_mmd": (
        "The *margin MMD loss*: the distributions of a person's visible and thermal features become alike, as "
        "far as their maximum mean discrepancy lies above a margin."
    ),
    "multi_similarity": (
        "The *multi-similarity loss* (S2 Eq. 6-7): $\\log(1 + \\sum e^{\\ldots})$ over chosen pairs, positives "
        "pulled together and negatives pushed apart, harder where they are wrong by more."
    ),
    "adaptive_weighting": (
        "The *adaptive weighting loss* (AWL, S2 Eq. 8-11): $\\log[1 + \\sum_p e^{-W_p (S - \\lambda)}] + \\log[1 "
        "+ \\sum_n e^{W_n (S - \\lambda)}]$ over chosen pairs across the modalities, whose weights $W$ grow with "
        "how wrong a pair is (Eq. 10)."
    ),
    "multi_constraint": (
        "The *multi-constraint loss* (MC, S2 Eq. 5): $\\alpha L_{I2I} + \\beta L_{C2I} + \\omega L_{C2C}$, an "
        "adaptive weighting loss of pairs of images, of centres with images, and of centres, always across the "
        "modalities."
    ),
}


def experiment(e: Experiment) -> str:
    """What an experiment trains, as Markdown: its network, and its losses with their weights and arguments."""
    owner = "" if METHODS.get(e.method) else ", which is your own"
    lines = [f"Method `{e.method}`{owner}. {network(e)}", "", SYMBOLS, ""]
    if not e.epochs:
        return "\n".join([*lines[:1], "", "It has no epochs: this is the untouched start, nothing is trained."])
    lines += [f"{len(e.losses)} losses train it, each times its weight:", ""]
    lines += [
        f"- {times(term)} **{name}**{arguments(term)}. {formula(name)}{place(name, term, bool(e.parts))}"
        for name, term in e.losses.items()
    ]
    return "\n".join(lines)


def network(e: Experiment) -> str:
    """The network of an experiment in words."""
    twice = {1: "", 2: " and stage 1", 3: " and stages 1 and 2", 4: " and stages 1 to 3"}
    cut = "One ResNet reads both kinds of images"
    if e.specific_stages:
        cut = (
            f"The first convolution{twice[e.specific_stages]} of a ResNet are there twice, for visible and for thermal "
        )
        cut += "images; all later stages are shared"
    text = f"{cut} (`{e.backbone}`, from the start `{e.weights}`). "
    if e.attention:
        text += (
            "Behind stage 1 every place of the map takes in what all others look like (*position attention*, S1 Eq. "
            "1-2): $E_j = \\alpha \\sum_i S_{ji} D_i + A_j$, $S_{ji} = e^{B_i C_j} / \\sum_i e^{B_i C_j}$, "
            "where $A$ is the map, $B, C, D$ are 1x1 convolutions of it, $i, j$ are places, and $\\alpha$ starts at 0. "
        )
    for name, options in [*e.modules.items(), *e.views.items()]:
        made = {**TRUNK, **HEADS, **VIEWS}[name]
        text += f"Then there is **{name}**{arguments(options)}. {first_paragraph(made)} "
    for field, what in (("colours_visible", "visible"), ("colours_thermal", "thermal")):
        if (kind := getattr(e, field)) != "none":
            text += f"In training the colours of {what} images change at random (`{kind}`). "
    if any(name in HEADS for name in e.modules):
        return text
    if e.parts:
        heads = " and ".join(f"{p.stripes} stripes of {p.width} numbers (share {p.share:g})" for p in e.parts)
        return text + f"The last map is cut into horizontal parts, {heads}, each with its own classifier and feature."
    return (
        text + "The last map is pooled to one vector; behind a batch normalisation (the *BN neck*) stands the feature."
    )


def place(name: str, term: dict, parts: bool) -> str:
    """A sentence on which features a metric loss reads. Args: name, term: of the loss; parts: has the network parts."""
    if name == "id":
        return ""
    places = {
        "pooled": "the feature of each part head, and its stripes" if parts else "the pooled feature, before the neck",
        "neck": "the feature that is searched with, of all heads together" if parts else "the feature behind the neck",
        "stripes": "the feature of each stripe by itself",
    }
    return f" It reads {places[term.get('on', 'pooled')]}{', at length 1' if term.get('normalise') else ''}."


def times(term: dict) -> str:
    """The weight of a loss as text."""
    return f"{term['weight']:g} x"


def arguments(term: dict) -> str:
    """The arguments of a loss as text."""
    text = ", ".join(f"{k} {v}" for k, v in config.arguments(term).items())
    return f" ({text})" if text else ""


def formula(name: str) -> str:
    """A loss in words and in a formula; for a loss that is not in FORMULAS the first line of its docstring."""
    if name in FORMULAS:
        return FORMULAS[name]
    if name not in LOSSES:
        return "A loss of pytorch-metric-learning, across the modalities."
    return first_paragraph(LOSSES[name])


def first_paragraph(made) -> str:
    """What a docstring says before its first empty line or its arguments, in one line."""
    lines = (inspect.getdoc(made) or "It has no docstring.").splitlines()
    ends = ("", "Args:", "Returns:", "Source:", "open:", "Called")
    stop = next((i for i, line in enumerate(lines) if not line or line.startswith(ends[1:])), len(lines))
    return " ".join(lines[:stop])
