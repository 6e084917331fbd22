"""Is one system better than another? Differences between paired runs, their standard error, and a verdict.

Two runs are a pair if they share seed and split. A difference is uncertain for two reasons: other test people might not
have shown it, which the spread over people tells, and other seeds might not have, which the spread over pairs tells. A
verdict weighs both, and the number of verdicts in the same report. Its rule is RULE: all notebooks and reports print it
from here. calibrate.py measures how often the rule is wrong.
"""

import math
from typing import NamedTuple

import pandas as pd
from scipy.stats import t as student

from ..runs import METRICS, Run

LEVEL = 0.95  # of the intervals that are shown
FAMILY = 0.01  # chance of any wrong *holds* among all comparisons of a report, and of any wrong *fails*
SAME = 1.0  # percent points: systems whose difference surely is smaller are equivalent; set before any was measured
# Profile -> standard deviation of a difference over seeds, percent points: the median over all comparisons of three
# pairs (`python -m vtlib.launch calibrate`), because the three pairs of one comparison are too few to estimate it
SEED_SD = {"cpu": {"rank1": 0.66, "mAP": 0.50}}


def lines(words: dict[str, str]) -> str:
    """Words and their meanings as a list in Markdown."""
    return "\n".join(f"- *{word}*: {means}" for word, means in words.items())


def folded(title: str, text: str) -> str:
    """Markdown that shows its title alone until a reader clicks on it."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


VERDICTS = {  # the words of a verdict, in every notebook and report, and what each means
    "holds": "the system is ahead, for other people of this kind and for other seeds too",
    "holds on one seed": "the people say so, or a curve; what another seed would give is not known for this profile",
    "fails": "the system is behind: the opposite of the claim holds",
    "fails on one seed": "the people say so, or a curve; what another seed would give is not known for this profile",
    "equivalent": f"the whole interval lies within {SAME:g} point of no gain: if there is a difference, it is small",
    "undecided": "other people or another seed could turn the sign, and the gain may be larger than a point; how many "
    "seeds or people would decide it stands beside it",
    "did not act": "what the comparison is about did next to nothing in these trainings (`mechanisms`), so it is not "
    "judged; the numbers stand beside it",
    "not measured": "one of the two systems is not rebuilt here, or this profile leaves its data out",
}
SIZES = {  # how a printed gain lies beside the interval of the measured one
    "printed size inside": "the interval of the measured gain has the printed gain in it",
    "smaller": "the whole interval lies below the printed gain: a claim that holds then holds in sign alone",
    "larger": "the whole interval lies above the printed gain",
}
RULE = (
    "A claim says that one system is ahead of another. Its gain has a *standard error* with two parts: over people, "
    "whose queries go together, and over seeds. The claim *holds* where the gain is so many standard errors above 0 "
    f"that in a whole report, with all its comparisons, the chance of any wrong *holds* is {FAMILY:.0%}; it *fails* "
    "where the gain is as far below. Each comparison has its share of that chance, so the bar is about 3.5 standard "
    "errors where one comparison alone would need 2.3. It is *equivalent* where the 95 % interval lies within "
    f"{SAME:g} percent point of 0. All else is *undecided*. The interval that is shown is the plain one, gain +- about "
    "2 standard errors: it may leave out 0 where the verdict is undecided. **Rank-1 decides**; mAP stands beside it, "
    "with its own verdict where that is another one. Gains are in percent points. The printed gain is of another data "
    "set: *size* says whether it lies inside the interval all the same. How often this rule is wrong is measured by "
    "`python -m vtlib.launch calibrate`."
)
# Markdown for the notebooks: the rule stands above every verdict, the terms above every first table
WHAT_IT_TAKES = f"{RULE}\n\n{folded('Each word of a verdict', lines(VERDICTS | SIZES))}"
TERMS = folded(
    "Terms: query, gallery, rank-k, mAP, single-shot, trial, S1, S2",
    "A *query* is a test image whose person is searched; the *gallery* is the images that it is compared with, by the "
    "cosine of two features, the lists of numbers that a network gives for two images. *Rank-k* is the share of "
    "queries with the right person among the first k of the gallery. *mAP* is the mean over queries of the average "
    "precision: the share of right images among the first n, averaged over the places n of the right ones. "
    "*All-search* has the visible images of all cameras in the gallery, *indoor* those of the two cameras inside; "
    "*single-shot* has one image of each person and camera, *multi-shot* ten. A *trial* is one random draw of that "
    "gallery; every number is a mean over trials. *t2v* is thermal queries in a visible gallery, *v2t* the reverse. "
    "*S1* is Wang et al. 2022, *Learning Visible Thermal Person Re-Identification via Spatial Dependence and "
    "Dual-Constraint Loss*, Entropy 24(4) 443; *S2* is Ling et al. 2021, *A Multi-Constraint Similarity Learning with "
    "Adaptive Weighting for Visible-Thermal Person Re-Identification*, IJCAI.",
)


class Gain(NamedTuple):
    """By how much one system is ahead of another in one metric, in percent points."""

    gain: float  # mean over all queries of all pairs of runs
    low: float  # LEVEL interval over people and seeds
    high: float
    sd: float  # standard deviation over the pairs; NaN of one pair
    pairs: int  # pairs of runs
    people: int = 0  # test people
    over_people: float = math.nan  # the two parts of the standard error
    over_seeds: float = math.nan  # NaN where one pair was run and the profile has no SEED_SD

    @property
    def error(self) -> float:
        """Standard error of the gain: both parts, or that over people alone where the other is not known."""
        return math.hypot(self.over_people, 0.0 if math.isnan(self.over_seeds) else self.over_seeds)


NO_GAIN = Gain(math.nan, math.nan, math.nan, math.nan, 0)  # where no runs are paired


def differences(better: list[Run], over: list[Run], protocol: str) -> pd.DataFrame:
    """What each query gains in METRICS, percent points: a row for each query of each pair of runs.

    Queries without a match are left out. Columns: METRICS, pid, seed, split.
    Args: better, over: runs of the two systems; protocol: under which both were searched.
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
            difference = 100 * (a[METRICS] - b[METRICS])
            tables.append(difference.assign(pid=a.pid, seed=pair[0], split=pair[1]).dropna())
    return pd.concat(tables) if tables else pd.DataFrame(columns=[*METRICS, "pid", "seed", "split"])


def gains(
    table: pd.DataFrame, metrics: list[str] = METRICS, seed_sd: dict[str, float] | None = None
) -> dict[str, Gain]:
    """The Gain of each metric; {} where no runs are paired.

    The standard error over people is that of a mean of clusters, sqrt(P / (P - 1) sum_p r_p^2), where r_p is the sum of
    what person p's queries gain above the mean, over the number of all queries (Cameron and Miller 2015, J. Hum.
    Resources 50(2), section II). Over seeds it is the standard deviation over pairs, over the root of their number.

    Args: table: differences(), or columns of metrics, pid, seed and split; metrics: those to judge; seed_sd: a known
        standard deviation over seeds by metric, as SEED_SD has it: the greater of it and that of the pairs counts.
    """
    if table.empty:
        return {}
    by_pair, result = table.groupby(["seed", "split"])[metrics].mean(), {}
    means, pairs = table[metrics].mean(), len(by_pair)
    sums = (table[metrics] - means).groupby(table.pid).sum() / len(table)
    people = len(sums)
    for metric in metrics:
        own_sd = by_pair[metric].std(ddof=1)
        over_people = math.sqrt((sums[metric] ** 2).sum() * people / (people - 1)) if people > 1 else math.nan
        over_seeds = max([x for x in (own_sd, (seed_sd or {}).get(metric, math.nan)) if x == x], default=math.nan)
        # Two systems with equal results have no error, whatever the profile's SEED_SD
        over_seeds *= 0.0 if over_people == 0 and not own_sd > 0 else 1 / math.sqrt(pairs)
        gain = Gain(float(means[metric]), 0.0, 0.0, float(own_sd), pairs, people, over_people, over_seeds)
        half = quantile(gain, (1 + LEVEL) / 2) * gain.error
        result[metric] = gain._replace(low=gain.gain - half, high=gain.gain + half)
    return result


def between(better: list[Run], over: list[Run], protocol: str, metrics: list[str] = METRICS) -> dict[str, Gain]:
    """The Gain of each metric of one system over another; {} where no runs are paired.

    Args, Raises: as differences() and gains().
    """
    seed_sd = SEED_SD.get(better[0].experiment.profile) if better else None
    return gains(differences(better, over, protocol), metrics, seed_sd)


def quantile(gain: Gain, level: float) -> float:
    """Quantile of Student's t with P - 1 degrees of freedom for P people, whose spread is itself only estimated.

    NaN of one person. Args: gain: of the P people; level: 0 to 1.
    """
    return float(student.ppf(level, gain.people - 1)) if gain.people > 1 else math.nan


def bar(gain: Gain, comparisons: int) -> float:
    """The least gain, percent points, that holds with this standard error in a report of so many comparisons."""
    return quantile(gain, 1 - FAMILY / comparisons) * gain.error


def verdict(gain: Gain | None, comparisons: int = 1) -> str:
    """One of VERDICTS on the claim that one system is ahead, by RULE.

    Args: gain: measured; None if it was not; comparisons: number of those in the report that this one is in.
    """
    if gain is None:
        return "not measured"
    if abs(gain.gain) > bar(gain, comparisons):
        one_seed = " on one seed" * (gain.pairs == 1 and math.isnan(gain.over_seeds))
        return ("holds" if gain.gain > 0 else "fails") + one_seed
    return "equivalent" if gain.low > -SAME and gain.high < SAME else "undecided"


def what_decides(gain: Gain, comparisons: int = 1) -> str:
    """How many seeds, or people, would make this very gain hold or fail, in words; "" where the gain or its error is 0.

    Args: as verdict().
    """
    needed = abs(gain.gain) / quantile(gain, 1 - FAMILY / comparisons)  # the standard error at which it would
    if not math.isfinite(needed) or not gain.error > 0:
        return ""
    over_seeds = 0.0 if math.isnan(gain.over_seeds) else gain.over_seeds
    left = {"seeds": needed**2 - gain.over_people**2, "people": needed**2 - over_seeds**2}
    parts = {"seeds": (gain.pairs, over_seeds), "people": (gain.people, gain.over_people)}
    ways = []
    for what, (number, error) in parts.items():
        if left[what] > 0 and error > 0:
            ways.append((math.ceil(number * error**2 / left[what]), what))
    ways = [f"{n:,} {what}" for n, what in ways if n <= 100_000]
    if not ways:
        return "more people and more seeds, both, would be needed"
    return f"a gain of this size would take {' or '.join(ways)}"


def size(gain: Gain | None, printed: float) -> str:
    """One of SIZES: where a printed gain lies beside the interval of the measured one; "" where one of them is missing.

    A printed gain has two decimals, so up to half of the last one beyond an end still counts as inside.
    Args: gain: measured, or None; printed: percent points, or NaN.
    """
    if gain is None or math.isnan(printed) or math.isnan(gain.low):
        return ""
    if gain.low - 0.005 <= printed <= gain.high + 0.005:
        return "printed size inside"
    return "smaller" if gain.high < printed else "larger"
