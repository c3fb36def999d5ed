"""Environment variables that torch and its OpenMP library read once, when they are loaded, and limits of memory and open files.

The command line sets them after importing a command and before running it, because the run loads torch. Importing the package sets
nothing, so that other programs and notebooks keep their settings.
"""

import os
import sys
from contextlib import suppress

DEFAULTS = {
    # One OpenMP thread, like torchrun: at this model size two sleeping threads are 20% slower on idle cores, 50% on busy cores
    # (a rater step: 95 ms with one thread, idle or busy; 115 and 140 ms with two that sleep; 62 and up to 400 ms with two that spin).
    "OMP_NUM_THREADS": "1",
    # Waiting threads sleep instead of spinning: with one core busy, two spinning threads made a
    # training step 9 times slower (0.67 s against 0.07 s, 2 cores).
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    # cuBLAS is deterministic only with a fixed workspace; torch refuses deterministic kernels without this setting.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


KEPT_BYTES = 256 << 20
"""Freed memory that a process keeps. glibc returns each array of some megabytes at once, and the next one costs a page fault for every
4 KiB: half of the time of an image encoder (64 ms an image instead of 35) and a quarter of a training step (69 ms instead of 52)."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
OPEN_FILES = 1 << 17
"""Files that a process may have open, if the system lets it. The usual 1,024 are too few: Python holds one for each file that it maps, and
the feature cache of 6 million images has 1,600."""


def set_compute_defaults() -> None:
    """Set the variables and the thresholds of glibc that the user has not set, and raise the limit of open files."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    _allow_open_files()
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        import ctypes  # noqa: PLC0415  not for `--help`

        # Another C library than glibc has no such function.
        with suppress(AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
            mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def _allow_open_files() -> None:
    import resource  # noqa: PLC0415  not for `--help`

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
