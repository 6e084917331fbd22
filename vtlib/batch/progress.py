"""What a call says while it works: first in which order results come, then what runs, what is done and what is left.

All of it is read from the records that jobs write under results/<profile>/jobs/, so it is the same on a cluster. On a
terminal one line is written over again each second; elsewhere each job that ends is a line.
"""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files import remembered

EVERY = 1.0  # seconds between two looks at the records


def order(plan: dict, todo: list[str], places: int) -> str:
    """A sentence on which tables and figures come when; "" where none is to be made.

    The times are sums over jobs in their order: of what forecast.py has measured, else of the mean of earlier jobs of a
    kind in this folder. Without either there is the order alone.
    Args: plan: a graph.Plan; todo: names of the jobs to make; places: how many run side by side.
    """
    results, parts = Path(plan["results"]), []
    forecast, means = remembered(results / "probe.json").get("runs", {}), {}
    records = {name: remembered(results / "jobs" / f"{name}.json") for name in plan["jobs"]}
    for rule in ("train", "notebook"):
        means[rule] = mean([r["seconds"] for n, r in records.items() if plan["jobs"][n]["rule"] == rule and ran(r)])
    at, known = 0.0, True
    for name in todo:
        rule = plan["jobs"][name]["rule"]
        own = forecast.get(name) or (means.get(rule) or 0.0) / max(1, places)
        at, known = at + own, known and (own > 0 or rule != "train")
        if keys := [key for key, item in plan["items"].items() if item["notebook"] == name]:
            parts.append(", ".join(keys) + f" after about {span(at)}" * (known and at > 0))
    return f"first {', then '.join(parts)}" if parts else ""


def ran(record: dict) -> bool:
    """Whether a record is of a job that ended well."""
    return record.get("state") == "ran" and "seconds" in record


def mean(values: list[float]) -> float | None:
    """The mean of some numbers, None of none."""
    return sum(values) / len(values) if values else None


def span(seconds: float) -> str:
    """A length of time in words."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def to_make(plan: dict) -> list[str]:
    """Names of the jobs without an output, in their order; data and weights only where a run is to be made."""
    missing = [name for name, job in plan["jobs"].items() if not Path(plan["results"], job["output"]).is_file()]
    rules = {plan["jobs"][name]["rule"] for name in missing}
    return [n for n in missing if "train" in rules or plan["jobs"][n]["rule"] not in ("data", "weights")]


class Watch:
    """What has become of the jobs of one call. Args: plan: a graph.Plan; places: how many run side by side, 0: many."""

    def __init__(self, plan: dict, places: int):
        self.jobs, self.places, self.start = plan["jobs"], places, time.time()
        self.folder, self.todo = Path(plan["results"], "jobs"), to_make(plan)
        self.ended: dict[str, dict] = {}  # records of the jobs that have ended in this call
        self.running: dict[str, float] = {}  # names of the others that have begun, and when

    def look(self) -> list[tuple[str, str]]:
        """Read the records anew. Returns: name and a line of each job that has ended since the last look."""
        lines = []
        for name in self.todo:
            if (
                name in self.ended
                or (record := remembered(self.folder / f"{name}.json")).get("started", 0) < self.start
            ):
                continue
            if "seconds" not in record:  # it is written when a job begins and again when it ends
                self.running[name] = record["started"]
                continue
            self.running.pop(name, None)
            self.ended[name] = record
            end = f"took {span(record['seconds'])}" if ran(record) else f"FAILED: {record.get('reason', '')}"
            lines.append((name, f"{len(self.ended)} of {len(self.todo)}: {self.jobs[name]['what']}: {end}"))
        return lines

    def left(self, now: float) -> float | None:
        """Seconds until all is done, from what jobs of this call took; None before the first run has ended.

        Args: now: seconds since 1970.
        """
        took = {}
        for rule in ("train", "notebook"):
            took[rule] = mean([r["seconds"] for n, r in self.ended.items() if self.jobs[n]["rule"] == rule and ran(r)])
        if not self.places or not any(took.values()):
            return None
        work = 0.0
        for name in (name for name in self.todo if name not in self.ended):
            whole = took.get(self.jobs[name]["rule"]) or took["train"] or took["notebook"]
            work += max(0.0, whole - (now - self.running[name])) if name in self.running else whole
        return work / self.places

    def line(self, width: int) -> str:
        """The state in one line. Args: width: of the terminal; the line is shorter."""
        now = time.time()
        left = self.left(now)
        what = [self.jobs[name]["what"] for name in self.running]
        rest = f"; {span(left)} left" if left is not None else ""
        text = f"{len(self.ended)} of {len(self.todo)} done, {span(now - self.start)}{rest}"
        text += f"; now: {' | '.join(what)}" * bool(what)
        return text if len(text) < width else f"{text[: width - 4]}..."


@contextmanager
def said(plan: dict, places: int, out=None) -> Iterator[Watch]:
    """Say what becomes of the jobs within a `with`, from a thread. Args: as Watch; out: by default stdout."""
    out = out or sys.stdout
    watch, stop, terminal = Watch(plan, places), threading.Event(), out.isatty()
    clear = "\r\x1b[K" * terminal  # back to the first column, and clear the line

    def say() -> None:
        for name, line in watch.look():  # what stays on a terminal: a failure, and a notebook to look at
            if not terminal or not ran(watch.ended[name]) or plan["jobs"][name]["rule"] == "notebook":
                print(clear + line, file=out)
        if terminal:
            out.write(clear + watch.line(shutil.get_terminal_size().columns))
        out.flush()

    def work() -> None:
        while not stop.wait(EVERY):
            say()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()
        say()
        out.write(clear)
        out.flush()
