"""What the suite measured on one machine, and the texts that quote it.

measured/ holds the numbers of a finished `./run_all.sh` as small tables, and two texts with places for numbers:
readme.md is the part of README.md that is measured, results.md becomes measured/README.md. After a new measurement,
from the folder of the project:

    .venv/bin/python tests/measured.py results/cpu           # keeps its numbers, and writes them into both pages
    .venv/bin/python tests/measured.py results/cpu systems   # those of ./run_all.sh 24_systems alone
"""

import re
import sys
from pathlib import Path

import pandas as pd

from vtlib.suite import field, items, tables, verdicts

HERE, README = Path(__file__).parent / "measured", Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- measured by the suite: tests/measured/readme.md -->\n", "<!-- end of what is measured -->"
KEYS = ["item", "row", "setting", "metric"]
LEVELS = [*KEYS, "measured", "sd", "runs"]
CLAIMS = ["item", "claim", "setting", "metric", "printed", "gain", "low", "high", "sd", "pairs", "verdict", "size"]
CLAIMS += ["comparison"]


OF_SYSTEMS = ("X.T3", "X.T4", "X.T5")  # tables of 24_systems, which takes a call of its own
DIFFERENCE = ["over", "difference", "difference_low", "difference_high"]


def kept(results: Path, keys, columns: list[str]) -> pd.DataFrame:
    """The measured numbers of some tables of a finished suite."""
    levels = []
    for item in keys:
        made = pd.read_csv(results / "report" / f"{item}.csv")
        if "setting" in made:
            levels.append(made[made.measured.notna() & made.metric.isin(tables.CLAIMED)].assign(item=item)[columns])
    return pd.concat(levels)


def keep_systems(results: Path) -> None:
    """Put the numbers of 24_systems into measured/systems.csv."""
    made = kept(results, OF_SYSTEMS, LEVELS + DIFFERENCE)
    made.to_csv(HERE / "systems.csv", index=False, float_format="%.2f")


def keep(results: Path) -> None:
    """Put the numbers of a finished suite into measured/."""
    levels = kept(results, [item for item in items.ITEMS if item not in OF_SYSTEMS], LEVELS)
    levels.to_csv(HERE / "levels.csv", index=False, float_format="%.2f")
    pd.read_csv(results / "report" / "claims.csv")[CLAIMS].to_csv(HERE / "claims.csv", index=False, float_format="%.3f")
    cues = pd.read_csv(results / "report" / "cues.csv")
    cues[["cue", "search", "rank1", "mAP"]].to_csv(HERE / "cues.csv", index=False, float_format="%.1f")


def levels() -> pd.DataFrame:
    return pd.read_csv(HERE / "levels.csv", dtype={"row": str}).set_index(KEYS)


def claims() -> pd.DataFrame:
    texts = ["item", "claim", "setting", "verdict", "size", "comparison"]
    found = pd.read_csv(HERE / "claims.csv")
    return found.assign(**found[texts].astype(object).fillna(""))


def quoted(place: str) -> str:
    """The text for one place of readme.md.

    level | item | row | setting          rank-1 / mAP, each with its standard deviation over seeds
    recipe | item | row | setting         the same row as the recipe says, or "the same" where tuning chose that
    mean | item | row | setting | metric   the mean alone
    gain | item | claim | setting          rank-1: the measured gain with its interval
    word | item | claim | setting          rank-1: the verdict, and the size beside it
    count | word                           comparisons with this verdict, of both papers
    counted                                all verdicts with their counts
    systems                                the rows of a table of X.T3, the highest rank-1 first
    lost | row, part | row                 a difference of X.T4 with its sign turned, or as it is, with its interval
    range | what                           the differences of X.T5, from the smallest to the largest
    rho | setting                          Spearman's rank correlation of X.T3 with what is printed under a setting
    """
    kind, *parts = [part.strip() for part in place.split("|")]
    if kind == "level":
        rows = [levels().loc[(*parts, metric)] for metric in tables.CLAIMED]
        return " / ".join(tables.spread(row.measured, row.sd) for row in rows)
    if kind == "recipe":
        item, row, setting = parts
        rows = [levels().measured.get((item, f"{row}{items.AS_RECIPE}", setting, metric)) for metric in tables.CLAIMED]
        return "the same" if rows[0] is None else " / ".join(f"{value:.1f}" for value in rows)
    if kind == "mean":
        return f"{levels().loc[tuple(parts)].measured:.1f}"
    if kind in ("systems", "rho"):
        return systems() if kind == "systems" else rho(parts[0])
    if kind in ("lost", "part", "range"):
        return differences(kind, parts[0])
    found = claims()
    if kind in ("gain", "word"):
        item, claim, setting = parts
        of = found[(found.item == item) & (found.claim == claim) & (found.setting == setting)]
        row = of[of.metric == "rank1"].rename(columns={"size": "size_"}).iloc[0]
        if kind == "word":
            return verdicts.in_full(row)
        return f"{tables.spread(row.gain, float('nan'), 1, '+')}{tables.between(row.low, row.high)}"
    papers_alone = found[~found.item.str.startswith("X")]
    if kind == "counted":
        return verdicts.counted(papers_alone)
    if kind == "count":
        return str((verdicts.once(papers_alone).verdict == parts[0]).sum())
    raise ValueError(f"readme.md has a place of unknown kind {place!r}")


def of_systems() -> pd.DataFrame:
    return pd.read_csv(HERE / "systems.csv").set_index(KEYS).loc["X.T3"]


def systems() -> str:
    """A line for each system: its name, rank-1 / mAP measured, rank-1 printed on SYSU-MM01."""
    kept = of_systems().xs("all", level="setting")
    printed = items.ITEMS["X.T3"].printed.set_index(["row", "setting"]).printed
    lines = []
    for row in kept.xs("rank1", level="metric").measured.sort_values(ascending=False).index:
        values = " / ".join(tables.spread(*kept.loc[(row, metric), ["measured", "sd"]]) for metric in tables.CLAIMED)
        own = printed.get((row, "all"))
        lines.append(f"| {row} | {values} | {'' if own is None else f'{own:.2f}'} |")
    return "\n".join(lines)


def differences(kind: str, name: str) -> str:
    """The places lost, part and range of quoted()."""
    kept = pd.read_csv(HERE / "systems.csv")
    kept = kept[(kept.metric == "rank1") & (kept.setting == "all")]
    if kind == "range":
        found = kept[(kept.item == "X.T5") & kept.row.str.endswith(f", {name}")].difference
        return f"{found.max():+.1f} to {found.min():+.1f}"
    row = kept[(kept.item == "X.T4") & (kept.row == name)].iloc[0]
    ends = [row.difference, row.difference_low, row.difference_high]
    value, *ends = [-v for v in ends] if kind == "lost" else ends
    return f"{value:.1f} [{min(ends):.1f}, {max(ends):.1f}]"


def rho(setting: str) -> str:
    """Spearman's rho of measured and printed rank-1 with its interval over systems, and their number."""
    kept = of_systems().xs((setting, "rank1"), level=("setting", "metric")).measured
    printed = items.ITEMS["X.T3"].printed
    own = printed[printed.setting == setting].set_index("row").printed
    values = pd.DataFrame({"printed": own, "measured": kept}).dropna()
    value, low, high = field.spearman(values)
    return f"{value:.2f} [{low:.2f}, {high:.2f}] over {len(values)} systems"


def filled(name: str) -> str:
    """A text of measured/ with every number in its place."""
    return re.sub(r"\{\{(.+?)\}\}", lambda place: quoted(place[1]), (HERE / name).read_text())


def pages() -> dict[Path, str]:
    """README.md and measured/README.md as they should be."""
    before, rest = README.read_text().split(BEGIN)
    text = before + BEGIN + filled("readme.md") + END + rest.split(END)[1]
    return {README: text, HERE / "README.md": filled("results.md")}


if __name__ == "__main__":
    (keep_systems if sys.argv[2:] == ["systems"] else keep)(Path(sys.argv[1]))
    for page, text in pages().items():
        page.write_text(text)
