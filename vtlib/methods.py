"""The named systems of the papers as data: model options and loss terms, one entry each.

An entry sets fields of config.Experiment. A term is `name: {"weight": w, **arguments of the loss}`, names as in
losses.LOSSES.
"""

IDENTITY = {"id": {"weight": 1.0, "smoothing": 0.1}}  # open: S1 gives no zeta; 0.1 is the field's
TRIPLET = {"batch_hard_triplet": {"weight": 1.0, "margin": 0.3}}
CMDC = {"cmdc": {"weight": 3.0, "margin": 0.3}}  # weight: S1 section 4.4; open: S1 gives no margin

METHODS = {
    # S1 Table 3. The baseline's printed 51.35 / 49.48 is the level of identity loss + batch-hard triplet in public code
    "baseline": {"attention": False, "losses": IDENTITY | TRIPLET},
    "dpan": {"attention": True, "losses": IDENTITY | TRIPLET},
    "cmdc": {"attention": False, "losses": IDENTITY | CMDC},  # S1 Eq. 6: CMDC takes the triplet's place
    "dpan_cmdc": {"attention": True, "losses": IDENTITY | CMDC},
}
