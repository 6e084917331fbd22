"""How often a verdict is wrong, and what gain it sees: measured on worlds made of the finished runs, without training.

A comparison of two systems is a table D of gains, a row a test person, a column a pair of runs of one seed. Its mean m,
the people's effects a, the seeds' effects b and the rest e add up to it: D = m + a + b + e. A world *without a gain*
leaves m out and gives every other part a random sign: where neither system is better, who is called the better one is
a coin's toss, for each person (the labels of the two systems exchanged) and for each seed (the seeds exchanged). In a
report all comparisons are of the same people, so one toss a person serves all of them. A world with a *planted gain*
has that many percent points more for everybody. What a rule then says is right or wrong, and is counted.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from ..runs import Run
from .compare import FAMILY, LEVEL, differences
from .items import CLAIMS, ITEMS, comparison
from .tables import under

PLANTED = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)  # percent points
DRAWS = 2_000  # of a bootstrap, and of signs in a permutation test
CHUNK = 250  # worlds at a time


class Table(NamedTuple):
    """One comparison of a report, in percent points of one metric."""

    name: str
    values: np.ndarray  # (P, S) mean gain of each person in each pair of runs
    people: tuple  # who they are: comparisons of the same people are tossed together


def tables(runs_of: Callable[[str], dict[str, list[Run]]], metric: str = "rank1") -> list[Table]:
    """Each different comparison that the claims of all items make, once: that with most pairs of runs.

    Args: runs_of: item -> finished runs of each of its rows.
    """
    found: dict[str, Table] = {}
    for item, claims in CLAIMS.items():
        rows = runs_of(item)
        for claim in claims:
            for protocol in ITEMS[item].settings.values():
                having = under(rows, protocol)
                sides = [having.get(row, []) for row in (claim.better, claim.over)]
                each = differences(*sides, protocol)
                if each.empty:
                    continue
                key = comparison(*(group[0].experiment for group in sides), protocol)
                wide = each.groupby(["pid", "seed", "split"])[metric].mean().unstack(["seed", "split"]).dropna()
                made = Table(key, wide.to_numpy(float), tuple(wide.index))
                if key not in found or made.values.shape[1] > found[key].values.shape[1]:
                    found[key] = made
    return list(found.values())


def seed_sd(found: list[Table]) -> float:
    """Standard deviation over seeds of a gain: the median over the comparisons of three pairs and more."""
    sds = [t.values.mean(0).std(ddof=1) for t in found if t.values.shape[1] > 2 and t.values.any()]
    return float(np.median(sds)) if sds else float("nan")


def worlds(found: list[Table], count: int, deviation: float, kind: str, seed: int = 0) -> list[np.ndarray]:
    """Worlds without a gain, (count, P, S) of each comparison. deviation: seed_sd(), for comparisons of one pair.

    kind: "people", the labels of the two systems exchanged for each person, in all its pairs: D times a sign a person;
    or "people and seeds", the parts of D without its mean, each times its own signs.
    """
    rng, tossed, made = np.random.default_rng(seed), {}, []
    for table in found:
        if table.people not in tossed:
            tossed[table.people] = rng.choice([-1.0, 1.0], (count, len(table.people), 1))
        sign, pairs = tossed[table.people], table.values.shape[1]
        if kind == "people":
            made.append(sign * table.values)
            continue
        mean = table.values.mean()
        person = table.values.mean(1, keepdims=True) - mean
        of_seed = table.values.mean(0, keepdims=True) - mean
        rest = table.values - mean - person - of_seed
        flip = rng.choice([-1.0, 1.0], (count, 1, pairs))
        if pairs == 1:
            drawn = rng.normal(0, deviation, (count, 1, 1)) if table.values.any() else 0.0
        else:  # of n effects around their own mean the variance is (n - 1) / n of the true one
            drawn = flip * of_seed * np.sqrt(pairs / (pairs - 1))
        made.append(sign * person + drawn + sign * flip * rest)
    return made


class Seen(NamedTuple):
    """What rules decide by, of W worlds of one comparison."""

    gain: np.ndarray  # (W,)
    people: np.ndarray  # standard error over people, (W,)
    sd: np.ndarray  # over pairs; NaN of one, (W,)
    pairs: int
    number: int  # of people
    centred: np.ndarray  # (P, W) people's mean gains less the gain
    values: np.ndarray  # (W, P, S) less the gain
    draws: np.ndarray  # (DRAWS, W) means of people drawn with replacement, less the gain


def see(world: np.ndarray, rng: np.random.Generator | None = None) -> Seen:
    """What worlds (W, P, S) show. rng: draws the people of the bootstrap, which all rules that need one share."""
    person, pair = world.mean(2), world.mean(1)
    gain, (_, number, pairs) = person.mean(1), world.shape
    sd = pair.std(1, ddof=1) if pairs > 1 else np.full(len(world), np.nan)
    error = person.std(1, ddof=1) / np.sqrt(number)
    centred = (person - gain[:, None]).T
    draws = drawn(number, rng or np.random.default_rng(0)) @ centred
    return Seen(gain, error, sd, pairs, number, centred, world - gain[:, None, None], draws)


def drawn(number: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of a number of people, or pairs, is drawn with replacement, (DRAWS, number); rows sum to 1."""
    return rng.multinomial(number, np.full(number, 1 / number), DRAWS) / number


Ends = tuple[np.ndarray, np.ndarray]  # of an interval, of (W,) worlds, as distances from the gain


def middle(draws: np.ndarray) -> Ends:
    """The ends that the shares (1 -+ LEVEL) / 2 of the draws lie beyond."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def percentile(seen: Seen, rng) -> Ends:
    return middle(seen.draws)


def bca(seen: Seen, rng) -> Ends:
    """Bias-corrected and accelerated ends. Source: Efron 1987, JASA 82(397), Eq. 2.3 and 6.6."""
    draws = np.sort(seen.draws, axis=0)
    bias = norm.ppf(np.clip((draws < 0).mean(0), 1 / DRAWS, 1 - 1 / DRAWS))
    cube, square = (seen.centred**3).sum(0), (seen.centred**2).sum(0)
    acceleration = np.divide(cube, 6 * square**1.5, out=np.zeros_like(cube), where=square > 0)  # all equal: none
    ends = []
    for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        z = bias + norm.ppf(level)
        share = norm.cdf(bias + z / (1 - acceleration * z))
        place = np.clip((share * DRAWS).astype(int), 0, DRAWS - 1)
        ends.append(draws[place, np.arange(draws.shape[1])])
    return ends[0], ends[1]


def hierarchical(seen: Seen, rng) -> Ends:
    """Seeds are drawn, then people."""
    weights, pairs = drawn(seen.number, rng), drawn(seen.pairs, rng)
    flat = seen.values.transpose(1, 2, 0)  # (P, S, W)
    means = sum(pairs[:, s, None] * (weights @ flat[:, s]) for s in range(seen.pairs))
    return middle(means)


def by_interval(ends: Callable[[Seen, object], Ends], seeds: bool = False):
    """A rule: the interval lies on one side of 0. seeds: and the gain is larger than its deviation over pairs."""

    def rule(seen: Seen, deviation: float, rng) -> Callable[[float], np.ndarray]:
        low, high = ends(seen, rng)

        def p_of(shift: float) -> np.ndarray:
            gain = seen.gain + shift
            clear = (gain + low > 0) | (gain + high < 0)
            if seeds and seen.pairs > 1:
                clear &= np.abs(gain) > seen.sd
            return np.where(clear, 0.0, 1.0)

        return p_of

    return rule


def sign_flips(seen: Seen, deviation: float, rng) -> Callable[[float], np.ndarray]:
    """A permutation test over people: the two-sided p of a gain among those of the same table with random signs."""
    signs = rng.choice([-1.0, 1.0], (DRAWS, seen.number)) / seen.number
    mixed, of_shift = signs @ seen.centred, signs.sum(1, keepdims=True)

    def p_of(shift: float) -> np.ndarray:
        gain = seen.gain + shift
        return (1 + (np.abs(mixed + of_shift * gain) >= np.abs(gain)).sum(0)) / (1 + DRAWS)

    return p_of


def standard_error(over_seeds: str):
    """A rule: Student's t of the gain over its standard error. over_seeds: what counts, none, own, known or larger."""

    def rule(seen: Seen, deviation: float, rng) -> Callable[[float], np.ndarray]:
        own = np.where(np.isnan(seen.sd), deviation, seen.sd)
        sd = {"none": 0 * own, "own": own, "known": 0 * own + deviation, "larger": np.fmax(own, deviation)}[over_seeds]
        sd = np.where(seen.people > 0, sd, 0)
        error = np.maximum(np.hypot(seen.people, sd / np.sqrt(seen.pairs)), 1e-12)
        return lambda shift: 2 * student.sf(np.abs(seen.gain + shift) / error, seen.number - 1)

    return rule


def each_at(level: float):
    """Every comparison by itself."""
    return lambda p: p < level


def share(p: np.ndarray) -> np.ndarray:
    """Bonferroni: each of the comparisons (C, W) has its share of FAMILY, on either side."""
    return p < 2 * FAMILY / len(p)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm 1979, Scand. J. Statist. 6: the smallest p against the share of all, the next against that of the rest."""
    order = np.argsort(p, axis=0)
    ranked = np.take_along_axis(p, order, 0) < 2 * FAMILY / np.arange(len(p), 0, -1)[:, None]
    passed = np.logical_and.accumulate(ranked, axis=0)
    out = np.empty_like(passed)
    np.put_along_axis(out, order, passed, 0)
    return out


ALONE = 1 - LEVEL
RULES = {  # name -> p of each world as a function of the planted gain, and what p decides of all comparisons
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
SHIPPED = "standard error, larger of both, share"  # compare.verdict


def measure(found: list[Table], count: int = 1000, kinds=("people", "people and seeds"), say=None) -> pd.DataFrame:
    """How often each of RULES is wrong, a row a kind of world and rule, in percent.

    Columns: world, rule; false_holds, false_fails: of single comparisons without a gain; family_holds, family_fails: of
    reports without a gain, in which any comparison is said to hold, to fail; power_G of PLANTED: comparisons with a
    gain of G that are said to hold; power_three_seeds_3: of those of three pairs and more.
    """
    deviation, rows = seed_sd(found), []
    several = np.array([t.values.shape[1] > 2 for t in found])
    for kind in kinds:
        made = worlds(found, count, deviation, kind)
        counts: dict[str, list] = {name: [] for name in RULES}
        for start in range(0, count, CHUNK):
            people = np.random.default_rng(start)
            seen = [see(world[start : start + CHUNK], people) for world in made]
            for name, (rule, decide) in RULES.items():
                rng = np.random.default_rng(start)
                tests = [rule(s, deviation, rng) for s in seen]
                record = {}
                for shift in (0.0, *PLANTED):
                    out = decide(np.stack([test(shift) for test in tests]))
                    gain = np.stack([s.gain + shift for s in seen])
                    record[shift] = out & (gain > 0), out & (gain < 0)
                counts[name].append(record)
            if say:
                say(f"{kind}: {min(start + CHUNK, count)} of {count} worlds")
        for name, parts in counts.items():
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


def facts(found: list[Table], among: int) -> dict:
    """What a calibration was made of: comparisons, people, seeds, and standard errors, percent points."""
    seen = [see(t.values[None]) for t in found]
    errors = [float(s.people[0]) for s in seen if s.people[0] > 0]
    several = [t for t in found if t.values.shape[1] > 2]
    return {
        "comparisons": len(found),
        "of_three_pairs": len(several),
        "in_the_report": among,
        "people": sorted({len(t.people) for t in found}),
        "seed_sd": seed_sd(found),
        "seed_sd_of_each": [round(float(t.values.mean(0).std(ddof=1)), 3) for t in several],
        "error_over_people": {q: float(np.quantile(errors, float(q))) for q in ("0.1", "0.5", "0.9")} if errors else {},
    }


def sentence(made: pd.DataFrame, of: dict) -> str:
    """What a calibration found of the rule that ships, in words; made of its numbers."""
    rows = made[made.rule == SHIPPED].set_index("world")
    hard = rows.loc["people and seeds"]
    three = hard.get("power_three_seeds_3", float("nan"))
    known = f" ({three:.0f} % where three seeds were run)" if three == three else ""
    reached = [g for g in PLANTED if hard[f"power_{g:g}"] >= 80]
    size = (
        f"80 % of the gains of {reached[0]:g} points" if reached else f"less than 80 % even at {PLANTED[-1]:g} points"
    )
    return (
        f"In reports of {of['comparisons']} comparisons without any gain the rule said a wrong *holds* somewhere in "
        f"{rows.family_holds['people']:.1f} % (people exchanged) and {hard.family_holds:.1f} % (people and seeds), and "
        f"a wrong *fails* in {rows.family_fails['people']:.1f} % and {hard.family_fails:.1f} %. It sees "
        f"{hard.power_3:.0f} % of the gains of 3 points{known}, and {size}."
    )
