"""What the papers claim, held against finished runs: a row a claim, its verdict, and all of them in words."""

import math

import pandas as pd

from .. import mechanisms
from ..runs import METRICS, Run, other_code
from . import compare
from .compare import FAMILY, VERDICTS, Gain, differences, gains, size, verdict, what_decides
from .items import CLAIMS, ITEMS, MAIN_PROTOCOL, comparison, comparisons
from .tables import CLAIMED, NAMES, Rows, between, comparable, fixed, spread, under

CLAIM_COLUMNS = ["item", "claim", "setting", "metric", "printed", *Gain._fields, "verdict", "size"]
CLAIM_COLUMNS += ["data", "profile", "protocol", "run_ids", "comparison", "other_code", "note", "foreseen"]


def claims(item: str, runs: Rows) -> pd.DataFrame:
    """What a paper claims of a table: of each claim, setting and metric of CLAIMED a row of CLAIM_COLUMNS.

    printed: the printed difference; gain, low, high, sd, pairs: measured, as compare.Gain has them; verdict: as
    compare.verdict, "higher" and "lower" where no paper claims anything; size: as compare.size; comparison: as
    papers.comparison, "" where it was not measured; note: what would decide, or why the system did not act; foreseen:
    whether our own prediction came true.
    """
    of, rows = ITEMS[item], []
    known = of.printed.set_index(["row", "setting", "metric"]).printed
    for claim in CLAIMS[item]:
        better, over, words = claim[:3]
        for setting, protocol in of.settings.items():
            if len(of.printed) and setting not in set(of.printed.setting):
                continue  # measured, but not of this paper
            comparable(runs, protocol)
            groups = under(runs, protocol)
            pair = [groups.get(better, []), groups.get(over, [])]
            found = compare.between(*pair, protocol, list(CLAIMED))
            for metric in CLAIMED:
                values = (known.get((row, setting, metric), math.nan) for row in (better, over))
                printed_gain = next(values) - next(values)
                if found or not math.isnan(printed_gain):
                    given = words or f"{better} over {over}", setting, metric, printed_gain
                    seen = claim.foreseen(found.get(metric), protocol) if metric == CLAIMED[0] else ""
                    rows.append(claim_row(item, *given, found.get(metric), pair, protocol, seen))
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS)


def claim_row(
    item, words, setting, metric, printed_gain, found: Gain | None, groups: list[list[Run]], protocol, foreseen=""
) -> list:
    """One row of claims()."""
    every = list({r.experiment.run_id: r.experiment for group in groups for r in group}.values()) if found else []
    among = len(comparisons(every[0].profile)) if every else 1
    word, note = verdict(found, among), ""
    if found and len(groups) == 2 and (note := mechanisms.idle(*groups)):
        word = "did not act"
    elif word == "undecided":
        note = what_decides(found, among)
    if item.startswith("X"):
        word = word.replace("holds", "higher").replace("fails", "lower")
    data, profile = (every[0].data, every[0].profile) if every else ("", "")
    numbers = found or [math.nan] * 4 + [0, 0, math.nan, math.nan]
    ids = " ".join(e.run_id for e in every)
    key = comparison(*(group[0].experiment for group in groups), protocol) if found and protocol else ""
    word = [word, size(found, printed_gain)]
    older = " ".join(dict.fromkeys(r.experiment.run_id for group in groups for r in group if found and other_code(r)))
    where = [data, profile, protocol, ids, key, older]
    return [item, words, setting, metric, printed_gain, *numbers, *word, *where, note, foreseen]


def observed(item: str, words: str, metric: str, each: pd.DataFrame, groups: list[list[Run]]) -> pd.DataFrame:
    """A claim on what a figure draws, as a row of claims(). each: as compare.differences() has it, column `metric`."""
    found = gains(each, [metric]).get(metric)
    row = claim_row(item, words, "", metric, math.nan, found, groups, "")
    return pd.DataFrame([row], columns=CLAIM_COLUMNS)


EPOCHS = 6  # a curve of fewer has no thirds to speak of
DROP = 0.1  # of its first level: a curve that falls by less does not drop


def convergence_claims(curves: pd.DataFrame, runs: Rows) -> pd.DataFrame:
    """S1's claim that CMDC "drops quickly and becomes stable", as rows of claims(). curves: layout, part, epoch, cmdc.

    Quickly: more than half of the whole drop lies in the first third of the epochs; stable: the last third changes by
    less than a tenth of it. A curve that falls by less than DROP, or has fewer than EPOCHS epochs, decides nothing.
    `metric` has the levels in words, in units of feature distance; one curve has no interval, so gain is NaN.
    """
    rows = []
    for (layout, part), curve in curves.groupby(["layout", "part"], sort=False):
        value = curve.sort_values("epoch").cmdc.to_numpy()
        third, drop = min(max(1, len(value) // 3), len(value) - 1), value[0] - value.min()
        levels = f"from {value[0]:.3f} over {value[third]:.3f} after a third to {value[-1]:.3f} at the end"
        there = {
            "drops quickly": value[0] - value[third] > drop / 2,
            "becomes stable": abs(value[-1] - value[-1 - third]) < drop / 10,
        }
        for what, holds in there.items():
            metric, word = f"{levels}, in feature distance", "holds on one seed" if holds else "fails on one seed"
            if len(value) < EPOCHS:
                metric, word = f"too few epochs, {len(value)}", "undecided"
            elif drop < DROP * value[0]:
                metric, word = f"no drop to judge: {metric}", "undecided"
            found = Gain(math.nan, math.nan, math.nan, math.nan, 1)
            row = claim_row("S1.F5", f"{part}: CMDC {what}", layout, metric, math.nan, found, [runs[layout]], "")
            row[CLAIM_COLUMNS.index("verdict")] = word
            rows.append(row)
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS)


WORDS = [*VERDICTS]
WORDS[4:4] = ["higher", "higher on one seed", "lower", "lower on one seed"]  # where no paper claims anything
CLAIM = ["item", "claim", "setting"]


def once(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of claims() that count: of each claim the first metric, and each comparison once.

    Where several tables make one comparison, that with most pairs of runs counts, of equal ones the last.
    """
    each = found.drop_duplicates(CLAIM)
    of = each[each.comparison != ""].sort_values("pairs", kind="stable").drop_duplicates("comparison", keep="last")
    return each[(each.comparison == "") | each.index.isin(of.index)]


def counted(found: pd.DataFrame) -> str:
    """How many comparisons have which verdict, as once() has them."""
    each = once(found).verdict
    return ", ".join(f"{word}: {(each == word).sum()}" for word in WORDS if (each == word).any())


def in_full(row) -> str:
    """A verdict with what is to be said of the printed size, of a row of claims()."""
    sizes = {"printed size inside": "printed size inside the interval", "": ""}
    return ", ".join(filter(None, [row.verdict, sizes.get(row.size_, f"{row.size_} than printed")]))


def elsewhere(row) -> str:
    """Which tables make the comparison of a row of claims() too, as a sentence, or ""."""
    others = comparisons(row.profile).get(row.comparison, {}) if row.comparison else {}
    more = {item: pairs for item, pairs in others.items() if item != row.item and pairs >= row.pairs}
    parts = [
        short(item) + (f", of {n} pairs of runs, which counts" if n > row.pairs else "") for item, n in more.items()
    ]
    return f" The same comparison as in {' and '.join(parts)}." if parts else ""


def verdict_text(item: str, found: pd.DataFrame, *more: str) -> str:
    """The verdict in words: a line that counts the claims, a line for each, further sentences.

    Args: found: rows of claims().
    """
    title, kind = ITEMS[item].title, "comparison" if item.startswith("X") else "claim"
    if found.empty:
        return "\n".join([f"{title}. It claims no number.", *more])
    found = found.rename(columns={"size": "size_"})  # a row of pandas has a size of its own
    each = found.groupby(["claim", "setting"], sort=False)
    data = " and ".join(dict.fromkeys(d for d in found.data if d))
    kind += "s" * (each.ngroups > 1)
    decides = " by rank-1" if "rank1" in set(found.metric) else ""
    lines = [f"{title}. {each.ngroups} {kind}, on {data or 'no data'}{decides}: {counted(found)}."]
    several = found.setting.nunique() > 1
    for (words, setting), group in each:
        first, *others = group.itertuples()
        if first.verdict != "not measured":
            parts = [spoken(first), *(spoken(row, first.verdict) for row in others)]
            name = f"{words}{f' ({setting})' if several else ''}"
            lines.append(f"- [{in_full(first)}] {name}. {'; '.join(parts)}.{sentence(first.note)}{elsewhere(first)}")
    if missing := not_measured(found):
        lines.append(f"- [not measured] {'; '.join(missing)}.")
    if older := list(dict.fromkeys(" ".join(found.other_code).split())):
        what = f"{len(older)} of the runs, {', '.join(older[:3])}{' and others' * (len(older) > 3)},"
        more = (*more, f"Made by other code than that of today: {what} whose folders can be deleted to make them anew.")
    return "\n".join([*lines, *[""] * bool(more), "\n\n".join(more)]).rstrip()


def not_measured(found: pd.DataFrame) -> list[str]:
    """The claims of one item that nothing here can test, a setting that is left out whole as one."""
    missing, left = found.verdict == "not measured", []
    for setting, group in found[missing].groupby("setting", sort=False):
        each = [f"{words} ({setting})" for words in dict.fromkeys(group.claim)]
        whole = missing[found.setting == setting].all() and len(each) > 2
        left += [f"all {len(each)} on {setting}"] if whole else each
    return left


def spoken(row, first: str = "") -> str:
    """One metric of a claim: measured with interval and spread, printed, and its verdict where `first` is another."""
    pairs = f" over {row.pairs:.0f} pairs of runs" if row.pairs > 1 else ""
    found = f"{spread(row.gain, row.sd, 1, '+')}{pairs}{between(row.low, row.high)}"
    printed = "" if pd.isna(row.printed) else f", printed {fixed(row.printed, 2, '+')}"
    own = f" (by itself: {row.verdict})" if first not in ("", row.verdict) else ""
    return f"{NAMES.get(row.metric, row.metric)} {found}".strip() + printed + own


def together(runs: Rows, both: str, first: str, second: str, base: str, protocol: str = MAIN_PROTOCOL) -> str:
    """Whether two changes of a system help each other: the gain of both less the sum of their gains, as a sentence."""
    groups = under(runs, protocol)
    pairs = [[groups.get(row, []) for row in pair] for pair in ((both, first), (second, base))]
    upper, lower = (differences(*pair, protocol).reset_index(drop=True) for pair in pairs)
    if upper.empty or len(upper) != len(lower):
        return "Whether they help each other is not measured."
    keys = ["pid", "seed", "split"]  # both tables are in the order of seeds and queries
    each = pd.concat([(upper[METRICS] - lower[METRICS]), upper[keys]], axis=1)
    known = compare.SEED_SD.get(next(iter(groups.values()))[0].experiment.profile)
    found = gains(each, ["rank1"], known)["rank1"]
    words = {"holds": "they help each other", "fails": "they take from each other"}
    words["equivalent"] = "they neither help each other nor take from each other"
    word = words.get(verdict(found).split(" on ")[0], "whether they help each other is undecided")
    return (
        f"The gain of both less the sum of their gains: {fixed(found.gain, 1, '+')}{between(*found[1:3])}, so {word}."
    )


def lambda_sentence(rank1: pd.DataFrame) -> str:
    """One line on S1's claim that accuracy rises with lambda, peaks at 3 and drops. rank1: lambda, value."""
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


def by_chance(found: pd.DataFrame) -> str:
    """What the rule allows itself in a report, and how many intervals would leave 0 out by accident, as a sentence."""
    each = once(found)
    each = each[each.low.notna()]
    out, decided = int(((each.low > 0) | (each.high < 0)).sum()), each.verdict.str.split().str[0]
    firm = int(decided.isin(["holds", "fails", "higher", "lower"]).sum())
    return (
        f"{len(each)} different comparisons were made. If no system differed from any other, about "
        f"{(1 - compare.LEVEL) * len(each):.1f} of their 95 % intervals would leave 0 out; {out} do. The verdicts ask "
        f"for more: {firm} of the comparisons are decided, and the chance that any *holds* among them is wrong is at "
        f"most {FAMILY:.0%}, as far as the calibration can tell."
    )


def sentence(note: str) -> str:
    """A note as a sentence behind another; "" of none."""
    return f" {note[0].upper()}{note[1:]}." if note else ""


def short(item: str) -> str:
    """S1.T3 as "S1 Table 3"."""
    return ITEMS[item].title.split(":")[0]
