"""Is one system better than another? Paired differences, a bootstrap interval over people, the spread over seeds.

A difference has two doubts of its own. Would other people have shown it? The bootstrap over the test people answers.
Would another start have shown it? The spread over runs paired by seed answers. A verdict asks both (`verdict`).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from .runs import METRICS, Run

DRAWS = 10_000
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
    low, high = interval(each[metrics].to_numpy(float), each.pid.to_numpy())
    values = zip(metrics, each[metrics].mean(), low, high, by_pair.std(ddof=1), strict=True)
    return {metric: Gain(*map(float, numbers), len(by_pair)) for metric, *numbers in values}


def interval(values: np.ndarray, groups: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """LEVEL percentile bootstrap interval (2, K) of the means of values (n, K), whole groups (n,) drawn.

    The papers' tables are means over queries, and so is each draw; but what is drawn with replacement are people, each
    with all queries. Images of one person are found or missed together (one gallery image is all their match), so
    that n queries are not n witnesses: drawn one by one their interval is too narrow. groups=range(n) draws queries.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, sections 8.6 and 13.3.
    """
    _, index, count = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(count), values.shape[1]))
    np.add.at(sums, index, values)
    drawn = resamples(len(count), draws, seed)
    return np.quantile((drawn @ sums) / (drawn @ count)[:, None], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


@lru_cache(maxsize=4)
def resamples(groups: int, draws: int, seed: int) -> np.ndarray:
    """How often each group is in each bootstrap sample: (draws, groups), each row sums to `groups`."""
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), draws).astype(float)


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
