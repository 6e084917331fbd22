"""Figures: tidy data in, matplotlib Figure out. Nothing is trained, shown or saved here.

seaborn is imported where it draws: a run's lab book does without it and its two seconds.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "font.size": 9}
RIGHT, WRONG = "#2a9d3a", "#c8382e"


def figure(
    rows: int = 1, columns: int = 1, width: float = 4.2, height: float = 3.0, **options
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns) in the house style; closed, so that a notebook shows it once."""
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(
            rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained", **options
        )
    plt.close(fig)
    return fig, axes


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss terms, validation, gradient norm and learning rate of one run by epoch. history: rows of Run.history."""
    other = {"epoch", "lr", "loss", "grad_norm", "images_per_second", "seconds"}
    terms = [c for c in history if c not in other and not c.startswith("val_")]
    found = [c for c in ("val_rank1", "val_mAP") if c in history]
    fig, ((left, second, third, right),) = figure(1, 4, width=2.9, height=2.6)
    for ax, columns, title in (
        (left, terms, "loss terms, unweighted"),
        (second, found, "validation identities, fractions"),
    ):
        for column in columns:
            ax.plot(history.epoch, history[column], label=column.removeprefix("val_"))
        ax.set(title=title, xlabel="epoch", ylim=(0, None))
        if columns:
            ax.legend(frameon=False)
    third.plot(history.epoch, history.grad_norm, color="0.3")
    third.set(title="gradient norm", xlabel="epoch", ylim=(0, None))
    right.step(history.epoch, history.lr, where="mid", color="0.3")
    right.set(title="learning rate", xlabel="epoch", yscale="log")
    return fig


def points(table: pd.DataFrame, metrics: list[str], title: str) -> Figure:
    """Every run as a point beside its row's mean, a panel a metric. table: row, metric, value (percent)."""
    import seaborn as sns

    fig, axes = figure(1, len(metrics), width=3.6, height=0.5 * table.row.nunique() + 1.2, sharey=True)
    for ax, metric in zip(axes[0], metrics, strict=True):
        part = table[table.metric == metric]
        thin = {"linewidth": 1.2, "alpha": 0.6}
        sns.pointplot(
            part, x="value", y="row", ax=ax, linestyle="none", errorbar="sd", capsize=0.2, err_kws=thin, color="#1f6fb2"
        )
        sns.stripplot(part, x="value", y="row", ax=ax, color="0.2", size=4, jitter=False, zorder=9)
        ax.set(title=metric.replace("rank", "rank-"), xlabel="percent", ylabel="")
    fig.suptitle(title)
    return fig


def intervals(table: pd.DataFrame, title: str) -> Figure:
    """Values with their intervals, a panel each (titles of column panel); dotted at chance.

    table: panel, row, value, low, high, chance (percent), rows from the top; an interval may be NaN.
    """
    panels, rows = list(dict.fromkeys(table.panel)), list(dict.fromkeys(table.row))
    fig, axes = figure(1, len(panels), width=3.2, height=0.26 * len(rows) + 1.1, sharey=True)
    for ax, panel in zip(axes[0], panels, strict=True):
        part = table[table.panel == panel]
        place = part.row.map(rows.index)
        ax.hlines(place, part.low, part.high, color="#1f6fb2", linewidth=1.6, alpha=0.6)
        ax.plot(part.value, place, "o", color="#1f6fb2", markersize=4.5)
        ax.axvline(part.chance.iloc[0], color="0.4", linestyle=":", linewidth=1)
        ax.set(title=panel, xlabel="percent", xlim=(0, None))
        ax.title.set_fontsize(8)
    axes[0, 0].set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5))
    fig.suptitle(title)
    return fig


def lambda_sweep(table: pd.DataFrame, title: str) -> Figure:
    """Rank-1 and mAP over the weight of CMDC (S1 Figure 4). table: lambda, metric, value (percent), a row a run."""
    import seaborn as sns

    fig, ((ax,),) = figure(width=5.0)
    sns.lineplot(table, x="lambda", y="value", hue="metric", style="metric", markers=True, errorbar="sd", ax=ax)
    ax.set(title=title, xlabel="lambda, the weight of CMDC", ylabel="percent")
    ax.legend(frameon=False, title=None)
    return fig


def convergence(table: pd.DataFrame) -> Figure:
    """CMDC by epoch, training and validation side by side (S1 Figure 5). table: layout, part, epoch, cmdc."""
    import seaborn as sns

    fig, axes = figure(1, 2, sharey=False)
    for ax, (part, rows) in zip(axes[0], table.groupby("part", sort=False), strict=True):
        sns.lineplot(rows, x="epoch", y="cmdc", hue="layout", ax=ax)
        ax.set(title=f"CMDC, {part}", ylabel="", ylim=(0, 1.05 * rows.cmdc.max()))
        ax.legend(frameon=False, title=None)
    return fig


def similarity_distributions(table: pd.DataFrame) -> Figure:
    """Densities of the cosine similarities of visible-thermal pairs (S2 Figure 1): a column a panel, a row a level.

    table: panel, level, kind, similarity; both levels of a panel share their axis.
    """
    import seaborn as sns

    panels, levels = list(dict.fromkeys(table.panel)), list(dict.fromkeys(table.level))
    fig, axes = figure(len(levels), len(panels), width=2.7, height=1.9, sharex="col")
    for i, level in enumerate(levels):
        for ax, panel in zip(axes[i], panels, strict=True):
            part = table[(table.panel == panel) & (table.level == level)]
            shared = {"stat": "density", "common_norm": False, "element": "step", "legend": ax is axes[0, 0]}
            sns.histplot(part, x="similarity", hue="kind", palette=[RIGHT, WRONG], bins=50, ax=ax, **shared)
            ax.set(title=panel if i == 0 else "", ylabel=level if panel == panels[0] else "", yticks=[])
    if legend := axes[0, 0].get_legend():
        legend.set(title=None, frame_on=False)
    return fig


def relations(points: pd.DataFrame, anchors: dict[str, np.ndarray]) -> Figure:
    """Which pairs a relation makes (S2 Figure 3): anchor to its positives (green) and negatives (red), a panel each.

    Args: points: x, y, label, modality (0, 1), centre (bool), a row each; anchors: {relation: (n, 3) whole numbers,
        rows of anchor and candidate and whether they are one person}.
    """
    import seaborn as sns

    fig, axes = figure(1, len(anchors), width=3.4, height=3.2)
    labels = sorted(points.label.unique())
    colour = dict(zip(labels, sns.color_palette("husl", len(labels)), strict=True))
    xy = points[["x", "y"]].to_numpy()
    for ax, (name, pairs) in zip(axes[0], anchors.items(), strict=True):
        for a, b, same in pairs:
            ax.plot(*xy[[a, b]].T, color=RIGHT if same else WRONG, linewidth=1.2 if same else 0.4, zorder=1)
        for modality, (kind, marker) in enumerate((("visible", "o"), ("thermal", "^"))):
            for centre, size in ((False, 26), (True, 120)):
                part = points[(points.modality == modality) & (points.centre == centre)]
                edge = "black" if centre else "none"
                shown = f"{kind} {'centre' if centre else 'sample'}"
                colours = [colour[label] for label in part.label]
                ax.scatter(part.x, part.y, c=colours, marker=marker, s=size, edgecolors=edge, label=shown, zorder=2)
        ax.set(title=name, xticks=[], yticks=[])
        ax.grid(False)
    axes[0, -1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def kept_pairs(similarity: np.ndarray, positive: np.ndarray, kept: dict[str, np.ndarray]) -> Figure:
    """Which pairs each mining keeps (S2 Figure 4): a matrix of anchors and candidates a panel, dropped pairs pale.

    Args: similarity (A, B); positive (A, B) bool, framed; kept: {name: (A, B) bool}.
    """
    fig, axes = figure(1, len(kept), width=3.6, height=3.4)
    low, high = similarity.min(), similarity.max()
    for ax, (name, mask) in zip(axes[0], kept.items(), strict=True):
        image = ax.imshow(similarity, cmap="viridis", vmin=low, vmax=high, alpha=np.where(mask, 1.0, 0.12))
        for a, b in zip(*np.nonzero(positive), strict=True):
            colour = RIGHT if mask[a, b] else WRONG
            ax.add_patch(plt.Rectangle((b - 0.5, a - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=1.2))
        share = f"{mask[positive].mean():.0%} of positives, {mask[~positive].mean():.0%} of negatives"
        ax.set(title=f"{name}: {share}", xlabel="candidates", ylabel="anchors", xticks=[], yticks=[])
        ax.title.set_fontsize(8)
        ax.grid(False)
    fig.colorbar(image, ax=axes[0].tolist(), shrink=0.8, label="cosine similarity")
    return fig


def tsne(points: pd.DataFrame, title: str) -> Figure:
    """A two-dimensional embedding. points: x, y, pid, modality (0, 1), panel; one panel side by side for each value."""
    import seaborn as sns

    panels = list(dict.fromkeys(points.panel))
    fig, axes = figure(1, len(panels), width=4.0, height=3.8)
    pids = sorted(points.pid.unique())
    colour = dict(zip(pids, sns.color_palette("husl", len(pids)), strict=True))
    for ax, panel in zip(axes[0], panels, strict=True):
        for modality, (name, marker) in enumerate((("visible", "o"), ("thermal", "^"))):
            part = points[(points.panel == panel) & (points.modality == modality)]
            ax.scatter(part.x, part.y, c=[colour[p] for p in part.pid], marker=marker, s=22, label=name, linewidths=0)
        ax.set(title=panel, xticks=[], yticks=[])
        ax.grid(False)
    axes[0, 0].legend(frameon=False, loc="best")
    fig.suptitle(title)
    return fig


def sheet(pixels: np.ndarray, columns: int, titles: list[str] | None = None) -> Figure:
    """Images (n, 3, H, W) uint8 in rows of `columns`, each with a title."""
    rows = -(-len(pixels) // columns)
    height = 1.1 * pixels.shape[2] / pixels.shape[3] + (0.25 if titles else 0)
    fig, axes = figure(rows, columns, width=1.1, height=height)
    for i, ax in enumerate(axes.flat):
        ax.axis("off")
        if i < len(pixels):
            ax.imshow(pixels[i].transpose(1, 2, 0))
            ax.set_title(titles[i] if titles else "", fontsize=7)
    return fig


def retrievals(
    pixels: np.ndarray, queries: np.ndarray, found: np.ndarray, right: np.ndarray, names: list[str]
) -> Figure:
    """Queries with what they found, nearest first, framed green where it is the same person.

    Args: pixels (N, 3, H, W) uint8; queries (n,) rows; found (n, k) rows, -1 for none; right (n, k) bool; names (n,).
    """
    n, k = found.shape
    fig, axes = figure(n, k + 1, width=0.85, height=0.85 * pixels.shape[2] / pixels.shape[3] + 0.15)
    for i in range(n):
        axes[i, 0].imshow(pixels[queries[i]].transpose(1, 2, 0))
        axes[i, 0].set_title(names[i], fontsize=7)
        for j in range(k):
            if found[i, j] >= 0:
                axes[i, j + 1].imshow(pixels[found[i, j]].transpose(1, 2, 0))
            for spine in axes[i, j + 1].spines.values():
                spine.set(visible=True, color=RIGHT if right[i, j] else WRONG, linewidth=2.5)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    return fig


def save(fig: Figure, path: Path) -> Path:
    """Write a figure as <path>.png beside <path>.pdf, both the same bytes each time; returns the PNG's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".png")  # may have a dot: S1.T3
    pdf, png = (path.with_name(f"{name}.{kind}") for kind in ("pdf", "png"))
    fig.savefig(pdf, metadata={"CreationDate": None}, bbox_inches="tight")  # a long title is not cut
    fig.savefig(png, dpi=150, bbox_inches="tight")
    return png
