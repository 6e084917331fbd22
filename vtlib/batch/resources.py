"""Cores and memory of this machine, how many runs fit on it, and how much of it the runs used."""

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

GUESS = 2.0  # GB of memory that a run is assumed to take until one is finished; runs of profile cpu take 1 to 1.5
SPARE = 0.9  # share of the free memory that runs may fill
UNKNOWN = 0  # what places() returns on a GPU before any run is finished


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """GB of memory that this process may still take: the smaller of the machine's and its control group's."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()) != "max":
        free = min(free, int(limit) - int((group / "memory.current").read_text()))
    return free / 1e9


def places(peak: Mapping[str, float]) -> int:
    """How many runs fit side by side: at most one on each core, and no more than memory holds; at least 1.

    Args: peak: most GB that a finished run took, of the "host" and of the "device" (GPU); {} before the first one.
    Returns: the number; UNKNOWN on a GPU where no run has told how much of its memory it takes.
    """
    fit = min(cores(), int(SPARE * free_memory() / peak.get("host", GUESS)))
    import torch

    if torch.cuda.is_available():
        if "device" not in peak:
            return UNKNOWN
        fit = min(fit, int(SPARE * torch.cuda.mem_get_info()[0] / 1e9 / peak["device"]))
    return max(1, fit)


def peak_memory_of_finished(root: Path) -> dict[str, float]:
    """Most GB that any finished run under `root`/runs took, by place ("host", "device"); {} before the first one."""
    peaks = []
    for path in root.glob("runs/*/metrics.json"):
        with suppress(ValueError, FileNotFoundError):  # a file that cannot be read counts for nothing here
            peaks.append(read_json(path).get("peak_memory", {}))
    return {place: max(p[place] for p in peaks if place in p) for place in sorted({key for p in peaks for key in p})}


class Used:
    """What was used during watched(): seconds, share of all cores' time, and samples of the GPU's load in percent."""

    def __init__(self):
        self.start, self.before, self.busy, self.seconds, self.share = time.perf_counter(), children(), [], 0.0, 0.0

    def __str__(self) -> str:
        gpu = f", GPU busy {sum(self.busy) / len(self.busy):.0f} % of the time" if self.busy else ""
        return f"{self.seconds:.0f} s, {100 * self.share:.0f} % of the time of {cores()} cores{gpu}"


def children() -> float:
    """Seconds of processor time that all finished child processes took together."""
    used = os.times()
    return used.children_user + used.children_system


@contextmanager
def watched(every: float = 5.0) -> Iterator[Used]:
    """Measure what is used during a `with`; its end fills in seconds and share.

    Args: every: seconds between two looks at the load of the first GPU, which nvidia-smi tells.
    """
    used, over, program = Used(), Event(), shutil.which("nvidia-smi")
    command = [program, "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def sample() -> None:
        while program and not over.wait(every):
            load = subprocess.run(command, capture_output=True, text=True).stdout.strip()
            used.busy += [int(load)] if load.isdecimal() else []

    sampler = Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield used
    finally:
        over.set()
        sampler.join()
        used.seconds = time.perf_counter() - used.start
        used.share = (children() - used.before) / (used.seconds * cores())
