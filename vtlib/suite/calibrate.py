"""How often the rule of verdicts is wrong, and how large a gain it sees: measured on finished runs, without training.

A comparison of two systems is a table D of gains: a row for each test person, a column for each pair of runs of one
seed. D is the sum of its mean m, the effects a of people, the effects b of seeds and a rest e: D = m + a + b + e.
A *world without a gain* is such a table in which neither system is better: m is left out, and every other part gets a
random sign. This exchanges the labels of the two systems for a person, and the two seeds for a seed. All comparisons of
a report are of the same people, so one sign for each person serves all of them. A world with a *planted gain* has so
many percent points more for everybody. It is known what a rule should say of these worlds, so its errors can be
counted. RULES are the candidates; SHIPPED is the one of compare.verdict(), as a test makes sure.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from ..runs import Run
from .compare import FAMILY, LEVEL, differences
from .items import ITEMS, comparison
from .tables import under

PLANTED = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)  # percent points
DRAWS = 2_000  # of a bootstrap, and of signs in a permutation test
CHUNK = 250  # worlds at a time, to bound memory


class Table(NamedTuple):
    """One comparison of a report, in percent points of one metric."""

    name: str  # items.comparison()
    values: np.ndarray  # (P, S) mean gain of each of P people in each of S pairs of runs
    people: tuple  # the P people; comparisons of the same people share their random signs


def tables(runs_of: Callable[[str], dict[str, list[Run]]], metric: str = "rank1") -> list[Table]:
    """Each different comparison that the claims of all items make, with as many pairs of runs as any item has.

    Args: runs_of: a function from the key of an item to the finished runs of each of its rows; metric: of runs.METRICS.
    """
    by_name: dict[str, Table] = {}
    for key, item in ITEMS.items():
        rows = runs_of(key) if item.claims else {}
        for claim in item.claims:
            for protocol in item.settings.values():
                groups = under(rows, protocol)
                pair = [groups.get(row, []) for row in (claim.better, claim.over)]
                gains = differences(*pair, protocol)
                if gains.empty:
                    continue
                name = comparison(*(group[0].experiment for group in pair), protocol)
                wide = gains.groupby(["pid", "seed", "split"])[metric].mean().unstack(["seed", "split"]).dropna()
                table = Table(name, wide.to_numpy(float), tuple(wide.index))
                if name not in by_name or table.values.shape[1] > by_name[name].values.shape[1]:
                    by_name[name] = table
    return list(by_name.values())


def seed_sd(tables: list[Table]) -> float:
    """Standard deviation of a gain over seeds: the median over the comparisons of three pairs and more; NaN of none."""
    sds = [t.values.mean(0).std(ddof=1) for t in tables if t.values.shape[1] > 2 and t.values.any()]
    return float(np.median(sds)) if sds else float("nan")


def worlds(tables: list[Table], count: int, deviation: float, kind: str, seed: int = 0) -> list[np.ndarray]:
    """Worlds without a gain, (count, P, S) for each comparison.

    Args: tables; count: number of worlds; deviation: seed_sd(), from which the seed's effect of a single pair is drawn;
        kind: "people" exchanges the labels of the two systems for a person in all pairs, D times a sign for each
        person; "people and seeds" takes the parts of D without its mean, each with its own signs; seed: of the draws.
    """
    rng, signs, result = np.random.default_rng(seed), {}, []
    for table in tables:
        if table.people not in signs:
            signs[table.people] = rng.choice([-1.0, 1.0], (count, len(table.people), 1))
        sign, pairs = signs[table.people], table.values.shape[1]
        if kind == "people":
            result.append(sign * table.values)
            continue
        mean = table.values.mean()
        of_people = table.values.mean(1, keepdims=True) - mean
        of_seeds = table.values.mean(0, keepdims=True) - mean
        rest = table.values - mean - of_people - of_seeds
        flip = rng.choice([-1.0, 1.0], (count, 1, pairs))
        if pairs == 1:
            seed_effects = rng.normal(0, deviation, (count, 1, 1)) if table.values.any() else 0.0
        else:  # of n effects around their own mean the variance is (n - 1) / n of the true one
            seed_effects = flip * of_seeds * np.sqrt(pairs / (pairs - 1))
        result.append(sign * of_people + seed_effects + sign * flip * rest)
    return result


class Seen(NamedTuple):
    """What rules decide by: W worlds of one comparison."""

    gain: np.ndarray  # (W,)
    people: np.ndarray  # (W,) standard error over people
    sd: np.ndarray  # (W,) standard deviation over pairs; NaN of one pair
    pairs: int
    number: int  # of people, P
    centred: np.ndarray  # (P, W) mean gain of each person less the gain
    values: np.ndarray  # (W, P, S) less the gain
    draws: np.ndarray  # (DRAWS, W) mean of people drawn with replacement, less the gain


def see(world: np.ndarray, rng: np.random.Generator | None = None) -> Seen:
    """What rules decide by. Args: world: (W, P, S); rng: draws the people of the bootstrap that all rules share."""
    person, pair = world.mean(2), world.mean(1)
    gain, (_, number, pairs) = person.mean(1), world.shape
    sd = pair.std(1, ddof=1) if pairs > 1 else np.full(len(world), np.nan)
    error = person.std(1, ddof=1) / np.sqrt(number)
    centred = (person - gain[:, None]).T
    draws = drawn(number, rng or np.random.default_rng(0)) @ centred
    return Seen(gain, error, sd, pairs, number, centred, world - gain[:, None, None], draws)


def drawn(number: int, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap weights of so many people, or pairs: how often each is drawn, (DRAWS, number); rows sum to 1."""
    return rng.multinomial(number, np.full(number, 1 / number), DRAWS) / number


Ends = tuple[np.ndarray, np.ndarray]  # low and high end of the intervals of W worlds, (W,), less the gain
# What a rule makes of worlds: a function from a planted gain, percent points, to their p values (W,)
PValues = Callable[[float], np.ndarray]


def middle(draws: np.ndarray) -> Ends:
    """The interval that holds the middle share LEVEL of the draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def percentile(seen: Seen, rng) -> Ends:
    """Ends of the percentile bootstrap over people."""
    return middle(seen.draws)


def bca(seen: Seen, rng) -> Ends:
    """Bias-corrected and accelerated ends. Source: Efron 1987, JASA 82(397), Eq. 2.3 and 6.6."""
    draws = np.sort(seen.draws, axis=0)
    bias = norm.ppf(np.clip((draws < 0).mean(0), 1 / DRAWS, 1 - 1 / DRAWS))
    cube, square = (seen.centred**3).sum(0), (seen.centred**2).sum(0)
    acceleration = np.divide(cube, 6 * square**1.5, out=np.zeros_like(cube), where=square > 0)  # 0 if all are equal
    ends = []
    for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        z = bias + norm.ppf(level)
        share = norm.cdf(bias + z / (1 - acceleration * z))
        place = np.clip((share * DRAWS).astype(int), 0, DRAWS - 1)
        ends.append(draws[place, np.arange(draws.shape[1])])
    return ends[0], ends[1]


def hierarchical(seen: Seen, rng) -> Ends:
    """Ends of a bootstrap that draws pairs and people."""
    weights, pairs = drawn(seen.number, rng), drawn(seen.pairs, rng)
    flat = seen.values.transpose(1, 2, 0)  # (P, S, W)
    means = sum(pairs[:, s, None] * (weights @ flat[:, s]) for s in range(seen.pairs))
    return middle(means)


def by_interval(ends: Callable[[Seen, object], Ends], seeds: bool = False):
    """A rule: an interval lies on one side of 0. Its p is 0 or 1.

    Args: ends: makes the interval; seeds: whether the gain must also be larger than its deviation over pairs.
    """

    def rule(seen: Seen, deviation: float, rng) -> PValues:
        low, high = ends(seen, rng)

        def p_of(shift: float) -> np.ndarray:
            gain = seen.gain + shift
            clear = (gain + low > 0) | (gain + high < 0)
            if seeds and seen.pairs > 1:
                clear &= np.abs(gain) > seen.sd
            return np.where(clear, 0.0, 1.0)

        return p_of

    return rule


def sign_flips(seen: Seen, deviation: float, rng) -> PValues:
    """A permutation test over people: two-sided p of the gain among those of the same table with random signs."""
    signs = rng.choice([-1.0, 1.0], (DRAWS, seen.number)) / seen.number
    mixed, of_shift = signs @ seen.centred, signs.sum(1, keepdims=True)

    def p_of(shift: float) -> np.ndarray:
        gain = seen.gain + shift
        return (1 + (np.abs(mixed + of_shift * gain) >= np.abs(gain)).sum(0)) / (1 + DRAWS)

    return p_of


def standard_error(over_seeds: str):
    """A rule: two-sided p of Student's t, the gain over its standard error.

    Args: over_seeds: the standard deviation over seeds that goes into it: "none", the pairs' "own", the "known" one of
        the profile, or the "larger" of both.
    """

    def rule(seen: Seen, deviation: float, rng) -> PValues:
        own = np.where(np.isnan(seen.sd), deviation, seen.sd)
        sd = {"none": 0 * own, "own": own, "known": 0 * own + deviation, "larger": np.fmax(own, deviation)}[over_seeds]
        sd = np.where(seen.people > 0, sd, 0)
        error = np.maximum(np.hypot(seen.people, sd / np.sqrt(seen.pairs)), 1e-12)
        return lambda shift: 2 * student.sf(np.abs(seen.gain + shift) / error, seen.number - 1)

    return rule


def each_at(level: float):
    """A decision for each comparison by itself: p below a level."""
    return lambda p: p < level


def share(p: np.ndarray) -> np.ndarray:
    """Bonferroni: each of C comparisons has its share of FAMILY on either side. Args: p: (C, W)."""
    return p < 2 * FAMILY / len(p)


def holm(p: np.ndarray) -> np.ndarray:
    """The smallest p is held against its share() of all comparisons, the next against that of the rest, and so on.

    Args: p: (C, W). Source: Holm 1979, Scand. J. Statist. 6.
    """
    order = np.argsort(p, axis=0)
    ranked = np.take_along_axis(p, order, 0) < 2 * FAMILY / np.arange(len(p), 0, -1)[:, None]
    passed = np.logical_and.accumulate(ranked, axis=0)
    out = np.empty_like(passed)
    np.put_along_axis(out, order, passed, 0)
    return out


ALONE = 1 - LEVEL
RULES = {  # name -> the rule that makes p values, and the decision on them for all comparisons of a report
    "percentile interval, 95 % each": (by_interval(percentile), each_at(ALONE)),
    "percentile interval and spread over seeds, 95 % each": (by_interval(percentile, seeds=True), each_at(ALONE)),
    "BCa interval, 95 % each": (by_interval(bca), each_at(ALONE)),
    "people and seeds drawn, 95 % each": (by_interval(hierarchical), each_at(ALONE)),
    "signs of people, 95 % each": (sign_flips, each_at(ALONE)),
    "standard error over people, share": (standard_error("none"), share),
    "standard error, seeds of the pairs, share": (standard_error("own"), share),
    "standard error, seeds of the profile, share": (standard_error("known"), share),
    "standard error, larger of both, share": (standard_error("larger"), share),
    "standard error, larger of both, Holm": (standard_error("larger"), holm),
}
SHIPPED = "standard error, larger of both, share"  # the rule of compare.verdict


def measure(tables: list[Table], count: int = 1000, kinds=("people", "people and seeds"), say=None) -> pd.DataFrame:
    """How often each of RULES is wrong, in percent: a row for each kind of world and rule.

    Columns: world, rule; false_holds, false_fails: share of single comparisons without a gain; family_holds,
    family_fails: share of reports without a gain in which any comparison holds, or fails; power_G for each G of
    PLANTED: share of comparisons with a gain of G that hold; power_three_seeds_3: that share among comparisons of three
    pairs and more, for a gain of 3.
    Args: tables; count: worlds of each kind; kinds: as in worlds(); say: is called with a sentence on the progress.
    """
    deviation, rows = seed_sd(tables), []
    several = np.array([t.values.shape[1] > 2 for t in tables])
    for kind in kinds:
        all_worlds = worlds(tables, count, deviation, kind)
        records: dict[str, list] = {name: [] for name in RULES}
        for start in range(0, count, CHUNK):
            people = np.random.default_rng(start)
            seen = [see(world[start : start + CHUNK], people) for world in all_worlds]
            for name, (rule, decide) in RULES.items():
                rng = np.random.default_rng(start)
                tests = [rule(s, deviation, rng) for s in seen]
                record = {}
                for shift in (0.0, *PLANTED):
                    decided = decide(np.stack([test(shift) for test in tests]))
                    gain = np.stack([s.gain + shift for s in seen])
                    record[shift] = decided & (gain > 0), decided & (gain < 0)
                records[name].append(record)
            if say:
                say(f"{kind}: {min(start + CHUNK, count)} of {count} worlds")
        for name, parts in records.items():
            holds, fails = (np.concatenate([p[0.0][i] for p in parts], 1) for i in (0, 1))
            row = {"world": kind, "rule": name, "false_holds": holds.mean(), "false_fails": fails.mean()}
            row |= {"family_holds": holds.any(0).mean(), "family_fails": fails.any(0).mean()}
            for shift in PLANTED:
                right = np.concatenate([p[shift][0] for p in parts], 1)
                row[f"power_{shift:g}"] = right.mean()
                if shift == 3 and several.any():
                    row["power_three_seeds_3"] = right[several].mean()
            rows.append({k: 100 * v if isinstance(v, float) else v for k, v in row.items()})
    return pd.DataFrame(rows)


def facts(tables: list[Table], among: int) -> dict:
    """What a calibration is made of: numbers of comparisons and people; seed_sd and errors in percent points.

    Args: tables; among: the number of comparisons in a whole report.
    """
    seen = [see(t.values[None]) for t in tables]
    errors = [float(s.people[0]) for s in seen if s.people[0] > 0]
    several = [t for t in tables if t.values.shape[1] > 2]
    return {
        "comparisons": len(tables),
        "of_three_pairs": len(several),
        "in_the_report": among,
        "people": sorted({len(t.people) for t in tables}),
        "seed_sd": seed_sd(tables),
        "seed_sd_of_each": [round(float(t.values.mean(0).std(ddof=1)), 3) for t in several],
        "error_over_people": {q: float(np.quantile(errors, float(q))) for q in ("0.1", "0.5", "0.9")} if errors else {},
    }


def sentence(measured: pd.DataFrame, facts: dict) -> str:
    """How often SHIPPED is wrong, and what it sees, in words. Args: measured: measure(); facts: facts()."""
    rows = measured[measured.rule == SHIPPED].set_index("world")
    hard = rows.loc["people and seeds"]
    three = hard.get("power_three_seeds_3", float("nan"))
    of_three = f" ({three:.0f} % where three seeds were run)" if three == three else ""
    reached = [g for g in PLANTED if hard[f"power_{g:g}"] >= 80]
    size = (
        f"80 % of the gains of {reached[0]:g} points" if reached else f"less than 80 % even at {PLANTED[-1]:g} points"
    )
    return (
        f"In reports of {facts['comparisons']} comparisons without any gain the rule said a wrong *holds* somewhere in "
        f"{rows.family_holds['people']:.1f} % (people exchanged) and {hard.family_holds:.1f} % (people and seeds), and "
        f"a wrong *fails* in {rows.family_fails['people']:.1f} % and {hard.family_fails:.1f} %. It sees "
        f"{hard.power_3:.0f} % of the gains of 3 points{of_three}, and {size}."
    )
