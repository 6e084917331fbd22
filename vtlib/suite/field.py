"""The systems of the field side by side: what each costs, and whether the order that is printed is the one measured."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

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


def ranks(table: pd.DataFrame, measured: str = "all", printed: str = "all") -> pd.DataFrame:
    """Systems with a printed and a measured rank-1: columns printed and measured (percent), their ranks, 1 the best.

    Args: table: tables.table() of X.T3; measured, printed: settings.
    """
    part = table[table.metric == "rank1"]
    values = part[part.setting == printed].set_index("row").printed.to_frame()
    values["measured"] = part[part.setting == measured].set_index("row").measured
    values = values.dropna()
    order = values.rank(ascending=False).add_suffix(" rank")
    return values.join(order).assign(moved=order["printed rank"] - order["measured rank"])


def spearman(values: pd.DataFrame) -> tuple[float, float, float]:
    """Spearman's rank correlation of columns printed and measured, and its 95 % bootstrap interval over systems.

    Systems are drawn with replacement; draws in which all values of a column are equal are left out.
    """
    x = values[["printed", "measured"]].to_numpy(float)
    g, found = np.random.default_rng(0), []
    for rows in g.integers(0, len(x), (DRAWS, len(x))):
        a, b = pd.DataFrame(x[rows]).rank().to_numpy().T
        if a.std() and b.std():
            found.append(np.corrcoef(a, b)[0, 1])
    rho = np.corrcoef(*pd.DataFrame(x).rank().to_numpy().T)[0, 1]
    return float(rho), *(float(q) for q in np.quantile(found, [0.025, 0.975]))


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
