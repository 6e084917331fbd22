"""Is one system better than another? Paired differences, a bootstrap interval over people, the spread over seeds.

A difference has two doubts of its own. Would other people have shown it? The bootstrap over the test people answers.
Would another start have shown it? The spread over runs paired by seed answers. A verdict asks both (`verdict`).
"""

import math
from typing import NamedTuple

import pandas as pd

from .evaluate import interval
from .runs import METRICS, Run

LEVEL = 0.95
VERDICTS = {  # the words of a verdict, and what each says; the same words in every notebook and report
    "holds": "the system is ahead, for other people of this kind and for other seeds too",
    "holds on one seed": "the interval says so; one pair of runs cannot tell what another seed would give",
    "fails": "the system is behind: the opposite of the claim holds",
    "fails on one seed": "the interval says so; one pair of runs cannot tell what another seed would give",
    "undecided": "other people or another seed could turn the sign: no difference is shown, and none is ruled out "
    "that lies within the interval",
    "no difference": "both systems give the same value for every query",
    "not measured": "one of the two systems is not rebuilt here, or this profile leaves its data out",
}
SIZES = {  # the printed gain beside the interval of the measured one
    "printed size inside": "the interval of the measured gain has the printed gain in it",
    "smaller": "the whole interval lies below the printed gain: a claim that holds then holds in sign alone",
    "larger": "the whole interval lies above the printed gain",
}
RULE = (
    "A claim says that one system is ahead of another. It *holds* where the 95 % interval of the gain lies above 0 and "
    "the mean gain is larger than its standard deviation over pairs of runs; it *fails* where the interval lies below "
    "0 in the same way. A pair shares its seed (on RegDB seed and split); of one pair there is no deviation, and the "
    "verdict says *on one seed*. Everything else is *undecided*. The interval draws test people with replacement, "
    "10,000 times, each with all queries. **Rank-1 decides**; mAP stands beside it, with its own verdict where that "
    "is another one. Gains are in percent points. The printed gain is of another data set: *size* says whether it "
    "lies inside the interval all the same."
)
TERMS = (
    "A *query* is a test image whose person is searched; the *gallery* is the images that it is compared with, by the "
    "cosine of two features, the lists of numbers that a network gives for two images. *Rank-k* is the share of "
    "queries with the right person among the first k of the gallery. *mAP* is the mean over queries of the average "
    "precision: the share of right images among the first n, averaged over the places n of the right ones. "
    "*All-search* has the visible images of all cameras in the gallery, *indoor* those of the two cameras inside; "
    "*single-shot* has one image of each person and camera, *multi-shot* ten. A *trial* is one random draw of that "
    "gallery; every number is a mean over trials. *t2v* is thermal queries in a visible gallery, *v2t* the reverse. "
    "*S1* is Wang et al. 2022, *Learning Visible Thermal Person Re-Identification via Spatial Dependence and "
    "Dual-Constraint Loss*, Entropy 24(4) 443; *S2* is Ling et al. 2021, *A Multi-Constraint Similarity Learning with "
    "Adaptive Weighting for Visible-Thermal Person Re-Identification*, IJCAI."
)


def lines(words: dict[str, str]) -> str:
    """Words and what they say, as a list in Markdown."""
    return "\n".join(f"- *{word}*: {means}" for word, means in words.items())


def folded(title: str, text: str) -> str:
    """Markdown that a reader opens with a click."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


# Markdown for the notebooks: the one rule, above every verdict, and the terms, above every first table
WHAT_IT_TAKES = f"{RULE}\n\n{folded('Each word of a verdict', lines(VERDICTS | SIZES))}"
TERMS = folded("Terms: query, gallery, rank-k, mAP, single-shot, trial, S1, S2", TERMS)


class Gain(NamedTuple):
    """By how much one system is ahead of another in one metric, in percent points."""

    gain: float  # mean over paired runs and their queries
    low: float  # LEVEL interval over people, bootstrap
    high: float
    sd: float  # standard deviation over the pairs; NaN of one pair
    pairs: int  # runs of one seed and split in both


def differences(better: list[Run], over: list[Run], protocol: str) -> pd.DataFrame:
    """What each query gains, METRICS in percent points: pid, seed, split and a row for each query of each paired run.

    Raises: ValueError if two runs of a pair were measured on different queries.
    """
    other, tables = {(r.experiment.seed, r.experiment.split): r for r in over}, []
    for run in better:
        pair = run.experiment.seed, run.experiment.split
        if pair in other:
            a, b = run.queries(protocol), other[pair].queries(protocol)
            if not (a.row.equals(b.row) and a.pid.equals(b.pid)):
                ids = f"{run.experiment.run_id} and {other[pair].experiment.run_id}"
                raise ValueError(f"runs {ids} have different queries under {protocol}: they cannot be paired")
            each = 100 * (a[METRICS] - b[METRICS])
            tables.append(each.assign(pid=a.pid, seed=pair[0], split=pair[1]).dropna())
    return pd.concat(tables) if tables else pd.DataFrame(columns=[*METRICS, "pid", "seed", "split"])


def gains(each: pd.DataFrame, metrics: list[str] = METRICS) -> dict[str, Gain]:
    """The Gain of each metric of differences(); {} where no runs are paired."""
    if each.empty:
        return {}
    by_pair = each.groupby(["seed", "split"])[metrics].mean()
    low, high = interval(each[metrics].to_numpy(float), each.pid.to_numpy(), level=LEVEL)
    values = zip(metrics, each[metrics].mean(), low, high, by_pair.std(ddof=1), strict=True)
    return {metric: Gain(*map(float, numbers), len(by_pair)) for metric, *numbers in values}


def verdict(found: Gain | None) -> str:
    """One of VERDICTS on the claim that a gain is there, by RULE. None: not measured."""
    if found is None:
        return "not measured"
    if found.gain == found.low == found.high == 0:
        return "no difference"
    over_people = found.low > 0 or found.high < 0
    over_seeds = found.pairs == 1 or abs(found.gain) > found.sd
    if not (over_people and over_seeds):
        return "undecided"
    return ("holds" if found.gain > 0 else "fails") + (" on one seed" if found.pairs == 1 else "")


def size(found: Gain | None, printed: float) -> str:
    """One of SIZES: where a printed gain lies beside the interval of a measured one; "" where one of them is missing.

    A printed gain has two decimals, so it counts as inside up to half of the last one.
    """
    if found is None or math.isnan(printed) or math.isnan(found.low):
        return ""
    if found.low - 0.005 <= printed <= found.high + 0.005:
        return "printed size inside"
    return "smaller" if found.high < printed else "larger"
