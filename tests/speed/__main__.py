"""Measure speed and print one table: python -m tests.speed [attention ...] [--repeats 25] [--threads N] [--save]"""

import argparse
import csv
import importlib
import io
import os
import pkgutil
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

# no torch here: each process that a script starts imports this module again
HERE = Path(__file__).parent
RESULTS = HERE / "results"  # kept in git: the table of a date and a device


def scripts() -> dict[str, ModuleType]:
    """The modules of this folder that measure something: `measure(repeats)` gives the rows of their table."""
    names = [m.name for m in pkgutil.iter_modules([str(HERE)]) if not m.name.startswith(("_", "test_"))]
    modules = {name: importlib.import_module(f"tests.speed.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "measure")}


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and with --save keep a CSV; 0 on success."""
    known = scripts()
    parser = argparse.ArgumentParser(prog="python -m tests.speed", description=__doc__)
    parser.add_argument("scripts", nargs="*", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--repeats", type=int, default=25, help="rounds of each pair at most, whose median counts")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="default: all cores; augmentation takes one"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="measure on this one alone where there are both")
    parser.add_argument("--save", action="store_true", help=f"also write {RESULTS.name}/<date>-<device>.csv")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.scripts if name not in known]:
        parser.error(f"unknown script {unknown[0]!r}: choose from {', '.join(known)}")
    for name in ("repeats", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be 1 or more")

    import torch

    from vtlib.device import commit, processor

    from . import timing

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    before, now = torch.get_num_threads(), datetime.now(UTC)
    head = [
        f"processor: {processor()}{gpu and f'; GPU: {gpu}'}",
        f"threads: {arguments.threads}, of augmentation 1",
        f"torch {torch.__version__}; {now:%Y-%m-%d %H:%M} UTC; commit {commit() or 'unknown'}",
        f"median of {arguments.repeats} interleaved rounds, of fewer where they take more than {timing.BUDGET:g} s",
    ]
    print(*head, "", sep="\n", flush=True)
    torch.set_num_threads(arguments.threads)
    timing.ONLY.intersection_update({arguments.device} if arguments.device else timing.ONLY)
    rows = []
    try:
        for name in arguments.scripts or known:
            print(f"{name} ...", file=sys.stderr, flush=True)
            for row in known[name].measure(arguments.repeats):
                rows.append(row)
                print("  ".join(cell for cell in cells(row) if cell), file=sys.stderr, flush=True)
    finally:
        torch.set_num_threads(before)
    if not rows:
        print("nothing to measure on this machine: `gpu` needs a GPU")
        return 1
    print(as_text(rows))
    if arguments.save:
        named = " ".join([gpu or processor(), *arguments.scripts])  # some scripts alone leave the whole table as it is
        slug = re.sub(r"[^a-z0-9]+", "-", named.lower()).strip("-")
        path = RESULTS / f"{now:%Y-%m-%d}-{slug}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"# {line}\n" for line in head) + as_csv(rows))
        print(f"\nwritten: {path}")
    return 0


def cells(row) -> list[str]:
    """A row as text: numbers to three digits or whole, nothing for None."""
    return ["" if v is None else v if isinstance(v, str) else f"{v:.3g}" if abs(v) < 1000 else f"{v:.0f}" for v in row]


def as_text(rows: list) -> str:
    """Columns side by side, numbers to the right."""
    table = [list(rows[0]._fields), *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    number = [not isinstance(column[0], str) for column in zip(*rows, strict=True)]
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
