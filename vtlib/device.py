"""The device and the precision of a run, and the number of this process where several share an experiment."""

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
    """The number of processes that share this experiment."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; only process 0 writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """The number of this process on its machine, from 0, which is also the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def check_name(name: str) -> str:
    """The name, if it is that of a device, whether or not this machine has it. Raises: ValueError for other texts."""
    if not FORM.fullmatch(name):
        raise ValueError(unknown("device", name, ("auto", "cpu", "cuda", "cuda:0", "cuda:1")))
    return name


def pick(name: str = "auto") -> str:
    """The torch device of a run: `auto` is the first GPU, or the CPU where there is none.

    Each of several processes gets the GPU of its local_rank().
    Raises: ValueError for a device that this machine does not have.
    """
    if name not in ("auto", "cpu", "cuda") and world() > 1:
        raise ValueError(f"device={name}: of several processes each takes a GPU of its own, leave it at auto")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if check_name(name) == "auto" else name
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= gpus:
        has = f"{gpus} GPU{'s' * (gpus > 1)}, cuda:0 to cuda:{gpus - 1}" if gpus else "no GPU that torch can use"
        raise ValueError(f"device={name}: this machine has {has}: leave it at auto, or set device=cpu")
    return f"cuda:{local_rank()}" if device == "cuda" and world() > 1 else device


PRECISIONS = ("bf16", "float32")


def native_precision(name: str = "auto") -> str:
    """The precision that `auto` means: that of VTLIB_PRECISION, else bf16 where a device computes it, else float32.

    Set the variable on a machine that plans or reads the runs of another one. A GPU on a machine without GPUs is taken
    to compute bf16.
    Args: name: of the device, as Experiment.device. Raises: ValueError for another word in the variable.
    """
    if word := os.environ.get("VTLIB_PRECISION", ""):
        if word not in PRECISIONS:
            raise ValueError(f"VTLIB_PRECISION={word}: {unknown('precision', word, PRECISIONS)}")
        return word
    on_gpu = name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())
    if on_gpu:
        has_gpu = torch.cuda.is_available()
        return "bf16" if not has_gpu or torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "float32"


def environment(device: str, precision: str) -> dict:
    """All that a result may depend on besides the fields of an experiment: versions, device, threads, commit, time.

    Args: device, precision: as in Experiment. Raises: ValueError as pick().
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
    """Peak memory of this process so far, GB: `host`, images mapped from disk included, and `device`, of its GPU."""
    peaks = {"host": peak_host_memory(children=False)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks["device"] = torch.cuda.max_memory_reserved() / 1e9
    return {place: round(gigabytes, 3) for place, gigabytes in peaks.items()}


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
    """The commit of the code, followed by + where files differ from it; "" outside a git checkout."""
    package = Path(__file__).parent
    git = ["git", "-C", str(package), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
