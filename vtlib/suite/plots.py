"""Figures: each function takes tables or arrays and returns a matplotlib Figure, except save(), which writes one."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "font.size": 9}
RIGHT, WRONG, BLUE = "#2a9d3a", "#c8382e", "#1f6fb2"
KINDS = [BLUE, "#e07b00", "#7b5ea7", "#222222"]  # of the kinds of intervals that share a row
# 19 colours of people, distinct in print and for most eyes (Kelly 1965 without white, black and grey)
PEOPLE = ["#e68fac", "#008856", "#f38400", "#a1caf1", "#be0032", "#0067a5", "#f3c300", "#875692", "#654522", "#8db600"]
PEOPLE += ["#f99379", "#604e97", "#f6a600", "#b3446c", "#dcd300", "#882d17", "#c2b280", "#e25822", "#2b3d26"]


def figure(
    rows: int = 1, columns: int = 1, width: float = 4.2, height: float = 3.0, **options
) -> tuple[Figure, np.ndarray]:
    """A figure in STYLE and its axes (rows, columns); width and height in inches are those of one axes.

    The figure is closed, so that a notebook shows it only where a cell returns it.
    """
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(
            rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained", **options
        )
    plt.close(fig)
    return fig, axes


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss terms, validation, gradient norm and learning rate of one run, by epoch.

    Args: history: Run.history, a row an epoch.
    """
    other = {"epoch", "lr", "loss", "grad_norm", "images_per_second", "seconds"}
    terms = [c for c in history if c not in other and not c.startswith(("val_", "weight_")) and "." not in c]
    validation = [c for c in ("val_rank1", "val_mAP") if c in history]
    fig, ((left, second, third, right),) = figure(1, 4, width=2.9, height=2.6)
    for ax, columns, title in (
        (left, terms, "loss terms, unweighted"),
        (second, validation, "validation identities, fractions"),
    ):
        for column in columns:
            rows = history[history[column].notna()]
            marker = "." * (len(rows) < len(history))  # epochs without a value leave gaps: then mark the points
            ax.plot(rows.epoch, rows[column], marker=marker, label=column.removeprefix("val_"))
        ax.set(title=title, xlabel="epoch", ylim=(0, None))
        if columns:
            ax.legend(frameon=False)
        else:
            ax.text(0.5, 0.5, "nobody was held out", ha="center", transform=ax.transAxes, color="0.4")
    third.plot(history.epoch, history.grad_norm, color="0.3")
    third.set(title="gradient norm", xlabel="epoch", ylim=(0, None))
    right.step(history.epoch, history.lr, where="mid", color="0.3")
    right.set(title="learning rate", xlabel="epoch", yscale="log")
    return fig


def mechanisms(histories: dict[str, pd.DataFrame]) -> Figure:
    """By epoch, a line for each run: the metric losses' share of the gradient, and the spread of what they compare.

    Args: histories: Run.history by row of a table, with the columns that mechanisms.py adds.
    """
    fig, ((left, right),) = figure(1, 2, width=3.6, height=3.0)
    for i, (row, history) in enumerate(histories.items()):
        style = {"color": PEOPLE[(i // 2) % len(PEOPLE)], "linestyle": ("-", ":")[row.endswith("pooled")], "label": row}
        shares = [c for c in history if c.endswith(".gradient") and c != "id.gradient"]
        spreads = [c for c in history if c.endswith(".spread")]
        if shares:
            left.plot(history.epoch, 100 * history[shares].sum(axis=1), **style)
        if spreads:
            right.plot(history.epoch, history[spreads[0]], **style)
    left.set(title="metric loss: share of the gradient", xlabel="epoch", ylabel="percent", ylim=(0, 100))
    right.set(title="spread of what it compares", xlabel="epoch", yscale="log")
    right.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def hinge(histories: dict[str, pd.DataFrame], name: str, margin: float) -> Figure:
    """The two distances that a hinge loss compares, and its value, by epoch; its margin is dotted.

    Args: histories: Run.history by row of a table, a panel each, with columns <name>, <name>.near and <name>.far;
        name: of the loss; margin: in feature distance.
    """
    fig, (axes,) = figure(1, max(1, len(histories)), width=3.2, height=2.6)
    for ax, (row, history) in zip(axes, histories.items(), strict=False):
        for column, colour in ((f"{name}.near", WRONG), (f"{name}.far", RIGHT), (name, "0.2")):
            ax.plot(history.epoch, history[column], color=colour, label=column.removeprefix(f"{name}."))
        ax.axhline(margin, color="0.4", linestyle=":", linewidth=1.2, label="margin")
        ax.set(title=row, xlabel="epoch", ylim=(0, None))
        ax.legend(frameon=False, fontsize=7)
    return fig


def calibration(table: pd.DataFrame, shipped: str) -> Figure:
    """How often rules of verdict are wrong in a whole report, and how large a gain must be for them to see it.

    Left: share of reports with a wrong verdict where no system is better, in percent, with 1 % dotted. Right: share of
    true gains that the rule says hold, by size, with 80 % dotted.
    Args: table: of calibrate.measure(); shipped: the rule in use, which is drawn dark.
    """
    hard = table[table.world == "people and seeds"].set_index("rule")
    power = hard[[c for c in hard if c.startswith("power_") and "seeds" not in c]]
    sizes = [float(c.removeprefix("power_")) for c in power]
    fig, ((left, right),) = figure(1, 2, width=4.6, height=0.28 * len(hard) + 1.3)
    for i, rule in enumerate(hard.index):
        colour = "0.1" if rule == shipped else PEOPLE[i % len(PEOPLE)]
        wide = 2.4 if rule == shipped else 1.2
        for place, column, mark in ((-0.12, "family_holds", "o"), (0.12, "family_fails", "x")):
            left.plot(hard.loc[rule, column], i + place, mark, color=colour, label=column.replace("family_", "wrong "))
        right.plot(sizes, power.loc[rule], color=colour, linewidth=wide, label=rule)
    left.axvline(1, color="0.4", linestyle=":", linewidth=1.2)
    left.set(title="no gain anywhere", xlabel="reports with a wrong verdict, percent", xlim=(-2, 102))
    left.set_yticks(range(len(hard)), hard.index, fontsize=7)
    handles, names = left.get_legend_handles_labels()
    left.legend(handles[:2], names[:2])
    left.invert_yaxis()
    right.axhline(80, color="0.4", linestyle=":", linewidth=1.2)
    right.set(title="a gain in every comparison", xlabel="its size, percent points", ylabel="said to hold, percent")
    return fig


def rows(table: pd.DataFrame, ahead: pd.DataFrame, chance: pd.Series, title: str) -> Figure:
    """Rows of a table: for each metric a panel of levels, and one of gains over the row that is named at the right.

    Levels: each run as a dark dot, mean and standard deviation over runs in blue, chance dotted. Gains: mean and its
    95 % interval over people and seeds, 0 dotted.
    Args: table: columns row, metric, value (percent), a line for each run; ahead: columns row, metric, over (the other
        row), difference, difference_low, difference_high (percent points), NaN where there is none; chance: percent,
        by metric; title.
    """
    names, metrics = list(dict.fromkeys(table.row)), list(dict.fromkeys(table.metric))
    fig, axes = figure(1, 2 * len(metrics), width=2.3, height=0.34 * len(names) + 1.5, sharey=True)
    ahead = ahead[ahead.difference.notna() & ahead.row.isin(names)]
    for i, metric in enumerate(metrics):
        left, right, name = axes[0, i], axes[0, len(metrics) + i], metric.replace("rank", "rank-")
        part = table[table.metric == metric]
        each, place = part.groupby("row", sort=False).value, part.row.map(names.index)
        means, at = each.mean(), [names.index(row) for row in each.mean().index]
        left.errorbar(means, at, xerr=each.std(), fmt="o", color=BLUE, markersize=6, capsize=3, elinewidth=1.2)
        left.plot(part.value, place, ".", color="0.15", markersize=4)
        left.axvline(chance[metric], color="0.4", linestyle=":", linewidth=1.2, label=f"chance {chance[metric]:.1f}")
        left.set(title=name, xlabel="percent", xlim=(0, 1.08 * max(part.value.max(), chance[metric])))
        left.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, -0.02), handlelength=1.2)
        gain = ahead[ahead.metric == metric]
        at = gain.row.map(names.index)
        right.hlines(at, gain.difference_low, gain.difference_high, color=BLUE, linewidth=1.8, alpha=0.6)
        right.plot(gain.difference, at, "o", color=BLUE, markersize=4.5)
        right.axvline(0, color="0.4", linestyle=":", linewidth=1.2)
        right.set(title=f"gain in {name}", xlabel="percent points")
        for ax in (left, right):
            ax.title.set_fontsize(9)
    last = axes[0, -1]
    for row, over in ahead.drop_duplicates("row")[["row", "over"]].itertuples(index=False):
        last.text(1.02, names.index(row), f"to {over}", transform=last.get_yaxis_transform(), va="center", fontsize=7)
    axes[0, 0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.2, -0.6))
    fig.suptitle(title)
    return fig


def intervals(table: pd.DataFrame, title: str) -> Figure:
    """Values with their intervals by row, in panels; chance is dotted.

    Args: table: columns panel (its title), row, value, low, high, chance (percent), rows from top to bottom; low and
        high may be NaN. With a column kind, each kind has a colour, and within a row a line of its own; title.
    """
    panels, rows = list(dict.fromkeys(table.panel)), list(dict.fromkeys(table.row))
    table = table.assign(kind=table.get("kind", ""))
    kinds = list(dict.fromkeys(table.kind))
    height = 0.26 * len(rows) * (1 + 0.4 * (len(kinds) - 1)) + 1.1
    fig, axes = figure(1, len(panels), width=3.2, height=height, sharey=True)
    for ax, panel in zip(axes[0], panels, strict=True):
        part = table[table.panel == panel]
        for i, kind in enumerate(kinds):
            own, colour = part[part.kind == kind], KINDS[i % len(KINDS)]
            place = own.row.map(rows.index) + (i - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
            ax.hlines(place, own.low, own.high, color=colour, linewidth=1.6, alpha=0.6)
            ax.plot(own.value, place, "o", color=colour, markersize=4.5, label=kind)
        ax.axvline(part.chance.iloc[0], color="0.4", linestyle=":", linewidth=1)
        ax.set(title=panel, xlabel="percent", xlim=(0, None))
        ax.title.set_fontsize(8)
    axes[0, 0].set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5))
    if len(kinds) > 1:
        fig.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=len(kinds))
    fig.suptitle(title)
    return fig


def lambda_sweep(table: pd.DataFrame, chance: pd.Series, title: str) -> Figure:
    """Rank-1 and mAP over the weight of CMDC (S1 Figure 4): mean and standard deviation over runs, chance dotted.

    Args: table: columns lambda, metric, value (percent), a line for each run; chance: percent, by metric; title.
    """
    import seaborn as sns

    fig, ((ax,),) = figure(width=5.6)
    colours = dict(zip(dict.fromkeys(table.metric), (BLUE, "#e07b00"), strict=False))
    sns.lineplot(
        table, x="lambda", y="value", hue="metric", style="metric", palette=colours, markers=True, dashes=False,
        errorbar="sd", err_style="bars", ax=ax,
    )  # fmt: skip
    for metric, colour in colours.items():
        ax.axhline(chance[metric], color=colour, linestyle=":", linewidth=1.2, label=f"{metric}, chance")
    ax.set(title=title, xlabel="lambda, the weight of CMDC", ylabel="percent", ylim=(0, None))
    ax.title.set_fontsize(9)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def convergence(table: pd.DataFrame, margin: float) -> Figure:
    """The value of CMDC by epoch, for training and validation side by side (S1 Figure 5); its margin is dotted.

    Args: table: columns layout, part (a panel each), epoch, cmdc (feature distance); margin: the value of CMDC where
        all distances are equal.
    """
    import seaborn as sns

    fig, axes = figure(1, 2, sharey=True)
    for ax, (part, rows) in zip(axes[0], table.groupby("part", sort=False), strict=False):
        sns.lineplot(rows, x="epoch", y="cmdc", hue="layout", style="layout", markers=True, dashes=False, ax=ax)
        ax.get_legend().remove()
        ax.axhline(margin, color="0.4", linestyle=":", linewidth=1.2, label=f"margin {margin:g}")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(title=f"CMDC, {part}", xlabel="epoch", ylim=(0, 1.05 * max(table.cmdc.max(), margin)))
    axes[0, 0].set(ylabel="feature distance")
    axes[0, -1].legend(
        *axes[0, 0].get_legend_handles_labels(), frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    return fig


def similarity_distributions(table: pd.DataFrame) -> Figure:
    """Densities of the cosine similarities of visible-thermal pairs (S2 Figure 1), panels side by side, levels below.

    Each panel has an axis of its own, whose ends are in its title; both levels of a panel share it. A panel whose axis
    is less than half as long as the longest is tinted: it shows a much smaller range at the same width.
    Args: table: columns panel, level, kind (same person or not), similarity.
    """
    import seaborn as sns

    panels, levels = list(dict.fromkeys(table.panel)), list(dict.fromkeys(table.level))
    kinds = dict(zip(dict.fromkeys(table.kind), (RIGHT, WRONG), strict=False))
    fig, axes = figure(len(levels), len(panels), width=2.5, height=1.9, sharex="col")
    ends = {panel: (part.similarity.min(), part.similarity.max()) for panel, part in table.groupby("panel")}
    longest = max(high - low for low, high in ends.values())
    for i, level in enumerate(levels):
        for ax, panel in zip(axes[i], panels, strict=True):
            part = table[(table.panel == panel) & (table.level == level)]
            low, high = ends[panel]
            area = {"stat": "density", "common_norm": False, "element": "step", "alpha": 0.4, "legend": False}
            sns.histplot(
                part, x="similarity", hue="kind", palette=kinds, bins=50, binrange=(low, high), ax=ax, **area
            )  # fmt: skip
            if high - low < longest / 2:
                ax.set_facecolor("#f6f1e3")
            title = f"{panel}\n{low:.3f} to {high:.3f}"
            ax.set(title=title if i == 0 else "", ylabel=level if panel == panels[0] else "", yticks=[])
            ax.title.set_fontsize(8)
            if i == len(levels) - 1:
                ax.set(xlabel="cosine similarity")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour, alpha=0.4) for colour in kinds.values()]
    fig.legend(handles, kinds, frameon=False, loc="outside lower center", ncols=2)
    return fig


def relations(points: pd.DataFrame, anchors: dict[str, np.ndarray]) -> Figure:
    """Which pairs a relation compares (S2 Figure 3): an anchor with its positives (green) and negatives (red).

    Args: points: columns x, y, label, modality (0 visible, 1 thermal), centre (bool); anchors: by relation, a panel
        each, (n, 3) whole numbers: line of the anchor in points, line of the candidate, 1 where they are one person.
    """
    fig, axes = figure(1, len(anchors), width=3.0, height=3.2)
    colour = colours_of(points.label)
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
    shown = [*axes[0, -1].get_legend_handles_labels()[0]]
    shown += [
        plt.Line2D([], [], color=c, label=f"pair of {whom}")
        for c, whom in ((RIGHT, "one person"), (WRONG, "two people"))
    ]
    axes[0, -1].legend(handles=shown, title="colour: person", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def colours_of(people) -> dict[object, str]:
    """A colour of PEOPLE by person, in the order of their numbers; after the last colour they begin again."""
    return {person: PEOPLE[i % len(PEOPLE)] for i, person in enumerate(sorted(set(people)))}


def kept_pairs(similarity: np.ndarray, positive: np.ndarray, kept: dict[str, np.ndarray]) -> Figure:
    """Which pairs each way of mining keeps (S2 Figure 4): a matrix of anchors and candidates, dropped pairs pale.

    Args: similarity: (A, B) cosines of A anchors and B candidates; positive: (A, B) bool, pairs of one person, which
        are framed; kept: (A, B) bool by name, a panel each.
    """
    fig, axes = figure(1, len(kept), width=3.6, height=3.4)
    low, high = similarity.min(), similarity.max()
    for ax, (name, mask) in zip(axes[0], kept.items(), strict=True):
        image = ax.imshow(similarity, cmap="viridis", vmin=low, vmax=high, alpha=np.where(mask, 1.0, 0.12))
        for a, b in zip(*np.nonzero(positive), strict=True):
            colour = RIGHT if mask[a, b] else WRONG
            ax.add_patch(plt.Rectangle((b - 0.5, a - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=1.2))
        share = f"kept here: {mask[positive].mean():.0%} of positives, {mask[~positive].mean():.0%} of negatives"
        ax.set(title=f"{name}\n{share}", xlabel="candidates", ylabel="anchors", xticks=[], yticks=[])
        ax.title.set_fontsize(8)
        ax.grid(False)
    fig.colorbar(image, ax=axes[0].tolist(), shrink=0.8, label="cosine similarity")
    return fig


def tsne(points: pd.DataFrame, title: str) -> Figure:
    """A two-dimensional embedding of images; each person has a colour, and its number is written below the middle of
    its visible images and above the middle of its thermal ones.

    Args: points: columns x, y, pid, modality (0 visible, 1 thermal), panel (panels stand side by side); title.
    """
    panels, colour = list(dict.fromkeys(points.panel)), colours_of(points.pid)
    fig, axes = figure(1, len(panels), width=4.0, height=3.9)
    for ax, panel in zip(axes[0], panels, strict=True):
        # thermal images are few: drawn last, larger and framed, so that the visible ones do not hide them
        for modality, style in ((0, {"marker": "o", "s": 16, "alpha": 0.55}), (1, {"marker": "^", "s": 42})):
            part = points[(points.panel == panel) & (points.modality == modality)]
            edge = {"edgecolors": "black", "linewidths": 0.7} if modality else {"linewidths": 0}
            ax.scatter(part.x, part.y, c=[colour[p] for p in part.pid], **style, **edge)
            for person, own in part.groupby("pid"):
                x, y = own.x.median(), own.y.median()
                box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": colour[person], "alpha": 0.85}
                place = {"xytext": (0, 10 if modality else -10), "textcoords": "offset points"}
                ax.annotate(f"{person}", (x, y), fontsize=6, bbox=box, zorder=5, ha="center", va="center", **place)
        ax.set(title=panel, xticks=[], yticks=[])
        ax.grid(False)
    marks = [("visible image", "o", 5, "none"), ("thermal image", "^", 7, "black")]
    handles = [
        plt.Line2D([], [], linestyle="", marker=m, markersize=s, color="0.6", markeredgecolor=e, label=name)
        for name, m, s, e in marks
    ]
    fig.legend(
        handles=handles, title="colour and number: the person", frameon=False, loc="outside lower center", ncols=2
    )
    fig.suptitle(title)
    return fig


def cameras(pixels: np.ndarray, rows: pd.DataFrame) -> Figure:
    """One image of each person (columns) and camera (rows, visible ones above); blank where there is none.

    Args: pixels: (n, 3, H, W) uint8; rows: columns cam, pid and modality, a line for each image.
    """
    people = sorted(rows.pid.unique())
    cams = rows[["modality", "cam"]].drop_duplicates().sort_values(["modality", "cam"])
    cams = list(cams.itertuples(index=False, name=None))
    places = [(cams.index((row.modality, row.cam)), people.index(row.pid)) for row in rows.itertuples()]
    above = {(0, column): f"person {person}" for column, person in enumerate(people)}
    left = [f"{('visible', 'thermal')[modality]}\ncamera {cam}" for modality, cam in cams]
    return board(pixels, places, above, left)


def sheet(pixels: np.ndarray, columns: int, titles: list[str] | None = None) -> Figure:
    """Images side by side. Args: pixels: (n, 3, H, W) uint8; columns: images in a row; titles: of each, or none."""
    places = [divmod(i, columns) for i in range(len(pixels))]
    return board(pixels, places, dict(zip(places, titles, strict=True)) if titles else {}, width=1.1)


def retrievals(
    pixels: np.ndarray, queries: np.ndarray, found: np.ndarray, right: np.ndarray, names: list[str]
) -> Figure:
    """Queries, each with the gallery images that it found, nearest first; the same person is framed green, others red.

    Args: pixels: (N, 3, H, W) uint8; queries: (n,) lines of pixels; found: (n, k) lines of pixels, -1 for none;
        right: (n, k) bool, whether it is the query's person; names: (n,) titles of the queries.
    """
    n, k = found.shape
    places = [(i, 0) for i in range(n)] + [(i, j + 1) for i in range(n) for j in range(k) if found[i, j] >= 0]
    shown = pixels[[*queries, *(f for f in found.ravel() if f >= 0)]]
    frames = {(i, j + 1): RIGHT if right[i, j] else WRONG for i in range(n) for j in range(k)}
    return board(shown, places, {(i, 0): name for i, name in enumerate(names)}, frames=frames)


def board(
    pixels: np.ndarray, places: list[tuple[int, int]], above: dict[tuple[int, int], str], left: list[str] = (),
    frames: dict[tuple[int, int], str] | None = None, width: float = 0.85,
) -> Figure:  # fmt: skip
    """Images on a grid, drawn as one picture: an axes for each would take a second for fifty of them.

    Args: pixels: (n, 3, H, W) uint8; places: (row, column) of each; above: text above a place; left: text beside each
        row; frames: colour of the frame of a place; width: of a column, in inches.
    """
    frames, (h, w) = frames or {}, pixels.shape[2:]
    thick = max(1, w // 24)
    rows, columns = (1 + max(p[axis] for p in [*places, *frames]) for axis in (0, 1))
    titled = {row for row, _ in above}
    high, wide = [h + 4 * thick + (h // 6 if row in titled else 0) for row in range(rows)], w + 4 * thick
    bottom = np.cumsum(high)
    canvas = np.full((bottom[-1], columns * wide, 3), 255, np.uint8)

    def corner(place: tuple[int, int]) -> tuple[int, int]:
        return int(bottom[place[0]]) - h - 2 * thick, place[1] * wide + 2 * thick

    for place, colour in frames.items():
        y, x = corner(place)
        canvas[y - thick : y + h + thick, x - thick : x + w + thick] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        canvas[y : y + h, x : x + w] = 255
    for image, place in zip(pixels, places, strict=True):
        y, x = corner(place)
        canvas[y : y + h, x : x + w] = image.transpose(1, 2, 0)
    fig, axes = figure(width=width * columns, height=width * bottom[-1] / wide)
    ax = axes[0, 0]
    ax.imshow(canvas)
    for place, text in above.items():
        y, x = corner(place)
        ax.text(x - thick, y - 2 * thick, text, fontsize=7, va="bottom")
    ax.set(xticks=[], yticks=bottom[: len(left)] - h / 2, yticklabels=left)
    ax.tick_params(length=0, labelsize=7)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return fig


def save(fig: Figure, path: Path) -> Path:
    """Write a figure as <path>.png and <path>.pdf, which have the same bytes each time. Returns: the PNG's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".png")  # with_suffix() would take the end of S1.T3 for a suffix
    pdf, png = (path.with_name(f"{name}.{kind}") for kind in ("pdf", "png"))
    fig.savefig(pdf, metadata={"CreationDate": None}, bbox_inches="tight")  # else long titles are cut
    fig.savefig(png, dpi=150, bbox_inches="tight")
    return png
