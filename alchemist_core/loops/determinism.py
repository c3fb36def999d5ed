"""The same seed gives the same bits, however many threads work: without it a resumed or repeated run is another run."""

import os

import torch

from alchemist_core.compute_defaults import DEFAULTS


def start_from_seed(seed: int) -> None:
    """Seed torch and keep to kernels whose result does not depend on the order in which threads add up.

    By default the backward of an indexed parameter adds in any order: two threads then gave another rater at every run.
    """
    # Also for those who call the library from a program of their own: torch checks it at the first product of matrices.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", DEFAULTS["CUBLAS_WORKSPACE_CONFIG"])
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(seed)
