"""Is one system better than another? Paired differences, a bootstrap interval over people, the spread over seeds.

A difference has two doubts of its own. Would other people have shown it? The bootstrap over the test people answers.
Would another start have shown it? The spread over runs paired by seed answers. A verdict asks both (`verdict`).
"""

from typing import NamedTuple

import pandas as pd

from .evaluate import interval
from .runs import METRICS, Run

LEVEL = 0.95
VERDICTS = ("holds", "holds on one seed", "fails", "fails on one seed", "undecided", "no difference", "not measured")
WHAT_IT_TAKES = (
    "A claim holds (or fails) where the 95 % interval over people leaves 0 out and the mean gain is larger than its "
    "standard deviation over pairs of runs, which share a seed (on RegDB a seed and a split); with one pair there is "
    "no such deviation, and the verdict says so. Everything else is undecided."
)


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
    """One of VERDICTS on the claim that a gain is there; WHAT_IT_TAKES in words. None: not measured."""
    if found is None:
        return "not measured"
    if found.gain == found.low == found.high == 0:
        return "no difference"
    over_people = found.low > 0 or found.high < 0
    over_seeds = found.pairs == 1 or abs(found.gain) > found.sd
    if not (over_people and over_seeds):
        return "undecided"
    return ("holds" if found.gain > 0 else "fails") + (" on one seed" if found.pairs == 1 else "")
