"""What every script shares: the row of the table, the clock, and memory in a process of its own."""

import re
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch

BUDGET = 5.0  # seconds after which no further round begins
PROC = Path("/proc/self")
HAS_MEMORY = (PROC / "clear_refs").exists()  # Linux; elsewhere memory is not measured


class Row(NamedTuple):
    """One line of the table; ratio: how many times as long the reference takes. None where there is no reference."""

    part: str
    size: str
    reference: str
    reference_ms: float | None
    ours_ms: float
    ratio: float | None
    limit: str  # share of what the machine allows, rates and memory


def compare(
    part: str,
    size: str,
    ours: Callable,
    references: dict[str, Callable] | None = None,
    *,
    repeats: int,
    limit: Callable[[float], str] = lambda ms: "",
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Row]:
    """A row for each reference, timed in turn with ours; one row without a reference if there is none.

    All have been called before, to check that they give the same. limit: text from the milliseconds of ours.
    """
    size = size if device == "cpu" else f"{size}, {device}"
    for name, reference in (references or {}).items():
        theirs, mine = interleaved([reference, ours], repeats, device, clock)
        yield Row(part, size, name, theirs, mine, theirs / mine, limit(mine))
    if not references:
        (mine,) = interleaved([ours], repeats, device, clock)
        yield Row(part, size, "", None, mine, None, limit(mine))


def interleaved(
    calls: list[Callable], repeats: int, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median milliseconds of each call; rounds of all calls one after another, fewer where they pass BUDGET."""
    seconds, begin = [[] for _ in calls], time.perf_counter()
    for _ in range(repeats):
        for call, seen in zip(calls, seconds, strict=True):
            settle(device)
            start = clock()
            call()
            settle(device)
            seen.append(clock() - start)
        if time.perf_counter() - begin > BUDGET:
            break
    return [1000 * statistics.median(seen) for seen in seconds]


ONLY = {"cpu", "cuda"}


def settle(device: str) -> None:
    """Wait until the device has done what it was given: a GPU works on while Python goes ahead."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"


def devices() -> list[str]:
    """The devices to measure on: those that are there, or the one that --device names."""
    return [d for d in ("cpu", "cuda") if d in ONLY and (d == "cpu" or torch.cuda.is_available())]


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fresh(function: Callable, *args):
    """function(*args) in a new process with as many threads: its memory owes nothing to what ran before."""
    start = {"initializer": torch.set_num_threads, "initargs": (torch.get_num_threads(),)}
    with ProcessPoolExecutor(1, get_context("spawn"), **start) as pool:
        return pool.submit(function, *args).result()


def memory(field: str = "VmRSS") -> float:
    """MB (1e6 bytes) of this process: VmRSS resident, VmHWM its high-water mark, RssAnon without mapped files."""
    return int(re.search(rf"{field}:\s+(\d+) kB", (PROC / "status").read_text())[1]) * 1024 / 1e6


def peak(call: Callable, device: str = "cpu") -> float:
    """MB that a call takes beyond what was there before, at most: resident memory, on a GPU torch's."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    (PROC / "clear_refs").write_text("5")  # sets the high-water mark back
    before = memory()
    call()
    return memory("VmHWM") - before


def close(a: torch.Tensor, b: torch.Tensor, relative: float) -> bool:
    """Whether two tensors of a shape differ by no more than a share of the largest entry."""
    return a.shape == b.shape and bool((a - b).abs().max() <= relative * b.abs().max())
