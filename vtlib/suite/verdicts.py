"""What the papers claim, held against finished runs: the verdict on each claim, in a table and in words.

claims() makes the table, with a row for each claim, setting and metric. A verdict follows compare.RULE; what a curve
shows has no gain, and convergence_claims() has a rule of its own. Rows are the finished runs of each row of an item.
"""

import math

import pandas as pd

from .. import mechanisms
from ..runs import METRICS, Run, other_code
from . import compare
from .compare import FAMILY, LEVEL, NO_GAIN, VERDICTS, Gain, differences, gains, size, verdict, what_decides
from .items import ITEMS, MAIN_PROTOCOL, comparison, comparisons
from .tables import CLAIMED, NAMES, Rows, between, comparable, fixed, spread, under

CLAIM = ["item", "claim", "setting"]  # one claim; its rows differ in their metric
CLAIM_COLUMNS = [*CLAIM, "metric", "printed", *Gain._fields, "verdict", "size"]
CLAIM_COLUMNS += ["data", "profile", "protocol", "run_ids", "comparison", "other_code", "note", "foreseen"]
WORDS = [*VERDICTS]
WORDS[4:4] = ["higher", "higher on one seed", "lower", "lower on one seed"]  # holds and fails where no paper claims
DECIDED = ("holds", "fails", "higher", "lower")
EPOCHS = 6  # the fewest of a curve that is judged: its thirds then have two
DROP = 0.1  # share of its first value by which a curve has to fall, to be judged
SIZE_WORDS = {"": "", "printed size inside": "printed size inside the interval"}
SIZE_WORDS |= {"smaller": "smaller than printed", "larger": "larger than printed"}


def claims(item: str, runs: Rows) -> pd.DataFrame:
    """The claims of an item, measured: a row for each claim, setting and metric of CLAIMED.

    Columns: item, claim (in words), setting, metric; printed: the printed difference, percent points; the fields of
    compare.Gain; verdict: of compare.verdict, with "higher" and "lower" for items of no paper; size: of compare.size;
    data, profile, protocol, run_ids; comparison: of items.comparison, "" where nothing was measured; other_code: ids of
    runs that older code made; note: what would decide it, or why the system did not act; foreseen: whether our own
    prediction came out.
    Raises: ValueError for runs that cannot stand in one table.
    """
    spec, rows = ITEMS[item], []
    printed = spec.printed.set_index(["row", "setting", "metric"]).printed
    for claim in spec.claims:
        for setting, protocol in spec.settings.items():
            if len(spec.printed) and setting not in set(spec.printed.setting):
                continue  # measured, but not printed in this paper
            comparable(runs, protocol)
            groups = under(runs, protocol)
            pair = [groups.get(row, []) for row in (claim.better, claim.over)]
            measured = compare.between(*pair, protocol, list(CLAIMED))
            for metric in CLAIMED:
                better, over = (printed.get((row, setting, metric), math.nan) for row in (claim.better, claim.over))
                gain, difference = measured.get(metric), better - over
                if gain is None and math.isnan(difference):
                    continue  # neither measured nor printed
                foreseen = claim.foreseen(gain, protocol) if metric == CLAIMED[0] else ""
                rows.append(claim_row(item, claim.text, setting, metric, difference, gain, pair, protocol, foreseen))
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS)


def claim_row(
    item, words, setting, metric, printed, gain: Gain | None, groups: list[list[Run]], protocol, foreseen=""
) -> dict:
    """One row of claims().

    Args: item, setting, metric, protocol, foreseen: as in claims(), protocol "" for none; words: of the claim; printed:
        percent points, or NaN; gain: measured, or None; groups: runs of the two systems, or of the only one.
    """
    by_id = {r.experiment.run_id: r for group in groups for r in group} if gain else {}
    first = next(iter(by_id.values())).experiment if by_id else None
    among = len(comparisons(first.profile)) if first else 1
    word, note = verdict(gain, among), ""
    if gain and len(groups) == 2 and (note := mechanisms.idle(*groups)):
        word = "did not act"
    elif word == "undecided":
        note = what_decides(gain, among)
    if item.startswith("X"):
        word = word.replace("holds", "higher").replace("fails", "lower")
    row = {"item": item, "claim": words, "setting": setting, "metric": metric, "printed": printed}
    row |= (gain or NO_GAIN)._asdict() | {"verdict": word, "size": size(gain, printed)}
    row |= {"data": first.data if first else "", "profile": first.profile if first else "", "protocol": protocol}
    key = comparison(*(group[0].experiment for group in groups), protocol) if gain and protocol else ""
    older = " ".join(run_id for run_id, run in by_id.items() if other_code(run))
    row |= {"run_ids": " ".join(by_id), "comparison": key, "other_code": older}
    return row | {"note": note, "foreseen": foreseen}


def observed(item: str, words: str, metric: str, table: pd.DataFrame, groups: list[list[Run]]) -> pd.DataFrame:
    """A claim on what a figure shows, as a row of claims().

    Args: item; words: of the claim; metric: a column of table; table: that column, pid, seed and split, as
        compare.differences() has them; groups: the runs behind it.
    """
    row = claim_row(item, words, "", metric, math.nan, gains(table, [metric]).get(metric), groups, "")
    return pd.DataFrame([row], columns=CLAIM_COLUMNS)


def convergence_claims(curves: pd.DataFrame, runs: Rows) -> pd.DataFrame:
    """S1's claim that CMDC "drops quickly and becomes stable", as rows of claims().

    Quickly: more than half of the whole drop lies in the first third of the epochs. Stable: the last third changes by
    less than a tenth of the whole drop. A curve that falls by less than DROP, or has fewer than EPOCHS epochs, is
    undecided. `metric` says the values in words, in units of feature distance. One curve has no interval: gain is NaN.

    Args: curves: layout, part, epoch, cmdc; runs: the run of each layout.
    """
    rows = []
    for (layout, part), curve in curves.groupby(["layout", "part"], sort=False):
        value = curve.sort_values("epoch").cmdc.to_numpy()
        third, drop = min(max(1, len(value) // 3), len(value) - 1), value[0] - value.min()
        values = f"from {value[0]:.3f} over {value[third]:.3f} after a third to {value[-1]:.3f} at the end"
        answers = {
            "drops quickly": value[0] - value[third] > drop / 2,
            "becomes stable": abs(value[-1] - value[-1 - third]) < drop / 10,
        }
        for what, holds in answers.items():
            metric, word = f"{values}, in feature distance", "holds on one seed" if holds else "fails on one seed"
            if len(value) < EPOCHS:
                metric, word = f"too few epochs, {len(value)}", "undecided"
            elif drop < DROP * value[0]:
                metric, word = f"no drop to judge: {metric}", "undecided"
            words, one_pair = f"{part}: CMDC {what}", NO_GAIN._replace(pairs=1)
            row = claim_row("S1.F5", words, layout, metric, math.nan, one_pair, [runs[layout]], "")
            rows.append(row | {"verdict": word})
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS)


def once(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of claims() that are counted: of each claim the first metric, and each comparison once.

    Where several tables make one comparison, the one with most pairs of runs is counted, and the last of equal ones.
    """
    first = table.drop_duplicates(CLAIM)
    compared = first[first.comparison != ""].sort_values("pairs", kind="stable")
    counts = compared.drop_duplicates("comparison", keep="last")
    return first[(first.comparison == "") | first.index.isin(counts.index)]


def counted(table: pd.DataFrame) -> str:
    """How many comparisons, by once(), have which verdict, in words. Args: table: rows of claims()."""
    words = once(table).verdict
    return ", ".join(f"{word}: {(words == word).sum()}" for word in WORDS if (words == word).any())


def decided(table: pd.DataFrame) -> pd.Series:
    """Whether each row of claims() has a verdict for or against a system."""
    return table.verdict.str.split().str[0].isin(DECIDED)


def in_full(row) -> str:
    """A verdict, and how the printed size lies beside it, in words.

    Args: row: of claims() as a named tuple, with `size_` for size, a name that pandas takes for itself.
    """
    return ", ".join(filter(None, [row.verdict, SIZE_WORDS[row.size_]]))


def elsewhere(row) -> str:
    """A sentence on the other tables that make the same comparison as a row of claims(); "" where none does."""
    pairs_of = comparisons(row.profile).get(row.comparison, {}) if row.comparison else {}
    others = {item: pairs for item, pairs in pairs_of.items() if item != row.item and pairs >= row.pairs}
    parts = [
        short(item) + (f", of {n} pairs of runs, which counts" if n > row.pairs else "") for item, n in others.items()
    ]
    return f" The same comparison as in {' and '.join(parts)}." if parts else ""


def verdict_text(item: str, table: pd.DataFrame, *more: str) -> str:
    """The verdict on an item in words: a line that counts its claims, a line for each of them, further sentences.

    Args: item; table: rows of claims(); more: the further sentences.
    """
    title, kind = ITEMS[item].title, "comparison" if item.startswith("X") else "claim"
    if table.empty:
        return "\n".join([f"{title}. It claims no number.", *more])
    table = table.rename(columns={"size": "size_"})  # a named tuple of pandas cannot have the name size
    groups = table.groupby(["claim", "setting"], sort=False)
    data = " and ".join(dict.fromkeys(d for d in table.data if d))
    kind += "s" * (groups.ngroups > 1)
    decides = " by rank-1" if "rank1" in set(table.metric) else ""
    lines = [f"{title}. {groups.ngroups} {kind}, on {data or 'no data'}{decides}: {counted(table)}."]
    several = table.setting.nunique() > 1
    for (words, setting), group in groups:
        first, *others = group.itertuples()
        if first.verdict != "not measured":
            parts = [spoken(first), *(spoken(row, first.verdict) for row in others)]
            name = f"{words}{f' ({setting})' if several else ''}"
            lines.append(f"- [{in_full(first)}] {name}. {'; '.join(parts)}.{sentence(first.note)}{elsewhere(first)}")
    if missing := not_measured(table):
        lines.append(f"- [not measured] {'; '.join(missing)}.")
    if older := list(dict.fromkeys(" ".join(table.other_code).split())):
        what = f"{len(older)} of the runs, {', '.join(older[:3])}{' and others' * (len(older) > 3)},"
        more = (*more, f"Made by other code than that of today: {what} whose folders can be deleted to make them anew.")
    return "\n".join([*lines, *[""] * bool(more), "\n\n".join(more)]).rstrip()


def not_measured(table: pd.DataFrame) -> list[str]:
    """The claims of one item that were not measured, in words; a setting with more than two, and no other, as one.

    Args: table: rows of claims().
    """
    missing, names = table.verdict == "not measured", []
    for setting, group in table[missing].groupby("setting", sort=False):
        claims = [f"{words} ({setting})" for words in dict.fromkeys(group.claim)]
        whole_setting = missing[table.setting == setting].all() and len(claims) > 2
        names += [f"all {len(claims)} on {setting}"] if whole_setting else claims
    return names


def spoken(row, first: str = "") -> str:
    """One row of claims() in words: the gain with interval and spread, the printed one, the verdict if it is another.

    Args: row: named tuple; first: the verdict that was said before, by the first metric.
    """
    pairs = f" over {row.pairs:.0f} pairs of runs" if row.pairs > 1 else ""
    measured = f"{spread(row.gain, row.sd, 1, '+')}{pairs}{between(row.low, row.high)}"
    printed = "" if pd.isna(row.printed) else f", printed {fixed(row.printed, 2, '+')}"
    own = f" (by itself: {row.verdict})" if first not in ("", row.verdict) else ""
    return f"{NAMES.get(row.metric, row.metric)} {measured}".strip() + printed + own


def together(runs: Rows, both: str, first: str, second: str, base: str, protocol: str = MAIN_PROTOCOL) -> str:
    """A sentence on whether two changes of a system help each other: the gain of both less the sum of their gains.

    Args: runs: of the rows; both, first, second, base: rows with both changes, one of them each, and none; protocol.
    """
    groups = under(runs, protocol)
    pairs = [[groups.get(row, []) for row in pair] for pair in ((both, first), (second, base))]
    upper, lower = (differences(*pair, protocol).reset_index(drop=True) for pair in pairs)
    if upper.empty or len(upper) != len(lower):
        return "Whether they help each other is not measured."
    # (both - first) - (second - base), for each query: both tables are in the order of pairs and queries
    table = pd.concat([(upper[METRICS] - lower[METRICS]), upper[["pid", "seed", "split"]]], axis=1)
    seed_sd = compare.SEED_SD.get(next(iter(groups.values()))[0].experiment.profile)
    gain = gains(table, ["rank1"], seed_sd)["rank1"]
    words = {"holds": "they help each other", "fails": "they take from each other"}
    words["equivalent"] = "they neither help each other nor take from each other"
    word = words.get(verdict(gain).split(" on ")[0], "whether they help each other is undecided")
    interval = between(gain.low, gain.high)
    return f"The gain of both less the sum of their gains: {fixed(gain.gain, 1, '+')}{interval}, so {word}."


def lambda_sentence(rank1: pd.DataFrame) -> str:
    """A sentence on S1's claim that accuracy rises with lambda, peaks at 3 and drops.

    Args: rank1: lambda and value (percent), a row for each run.
    """
    means = rank1.groupby("lambda").value.mean()
    deviation = rank1[rank1["lambda"] == 3.0].value.std(ddof=1)
    best, at_three = means.idxmax(), means.get(3.0, float("nan"))
    text = (
        f"Best at lambda {best:g} with rank-1 {means.max():.1f}; {at_three:.1f} at the paper's 3, "
        f"{means.iloc[0]:.1f} at {means.index[0]:g}"
    )
    if not deviation > 0:
        return text + ". One seed: no claim."
    equal = [f"{w:g}" for w in means.index[means > means.max() - 2 * deviation]]
    return text + f". Within twice the spread over seeds ({deviation:.1f}) of the best: lambda {', '.join(equal)}."


def by_chance(table: pd.DataFrame) -> str:
    """Sentences on how many intervals of a report would leave out 0 by chance, and how many verdicts are decided.

    Args: table: rows of claims().
    """
    rows = once(table)
    rows = rows[rows.low.notna()]
    outside = int(((rows.low > 0) | (rows.high < 0)).sum())
    return (
        f"{len(rows)} different comparisons were made. If no system differed from any other, about "
        f"{(1 - LEVEL) * len(rows):.1f} of their {100 * LEVEL:g} % intervals would leave 0 out; {outside} do. The "
        f"verdicts ask for more: {decided(rows).sum()} of the comparisons are decided, and the chance that any *holds* "
        f"among them is wrong is at most {FAMILY:.0%}, as far as the calibration can tell."
    )


def sentence(note: str) -> str:
    """A note as a sentence that follows another; "" for an empty one."""
    return f" {note[0].upper()}{note[1:]}." if note else ""


def short(item: str) -> str:
    """The name of an item in its paper, "S1 Table 3" for S1.T3."""
    return ITEMS[item].title.split(":")[0]
