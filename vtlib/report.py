"""What was measured beside what is printed: tables, claims with their verdicts, the report folder and its page.

Under results/<profile>/report/, of each table and figure: <item>.csv and .claims.csv, .tex, .txt (the verdict) and
figures; provenance.csv leads from every number to its runs.
"""

import html
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from safetensors import safe_open

from . import compare, mechanisms, plots, tuning
from .compare import FAMILY, VERDICTS, Gain, differences, folded, gains, size, verdict, what_decides
from .config import Experiment
from .files import lock, results_root
from .papers import AS_RECIPE, CLAIMS, ITEMS, LADDER, MAIN_PROTOCOL, MEASURED, UNTOUCHED, comparison, comparisons
from .runs import METRICS, Run, chance, collect, environment, load, other_code

CLAIMED = ("rank1", "mAP")  # a claim is counted by the first, and shown with both
Rows = dict[str, list[Run]]  # the runs of each row of a table


def under(runs: Rows, protocol: str) -> Rows:
    """The runs of each row that have a protocol; a row without one is left out."""
    having = {row: [r for r in group if protocol in r.metrics["protocols"]] for row, group in runs.items()}
    return {row: group for row, group in having.items() if group}


def comparable(runs: Rows, protocol: str | None = None) -> None:
    """Raise ValueError, naming runs, unless they may stand in one table.

    All are of one profile and, under a protocol, of one data, one number of trials and one precision.
    """

    def one(what: str, value: Callable[[Run], object], group: list[Run]) -> None:
        kinds = {str(value(r)): r.experiment.run_id for r in group}
        if len(kinds) > 1:
            named = " and ".join(f"{kind} (run {run_id})" for kind, run_id in kinds.items())
            raise ValueError(f"{what} differ, {named}: they cannot stand in one table")

    every = [r for group in runs.values() for r in group]
    one("profiles", lambda r: r.experiment.profile, every)
    for split in {r.experiment.split for r in every} if protocol else ():
        group = [r for rows in under(runs, protocol).values() for r in rows if r.experiment.split == split]
        one(f"data of {protocol}", lambda r: f"{r.experiment.data}, digest {r.metrics['data_digest'][:12]}", group)
        one(f"trials of {protocol}", lambda r: len(r.trials(protocol)), group)
        one(f"precisions of {protocol}", lambda r: r.metrics["precision"], group)


def finished(profile: str, item: str) -> Rows:
    """The runs of a table's rows that are finished; nothing is made."""
    root, rows = results_root() / profile / "runs", {}
    for row, group in ITEMS[item].experiments(profile).items():
        folders = [root / e.run_id for e in group]
        rows[row] = [load(folder) for folder in folders if (folder / "metrics.json").is_file()]
    return rows


def table(item: str, runs: Rows, own: dict[str, str] | None = None) -> pd.DataFrame:
    """A table of a paper, tidy, in percent: printed, measured, and the difference to the row of LADDER, each its own.

    own: rows that are no rows of the paper's table, and the row that the difference of each is taken to.

    Columns: row, setting, metric, printed; data, profile, protocol, measured (mean over runs of the mean over trials),
    sd (over runs, NaN for one), runs, run_ids; over (the other row), printed_difference, difference (of runs paired by
    seed and split), difference_low, difference_high (over people and seeds), difference_sd (over pairs), pairs.
    Raises: ValueError for runs that cannot stand in one table.
    """
    of, rows, ladder = ITEMS[item], [], LADDER[item] | (own or {})
    comparable(runs)
    for setting, protocol in of.settings.items():
        comparable(runs, protocol)
        groups = under(runs, protocol)
        for row, group in groups.items():
            over = ladder.get(row, "")
            found = compare.between(group, groups.get(over, []), protocol)
            for metric in METRICS:
                ahead = found[metric][: len(DIFFERENCE)] if found else [math.nan] * 4 + [0]
                rows.append([row, setting, metric, *stated(group, metric, protocol), over if found else "", *ahead])
    names = ["row", "setting", "metric", *STATED, "over", *DIFFERENCE]
    made = of.printed.drop(columns="source").merge(
        pd.DataFrame(rows, columns=names), on=names[:3], how="outer", sort=False
    )
    made["over"] = made.over.where(made.over.notna() & (made.over != ""), made.row.map(ladder))
    known = of.printed.set_index(["row", "setting", "metric"]).printed
    below = [known.get(key, math.nan) for key in zip(made.over, made.setting, made.metric, strict=True)]
    made.insert(made.columns.get_loc("over") + 1, "printed_difference", made.printed - below)
    order = {row: i for i, row in enumerate(dict.fromkeys([*of.printed.row, *runs]))}
    if item == "S1.F4":
        order = {row: float(row) for row in order}
    return made.sort_values("row", key=lambda c: c.map(order), kind="stable", ignore_index=True)


STATED = ["data", "profile", "protocol", "measured", "sd", "runs", "run_ids"]
DIFFERENCE = ["difference", "difference_low", "difference_high", "difference_sd", "pairs"]


def stated(group: list[Run], metric: str, protocol: str) -> list:
    """What is measured of a row, and on what: the values of STATED."""
    values, first = 100 * collect(group, protocol)[metric], group[0].experiment
    ids = " ".join(r.experiment.run_id for r in group)
    return [first.data, first.profile, protocol, values.mean(), values.std(ddof=1), len(group), ids]


def of_figure(frame: pd.DataFrame, runs: Rows) -> pd.DataFrame:
    """The numbers of a figure as a tidy table. frame: row, metric, measured, sd if any, and more.

    Its rows are those of `runs`, or of all of them where a row names none.
    """
    comparable(runs)
    every = list({r.experiment.run_id: r.experiment for group in runs.values() for r in group}.values())
    of = {row: " ".join(r.experiment.run_id for r in group) for row, group in runs.items()}
    whole = " ".join(e.run_id for e in every)
    known = {"printed": math.nan, "sd": math.nan, "profile": every[0].profile}  # of a drawing nothing is printed
    missing = {name: value for name, value in known.items() if name not in frame}
    data = " and ".join(dict.fromkeys(e.data for e in every))
    return frame.assign(**missing, data=data, run_ids=frame.row.map(of).fillna(whole))


def every_run(runs: Rows, protocol: str) -> pd.DataFrame:
    """Tidy, a row a run and metric: row, metric, value in percent, for figures that show every seed."""
    frames = {row: 100 * collect(group, protocol)[METRICS] for row, group in under(runs, protocol).items()}
    return pd.concat(frames).droplevel(1).rename_axis("row").reset_index().melt("row", var_name="metric")


def fixed(value: float, digits: int = 1, sign: str = "") -> str:
    """A number with so many decimals; what rounds to zero has no sign."""
    rounded = round(float(value), digits)
    return f"{rounded:{sign}.{digits}f}" if rounded else f"{0:.{digits}f}"


def spread(mean: float, sd: float, digits: int = 1, sign: str = "") -> str:
    """A mean with its standard deviation, where there is one; "" for NaN."""
    return "" if pd.isna(mean) else fixed(mean, digits, sign) + ("" if pd.isna(sd) else f" +- {fixed(sd, digits)}")


def between(low: float, high: float, digits: int = 1) -> str:
    """An interval; "" for NaN. An end near zero has a digit or two more: its sign decides the verdict."""

    def end(value: float) -> str:
        return next((t for d in range(digits, digits + 3) if float(t := fixed(value, d, "+"))), fixed(0, digits))

    return "" if pd.isna(low) else f" [{end(low)}, {end(high)}]"


def in_words(made: pd.DataFrame, metrics: Iterable[str] = CLAIMED) -> pd.DataFrame:
    """A tidy table() as a reader wants it: printed, measured and both differences, each in a block of columns."""
    shown = made[made.metric.isin(list(metrics))]
    data = " and ".join(dict.fromkeys(shown.data.dropna()))
    blocks = {
        "printed": [spread(v, math.nan, 2) for v in shown.printed],
        f"measured on {data}": [spread(*v) for v in zip(shown.measured, shown.sd, strict=True)],
    }
    differ = shown.metric.isin(CLAIMED)
    columns = (shown[c] for c in ("difference", "difference_sd", "difference_low", "difference_high"))
    ahead = [spread(g, sd, 1, "+") + between(*ends) for g, sd, *ends in zip(*columns, strict=True)]
    blocks["difference, printed"] = [spread(v, math.nan, 2, "+") for v in shown.printed_difference.where(differ)]
    blocks["difference, measured"] = [text if keep else "" for text, keep in zip(ahead, differ, strict=True)]
    frames = []
    for name, texts in blocks.items():
        frame = shown.assign(text=texts).pivot(index="row", columns=["setting", "metric"], values="text").fillna("")
        frame = frame.reindex(columns=pd.MultiIndex.from_product([dict.fromkeys(made.setting), metrics]))
        frames.append(pd.concat({name: frame.loc[:, (frame.fillna("") != "").any()]}, axis=1))
    whole = pd.concat(frames, axis=1).loc[list(dict.fromkeys(shown.row))].rename_axis(index=None)
    whole["difference to", "", ""] = shown.drop_duplicates("row").set_index("row").over.fillna("")
    return whole.rename(columns=NAMES, level=2)


NAMES = {f"rank{k}": f"rank-{k}" for k in (1, 5, 10, 20)}


def wide(made: pd.DataFrame, metrics: Iterable[str] = CLAIMED):
    """in_words() for a notebook, one setting below the other, and an interval below its difference.

    Measured: mean +- standard deviation over runs; of a difference also its interval over people and seeds.
    """
    metrics, several = list(metrics), made.setting.nunique() > 1
    blocks = {}
    for setting, of in made.groupby("setting", sort=False):
        data = " and ".join(dict.fromkeys(of.data.dropna()))
        frame = in_words(of, metrics).droplevel(1, axis=1)
        blocks[f"{setting}<br>{data}"] = frame.rename(
            columns={f"measured on {data}": "measured"} if several else {}, level=0
        )
    frame = pd.concat(blocks) if several else frame
    props = {"th": "text-align: center", "td": "white-space: nowrap; vertical-align: top"}
    props |= {"th.row_heading": "text-align: left", f"td.col{len(frame.columns) - 1}": "white-space: normal"}
    style = frame.fillna("").style.format(lambda text: text.replace(" [", "<br>["))
    style = style.set_table_attributes('style="font-size: 85%"')
    return style.set_table_styles([{"selector": name, "props": css} for name, css in props.items()])


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


def learned(runs: Rows) -> pd.DataFrame:
    """How far the classifiers of each row have come: row, data, end, guess, people; of runs with an identity loss.

    end: identity loss of the last epoch, in nats a classifier (a part network has one for each stripe), mean over
    runs; guess: what equal odds for all training people cost, ln of their number.
    """
    found = []
    for row, group in runs.items():
        for run in group:
            e = run.experiment
            if e.epochs and "id" in e.losses:
                classifiers = sum(part.stripes for part in e.parts) or 1
                end = run.history["id"].iloc[-1] / (classifiers if e.over_parts == "sum" else 1)
                found.append((row, e.data, end, people(run)))
    frame = pd.DataFrame(found, columns=["row", "data", "end", "people"])
    frame = frame.groupby(["row", "data"], sort=False, as_index=False).mean()
    return frame.assign(guess=[math.log(n) for n in frame.people])


def people(run: Run) -> int:
    """How many people a run was trained on: the rows of its classifiers."""
    with safe_open(run.folder / "model.safetensors", "pt") as file:
        name = next(name for name in file.keys() if name.endswith("classifier.weight"))  # noqa: SIM118
        return file.get_slice(name).get_shape()[-2]


BEGUN = 0.9  # of the loss of a guess: a classifier above has hardly begun to learn


def unlearned(runs: Rows) -> list[str]:
    """A sentence on the rows whose classifiers have hardly begun to learn; [] where all have."""
    each, parts = learned(runs), []
    for (data, n, guess), of in each[each.end > BEGUN * each.guess].groupby(["data", "people", "guess"], sort=False):
        ends = ", ".join(f"{r.row} {r.end:.2f}" for r in of.itertuples())
        parts.append(f"on {data}, where a guess costs ln {n:.0f} = {guess:.2f}: {ends}")
    if not parts:
        return []
    return [
        f"The identity loss of a classifier has hardly begun to fall at the end of training {'; '.join(parts)}. A "
        "difference to such a row says first of all which of the two learns in so short a training."
    ]


def tuned(rows: dict[str, list[Experiment]]):
    """How each row of a table was tuned, on validation people, for a notebook: the recipe's values and the best.

    mAP of trials of half the steps (tuning.py), percent; nothing where the choice of a profile does not ship.
    """
    every = {row: group[0] for row, group in rows.items()}
    found = tuning.shipped(next(iter(every.values())).profile).set_index("method")
    lines = {}
    for row, e in every.items():
        if e.epochs and e.method in found.index and not row.endswith(AS_RECIPE):
            of = found.loc[[e.method]]
            recipe, best = of[of.recipe].iloc[0], of[of.chosen].iloc[0]
            weight = "" if pd.isna(best.weight) else f"{best.weight:g}"
            rate = f"{best.lr:g}, backbone {best.lr * best.backbone_lr_factor:g}"
            lines[row] = [f"{recipe.val_mAP:.1f}", f"{best.val_mAP:.1f}", rate, weight, len(of)]
    columns = ["as the recipe says", "equally tuned", "rate chosen", "weight, times the recipe's", "trials"]
    frame = pd.DataFrame.from_dict(lines, orient="index", columns=columns)
    return frame.rename_axis(columns="mAP on validation people, percent").style


def row_figure(item: str, runs: Rows, made: pd.DataFrame, protocol: str = MAIN_PROTOCOL) -> Figure:
    """The rows of a table under one protocol: levels beside chance, and differences with their intervals.

    Args: made: table() of the same runs.
    """
    groups = under(runs, protocol)
    each = every_run(groups, protocol)
    ahead = made[(made.protocol == protocol) & made.metric.isin(CLAIMED)]
    lowest = 100 * chance(next(iter(groups.values()))[0], protocol)
    data = next(iter(groups.values()))[0].experiment.data
    title = f"{short(item)} on {data}: {protocol}"
    return plots.rows(each[each.metric.isin(CLAIMED)], ahead, lowest[list(CLAIMED)], title)


def facts_line(experiment: Experiment) -> str:
    """What a number may depend on besides the experiment, in one line."""
    of = environment(experiment)
    versions = ", ".join(f"{name} {number}" for name, number in of["versions"].items())
    commit = f"commit {of['commit']}" if of["commit"] else "no commit known"
    return f"{of['device']}, {of['threads']} threads, {of['precision']}; {versions}; {commit}"


def gained(made: pd.DataFrame, row: str, setting: str = "all", metric: str = "rank1") -> str:
    """The measured difference of a row of table() with its interval and the row that it is to, as text."""
    of = made[(made.row == row) & (made.setting == setting) & (made.metric == metric) & made.difference.notna()]
    if of.empty:
        return "not measured"
    r = of.iloc[0]
    return f"{fixed(r.difference, 1, '+')}{between(r.difference_low, r.difference_high)} over {r.over}"


def level(made: pd.DataFrame, row: str, setting: str = "all", metric: str = "rank1") -> str:
    """The measured value of a row of table(), as text."""
    of = made[(made.row == row) & (made.setting == setting) & (made.metric == metric) & made.measured.notna()]
    return "not measured" if of.empty else fixed(of.measured.iloc[0])


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


def answers(*texts: str) -> str:
    """Answers to the quick questions of a notebook as Markdown that a click opens."""
    return folded("Answers", "\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1)))


def transfer_words(table: pd.DataFrame, methods: Iterable[str]) -> str:
    """What each way of preparing features changes of what methods find in real images, by mAP; "" of plain ones alone.

    Higher or lower is a method whose difference to its own plain search, over whole people, leaves out 0.
    Args: table: runs.transfer_table() of each set, in percent but for the skewness, and a column set.
    """
    own = table[(table.metric == "mAP") & table.row.isin(methods)]
    found = {"higher": own.change_low_people > 0, "lower": own.change_high_people < 0}
    own = own.assign(**found | {"above histograms": own.gain_low_people > 0})
    counts, words, place = [], [], ["set", "direction"]
    plain, moved = own[own.way == "plain"].set_index(place), own[own.way != "plain"]
    for way, part in moved.groupby("way", sort=False):
        counts.append(
            f"{way} is higher than plain in {part.higher.sum()} and lower in {part.lower.sum()} of {len(part)}"
        )
    for (*where, way), part in moved.groupby([*place, "way"], sort=False):
        before = plain.loc[[tuple(where)]]
        now, then = (
            f"{x.value.min():.1f} to {x.value.max():.1f}, hub share {x.hub_share.mean():.0f} %" for x in (part, before)
        )
        lists = [f"{word}: {', '.join(part.row[part[word]]) or 'none'}" for word in (*found, "above histograms")]
        words.append(f"{' '.join(where)} {way} {now} (plain {then}); {'; '.join(lists)}")
    return f"Transductive, methods and searches: {'; '.join(counts)}. {'. '.join(words)}." if words else ""


def one_gallery(runs: Rows, protocol: str) -> str:
    """A sentence where all draws of a gallery are the same one, since there are only as many images as shots; or ""."""
    trials = [r.trials(protocol) for group in under(runs, protocol).values() for r in group]
    if not trials or any(len(t) < 2 or len(t[METRICS].drop_duplicates()) > 1 for t in trials):
        return ""
    return f"Under {protocol} all {len(trials[0])} draws give the same gallery: there are no more images than shots."


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


def write(
    name: str,
    profile: str,
    made: pd.DataFrame,
    text: str,
    found: pd.DataFrame | None = None,
    figures: dict[str, Figure] | None = None,
) -> list[str]:
    """Write a table under report/: <name>.csv, .txt (the verdict), of a paper also .claims.csv and .tex, and figures.

    Figures are .png and .pdf; provenance.csv is made anew of all tables there. Args: made: table() or of_figure(), or
    any tidy table with run_ids; text: verdict_text(), or a sentence; found: claims(); figures: {"": the item's figure,
    "more": another one, as <name>-more}.
    Returns: names of the files. Raises: ValueError if any run is of another profile.
    """
    named = [frame.profile for frame in (made, found) if frame is not None and "profile" in frame]
    if other := sorted({p for column in named for p in column.dropna()} - {profile, ""}):
        raise ValueError(f"{name}: runs of profile {', '.join(other)} cannot stand in the report of {profile}")
    folder = results_root() / profile / "report"
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / ".lock"):  # several notebooks write at a time
        made.to_csv(folder / f"{name}.csv", index=False, float_format="%.3f")
        (folder / f"{name}.txt").write_text(text + "\n")
        if found is not None:
            found.to_csv(folder / f"{name}.claims.csv", index=False, float_format="%.3f")
            (folder / f"{name}.tex").write_text(latex(made))
        for more, figure in (figures or {}).items():
            plots.save(figure, folder / (f"{name}-{more}" if more else name))
        provenance(folder).to_csv(folder / "provenance.csv", index=False)
    return sorted(p.name for p in folder.glob(f"{name}[.-]*"))


def latex(made: pd.DataFrame) -> str:
    """A tabular for \\usepackage{booktabs}: printed and measured in column groups of their own."""
    if "setting" in made and "over" in made:
        frame = in_words(made)
    else:
        frame = made.assign(measured=[spread(*v, 3) for v in zip(made.measured, made.sd, strict=True)])
        names = [c for c in ("row", "metric", "epoch", "measured") if c in frame]
        frame = frame[names].astype(str).set_index("row").rename_axis(None)
    text = frame.to_latex(escape=True, multicolumn_format="c", na_rep="")
    return text.replace(" +- ", " $\\pm$ ").replace("+-", "$\\pm$")


def provenance(folder: Path) -> pd.DataFrame:
    """Where the numbers of a report come from: a row for each run that any of its tables names."""
    names = {}
    for path in sorted(folder.glob("*.csv")):
        if path.name not in ("provenance.csv", "claims.csv"):
            ids = " ".join(pd.read_csv(path, usecols=lambda c: c == "run_ids", dtype=str).squeeze(axis=1).dropna())
            for run_id in dict.fromkeys(ids.split()):
                names.setdefault(run_id, []).append(path.stem.removesuffix(".claims"))
    rows = []
    for run_id, items in names.items():
        path = folder.parent / "runs" / run_id
        if not (path / "metrics.json").is_file():
            continue  # set aside since: its table must be made again, and gathered() says so
        run = load(path)
        e, m = run.experiment, run.metrics
        config = {c: getattr(e, c) for c in ("method", "dataset", "data", "split", "seed", "profile", "epochs")}
        facts = {c: m[c] for c in ("commit", "device", "precision", "threads", "data_digest", "finished")}
        facts["code"] = m.get("code_digest", "")[:12]
        versions = " ".join(f"{k}={v}" for k, v in m["versions"].items())
        where = {"folder": f"runs/{run_id}", "config": f"runs/{run_id}/experiment.json"}
        used = " ".join(dict.fromkeys(items))
        rows.append({"run_id": run_id, **config, **facts, "versions": versions, **where, "used_in": used})
    return pd.DataFrame(rows)


class Gathered(NamedTuple):
    """A report folder, read: all claims, all tables by item, where their runs come from, what is not there."""

    claims: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    provenance: pd.DataFrame
    missing: list[str]  # items without a report


def gathered(profile: str) -> Gathered:
    """Everything under report/ of a profile.

    Raises: FileNotFoundError before the first report; ValueError where a table is of another profile, names a run that
        is gone, or is of other data than another table of the same name.
    """
    folder = results_root() / profile / "report"
    there = [item for item in ITEMS if (folder / f"{item}.csv").is_file()]
    if not there:
        raise FileNotFoundError(f"{folder} has no table: run the notebooks 20 to 34 with profile={profile} first")
    tables = {item: pd.read_csv(folder / f"{item}.csv") for item in there}
    frames = [
        pd.read_csv(folder / f"{item}.claims.csv", keep_default_na=True, dtype={"setting": str}) for item in there
    ]
    every = pd.concat([f for f in frames if len(f)], ignore_index=True)
    texts = [c for c in CLAIM_COLUMNS if c not in ("printed", *Gain._fields)]
    every[texts] = every[texts].astype(object).fillna("")
    runs_of = provenance(folder)
    for item, made in tables.items():
        if other := set(made.profile.dropna()) - {profile}:
            raise ValueError(f"{item}.csv has runs of profile {', '.join(sorted(other))}: it is no table of {profile}")
        named = {run_id for ids in made.run_ids.dropna() for run_id in ids.split()}
        if gone := sorted(named - set(runs_of.run_id)):
            raise ValueError(f"{item}.csv names run {gone[0]}, which is not there: run {ITEMS[item].notebook} again")
    for (name, split), group in runs_of.groupby(["data", "split"]):
        if group.data_digest.nunique() > 1:
            ids = ", ".join(group.drop_duplicates("data_digest").run_id)
            raise ValueError(f"runs {ids} were measured on different contents of {name}, split {split}: run them again")
    return Gathered(every, tables, runs_of, [item for item in ITEMS if item not in there])


def facts(of: Gathered) -> pd.DataFrame:
    """What all numbers of a report were measured with, a line each."""
    p = of.provenance
    last = [
        ", ".join(f"{name or 'unknown'} ({n} runs)" for name, n in p[c].value_counts().items())
        for c in ("device", "commit")
    ]
    rows = {
        "profile": ", ".join(p.profile.unique()),
        "data": ", ".join(f"{name} ({digest[:12]})" for (name, digest), _ in p.groupby(["data", "data_digest"])),
        "runs": f"{len(p)}, of {p.method.nunique()} methods, seeds {', '.join(map(str, sorted(p.seed.unique())))}",
        "device": last[0],
        "precision": ", ".join(p.precision.unique()),
        "commit": last[1],
        "code that decides a result": ", ".join(f"{code} ({n} runs)" for code, n in p.code.value_counts().items()),
        "versions": "; ".join(p.versions.unique()),
        "finished": f"{p.finished.min()} to {p.finished.max()}",
    }
    return pd.DataFrame({"": rows})


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


def firm(found: pd.DataFrame, count: int = 5) -> list[str]:
    """The comparisons that are decided by most standard errors, a sentence each: holds, fails, higher, lower."""
    each = once(found)
    decided = each.verdict.str.split().str[0].isin(["holds", "fails", "higher", "lower"])
    each = each[decided & (each.metric == CLAIMED[0]) & each.gain.notna()]
    return [stated_claim(row) for row in surest_first(each)[:count].itertuples()]


def surest_first(each: pd.DataFrame) -> pd.DataFrame:
    """Rows of claims() by how many standard errors their gain is from 0; a column `size_`, as pandas has a size."""
    errors = each.gain.abs() / (each.over_people**2 + each.over_seeds.fillna(0) ** 2) ** 0.5
    return each.loc[errors.sort_values(ascending=False).index].rename(columns={"size": "size_"})


def stated_claim(row) -> str:
    """A row of claims() as a sentence with its numbers."""
    printed = "" if pd.isna(row.printed) else f"; printed {fixed(row.printed, 1, '+')}"
    name = NAMES.get(row.metric, row.metric)
    return (
        f"{row.claim}: {fixed(row.gain, 1, '+')}{between(row.low, row.high)} {name}, {in_full(row)}{printed} "
        f"({short(row.item)}, {row.pairs:.0f} pair{'s' * (row.pairs > 1)} of runs)."
    )


def not_carried(found: pd.DataFrame) -> list[str]:
    """What a paper claims and what is not so here, and why we think so: fails, equivalent, did not act, or undecided
    with the whole interval below the printed gain."""
    each = once(found)
    word = each.verdict.str.split(" on ").str[0]
    ruled_out = (word == "undecided") & (each["size"] == "smaller")
    each = each[(word.isin(["fails", "equivalent", "did not act"]) | ruled_out) & each.gain.notna()]
    lines = []
    for row in each.rename(columns={"size": "size_"}).itertuples():
        why = row.note if row.verdict == "did not act" else why_of(row)
        lines.append(f"{stated_claim(row)}{f' Why we think so: {why}.' if why else ''}")
    return lines


def why_of(row) -> str:
    """What may explain a row of claims(): what equal trials gave the other system, or a reason that we foresaw."""
    said = [c for c in CLAIMS.get(row.item, []) if row.claim in (c.words, f"{c.better} over {c.over}")]
    made = tuning.shipped(row.profile)
    for claim in said:
        of = made[made.method == MEASURED.get(claim.over)]
        if len(of) and of.recipe.any() and (gain := of.val_mAP.max() - of[of.recipe].val_mAP.iloc[0]) > 1:
            return f"equal trials gave {claim.over} {gain:.1f} mAP on validation people"
    return next((c.because for c in said if row.foreseen == "as predicted"), "")


def open_questions(found: pd.DataFrame) -> list[str]:
    """What is undecided, and what would decide it, a sentence each, the nearest to a decision first."""
    each = once(found)
    each = surest_first(each[(each.verdict == "undecided") & each.gain.notna()])
    return [f"{stated_claim(row)}{sentence(row.note)}" for row in each.itertuples()]


def sentence(note: str) -> str:
    """A note as a sentence behind another; "" of none."""
    return f" {note[0].upper()}{note[1:]}." if note else ""


def predictions(found: pd.DataFrame) -> str:
    """How our own predictions came out, as Markdown: a count, and those that failed with what was expected and why."""
    each = once(found)
    each = each[each.foreseen != ""]
    right = (each.foreseen == "as predicted").sum()
    lines = [
        f"- {row.claim} ({short(row.item)}): {fixed(row.gain, 1, '+')}{between(row.low, row.high)}, {row.foreseen}"
        for row in each[each.foreseen != "as predicted"].itertuples()
    ]
    return "\n".join(
        [f"{right} of {len(each)} predictions came true. Those that failed:" * bool(len(each)), "", *lines]
    )


def bullets(lines: list[str], empty: str) -> str:
    """Sentences as a list in Markdown, or the words for none."""
    return "\n".join(f"- {line}" for line in lines) or empty


def levels(of: Gathered, protocol: str = MAIN_PROTOCOL) -> pd.DataFrame:
    """Where the scale begins and ends: chance, the untouched start, and every row of S1 Table 3 and S2 Table 3."""
    rows, ids = {}, []
    for item in ("S1.T3", "S2.T3"):
        made = of.tables.get(item, pd.DataFrame(columns=["protocol", "measured"]))
        made = made[(made.protocol == protocol) & made.measured.notna()]
        for row, group in made.groupby("row", sort=False) if len(made) else ():
            values = group.set_index("metric")
            texts = [spread(values.measured[m], values.sd[m]) for m in CLAIMED]
            rows[f"{short(item)}: {row}"] = [*texts, values.runs.iloc[0]]
            ids += group.run_ids.iloc[0].split()
    if ids:
        folder = results_root() / of.provenance.profile.iloc[0] / "runs"
        lowest = 100 * chance(load(folder / ids[0]), protocol)
        start = {name: rows.pop(name) for name in [*rows] if name.endswith(UNTOUCHED)}
        rows = {"chance: random features": [f"{lowest[m]:.1f}" for m in CLAIMED] + [""]} | start | rows
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*(NAMES.get(m, m) for m in CLAIMED), "runs"])


def files(item: str, folder: Path) -> str:
    """Links, as HTML, to the files of an item's report, from a notebook or page beside the folder report/."""
    names = sorted(p.name for p in folder.glob(f"{item}[.-]*"))
    links = [f'<a href="../report/{name}">{name.removeprefix(item).lstrip(".")}</a>' for name in names]
    return f'<a href="{ITEMS[item].notebook}.ipynb">{ITEMS[item].notebook}</a>: ' + " ".join(links)


def overview(found: pd.DataFrame):
    """All measured claims as one table for a page: a line a claim, with a link to the notebook that shows it."""
    rows, found = [], found[found.verdict != "not measured"].rename(columns={"size": "size_"})
    counts = once(found)
    where_counted = counts[counts.comparison != ""].set_index("comparison").item
    for (item, words, setting), group in found.groupby(CLAIM, sort=False):
        first, *more = group.itertuples()
        many = (found.item == item) & (found.claim == words)
        where = f" ({setting})" if found[many].setting.nunique() > 1 else ""
        measured = spread(first.gain, math.nan, 1, "+") + between(first.low, first.high)
        link = f'<a href="{ITEMS[item].notebook}.ipynb">{short(item)}</a>'
        seeds_ = "" if first.pairs < 2 else f"{fixed(first.sd)} ({first.pairs:.0f})"
        others = [f"{spread(r.gain, math.nan, 1, '+')} {r.verdict}".strip() for r in more]
        words, metric = html.escape(words + where), NAMES.get(first.metric, first.metric)
        before = spread(first.printed, math.nan, 1, "+")
        word = first.verdict
        if first.Index not in counts.index:
            word = f"counted in {short(where_counted[first.comparison])}"
        why = "" if word.startswith("counted") else html.escape(first.note)
        rows.append([link, words, metric, before, measured, first.size_, seeds_, word, ", ".join(others), why])
    colours = {"holds": plots.RIGHT, "higher": plots.RIGHT, "fails": plots.WRONG, "lower": plots.WRONG}
    columns = ["of", "claim", "metric", "printed", "measured", "size", "sd over pairs", "verdict", "by mAP"]
    columns += ["what would decide it, or why it is not judged"]
    style = pd.DataFrame(rows, columns=columns).style.hide(axis="index")
    style = style.map(lambda word: f"color: {colours.get(word.split()[0], '#666')}", subset=["verdict"])
    style = style.set_table_attributes('style="font-size: 85%"')
    one_line = "text-align: left; vertical-align: top; white-space: nowrap"
    styles = {"th": one_line, "td": one_line} | {f"td.col{i}": "white-space: normal" for i in (1, 2, 8, 9)}
    return style.set_table_styles([{"selector": s, "props": css} for s, css in styles.items()])


MAIN_TABLES = {"S1": "S1.T3", "S2": "S2.T3"}  # the claims of a paper that its whole story hangs on


def did_it_hold(found: pd.DataFrame, paper: str) -> str:
    """Two sentences, Markdown: how many claims of a paper hold here, and its main ones with their numbers."""
    of = found[found.item.str.startswith(paper)]
    rank1 = once(of)
    rank1 = rank1[rank1.verdict != "not measured"]
    if rank1.empty:
        return f"No claim of {paper} was measured."
    out = (of.drop_duplicates(CLAIM).verdict == "not measured").sum()
    main = of[(of.item == MAIN_TABLES[paper]) & (of.metric == "rank1") & (of.protocol == MAIN_PROTOCOL)]
    parts = [
        f"{r.claim} {spread(r.gain, math.nan, 1, '+')}{between(r.low, r.high)}, printed {fixed(r.printed, 1, '+')} "
        f"(**{in_full(r)}**)"
        for r in main.rename(columns={"size": "size_"}).itertuples()
    ]
    return (
        f"Of {len(rank1)} comparisons that {paper} claims and that are measured here, each counted once, the verdicts "
        f"are: **{counted(rank1)}** ({out} more are of systems or data that nobody measures here). "
        f"The main ones in percent points of rank-1: {'; '.join(parts) or 'not measured'}."
    )


def short(item: str) -> str:
    """S1.T3 as "S1 Table 3"."""
    return ITEMS[item].title.split(":")[0]


def page(notebook: Path) -> Path:
    """An executed notebook as one HTML file beside it: no code, figures inside, nothing loaded from a network.

    What the exporter would load are scripts for formulas and widgets; without them formulas stay as they are written.
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab", exclude_input=True, exclude_input_prompt=True)
    exporter.exclude_output_prompt = True
    body, _ = exporter.from_filename(str(notebook))
    body = re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL)
    target = notebook.with_suffix(".html")
    target.write_text(body)
    return target
