"""How long a step takes here: a few real steps on noise, timed, so that a cost can be stated before it is paid.

Knows nothing of datasets: a step's time depends on sizes, not on what is in the pictures.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from alchemist_core.loops.config import DownstreamConfig, RaterTrainingConfig
from alchemist_core.loops.downstream_training import train_downstream
from alchemist_core.loops.pairs import Pairs
from alchemist_core.loops.rater_training import train_rater

_SHORT, _LONG = 4, 16


def seconds_a_step(model: DownstreamConfig, rater: RaterTrainingConfig) -> tuple[float, float]:
    """Time a step of the downstream model and a bilevel step of the rater, in seconds, by the difference of two lengths.

    The tokenizer is the rater's; where it is a published one, it must be at hand.
    """
    pairs = _noise(max(model.batch_size, rater.batch_size, rater.n_codes), rater.resolution)
    with tempfile.TemporaryDirectory() as folder:
        times = [_time_rater(rater, pairs, Path(folder) / f"rater-{n}", n) for n in (_SHORT, _LONG)]
        tokenizer_from = Path(folder) / f"rater-{_SHORT}"
        trained = [_time_model(model, pairs, Path(folder) / f"model-{n}", n, tokenizer_from) for n in (_SHORT, _LONG)]
    spans = (trained[1] - trained[0], times[1] - times[0])
    return max(0.0, spans[0] / (_LONG - _SHORT)), max(0.0, spans[1] / (_LONG - _SHORT))


def _time_model(model: DownstreamConfig, pairs: Pairs, out: Path, n_steps: int, tokenizer_from: Path) -> float:
    began = time.perf_counter()
    config = model.model_copy(update={"n_steps": n_steps})
    train_downstream(config, pairs, tokenizer_from=tokenizer_from, out=out, report=_unheard)
    return time.perf_counter() - began


def _time_rater(rater: RaterTrainingConfig, pairs: Pairs, out: Path, n_steps: int) -> float:
    began = time.perf_counter()
    train_rater(
        rater.model_copy(update={"n_warmup_steps": 1, "n_steps": n_steps}), pairs, pairs, out=out, report=_unheard
    )
    return time.perf_counter() - began


def _noise(n: int, side: int) -> Pairs:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (n, side, side, 3), np.uint8)
    return Pairs(images, [f"a picture of {i}" for i in range(n)])


def _unheard(_done: int, _total: int, _note: str) -> None:
    pass
