"""Peak memory of a process."""

import sys


def peak_host_memory(*, children: bool = True) -> float:
    """The most memory that this process has held at any time, in GB.

    Args: children: whether the peak of a finished child counts too, where larger; never on Windows.
    """
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e9
    kinds = (resource.RUSAGE_SELF, *[resource.RUSAGE_CHILDREN] * children)
    peak = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9  # macOS counts bytes, Linux KiB
