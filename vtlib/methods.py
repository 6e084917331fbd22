"""The named systems of the papers as data: network, losses and recipe (schedule, batch and rates), one entry each.

An entry sets fields of config.Experiment. A term is `name: {"weight": w, "on": place, **arguments of the loss}`; names
are those of systems.LOSSES, and `pml:Name` is a loss of pytorch-metric-learning (pml.py). Recipes apply on profile
`paper` only. On all others every method has the profile's schedule, and the rates that tuning.py chose for it by as
many trials as for any other. S1 and S2 are the two papers that losses/__init__.py cites.
"""

IDENTITY = {"id": {"weight": 1.0, "smoothing": 0.1}}  # open: S1 gives no value of its zeta; 0.1 is the field's
# open: which feature a metric loss reads; no paper says. The pooled feature (before the BN neck) is never negative, and
# its cosines lie within 0.002 of each other: a threshold of 0.5 or a margin of 0.1 selects nothing there. Behind the
# neck cosines spread from -0.4 to 0.6. A margin of 0.3 on distances also needs features of length 1: their distances
# are 0 to 2, while those of 20 behind the neck drown the identity loss. Measured: tests/measured/places.csv
COSINES, DISTANCES = {"on": "neck"}, {"on": "neck", "normalise": True}
TRIPLET = {"batch_hard_triplet": {"weight": 1.0, "margin": 0.3, **DISTANCES}}
CMDC = {"cmdc": {"weight": 3.0, "margin": 0.3, **DISTANCES}}  # weight: S1 section 4.4; open: S1 gives no margin
HC_TRI = {"hetero_center_triplet": {"weight": 1.0, "margin": 0.3, **DISTANCES}}
THRICE = IDENTITY["id"] | {"weight": 3.0}  # a sum over three kinds of images, of all of which the term is the mean
WRT = {"weight": 1.0, **DISTANCES}  # of the weighted regularised triplet loss
CML = {"center_metric": {"weight": 1.0, "margin": 0.3, **DISTANCES}}  # in the spirit of CML: losses/field.py
# open: a loss of one relation keeps the weight of I2I (image to image) in S2 Eq. 5; a mining rule keeps its own margin
MS = {"multi_similarity": {"weight": 0.5, "mining": "ms", "mining_margin": 0.1, **COSINES}}
AWL = {"adaptive_weighting": {"weight": 0.5, "mining": "awl", "mining_margin": 0.2, **COSINES}}


def mc(alpha: float = 0.5, beta: float = 1.0, omega: float = 0.2, **place) -> dict:
    """The multi-constraint loss, S2 Eq. 5, with the weights of section 4.1; a weight of 0 leaves its relation out.

    Args: alpha, beta, omega: weights of I2I, C2I and C2C (image or centre to image or centre); place: `on` and
        `normalise` of the term, by default the feature behind the neck.
    """
    return {"multi_constraint": {"weight": 1.0, "alpha": alpha, "beta": beta, "omega": omega, **(place or COSINES)}}


def on_heads(losses: dict) -> dict:
    """The same losses on the feature of each part head, with `normalise` as it was; C2C and HC-Tri read stripes too."""
    return {name: {k: v for k, v in term.items() if k != "on"} for name, term in losses.items()}


SIX = [{"stripes": 6, "width": 256, "share": 1.0}]  # HC-Tri's part network
THREE_AND_SIX = [{"stripes": 3, "width": 512, "share": 0.6}, {"stripes": 6, "width": 256, "share": 0.4}]  # S2 3.1


def method(losses: dict, recipe: str = "s2", attention: bool = False, **fields) -> dict:
    """An entry of METHODS: the identity loss and other losses on a two-stream network.

    Args: losses: terms by name; recipe: a name of RECIPES; attention: S1's position attention; fields: of Experiment.
    """
    return {"attention": attention, "losses": IDENTITY | losses, "recipe": recipe, **fields}


METHODS = {
    # S1 Table 3. Its baseline, 51.35 / 49.48, is at the level of identity loss + batch-hard triplet in public code
    "baseline": method(TRIPLET, "s1"),
    "dpan": method(TRIPLET, "s1", attention=True),
    "cmdc": method(CMDC, "s1"),  # S1 Eq. 6: CMDC replaces the triplet loss
    "dpan_cmdc": method(CMDC, "s1", attention=True),
    # S2 Table 3: the baselines have the identity loss alone (suite/printed.py, ERRORS, says why)
    "identity": method({}),
    "mc": method(mc()),
    "parts": method({}, parts=THREE_AND_SIX),
    "parts_mc": method(on_heads(mc()), parts=THREE_AND_SIX),  # S2: I2I and C2I on each head, C2C on its stripes
    # S2 Table 4; I2I alone is `awl`
    "mc_c2i": method(mc(alpha=0.0, omega=0.0)),
    "mc_c2c": method(mc(alpha=0.0, beta=0.0)),
    "mc_i2i_c2c": method(mc(beta=0.0)),
    "mc_c2i_c2c": method(mc(alpha=0.0)),
    "mc_i2i_c2i": method(mc(omega=0.0)),
    # S2 Table 5, all of relation I2I
    "ms_loss": method(MS),
    "ms_our_mining": method({"multi_similarity": MS["multi_similarity"] | {"mining": "awl", "mining_margin": 0.2}}),
    "awl_ms_mining": method({"adaptive_weighting": AWL["adaptive_weighting"] | {"mining": "ms", "mining_margin": 0.1}}),
    "awl_unweighted": method({"adaptive_weighting": AWL["adaptive_weighting"] | {"weighting": False}}),
    "awl": method(AWL),
    # S2 Table 6, without parts; MS loss is `ms_loss`
    "triplet_loss": method(TRIPLET),
    "triplet_cross": method({"batch_hard_triplet": TRIPLET["batch_hard_triplet"] | {"cross_modality": True}}),
    "hc_tri_loss": method(HC_TRI),
    "cml_loss": method(CML),
    # systems of other papers, each with its own recipe
    "hc_tri": method(on_heads(HC_TRI), "liu_tan", parts=SIX),  # Liu and Tan 2020
    "hetero_center": method({"hetero_center": {"weight": 0.5}}, parts=[SIX[0] | {"width": 512}]),  # Zhu et al. 2020
    # Ye et al. 2021 without non-local blocks, GeM and weighting; stage 1 is shared
    "agw_base": method(TRIPLET, "agw", pooling="avg", specific_stages=1),
    # Jambigi et al. 2021: HC-Tri on the pooled feature, weight 2, and margin-MMD; stages 0 to 2 per modality
    "margin_mmd": method(
        {
            "hetero_center_triplet": HC_TRI["hetero_center_triplet"] | {"weight": 2.0},
            "margin_mmd": {"weight": 0.25, "margin": 1.4, **DISTANCES},
        },
        "mmd",
        specific_stages=3,
    ),
    # Systems that S1 and S2 compare with (systems/); tables call those whose equations are ours "in the spirit of"
    "one_stream": method(TRIPLET, "s1", specific_stages=0),  # what SIM searches with
    "sim": method(TRIPLET, "s1", specific_stages=0, search="sim"),
    "bdtr": method({"bidirectional_ranking": {"weight": 1.0, **COSINES}}, "s1"),  # Ye et al. 2018, at P x K
    "bdtr_k1": method({"bidirectional_ranking": {"weight": 1.0, **COSINES}}, "k1"),  # with one image a person, as there
    "tone": method({"contrastive": {"weight": 0.2, **COSINES}}, "s1"),  # whose features HCML's metric is learned on
    "hcml": method({"contrastive": {"weight": 0.2, **COSINES}}, "s1", search="hcml"),
    "agw": method({"weighted_regularised_triplet": WRT}, "agw_wrt", modules={"non_local": {}}, specific_stages=1),
    "caj": method(
        {"weighted_regularised_triplet": WRT | {"squared": True}},
        "caj",
        modules={"non_local": {}},
        specific_stages=1,
        views={"exchange": {}},
        colours_thermal="caj",
        erase=0.5,
    ),
    "ddag": method(
        TRIPLET | {"graph_attention": {"weight": 1.0}},
        "agw",
        modules={"part_attention": {}},
        pooling="avg",
        specific_stages=1,
    ),
    "xiv": method(
        {
            "id": THRICE,
            "within_view_triplet": {"weight": 1.0, **DISTANCES},
            "centre_triplet": {"weight": 0.2, **DISTANCES},
        },
        "xiv",
        views={"x": {}},
        specific_stages=0,
    ),
    "hat": method(
        {
            "id": THRICE,
            "homogeneous_invariance": {"weight": 1.0, **COSINES},
            "tri_directional": {"weight": 1.0, **DISTANCES},
        },
        "s1",
        views={"grey": {}},
        specific_stages=0,
    ),
    "mac": method(
        TRIPLET | {"modality_classifiers": {"weight": 1.0, "ensemble": False, "collaboration": "other", **COSINES}},
        "s1",
    ),
    "mace": method(TRIPLET | {"modality_classifiers": {"weight": 1.0, **COSINES}}, "s1"),
    "msr": method(
        {
            "euclidean_constraint": {"weight": 1.0, **DISTANCES},
            "within_modality_triplet": {"weight": 1.0, **DISTANCES},
        },
        "width",
        modules={"modality_heads": {}},
        specific_stages=4,
    ),
    "cmsp": method(
        {"similarity_preserving": {"weight": 1.0, **COSINES}}, "s1", modules={"modality_gates": {}}, specific_stages=0
    ),
    "dfe": method(
        {"distribution_alignment": {"weight": 1.0}, "correlation_alignment": {"weight": 100.0}}, "s1", parts=SIX
    ),
    "cml": method(CML | {"modality_kl": {"weight": 0.5, **COSINES}}, "s1", views={"mix": {}}),
    "hsme": method({"modality_kl": {"weight": 1.0, **COSINES}}, "sphere", modules={"sphere": {}}),
    "d_hsme": method({"modality_kl": {"weight": 1.0, **COSINES}}, "sphere", modules={"sphere": {"cycles": 3.0}}),
    "deen": method(
        {
            "branch_triplet": {"weight": 1.0, "normalise": True},
            "centre_pull_mining": {"weight": 0.8, "normalise": True},
            "branch_orthogonality": {"weight": 0.01},
        },
        "deen",
        modules={"diverse_expansion": {}, "branches": {"place": "neck", "shared_neck": False}},
        pooling="avg",
        specific_stages=1,
        over_parts="mean",
    ),
    # in no paper: S1's loss on S2's network, S2's loss on S1's network, S1's loss with the weights of S2's loss
    "parts_cmdc": method(on_heads(CMDC), parts=THREE_AND_SIX),
    "dpan_mc": method(mc(), "s1", attention=True),
    "cmdc_awl": method({"adaptive_cmdc": CMDC["cmdc"]}, "s1"),
}
# MMD-ReID's margin of 1.4 belongs to its K = 4. The biased estimate of MMD^2 is not 0 even without a gap between the
# modalities: where all 2 K features of a person are equally far apart it is 2 (5 - 1.907) / K, at K = 2 twice what
# it is at K = 4. So a margin of 2.8 means at K = 2 what 1.4 means at K = 4; 1.4 would let every identity count.
_MMD_K2 = {"losses.margin_mmd.margin": 2.8}
# RECIPES: recipe -> layout -> what profile `paper` sets besides the defaults of Experiment, which are S1's recipe.
# recipe -> another profile -> what that profile sets, where a constant of the method would mean something else
_P6K8 = {"identities_per_batch": 6, "images_per_identity": 8}
_P8K4 = {"identities_per_batch": 8, "images_per_identity": 4}
_P4K4 = {"identities_per_batch": 4, "images_per_identity": 4}
# S2 section 4.1. open: one rate for all layers, momentum, weight decay, no smoothing, of which S2 prints nothing
_S2 = {"lr": 0.01, "epochs": 80, "schedule": "s2", "backbone_lr_factor": 1.0, "losses.id.smoothing": 0.0}
_PLAIN = {"nesterov": True, "losses.id.smoothing": 0.0}  # as public code of the field has it


def as_pooled(*losses: str) -> dict:
    """Overrides that put some losses on the pooled feature, not normalised, where public code of a system has them."""
    return {f"losses.{name}.{key}": value for name in losses for key, value in (("on", "pooled"), ("normalise", False))}


_POOLED, _POOLED_MMD = as_pooled("batch_hard_triplet"), as_pooled("hetero_center_triplet", "margin_mmd")
_AGW_WRT = _PLAIN | _P8K4 | as_pooled("weighted_regularised_triplet") | {"epochs": 80}
_XIV = as_pooled("within_view_triplet", "centre_triplet") | {
    **{"optimizer": "adam", "lr": 3.5e-4, "backbone_lr_factor": 1.0, "epochs": 120, "milestones": [40, 70]},
    **{"height": 256, "width": 128, "erase": 0.5, "identities_per_batch": 12, "images_per_identity": 4},
}
_DEEN = _PLAIN | {
    **{"height": 384, "epochs": 150, "milestones": [20, 80], "identities_per_batch": 6, "images_per_identity": 4},
    **{"colours_visible": "grey", "colours_thermal": "grey", "erase": 0.5, "flip_test": True},
    **{f"losses.{name}.normalise": False for name in ("branch_triplet", "centre_pull_mining")},
    **{"modules.branches.place": "pooled", "modules.branches.shared_neck": True},
}
_P32K1, _P8K1 = ({"identities_per_batch": p, "images_per_identity": 1} for p in (32, 8))


def _both(overrides: dict) -> dict:
    """The same overrides on both layouts."""
    return {"sysu": overrides, "regdb": overrides}


_RAW = {"losses.hetero_center_triplet.normalise": False}
RECIPES = {
    "s1": {"sysu": {}, "regdb": {}},
    "s2": {"sysu": _S2 | _P6K8, "regdb": _S2 | _P8K4},
    "liu_tan": {  # HC-Tri as its public code, which smooths labels on RegDB only
        "sysu": _PLAIN | _P6K8 | _RAW,
        "regdb": _P8K4 | _RAW | {"nesterov": True, "gem_p": 10.0, "losses.hetero_center_triplet.local_weight": 2.0},
    },
    "agw": dict.fromkeys(("sysu", "regdb"), _PLAIN | _P8K4 | _POOLED | {"epochs": 80}),
    "mmd": dict.fromkeys(("sysu", "regdb"), _PLAIN | _P4K4 | _POOLED_MMD) | {"quick": _MMD_K2, "cpu": _MMD_K2},
    "agw_wrt": _both(_AGW_WRT),
    "caj": _both(_AGW_WRT | {"epochs": 100, "flip_test": True}),
    "xiv": _both(_XIV),
    "deen": _both(_DEEN),
    "k1": _both(_P32K1) | {"quick": _P8K1, "cpu": _P32K1 | {"identities_per_batch": 16}, "gpu": _P32K1},
    "sphere": _both({}) | {"quick": {"modules.sphere.width": 64}, "cpu": {"modules.sphere.width": 64}},
    "width": _both({}) | {"quick": {"modules.modality_heads.width": 192}, "cpu": {"modules.modality_heads.width": 192}},
}
