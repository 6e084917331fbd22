"""Run the benchmarks and print one table: python -m benchmarks [losses ...] [--repeats 25] [--save]"""

import argparse
import csv
import importlib
import io
import pkgutil
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import torch

from vtlib.runs import commit, processor

HERE = Path(__file__).parent
RESULTS = HERE / "results"  # git ignores it


def scripts() -> dict[str, ModuleType]:
    """The modules of this folder that measure something: `measure(repeats)` gives the rows of their table."""
    names = [m.name for m in pkgutil.iter_modules([str(HERE)]) if not m.name.startswith("_")]
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "measure")}


def main(argv: list[str] | None = None) -> int:
    """Measure on one thread, print, and with --save keep a CSV; 0 on success."""
    known = scripts()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scripts", nargs="*", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--repeats", type=int, default=25, help="repetitions of each pair, whose median counts")
    parser.add_argument("--save", action="store_true", help=f"also write {RESULTS.name}/<date>-<device>.csv")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.scripts if name not in known]:
        parser.error(f"unknown script {unknown[0]!r}: choose from {', '.join(known)}")
    if arguments.repeats < 1:
        parser.error("--repeats must be 1 or more")

    threads, now = torch.get_num_threads(), datetime.now(UTC)
    torch.set_num_threads(1)
    head = [
        f"processor: {processor()}; 1 thread, processor time, median of {arguments.repeats} interleaved repetitions",
        f"torch {torch.__version__}; {now:%Y-%m-%d %H:%M} UTC; commit {commit() or 'unknown'}",
    ]
    print(*head, "", sep="\n")
    try:
        rows = [row for name in arguments.scripts or known for row in known[name].measure(arguments.repeats)]
    finally:
        torch.set_num_threads(threads)
    print(as_text(rows))
    if arguments.save:
        slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
        path = RESULTS / f"{now:%Y-%m-%d}-{slug}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"# {line}\n" for line in head) + as_csv(rows))
        print(f"\nwritten: {path}")
    return 0


def cells(row) -> list[str]:
    """A row as text, numbers to three digits."""
    return [f"{v:.3g}" if isinstance(v, float) else v for v in row]


def as_text(rows: list) -> str:
    """Columns side by side, numbers to the right."""
    table = [list(rows[0]._fields), *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    number = [isinstance(v, float) for v in rows[0]]
    lines = [
        "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, number, strict=True))
        for line in table
    ]
    return "\n".join(line.rstrip() for line in lines)


def as_csv(rows: list) -> str:
    """Comma-separated, the field names first."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([rows[0]._fields, *map(cells, rows)])
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
