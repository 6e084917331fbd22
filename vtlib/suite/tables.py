"""Tables of finished runs: measured beside printed, mean and spread over seeds, with their units."""

import math
from collections.abc import Callable, Iterable

import pandas as pd

from ..common import results_root
from ..runs import METRICS, Run, collect, load
from . import compare
from .items import ITEMS, LADDER

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
