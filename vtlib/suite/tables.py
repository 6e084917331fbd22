"""Tables of finished runs: measured numbers beside printed ones, with their spread over seeds, in percent.

The rows of a table are given as Rows: the finished runs of each row, by the row's name.
"""

import math
from collections.abc import Callable, Iterable

import pandas as pd

from ..common import results_root
from ..runs import METRICS, Run, collect, load
from . import compare
from .items import ITEMS, LABELS

CLAIMED = ("rank1", "mAP")  # the metrics of a claim: the first decides (compare.RULE), both are shown
NAMES = {f"rank{k}": f"rank-{k}" for k in (1, 5, 10, 20)}  # of metrics, as a reader sees them
Rows = dict[str, list[Run]]


def under(runs: Rows, protocol: str) -> Rows:
    """The runs of each row that were measured under a protocol; a row without one is left out."""
    rows = {row: [r for r in group if protocol in r.metrics["protocols"]] for row, group in runs.items()}
    return {row: group for row, group in rows.items() if group}


def comparable(runs: Rows, protocol: str | None = None) -> None:
    """Check that runs may stand in one table.

    Args: runs: all must be of one profile; protocol: under it, all runs of a split must be of one data set with the
        same bytes, one number of trials and one precision.
    Raises: ValueError that names the runs which differ.
    """

    def check(what: str, value: Callable[[Run], object], group: list[Run]) -> None:
        kinds = {str(value(r)): r.experiment.run_id for r in group}
        if len(kinds) > 1:
            named = " and ".join(f"{kind} (run {run_id})" for kind, run_id in kinds.items())
            raise ValueError(f"{what} differ, {named}: they cannot stand in one table")

    all_runs = [r for group in runs.values() for r in group]
    check("profiles", lambda r: r.experiment.profile, all_runs)
    for split in {r.experiment.split for r in all_runs} if protocol else ():
        group = [r for rows in under(runs, protocol).values() for r in rows if r.experiment.split == split]
        check(f"data of {protocol}", lambda r: f"{r.experiment.data}, digest {r.metrics['data_digest'][:12]}", group)
        check(f"trials of {protocol}", lambda r: len(r.trials(protocol)), group)
        check(f"precisions of {protocol}", lambda r: r.metrics["precision"], group)


def finished(profile: str, item: str) -> Rows:
    """The finished runs of a table's rows; nothing is trained. Args: profile; item: key of the table in ITEMS."""
    root, rows = results_root() / profile / "runs", {}
    for row, group in ITEMS[item].experiments(profile).items():
        folders = [root / e.run_id for e in group]
        rows[row] = [load(folder) for folder in folders if (folder / "metrics.json").is_file()]
    return rows


def at_hand(profile: str, item: str) -> dict[str, list]:
    """The experiments of a table's rows: its longer rows (items.Item.longer) where all their runs are finished."""
    longer = ITEMS[item].experiments(profile, longer=True)
    root = results_root() / profile / "runs"
    if all((root / e.run_id / "metrics.json").is_file() for group in longer.values() for e in group):
        return longer
    return ITEMS[item].experiments(profile)


MEASURED_COLUMNS = ["data", "profile", "protocol", "measured", "sd", "runs", "run_ids"]
DIFFERENCE = ["difference", "difference_low", "difference_high", "difference_sd", "pairs"]  # first fields of Gain


def table(item: str, runs: Rows, own: dict[str, str] | None = None) -> pd.DataFrame:
    """A table of a paper, tidy, in percent: printed and measured values, and their differences to another row.

    Columns: row, setting, metric, printed; data, profile, protocol, measured (mean over runs of the mean over trials),
    sd (over runs, NaN for one), runs, run_ids; over (the other row), printed_difference, difference (of runs paired by
    seed and split), difference_low, difference_high (over people and seeds), difference_sd (over pairs), pairs.

    Args: item: key of the table in ITEMS; runs: of its rows; own: of rows that the paper's table does not have, the
        row that each is compared to.
    Raises: ValueError for runs that cannot stand in one table.
    """
    spec, rows = ITEMS[item], []
    compared_to = {**spec.compared_to, **(own or {})}
    comparable(runs)
    for setting, protocol in spec.settings.items():
        comparable(runs, protocol)
        groups = under(runs, protocol)
        for row, group in groups.items():
            over = compared_to.get(row, "")
            gains = compare.between(group, groups.get(over, []), protocol)
            for metric in METRICS:
                gain = gains.get(metric, compare.NO_GAIN)
                values = {"row": row, "setting": setting, "metric": metric, "over": over if gains else ""}
                values |= measured(group, metric, protocol)
                rows.append(values | dict(zip(DIFFERENCE, gain, strict=False)))
    keys = ["row", "setting", "metric"]
    rows = pd.DataFrame(rows, columns=[*keys, *MEASURED_COLUMNS, "over", *DIFFERENCE])
    frame = spec.printed.drop(columns="source").merge(rows, on=keys, how="outer", sort=False)
    frame["over"] = frame.over.where(frame.over.notna() & (frame.over != ""), frame.row.map(compared_to))
    printed = spec.printed.set_index(keys).printed
    below = [printed.get(key, math.nan) for key in zip(frame.over, frame.setting, frame.metric, strict=True)]
    frame.insert(frame.columns.get_loc("over") + 1, "printed_difference", frame.printed - below)
    order = {row: i for i, row in enumerate(dict.fromkeys([*spec.printed.row, *runs]))}
    if item == "S1.F4":  # its rows are numbers, and only one is printed
        order = {row: float(row) for row in order}
    return frame.sort_values("row", key=lambda c: c.map(order), kind="stable", ignore_index=True)


def measured(group: list[Run], metric: str, protocol: str) -> dict:
    """What is measured of one row, and on what: the columns MEASURED_COLUMNS of table()."""
    values, first = 100 * collect(group, protocol)[metric], group[0].experiment
    ids = " ".join(r.experiment.run_id for r in group)
    numbers = {"measured": values.mean(), "sd": values.std(ddof=1), "runs": len(group)}
    stamp = group[0].stamped(protocol)
    return {"data": first.data, "profile": first.profile, "protocol": stamp, **numbers, "run_ids": ids}


def of_figure(frame: pd.DataFrame, runs: Rows) -> pd.DataFrame:
    """The numbers of a figure as a tidy table with the columns that a report needs.

    Args: frame: row, metric, measured, sd if any, and more; runs: by row, the runs behind its numbers. A row that is
        not among them is of all of them.
    """
    comparable(runs)
    all_of_them = list({r.experiment.run_id: r.experiment for group in runs.values() for r in group}.values())
    ids_of = {row: " ".join(r.experiment.run_id for r in group) for row, group in runs.items()}
    all_ids = " ".join(e.run_id for e in all_of_them)
    defaults = {"printed": math.nan, "sd": math.nan, "profile": all_of_them[0].profile}  # no figure prints a number
    missing = {name: value for name, value in defaults.items() if name not in frame}
    data = " and ".join(dict.fromkeys(e.data for e in all_of_them))
    return frame.assign(**missing, data=data, run_ids=frame.row.map(ids_of).fillna(all_ids))


def every_run(runs: Rows, protocol: str) -> pd.DataFrame:
    """Every run by itself, for figures that show each seed: row, metric, value in percent."""
    frames = {row: 100 * collect(group, protocol)[METRICS] for row, group in under(runs, protocol).items()}
    return pd.concat(frames).droplevel(1).rename_axis("row").reset_index().melt("row", var_name="metric")


def fixed(value: float, digits: int = 1, sign: str = "") -> str:
    """A number with so many decimals. One that rounds to zero has no sign; sign="+" shows that of all others."""
    rounded = round(float(value), digits)
    return f"{rounded:{sign}.{digits}f}" if rounded else f"{0:.{digits}f}"


def spread(mean: float, sd: float, digits: int = 1, sign: str = "") -> str:
    """A mean and, if it is not NaN, its standard deviation, as text; "" for a mean of NaN."""
    return "" if pd.isna(mean) else fixed(mean, digits, sign) + ("" if pd.isna(sd) else f" +- {fixed(sd, digits)}")


def between(low: float, high: float, digits: int = 1) -> str:
    """An interval as text; "" for NaN. An end near zero has up to two more digits, to show its sign."""

    def end(value: float) -> str:
        return next((t for d in range(digits, digits + 3) if float(t := fixed(value, d, "+"))), fixed(0, digits))

    return "" if pd.isna(low) else f" [{end(low)}, {end(high)}]"


def in_words(table: pd.DataFrame, metrics: Iterable[str] = CLAIMED) -> pd.DataFrame:
    """A table() as text for a reader: printed, measured and both differences, each in a block of columns.

    Only metrics in CLAIMED have differences.
    """
    shown = table[table.metric.isin(list(metrics))]
    data = " and ".join(dict.fromkeys(shown.data.dropna()))
    blocks = {
        "printed": [spread(v, math.nan, 2) for v in shown.printed],
        f"measured on {data}": [spread(*v) for v in zip(shown.measured, shown.sd, strict=True)],
    }
    claimed = shown.metric.isin(CLAIMED)
    columns = (shown[c].where(claimed) for c in ("difference", "difference_sd", "difference_low", "difference_high"))
    blocks["difference, printed"] = [spread(v, math.nan, 2, "+") for v in shown.printed_difference.where(claimed)]
    blocks["difference, measured"] = [
        spread(gain, sd, 1, "+") + between(*ends) for gain, sd, *ends in zip(*columns, strict=True)
    ]
    frames = []
    for name, texts in blocks.items():
        frame = shown.assign(text=texts).pivot(index="row", columns=["setting", "metric"], values="text").fillna("")
        frame = frame.reindex(columns=pd.MultiIndex.from_product([dict.fromkeys(table.setting), metrics]))
        frames.append(pd.concat({name: frame.loc[:, (frame.fillna("") != "").any()]}, axis=1))
    frame = pd.concat(frames, axis=1).loc[list(dict.fromkeys(shown.row))].rename_axis(index=None)
    frame["difference to", "", ""] = shown.drop_duplicates("row").set_index("row").over.fillna("")
    return frame.rename(columns=NAMES, level=2).rename(
        index=lambda row: f"{row}, {LABELS[row]}" if row in LABELS else row
    )


def wide(table: pd.DataFrame, metrics: Iterable[str] = CLAIMED):
    """in_words() as a Styler for a notebook: settings below each other, each interval below its difference.

    Measured values are mean +- standard deviation over runs; intervals are over people and seeds.
    """
    metrics, several = list(metrics), table.setting.nunique() > 1
    blocks = {}
    for setting, part in table.groupby("setting", sort=False):
        data = " and ".join(dict.fromkeys(part.data.dropna()))
        frame = in_words(part, metrics).droplevel(1, axis=1)
        blocks[f"{setting}<br>{data}"] = frame.rename(
            columns={f"measured on {data}": "measured"} if several else {}, level=0
        )
    frame = pd.concat(blocks) if several else frame
    props = {"th": "text-align: center", "td": "white-space: nowrap; vertical-align: top"}
    props |= {"th.row_heading": "text-align: left", f"td.col{len(frame.columns) - 1}": "white-space: normal"}
    style = frame.fillna("").style.format(lambda text: text.replace(" [", "<br>["))
    style = style.set_table_attributes('style="font-size: 85%"')
    return style.set_table_styles([{"selector": name, "props": css} for name, css in props.items()])


def latex(table: pd.DataFrame) -> str:
    """A table() or of_figure() as a LaTeX tabular, for \\usepackage{booktabs}."""
    if "setting" in table and "over" in table:
        frame = in_words(table)
    else:
        frame = table.assign(measured=[spread(*v, 3) for v in zip(table.measured, table.sd, strict=True)])
        names = [c for c in ("row", "metric", "epoch", "measured") if c in frame]
        frame = frame[names].astype(str).set_index("row").rename_axis(None)
    text = frame.to_latex(escape=True, multicolumn_format="c", na_rep="")
    return text.replace(" +- ", " $\\pm$ ").replace("+-", "$\\pm$")
