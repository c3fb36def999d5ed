"""The cores of this machine that a process may use."""

import os


def n_own_cores() -> int:
    """Return this process's share of cores: the available cores divided by the processes that torchrun started on the machine."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, n_cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
