"""The systems of the field side by side: what each costs, and whether the order that is printed is the one measured."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import rankdata

from . import plots
from .tables import Rows

DRAWS = 10_000


def costs(runs: Rows) -> pd.DataFrame:
    """What the first run of each row cost: parameters, milliseconds a training step, GB of memory at most, device.

    Runs side by side wait for each other: compare the milliseconds of one call of the suite only.
    """
    rows = {}
    for row, (run, *_) in runs.items():
        history, e = run.history, run.experiment
        steps = e.steps_per_epoch * e.epochs
        peak = run.metrics.get("peak_memory") or {}
        rows[row] = {
            "parameters": run.metrics["parameters"],
            "ms a step": 1000 * history.seconds.sum() / steps if steps and len(history) else np.nan,
            "GB": max((v for v in peak.values() if v), default=np.nan),
            "device": run.metrics["device"],
        }
    return pd.DataFrame(rows).T.infer_objects()


def ranks(table: pd.DataFrame, setting: str = "all") -> pd.DataFrame:
    """Systems with a printed and a measured rank-1: columns printed and measured (percent), their ranks, 1 the best.

    Args: table: tables.table() of X.T3; setting: the layout, "all" of SYSU-MM01 or "v2t" of RegDB.
    """
    part = table[(table.metric == "rank1") & (table.setting == setting)]
    values = part.set_index("row")[["printed", "measured"]].dropna()
    order = values.rank(ascending=False).add_suffix(" rank")
    return values.join(order).assign(moved=order["printed rank"] - order["measured rank"])


def spearman(values: pd.DataFrame) -> tuple[float, float, float]:
    """Spearman's rank correlation of columns printed and measured, and its 95 % bootstrap interval over systems.

    Systems are drawn with replacement; draws in which all values of a column are equal are left out.
    """
    x = values[["printed", "measured"]].to_numpy(float)
    rows = np.random.default_rng(0).integers(0, len(x), (DRAWS, len(x)))
    drawn = correlation(rankdata(x[rows], axis=1))
    low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975])
    return float(correlation(rankdata(x, axis=0)[None])[0]), float(low), float(high)


def correlation(pairs: np.ndarray) -> np.ndarray:
    """Pearson's correlation (d,) of the two columns of each of d tables (d, n, 2); NaN where a column is constant."""
    a, b = np.moveaxis(pairs - pairs.mean(1, keepdims=True), 2, 0)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def order(values: pd.DataFrame, title: str) -> Figure:
    """Printed beside measured rank-1 of each system, as points with names.

    Args: values: of ranks(); title.
    """
    fig, axes = plots.figure(1, 1, width=7.5, height=5.5)
    ax = axes[0, 0]
    ax.scatter(values.printed, values.measured, s=28)
    for name, row in values.iterrows():
        ax.annotate(name.split(",")[0], (row.printed, row.measured), xytext=(4, 3), textcoords="offset points", size=8)
    ax.set(xlabel="printed rank-1, percent", ylabel="measured rank-1, percent", title=title)
    return fig
