"""Every table and figure of both papers: the experiments that it needs, and what its paper claims.

ITEMS has one Item for each: "S1.T3" is Table 3 of paper S1, "S2.F4" Figure 4 of S2, "X.T1" a table of no paper.
compare.TERMS cites both papers. To add a table is to add one Item here, and its printed numbers to printed.py.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import pandas as pd

from .. import synvt
from ..config import DATA, VALIDATION, Experiment, experiment
from ..data import datasets
from ..methods import METHODS, as_pooled
from ..protocols import named
from . import printed
from .printed import KNOWS, SPIRIT

MAIN_PROTOCOL = "sysu all 1-shot official"
LAMBDAS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)  # the axis of S1 Figure 4; the paper's choice is 3
THREE = (0, 1, 2)
# Seeds of a row on each profile. "main": rows of S1 Table 3 and S2 Table 3, the main verdicts, on the SYSU layout
SEEDS = {
    "quick": {"main": (0,), "other": (0,)},
    "cpu": {"main": THREE, "other": (0,)},  # its half an hour goes where a verdict needs a spread over seeds
    "gpu": {"main": THREE, "other": THREE},
    "paper": {"main": (0,), "other": (0,)},
}
SPLITS = {"quick": (1,), "cpu": (1,), "gpu": (1,), "paper": tuple(range(1, 11))}  # RegDB: one network for each split
SHORT = ("quick", "cpu")  # profiles on which a table without a main verdict is measured on its first layout alone
PLAIN = "Baseline (w/o Part)"  # S2's network without parts, with the identity loss alone
ALL_THREE = "+I2I+C2I+C2C"  # the constraints of S2
UNTOUCHED = "untouched start"  # the network before any training: no epochs
AS_RECIPE = ", as the recipe says"  # ends the name of a row whose values were not tuned
SCHEDULES = ("+MC (w/ Part), schedule as printed", "+MC (w/ Part), schedule of HC-Tri")
WEIGHTED = "two-stream + CMDC (AWL's weights)"
S1_TABLE_3 = ("Baseline", "Baseline+DPAN", "Baseline+CMDC", "DPAN+CMDC")
S2_TABLE_3 = ("Baseline (w/ Part)", "HC-TRI", "+MC (w/ Part)", PLAIN, "+MC (w/o Part)")
S2_TABLE_4 = ("+I2I", "+C2I", "+C2C", "+I2I+C2C", "+C2I+C2C", "+I2I+C2I", ALL_THREE)
S2_TABLE_5 = ("+MS (MS mining)", "+MS (Our mining)", "+AWL (MS mining)", "+AWL (w/o weighting)", "+AWL")
S2_TABLE_6 = ("+Triplet Loss(Hard)", "+MS Loss(cm-Mining)", "+Hc-Tri Loss", "+CML Loss", "+Our Loss")
NETWORKS = ("two-stream", "DPAN (S1)", "parts (S2)")
PLACED = {"triplet": "baseline", "CMDC": "cmdc", "HC-Tri": "hc_tri_loss", "AWL": "awl", "MC": "mc"}  # row -> method
# row of a table -> the method that measures it; a row that is not here is printed only
MEASURED = {
    "Baseline": "baseline",
    "Baseline+DPAN": "dpan",
    "Baseline+CMDC": "cmdc",
    "DPAN+CMDC": "dpan_cmdc",
    "HC-TRI": "hc_tri",
    "Ours": "parts_mc",
    "Baseline (w/ Part)": "parts",
    "+MC (w/ Part)": "parts_mc",
    "Baseline (w/o Part)": "identity",
    "+MC (w/o Part)": "mc",
    "+I2I": "awl",
    "+C2I": "mc_c2i",
    "+C2C": "mc_c2c",
    "+I2I+C2C": "mc_i2i_c2c",
    "+C2I+C2C": "mc_c2i_c2c",
    "+I2I+C2I": "mc_i2i_c2i",
    "+I2I+C2I+C2C": "mc",
    "+MS (MS mining)": "ms_loss",
    "+MS (Our mining)": "ms_our_mining",
    "+AWL (MS mining)": "awl_ms_mining",
    "+AWL (w/o weighting)": "awl_unweighted",
    "+AWL": "awl",
    "+Triplet Loss(Hard)": "triplet_loss",
    "+MS Loss(cm-Mining)": "ms_loss",
    "+Hc-Tri Loss": "hc_tri_loss",
    "+CML Loss": "cml_loss",
    "+Our Loss": "mc",
    # systems that the papers compare with; S2 calls MSR DGD and XIV Xmodal
    "HCML": "hcml",
    "BDTR": "bdtr",
    "MAC": "mac",
    "CMSP": "cmsp",
    "AGW": "agw",
    "DFE": "dfe",
    "XIV": "xiv",
    "Xmodal": "xiv",
    "DDAG": "ddag",
    "HAT": "hat",
    "DGD": "msr",
    "CML": "cml",
    "SIM": "sim",
    # rows of no paper
    UNTOUCHED: "identity",
    "AGW base": "agw_base",
    "margin-MMD": "margin_mmd",
    "two-stream + CMDC": "cmdc",
    "two-stream + MC": "mc",
    "DPAN (S1) + CMDC": "dpan_cmdc",
    "DPAN (S1) + MC": "dpan_mc",
    "parts (S2) + CMDC": "parts_cmdc",
    "parts (S2) + MC": "parts_mc",
    WEIGHTED: "cmdc_awl",
}


# What stands behind the name of a printed row wherever it is shown: whose equations are ours, what others do not know
LABELS = dict.fromkeys(("MAC", "CMSP", "DFE", "DGD", "HAT", "CML"), SPIRIT) | {"SIM": KNOWS}
# X.T3: row -> method. The base that all start from comes first
SYSTEMS = {
    "Baseline": "baseline",
    "One stream": "one_stream",
    f"SIM on one stream, {KNOWS}": "sim",
    "TONE": "tone",
    "HCML on TONE": "hcml",
    "BDTR": "bdtr",
    "BDTR, one image a person": "bdtr_k1",
    f"HSME, {SPIRIT}": "hsme",
    f"D-HSME, {SPIRIT}": "d_hsme",
    f"MAC, {SPIRIT}": "mac",
    f"MACE, {SPIRIT}": "mace",
    f"MSR, {SPIRIT}": "msr",
    f"CMSP, {SPIRIT}": "cmsp",
    f"DFE, {SPIRIT}": "dfe",
    f"CML, {SPIRIT}": "cml",
    f"HAT, {SPIRIT}": "hat",
    "AGW": "agw",
    "CAJ": "caj",
    "XIV": "xiv",
    "DDAG": "ddag",
    "DEEN": "deen",
    "MMD-ReID": "margin_mmd",
    "HC-Tri": "hc_tri",
    "S1": "dpan_cmdc",
    "S2": "parts_mc",
}
# X.T4: row -> method and fields. Each system without what its authors switch off, or with one of its two halves
ABLATIONS = {
    "AGW without non-local blocks": ("agw", {"modules": {}}),
    "AGW with the anchor among its positives": (
        "agw",
        {"losses.weighted_regularised_triplet.include_anchor": True},
    ),
    "CAJ without the second view": ("caj", {"views": {}}),
    "CAJ without any change of colours": ("caj", {"views": {}, "colours_thermal": "none"}),
    "CAJ without squares": ("caj", {"losses.weighted_regularised_triplet.squared": False}),
    "DDAG without the graph": ("ddag", {"losses.graph_attention.weight": 0.0}),
    "DDAG without parts": ("ddag", {"modules": {}}),
    "DEEN without centre-guided pairs": ("deen", {"losses.centre_pull_mining.weight": 0.0}),
    "XIV without X across": ("xiv", {"losses.centre_triplet.weight": 0.0}),
    "HAT without weights": ("hat", {"losses.tri_directional.weighting": False}),
    "HAT without invariance": ("hat", {"losses.homogeneous_invariance.weight": 0.0}),
    "MACE without collaboration": ("mace", {"losses.modality_classifiers.collaboration_weight": 0.0}),
    "CMSP without gates": ("cmsp", {"modules": {}}),
    "CMSP without preservation": ("cmsp", {"losses.similarity_preserving.preserve": False}),
    "DFE without alignment": (
        "dfe",
        {"losses.distribution_alignment.weight": 0.0, "losses.correlation_alignment.weight": 0.0},
    ),
    "CML without mixed images": ("cml", {"views": {}}),
    "CML without KL": ("cml", {"losses.modality_kl.weight": 0.0}),
    "MSR without the constraint": ("msr", {"losses.euclidean_constraint.weight": 0.0}),
    "SIM, the graph alone": ("sim", {"search": "sim-graph"}),
    "SIM, mutual neighbours alone": ("sim", {"search": "sim-mutual"}),
    "SIM with the constants of few images": ("sim", {"search": "sim-few"}),
}
# X.T5: what is changed in the training images -> fields
AUGMENTATIONS = {
    "exchange of channels": {"colours_visible": "exchange"},
    "linear mix of channels": {"colours_visible": "linear"},
    "grey": {"colours_visible": "grey", "colours_thermal": "grey"},
    "erasing": {"erase": 0.5},
}
AUGMENTED = {"baseline": "baseline", "CMDC": "cmdc", "MC": "mc"}


class Claim(NamedTuple):
    """A claim that one row of a table is ahead of another. It counts also where one of them is not measured here."""

    better: str
    over: str
    # The gain in rank-1 that we expect on the cpu profile's SYSU layout, from low to high in percent points, and why.
    # Written after trials on validation people at half the steps and before any run on test people, as the history of
    # this file shows
    predicted: tuple[float, float] | None = None
    because: str = ""
    words: str = ""  # of the claim, where the names of the two rows do not say it

    @property
    def text(self) -> str:
        """The claim in words."""
        return self.words or f"{self.better} over {self.over}"

    def foreseen(self, gain, protocol: str) -> str:
        """Whether a gain came out as predicted, in words; "" where nothing was predicted, measured or of this protocol.

        Args: gain: compare.Gain of rank-1, or None; protocol: that it was measured under.
        """
        if gain is None or self.predicted is None or protocol != MAIN_PROTOCOL:
            return ""
        low, high = self.predicted
        if gain.low <= high and gain.high >= low:
            return "as predicted"
        return f"not as predicted ({low:+g} to {high:+g}: {self.because})"


_NONE: dict[str, str] = {}  # the default of fields, which no item changes


class Item(NamedTuple):
    """A table or figure of a paper, or one of ours."""

    title: str
    rows: Callable[[str], dict[str, list[Experiment]]]  # profile -> the experiments that measure each row
    notebook: str  # the one that shows it, without .ipynb
    settings: dict[str, str] = _NONE  # group of columns -> its protocol; a figure of other numbers has none
    compared_to: dict[str, str] = _NONE  # row -> the row that its difference is taken to, in print and here
    claims: Sequence[Claim] = ()
    longer: Callable[[str], dict[str, list[Experiment]]] | None = None  # as rows, where a call names the item
    printed: pd.DataFrame = printed.rows("")  # this and the next are filled in from printed.py, below ITEMS
    errors: Sequence[str] = ()  # what is wrong or unclear in print

    def experiments(self, profile: str, longer: bool = False) -> dict[str, list[Experiment]]:
        """The experiments of each row on the data sets that are at hand; a row without one is left out.

        So a person who has one of the two real sets can measure its part. If no set is at hand, all experiments are
        returned, and running them says what is missing.
        """
        sets = {name for name in DATA[profile].values() if is_at_hand(name)} or set(DATA[profile].values())
        every = (self.longer if longer and self.longer else self.rows)(profile)
        rows = {row: [e for e in group if e.data in sets] for row, group in every.items()}
        return {row: group for row, group in rows.items() if group}


def is_at_hand(data: str) -> bool:
    """Whether a data set is on disk or can be drawn by SynVT. Args: data: its name, as in Experiment.data."""
    return data.split(",")[0] in synvt.PRESETS or datasets.is_there(data)


def seeds(profile: str, method: str, dataset: str = "sysu", main: bool = False, **fields) -> list[Experiment]:
    """The experiments of one row: one for each seed of SEEDS and, on RegDB, each split of SPLITS.

    Args: profile, method, dataset: of the experiments; main: whether the row has a main verdict, and so more seeds on
        the SYSU layout; fields: further fields of the experiments.
    """
    numbers = SEEDS[profile]["main" if main and dataset == "sysu" else "other"]
    splits = SPLITS[profile] if dataset == "regdb" else (1,)
    return [experiment(profile, method, dataset=dataset, seed=s, split=p, **fields) for p in splits for s in numbers]


def measured(*names: str, on: str = "sysu", main: bool = False) -> Callable[[str], dict[str, list[Experiment]]]:
    """Item.rows of a table: the experiments of rows of MEASURED.

    Args: names: of the rows; on: layouts, "sysu", "regdb" or both with a space between; main: whether the table has a
        main verdict.
    """

    def rows(profile: str) -> dict[str, list[Experiment]]:
        layouts = on.split() if main or profile not in SHORT else on.split()[:1]
        return {n: [e for d in layouts for e in seeds(profile, MEASURED[n], d, main)] for n in names}

    return rows


def as_recipe(profile: str, *names: str) -> dict[str, list[Experiment]]:
    """Rows again with one seed and untuned values, under names with AS_RECIPE; none where tuning changed no value."""
    pairs = {n: (experiment(profile, MEASURED[n]), experiment(profile, MEASURED[n], tuned=False)) for n in names}
    return {f"{n}{AS_RECIPE}": [plain] for n, (tuned, plain) in pairs.items() if plain.run_id != tuned.run_id}


def to_tuned(*names: str) -> dict[str, str]:
    """Item.compared_to of the rows of as_recipe(): each is compared to the tuned row."""
    return {f"{name}{AS_RECIPE}": name for name in names}


def s1_table_3(profile: str) -> dict[str, list[Experiment]]:
    """Item.rows of S1 Table 3: the untouched start, the printed rows, and these as their recipes say."""
    start = {UNTOUCHED: [experiment(profile, MEASURED[UNTOUCHED], epochs=0)]}
    return start | measured(*S1_TABLE_3, main=True)(profile) | as_recipe(profile, *S1_TABLE_3)


def with_others(
    rows: Callable[[str], dict[str, list[Experiment]]], table: str, layout: str
) -> Callable[[str], dict[str, list[Experiment]]]:
    """Item.rows of a comparison: rows of its own, then all other printed systems that run here, with one seed."""

    def both(profile: str) -> dict[str, list[Experiment]]:
        own = rows(profile)
        names = [n for n in dict.fromkeys(printed.rows(table).row) if n in MEASURED and n not in own]
        return own | {n: seeds(profile, MEASURED[n], layout) for n in names}

    return both


def s2_table_1(profile: str) -> dict[str, list[Experiment]]:
    """Item.rows of S2 Table 1, with two systems of the field that have no main verdict."""
    return measured("HC-TRI", "Ours", main=True)(profile) | measured("AGW base", "margin-MMD")(profile)


def s2_table_3(profile: str) -> dict[str, list[Experiment]]:
    """Item.rows of S2 Table 3: its printed rows, the full system under both SCHEDULES, rows as their recipes say."""
    rows = measured(*S2_TABLE_3, on="sysu regdb", main=True)(profile)
    rate = {"lr": 0.1, "backbone_lr_factor": 0.1} if profile == "paper" else {}  # as HC-Tri's public code begins
    for name, fields in zip(SCHEDULES, ({"schedule": "s2"}, {"schedule": "steps"} | rate), strict=True):
        rows[name] = seeds(profile, "parts_mc", **fields)
    return rows | as_recipe(profile, *S2_TABLE_3)


def at_lambda(profile: str, weight: float) -> list[Experiment]:
    """S1's full system at one weight of CMDC. At 3, the paper's choice, these are the runs of Table 3, all seeds."""
    return seeds(profile, "dpan_cmdc", main=weight == 3.0, **{"losses.cmdc.weight": weight})


def both_layouts(profile: str) -> dict[str, list[Experiment]]:
    """Item.rows of S1 Figure 5: S1's full system once on each layout, validated after each epoch.

    People are held out for that even where the papers' protocol trains on all of them.
    """
    held_out = {"sysu": {"train_on": "train"}, "regdb": {"validation_identities": VALIDATION[profile] or 20}}
    return {
        layout: seeds(profile, "dpan_cmdc", dataset=layout, **fields, validate_every=1)[:1]
        for layout, fields in held_out.items()
    }


def places(profile: str) -> dict[str, list[Experiment]]:
    """Item.rows of X.T2: each loss of PLACED where its method has it, behind the neck, and on the pooled feature.

    The pooled feature is not normalised. All else, tuned values included, is equal.
    """
    rows = {}
    for name, method in PLACED.items():
        metric_losses = [loss for loss in experiment(profile, method).losses if loss != "id"]
        rows[f"{name}, neck"] = seeds(profile, method)
        rows[f"{name}, pooled"] = seeds(profile, method, **as_pooled(*metric_losses))
    return rows


def systems(profile: str) -> dict[str, list[Experiment]]:
    """Item.rows of X.T3: each system on the SYSU layout, with the seeds of a row that has no main verdict."""
    return {row: seeds(profile, method) for row, method in SYSTEMS.items()}


def systems_longer(profile: str) -> dict[str, list[Experiment]]:
    """Item.longer of X.T3: three seeds of each system on the SYSU layout, and one on the RegDB layout."""
    rows = {}
    for row, method in SYSTEMS.items():
        rows[row] = [seeds(profile, method)[0].but(seed=s) for s in THREE] + seeds(profile, method, "regdb")[:1]
    return rows


def ablations(profile: str) -> dict[str, list[Experiment]]:
    """Item.rows of X.T4: each system whole and without one of its parts."""
    whole = {name_of(method): seeds(profile, method)[:1] for method, _ in ABLATIONS.values()}
    return whole | {row: seeds(profile, method, **changed)[:1] for row, (method, changed) in ABLATIONS.items()}


def name_of(method: str) -> str:
    """The row of SYSTEMS that a method measures."""
    return next(row for row, other in SYSTEMS.items() if other == method)


def augmentations(profile: str) -> dict[str, list[Experiment]]:
    """Item.rows of X.T5: three methods plain and with each of AUGMENTATIONS."""
    rows = {}
    for name, method in AUGMENTED.items():
        rows[name] = seeds(profile, method)[:1]
        rows |= {f"{name}, {a}": seeds(profile, method, **f)[:1] for a, f in AUGMENTATIONS.items()}
    return rows


def claims_over(better: str, *others: str) -> list[Claim]:
    """Claims without a prediction that one row is ahead of each of the others."""
    return [Claim(better, other) for other in others]


ALL_SEARCH = {"all": MAIN_PROTOCOL}
BOTH_SETS = {"t2v": "regdb t2v", **ALL_SEARCH}
REGDB = {direction: f"regdb {direction}" for direction in ("v2t", "t2v")}
# Reasons of predictions
_CENTRES = "both losses set people apart by distances of centres; CMDC also holds the images near"
_INERT = "attention starts as the identity, and alpha has hardly moved in the trials"
_COSINES = "behind the neck cosines spread over the constants of the loss, which then acts on every pair"
_DROWNED = "the sum of constraints weighs more than the identity loss, which then learns less"
_LEVEL = "at length 1 and at its own rate HC-Tri came to the same mAP on validation people"
_ALIKE = "both rules choose nearly the same pairs where margins are small beside the spread of cosines"
_MORE = "samples say more than centres alone"
_FLAT = "a flat top: the scale is not sharp"
_MARGIN = "the margin of 0.3 is 0.3 of a length of 1"
_VALIDATION = "so it was on validation people"

ITEMS = {
    "S1.T1": Item(
        title="S1 Table 1: comparison on SYSU-MM01, single-shot",
        rows=with_others(measured("Baseline", "DPAN+CMDC", main=True), "S1.T1", "sysu"),
        notebook="23_comparison",
        settings={mode: f"sysu {mode} 1-shot official" for mode in ("all", "indoor")},
        compared_to={"DPAN+CMDC": "Baseline"},
        claims=[Claim("DPAN+CMDC", "Baseline", (3, 10), _CENTRES), *claims_over("DPAN+CMDC", "HAT", "NFS")],
    ),
    "S1.T2": Item(
        title="S1 Table 2: comparison on RegDB, visible to thermal",
        rows=with_others(measured("Baseline", "DPAN+CMDC", on="regdb"), "S1.T2", "regdb"),
        notebook="23_comparison",
        settings=REGDB,
        compared_to={"DPAN+CMDC": "Baseline"},
        claims=claims_over("DPAN+CMDC", "Baseline", "AGW", "DDAG", "HAT", "DFE", "AlignGAN"),
    ),
    "S1.T3": Item(
        title="S1 Table 3: each component, SYSU-MM01 all-search",
        rows=s1_table_3,
        notebook="20_ablation",
        settings=ALL_SEARCH,
        compared_to={"Baseline": UNTOUCHED} | dict.fromkeys(S1_TABLE_3[1:], "Baseline") | to_tuned(*S1_TABLE_3),
        claims=[
            Claim("Baseline+DPAN", "Baseline", (-1, 1), _INERT),
            Claim("Baseline+CMDC", "Baseline", (3, 10), _CENTRES),
            Claim("DPAN+CMDC", "Baseline", (3, 10), _CENTRES),
        ],
    ),
    "S1.F4": Item(
        title="S1 Figure 4: the weight lambda of CMDC",
        rows=lambda profile: {str(weight): at_lambda(profile, weight) for weight in LAMBDAS},
        notebook="21_lambda_sweep",
        settings=ALL_SEARCH,
        compared_to={str(weight): "0.0" for weight in LAMBDAS[1:]},
        claims=[
            Claim("3.0", "0.0", (6, 18), _CENTRES, words="accuracy first rises with lambda: 3 over 0"),
            Claim("3.0", "2.0", (-1.5, 1.5), _FLAT, words="the peak is at lambda 3: 3 over 2"),
            Claim("3.0", "4.0", (-1.5, 1.5), _FLAT, words="the peak is at lambda 3: 3 over 4"),
            Claim("3.0", "5.0", (-2, 2), _FLAT, words="accuracy drops behind it: 3 over 5"),
        ],
    ),
    "S1.F5": Item(
        title="S1 Figure 5: convergence of CMDC, training and validation",
        rows=both_layouts,
        notebook="22_convergence",
    ),
    "S2.T1": Item(
        title="S2 Table 1: comparison on SYSU-MM01, all-search, single and multi shot",
        rows=with_others(s2_table_1, "S2.T1", "sysu"),
        notebook="30_comparison",
        settings={"single": MAIN_PROTOCOL, "multi": "sysu all 10-shot official"},
        compared_to=dict.fromkeys(("Ours", "AGW base", "margin-MMD"), "HC-TRI"),
        claims=[Claim("Ours", "HC-TRI", (-5, 5), _LEVEL), Claim("Ours", "SIM")],
    ),
    "S2.T2": Item(
        title="S2 Table 2: comparison on RegDB, both directions",
        rows=with_others(measured("HC-TRI", "Ours", on="regdb"), "S2.T2", "regdb"),
        notebook="30_comparison",
        settings=REGDB,
        compared_to={"Ours": "HC-TRI"},
        claims=claims_over("Ours", "HC-TRI", "SIM"),
    ),
    "S2.T3": Item(
        title="S2 Table 3: multi-constraint loss with and without parts",
        rows=s2_table_3,
        notebook="31_parts",
        settings=BOTH_SETS,
        compared_to={
            "Baseline (w/ Part)": PLAIN,
            "HC-TRI": "Baseline (w/ Part)",
            "+MC (w/ Part)": "Baseline (w/ Part)",
            "+MC (w/o Part)": PLAIN,
            SCHEDULES[0]: SCHEDULES[1],
            **to_tuned(*S2_TABLE_3),
        },
        claims=[
            Claim("+MC (w/ Part)", "Baseline (w/ Part)", (8, 20), _COSINES),
            Claim("+MC (w/ Part)", "HC-TRI", (-5, 5), _LEVEL),
            Claim("+MC (w/o Part)", PLAIN, (8, 20), _COSINES),
            Claim("Baseline (w/ Part)", PLAIN, (-3, 5), "what parts add by themselves is small here"),
        ],
    ),
    "S2.T4": Item(
        title="S2 Table 4: the three constraints",
        rows=measured(PLAIN, *S2_TABLE_4, on="sysu regdb"),
        notebook="32_constraints",
        settings=BOTH_SETS,
        compared_to=dict.fromkeys(S2_TABLE_4, PLAIN),
        claims=[
            Claim("+I2I", PLAIN, (10, 22), _COSINES),
            Claim("+C2I", PLAIN, (10, 24), _COSINES),
            Claim("+C2C", PLAIN, (6, 16), _COSINES),
            Claim("+I2I+C2C", "+I2I", (-1, 5), "centres add a little to samples, at a small weight"),
            Claim("+I2I+C2C", "+C2C", (3, 13), _MORE),
            Claim("+C2I+C2C", "+C2I", (-6, 2), _DROWNED),
            Claim("+C2I+C2C", "+C2C", (0, 10), _MORE),
            Claim("+I2I+C2I", "+I2I", (-6, 3), _DROWNED),
            Claim("+I2I+C2I", "+C2I", (-6, 2), _DROWNED),
            Claim(ALL_THREE, "+I2I+C2C", (-8, 1), _DROWNED),
            Claim(ALL_THREE, "+C2I+C2C", (-3, 3), _DROWNED),
            Claim(ALL_THREE, "+I2I+C2I", (-3, 4), "C2C weighs a fifth of C2I and says the same"),
        ],
    ),
    "S2.T5": Item(
        title="S2 Table 5: pair mining and pair weighting",
        rows=measured(PLAIN, *S2_TABLE_5, on="sysu regdb"),
        notebook="33_mining_and_weighting",
        settings=BOTH_SETS,
        compared_to=dict.fromkeys(S2_TABLE_5, PLAIN),
        claims=[
            Claim("+MS (Our mining)", "+MS (MS mining)", (-1, 2), _ALIKE),
            Claim("+AWL", "+AWL (MS mining)", (-1.5, 3), _ALIKE),
            Claim("+AWL", "+AWL (w/o weighting)", (-1, 4), "the weights differ by a factor of two at most"),
            Claim("+AWL", "+MS (Our mining)", (6, 18), "MS loss has 2 in the place of AWL's 5 for positives"),
        ],
    ),
    "S2.T6": Item(
        title="S2 Table 6: metric losses",
        rows=measured(PLAIN, *S2_TABLE_6, "margin-MMD", on="sysu regdb"),
        notebook="34_metric_losses",
        settings=BOTH_SETS,
        compared_to=dict.fromkeys((*S2_TABLE_6, "margin-MMD"), PLAIN),
        claims=[
            Claim("+Our Loss", PLAIN, (8, 20), _COSINES),
            Claim("+Our Loss", "+Triplet Loss(Hard)", (0, 12), "it compares every pair, the triplet one an anchor"),
            Claim("+Our Loss", "+MS Loss(cm-Mining)", (5, 16), "MS loss pulls positives more weakly"),
            Claim("+Our Loss", "+Hc-Tri Loss", (-2, 10), "it compares every pair, HC-Tri one a centre"),
            Claim("+Our Loss", "+CML Loss", (-2, 10), "it compares every pair, CML one a centre"),
        ],
    ),
    "S2.F1": Item(
        title="S2 Figure 1: similarities within and between classes, before and after",
        rows=measured(PLAIN, "+C2C", ALL_THREE),
        notebook="32_constraints",
    ),
    "S2.F3": Item(
        title="S2 Figure 3: the three relations",
        rows=measured(ALL_THREE),
        notebook="32_constraints",
    ),
    "S2.F4": Item(
        title="S2 Figure 4: the pairs that each mining keeps",
        rows=measured(PLAIN, "+AWL", "+MC (w/ Part)"),
        notebook="33_mining_and_weighting",
    ),
    # Of no paper: questions that may be answered either way
    "X.T1": Item(
        title="Crossed: each paper's loss on each paper's network, SYSU-MM01 all-search",
        rows=measured(*(f"{network} + {loss}" for network in NETWORKS for loss in ("CMDC", "MC")), WEIGHTED),
        notebook="31_parts",
        settings=ALL_SEARCH,
        compared_to={f"{network} + MC": f"{network} + CMDC" for network in NETWORKS} | {WEIGHTED: "two-stream + CMDC"},
        claims=[
            Claim("two-stream + MC", "two-stream + CMDC", (-3, 8), _VALIDATION),
            Claim("DPAN (S1) + MC", "DPAN (S1) + CMDC", (-4, 7), _VALIDATION),
            Claim("parts (S2) + MC", "parts (S2) + CMDC", (0, 10), "CMDC has no stripes to act on"),
            Claim(WEIGHTED, "two-stream + CMDC", (-2, 6), "soft bounds see more images than hard ones"),
        ],
    ),
    "X.T3": Item(
        title="Systems: everything that runs here, on one network, batch and schedule, SYSU-MM01 all-search",
        rows=systems,
        longer=systems_longer,
        notebook="24_systems",
        settings=ALL_SEARCH | {"v2t": "regdb v2t"},
        compared_to=dict.fromkeys([*SYSTEMS][1:], "Baseline")
        | {f"SIM on one stream, {KNOWS}": "One stream", "HCML on TONE": "TONE"},
    ),
    "X.T4": Item(
        title="Ablations: each system without one of its parts, SYSU-MM01 all-search",
        rows=lambda profile: {r: g for r, g in ablations(profile).items() if g[0].method in ("one_stream", "sim")},
        longer=ablations,
        notebook="24_systems",
        settings=ALL_SEARCH,
        compared_to={row: name_of(method) for row, (method, _) in ABLATIONS.items()},
    ),
    "X.T5": Item(
        title="Augmentation: three losses with changed training images, SYSU-MM01 all-search",
        rows=lambda profile: {r: g for r, g in augmentations(profile).items() if r in AUGMENTED},
        longer=augmentations,
        notebook="24_systems",
        settings=ALL_SEARCH,
        compared_to={f"{name}, {a}": name for name in AUGMENTED for a in AUGMENTATIONS},
    ),
    "X.T2": Item(
        title="Places: each loss behind the neck and on the pooled feature, SYSU-MM01 all-search",
        rows=places,
        notebook="35_mechanisms",
        settings=ALL_SEARCH,
        compared_to={f"{name}, neck": f"{name}, pooled" for name in PLACED},
        claims=[
            Claim("triplet, neck", "triplet, pooled", (1, 8), _MARGIN),
            Claim("CMDC, neck", "CMDC, pooled", (2, 10), _MARGIN),
            Claim("HC-Tri, neck", "HC-Tri, pooled", (2, 10), _MARGIN),
            Claim("AWL, neck", "AWL, pooled", (10, 25), _COSINES),
            Claim("MC, neck", "MC, pooled", (5, 20), _COSINES),
        ],
    ),
}

ITEMS = {key: item._replace(printed=printed.rows(key), errors=printed.ERRORS[key]) for key, item in ITEMS.items()}


def experiments(
    profile: str, items: Iterable[str], *, absent: bool = False, longer: Iterable[str] = ()
) -> list[Experiment]:
    """Every experiment that some items need, each once.

    Args: profile; items: their keys in ITEMS; absent: also experiments whose data set is not at hand; longer: the items
        whose longer rows are meant.
    """
    by_id: dict[str, Experiment] = {}
    for item in items:
        rows = ITEMS[item].rows(profile) if absent else ITEMS[item].experiments(profile, item in longer)
        for e in (e for group in rows.values() for e in group):
            by_id.setdefault(e.run_id, e.but(search=""))  # a search is made of the same run
    return list(by_id.values())


def comparison(better: Experiment, over: Experiment, protocol: str) -> str:
    """The key of a comparison, equal in every table: two experiments without their seed and split, and a protocol."""
    names = (e.but(seed=0, split=1).run_id + (f" by {e.search}" if e.search else "") for e in (better, over))
    return f"{' over '.join(names)}, {protocol}"


@cache
def comparisons(profile: str) -> dict[str, dict[str, int]]:
    """The comparisons that the claims of all tables ask for, each once, although several tables may ask for it.

    Returns: comparison() -> {key of the table: its pairs of experiments that share seed and split}.
    """
    pairs: dict[str, dict[str, int]] = {}
    for key, item in ITEMS.items():
        rows = item.experiments(profile) if item.claims else {}
        for claim, protocol in product(item.claims, item.settings.values()):
            better, over = (
                {(e.seed, e.split): e for e in rows.get(row, ()) if e.dataset == named(protocol).layout}
                for row in (claim.better, claim.over)
            )
            if shared := better.keys() & over.keys():
                one = comparison(next(iter(better.values())), next(iter(over.values())), protocol)
                pairs.setdefault(one, {})[key] = len(shared)
    return pairs


def methods_of_tables() -> list[str]:
    """The methods that some table measures."""
    return [method for method in METHODS if method in {*MEASURED.values(), *SYSTEMS.values()}]
