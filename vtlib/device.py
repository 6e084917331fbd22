"""The device that a run computes on, in which precision, and this process among several."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from . import __version__
from .common import unknown
from .memory import peak_host_memory

FORM = re.compile(r"auto|cpu|cuda(:\d+)?")


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; the first one alone writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """The number of this process on its machine: that of its GPU."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def check_name(name: str) -> str:
    """The name of a device, whether or not this machine has it. Raises: ValueError for any other text."""
    if not FORM.fullmatch(name):
        raise ValueError(unknown("device", name, ("auto", "cpu", "cuda", "cuda:0", "cuda:1")))
    return name


def pick(name: str = "auto") -> str:
    """The torch device of a run: `auto` is the first GPU where there is one, or each process's own of several.

    Raises: ValueError for a device that this machine has not.
    """
    if name not in ("auto", "cpu", "cuda") and world() > 1:
        raise ValueError(f"device={name}: of several processes each takes a GPU of its own, leave it at auto")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if check_name(name) == "auto" else name
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= there:
        has = f"{there} GPU{'s' * (there > 1)}, cuda:0 to cuda:{there - 1}" if there else "no GPU that torch can use"
        raise ValueError(f"device={name}: this machine has {has}: leave it at auto, or set device=cpu")
    return f"cuda:{local_rank()}" if device == "cuda" and world() > 1 else device


PRECISIONS = ("bf16", "float32")


def native_precision(name: str = "auto") -> str:
    """What precision `auto` stands for: VTLIB_PRECISION, or `bf16` where a device computes it itself, else `float32`.

    The variable is for a machine that plans, reads or draws the runs of another one. A GPU that is not here is taken
    for one that computes bf16. Raises: ValueError for another word in the variable.
    """
    if said := os.environ.get("VTLIB_PRECISION", ""):
        if said not in PRECISIONS:
            raise ValueError(f"VTLIB_PRECISION={said}: {unknown('precision', said, PRECISIONS)}")
        return said
    on_gpu = name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())
    if on_gpu:
        here = torch.cuda.is_available()
        return "bf16" if not here or torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "float32"


def environment(device: str, precision: str) -> dict:
    """What a number may depend on besides the fields of an experiment: versions, device, threads, commit, time.

    Args: device, precision: as Experiment names them.
    """
    device = pick(device)
    versions = {"vtlib": __version__, "torch": torch.__version__, "torchvision": version("torchvision")}
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()
    return {
        "versions": versions | {"numpy": np.__version__, "python": platform.python_version()},
        "device": f"{device}: {name}",
        "precision": precision,
        "processes": world(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def peak_memory() -> dict[str, float]:
    """The most memory this process has held so far, in GB: of the machine, mapped images included, and of its GPU."""
    held = {"host": peak_host_memory(children=False)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        held["device"] = torch.cuda.max_memory_reserved() / 1e9
    return {where: round(gigabytes, 3) for where, gigabytes in held.items()}


def processor() -> str:
    """The processor's name and the number of its cores."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(": ")[1] for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit of the code, with + where files differ from it; "" outside a checkout."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
