"""The most memory that a process has held."""

import sys


def peak_host_memory(*, children: bool = True) -> float:
    """The most memory in GB that this process, or a finished child of it, has held; on Windows this process alone."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e9
    whose = (resource.RUSAGE_SELF, *[resource.RUSAGE_CHILDREN] * children)
    held = max(resource.getrusage(who).ru_maxrss for who in whose)
    return held * (1 if sys.platform == "darwin" else 1024) / 1e9
