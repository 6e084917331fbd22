"""Is one system better than another? Paired differences, their doubt over people and over seeds, and a verdict.

A difference has two doubts of its own. Would other people have shown it? The spread over the test people answers.
Would another start have shown it? The spread over runs paired by seed answers. A verdict asks both (`verdict`), and
knows how many others are given beside it; calibrate.py measures how often it is wrong.
"""

import math
from typing import NamedTuple

import pandas as pd
from scipy.stats import t as student

from ..runs import METRICS, Run

LEVEL = 0.95  # of the intervals that are shown
FAMILY = 0.01  # chance of any wrong *holds* among all comparisons of a report, and of any wrong *fails*
SAME = 1.0  # percent points: a gain that surely lies within +- this is none; set before any was measured
# Standard deviation over seeds of a difference of two systems, percent points, where a profile's is known: median over
# the comparisons of three pairs (`python -m vtlib.launch calibrate`). Three pairs alone say next to nothing of it
SEED_SD = {"cpu": {"rank1": 0.66, "mAP": 0.50}}
VERDICTS = {  # the words of a verdict, and what each says; the same words in every notebook and report
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
SIZES = {  # the printed gain beside the interval of the measured one
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
    low: float  # LEVEL interval over people and seeds
    high: float
    sd: float  # standard deviation over the pairs; NaN of one pair
    pairs: int  # runs of one seed and split in both
    people: int = 0
    over_people: float = math.nan  # the parts of the standard error
    over_seeds: float = math.nan  # NaN where nothing is known of it

    @property
    def error(self) -> float:
        """Standard error: both parts, of seeds where it is known."""
        return math.hypot(self.over_people, 0.0 if math.isnan(self.over_seeds) else self.over_seeds)


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


def gains(each: pd.DataFrame, metrics: list[str] = METRICS, seed_sd: dict[str, float] | None = None) -> dict[str, Gain]:
    """The Gain of each metric of differences(); {} where no runs are paired.

    The standard error over people is that of a mean of clusters, sqrt(P / (P - 1) sum_p r_p^2), where r_p is the sum of
    what person p's queries gain above the mean, over the number of all queries (Cameron and Miller 2015, J. Hum.
    Resources 50(2), section II). Over seeds it is the standard deviation of a pair, over the root of their number.

    Args: seed_sd: that deviation by metric, as SEED_SD of a profile; the greater of it and that of the pairs counts.
    """
    if each.empty:
        return {}
    by_pair, found = each.groupby(["seed", "split"])[metrics].mean(), {}
    means, pairs = each[metrics].mean(), len(by_pair)
    sums = (each[metrics] - means).groupby(each.pid).sum() / len(each)
    people = len(sums)
    for metric in metrics:
        own = by_pair[metric].std(ddof=1)
        over_people = math.sqrt((sums[metric] ** 2).sum() * people / (people - 1)) if people > 1 else math.nan
        over_seeds = max([x for x in (own, (seed_sd or {}).get(metric, math.nan)) if x == x], default=math.nan)
        over_seeds *= 0.0 if over_people == 0 and not own > 0 else 1 / math.sqrt(pairs)  # equal rows are equal
        made = Gain(float(means[metric]), 0.0, 0.0, float(own), pairs, people, over_people, over_seeds)
        half = quantile(made, (1 + LEVEL) / 2) * made.error
        found[metric] = made._replace(low=made.gain - half, high=made.gain + half)
    return found


def between(better: list[Run], over: list[Run], protocol: str, metrics: list[str] = METRICS) -> dict[str, Gain]:
    """The Gain of each metric of the runs of two systems, paired by seed and split."""
    known = SEED_SD.get(better[0].experiment.profile) if better else None
    return gains(differences(better, over, protocol), metrics, known)


def quantile(found: Gain, level: float) -> float:
    """Of Student's t with one less degrees of freedom than people: the spread over few people is not well known."""
    return float(student.ppf(level, found.people - 1)) if found.people > 1 else math.nan


def bar(found: Gain, comparisons: int) -> float:
    """How large a gain has to be, percent points, so as to hold among so many comparisons."""
    return quantile(found, 1 - FAMILY / comparisons) * found.error


def verdict(found: Gain | None, comparisons: int = 1) -> str:
    """One of VERDICTS on the claim that a gain is there, by RULE. None: not measured.

    Args: comparisons: how many are made in the report that this one stands in.
    """
    if found is None:
        return "not measured"
    if abs(found.gain) > bar(found, comparisons):
        one = " on one seed" * (found.pairs == 1 and math.isnan(found.over_seeds))
        return ("holds" if found.gain > 0 else "fails") + one
    return "equivalent" if found.low > -SAME and found.high < SAME else "undecided"


def what_decides(found: Gain, comparisons: int = 1) -> str:
    """How many seeds, or people, would bring this very gain over the bar, in words; "" of no gain at all."""
    limit = abs(found.gain) / quantile(found, 1 - FAMILY / comparisons)  # the standard error that it would take
    if not math.isfinite(limit) or not found.error > 0:
        return ""
    seeds = 0.0 if math.isnan(found.over_seeds) else found.over_seeds
    left = {"seeds": limit**2 - found.over_people**2, "people": limit**2 - seeds**2}
    have = {"seeds": (found.pairs, seeds), "people": (found.people, found.over_people)}
    ways = []
    for what, (number, error) in have.items():
        if left[what] > 0 and error > 0:
            ways.append((math.ceil(number * error**2 / left[what]), what))
    ways = [f"{n:,} {what}" for n, what in ways if n <= 100_000]
    if not ways:
        return "more people and more seeds, both, would be needed"
    return f"a gain of this size would take {' or '.join(ways)}"


def size(found: Gain | None, printed: float) -> str:
    """One of SIZES: where a printed gain lies beside the interval of a measured one; "" where one of them is missing.

    A printed gain has two decimals, so it counts as inside up to half of the last one.
    """
    if found is None or math.isnan(printed) or math.isnan(found.low):
        return ""
    if found.low - 0.005 <= printed <= found.high + 0.005:
        return "printed size inside"
    return "smaller" if found.high < printed else "larger"
