"""Environment variables that torch and its OpenMP library read once, when they are loaded.

The command line sets them after importing a command and before running it, because the run loads torch. Importing the package sets
nothing, so that other programs and notebooks keep their settings.
"""

import os

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


def set_compute_defaults() -> None:
    """Set the variables that the user has not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
