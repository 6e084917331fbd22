"""What this machine holds: cores, memory, and how much of both a suite of runs used."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import psutil

from ..files import read_json

GUESS = 2.0  # GB of memory that a run on a CPU takes, until one is finished: the cpu profile's take 1 to 1.5
SPARE = 0.9  # share of the free memory to fill
UNKNOWN = 0  # places() on a GPU before any run is finished


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """GB of memory that this process may still take, by the machine and by the limit of its control group."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()) != "max":
        free = min(free, int(limit) - int((group / "memory.current").read_text()))
    return free / 1e9


def places(peak: Mapping[str, float]) -> int:
    """How many runs fit beside each other: one a core, no more than memory holds; UNKNOWN on a GPU before the first.

    Args: peak: GB that a finished run took at most, on the "host" and on the "device"; {} before the first.
    """
    fit = min(cores(), int(SPARE * free_memory() / peak.get("host", GUESS)))
    import torch

    if torch.cuda.is_available():
        if "device" not in peak:
            return UNKNOWN
        fit = min(fit, int(SPARE * torch.cuda.mem_get_info()[0] / 1e9 / peak["device"]))
    return max(1, fit)


def peak_memory_of_finished(root: Path) -> dict[str, float]:
    """The most that any finished run under `root`/runs took, as device.peak_memory() said it; {} before the first."""
    said = []
    for path in root.glob("runs/*/metrics.json"):
        with suppress(ValueError, FileNotFoundError):  # one that cannot be read says nothing here
            said.append(read_json(path).get("peak_memory", {}))
    return {where: max(s[where] for s in said if where in s) for where in sorted({w for s in said for w in s})}


class Used:
    """Wall time, share of the cores' time that child processes took, and of the time in which a GPU was busy."""

    def __init__(self):
        self.start, self.before, self.busy, self.seconds, self.share = time.perf_counter(), children(), [], 0.0, 0.0

    def __str__(self) -> str:
        gpu = f", GPU busy {sum(self.busy) / len(self.busy):.0f} % of the time" if self.busy else ""
        return f"{self.seconds:.0f} s, {100 * self.share:.0f} % of the time of {cores()} cores{gpu}"


def children() -> float:
    """Seconds of processor time that finished child processes have taken."""
    used = os.times()
    return used.children_user + used.children_system


@contextmanager
def watched(every: float = 5.0) -> Iterator[Used]:
    """Measure what happens inside a `with`; the load of a GPU, of the first one, is what nvidia-smi says."""
    used, over, ask = Used(), Event(), shutil.which("nvidia-smi")
    call = [ask, "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def look() -> None:
        while ask and not over.wait(every):
            said = subprocess.run(call, capture_output=True, text=True).stdout.strip()
            used.busy += [int(said)] if said.isdecimal() else []

    watcher = Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield used
    finally:
        over.set()
        watcher.join()
        used.seconds = time.perf_counter() - used.start
        used.share = (children() - used.before) / (used.seconds * cores())
