"""The time of a training step on this machine, from a few steps on random images, to estimate an experiment's cost.

The time depends on sizes only, not on the content of images.
"""

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig
from alchemist_core.training.downstream_training import train_downstream
from alchemist_core.training.pinning import pin
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import Samples

_N_STEPS = 12


class _Clock:
    """A progress callback that measures the median time of a step, which other work on the machine hardly changes."""

    def __init__(self) -> None:
        self._ticks: list[float] = []

    def __call__(self, _done: int, _total: int, _note: str) -> None:
        self._ticks.append(time.perf_counter())

    def seconds(self) -> float:
        """Return the median time between two steps, without the first, which warms up."""
        return median(after - before for before, after in pairwise(self._ticks[1:]))


def seconds_a_step(model: DownstreamConfig, rater: RaterTrainingConfig) -> tuple[float, float]:
    """Time a step of the downstream model and a bilevel step of the rater, in seconds.

    The tokenizer is the rater's; a published one must be available.
    """
    samples = _noise(max(model.batch_size, rater.batch_size, rater.codebook_size), rater.resolution)
    clocks = _Clock(), _Clock()
    with tempfile.TemporaryDirectory() as folder:
        rater_folder, model_folder = Path(folder) / "rater", Path(folder) / "model"
        short = pin(rater).model_copy(update={"proxy_warmup_steps": 0, "max_train_steps": _N_STEPS})
        train_rater(short, samples, samples, out=rater_folder, on_progress=clocks[1])
        trained = pin(model).model_copy(update={"max_train_steps": _N_STEPS})
        train_downstream(trained, samples, tokenizer_from=rater_folder, out=model_folder, on_progress=clocks[0])
    return clocks[0].seconds(), clocks[1].seconds()


def _noise(n: int, side: int) -> Samples:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (n, side, side, 3), np.uint8)
    return Samples(images, [f"a picture of {i}" for i in range(n)])
