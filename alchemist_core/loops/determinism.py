"""The same seed gives the same bits, however many threads work: without it a resumed or repeated run is another run."""

import torch


def start_from_seed(seed: int) -> None:
    """Seed torch and keep to kernels whose result does not depend on the order in which threads add up.

    By default the backward of an indexed parameter adds in any order: two threads then gave another rater at every run.
    """
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(seed)
