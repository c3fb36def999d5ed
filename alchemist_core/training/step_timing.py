"""The time of a training step on this machine, from a few steps on random images, to estimate the cost of an experiment or a training.

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
from alchemist_core.training.encoding import IMAGES_ENCODED
from alchemist_core.training.pinning import pin
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import Samples

N_STEPS, LEAST_STEPS = 12, 3
"""Steps that are timed: usually, and at least, because the first one is not counted."""


class _Clock:
    """A progress callback that measures the median time of a step, which other work on the machine hardly changes."""

    def __init__(self) -> None:
        self._ticks: list[float] = []

    def __call__(self, _done: int, _total: int, note: str) -> None:
        # A batch of encoded images is no step, and large images have more batches than are timed steps.
        if note != IMAGES_ENCODED:
            self._ticks.append(time.perf_counter())

    def seconds(self) -> float:
        """Return the median time between two steps, without the first, which warms up."""
        return median(after - before for before, after in pairwise(self._ticks[1:]))


def seconds_a_step(model: DownstreamConfig, rater: RaterTrainingConfig) -> tuple[float, float]:
    """Time a step of the downstream model and a bilevel step of the rater, in seconds.

    The tokenizer is the rater's; a published one must be available.
    """
    with tempfile.TemporaryDirectory() as folder:
        rater_s = _time_rater(rater, N_STEPS, Path(folder))
        return _time_model(model, rater, N_STEPS, Path(folder)), rater_s


def seconds_a_rater_step(rater: RaterTrainingConfig, n_steps: int) -> float:
    """Time a bilevel step of a rater, in seconds, from some steps, at least `LEAST_STEPS`."""
    with tempfile.TemporaryDirectory() as folder:
        return _time_rater(rater, n_steps, Path(folder))


def seconds_a_model_step(model: DownstreamConfig, rater: RaterTrainingConfig, n_steps: int) -> float:
    """Time a step of a downstream model with the tokenizer of a rater, in seconds, from some steps, at least `LEAST_STEPS`."""
    # The smallest rater with the same tokenizer: only that is needed.
    small = RaterTrainingConfig(
        resolution=rater.resolution, tokenizer=rater.tokenizer, codebook_size=rater.codebook_size, batch_size=2, n_heads=1,
        proxy_width=8, proxy_depth=1, rater_width=8, rater_depth=1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        _train_rater(small, 1, Path(folder), _Clock())
        return _time_model(model, small, n_steps, Path(folder))


def _time_rater(rater: RaterTrainingConfig, n_steps: int, folder: Path) -> float:
    clock = _Clock()
    _train_rater(rater, n_steps, folder, clock)
    return clock.seconds()


def _train_rater(rater: RaterTrainingConfig, n_steps: int, folder: Path, clock: _Clock) -> None:
    samples = _noise(max(rater.batch_size, rater.codebook_size), rater.resolution)
    short = pin(rater).model_copy(update={"proxy_warmup_steps": 0, "max_train_steps": n_steps})
    train_rater(short, samples, samples, out=folder / "rater", on_progress=clock)


def _time_model(model: DownstreamConfig, rater: RaterTrainingConfig, n_steps: int, folder: Path) -> float:
    """Time a step of a model; the folder contains the rater's."""
    clock, samples = _Clock(), _noise(model.batch_size, rater.resolution)
    short = pin(model).model_copy(update={"max_train_steps": n_steps})
    train_downstream(short, samples, tokenizer_from=folder / "rater", out=folder / "model", on_progress=clock)
    return clock.seconds()


def _noise(n: int, side: int) -> Samples:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (n, side, side, 3), np.uint8)
    return Samples(images, [f"a picture of {i}" for i in range(n)])
