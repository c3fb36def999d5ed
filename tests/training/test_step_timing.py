"""The time of a step is that of a step, however many batches of images are encoded before the first one."""

import time
from functools import wraps
from typing import Any

import pytest

from alchemist_core.training.bilevel import Bilevel
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig
from alchemist_core.training.downstream_training import _Run
from alchemist_core.training.step_timing import LEAST_STEPS, seconds_a_model_step, seconds_a_rater_step

# Longer than the encoding of 16 images of 256 px takes on a busy machine.
SLOW_S = 0.5
# Of images of 256 px, 16 are encoded at a time: 128 of them in 8 batches, before 3 steps.
LARGE: dict[str, Any] = {
    "resolution": 256, "codebook_size": 64, "batch_size": 2, "n_heads": 1,
    "proxy_width": 8, "rater_width": 8, "proxy_depth": 1, "rater_depth": 1,
}  # fmt: skip


def slow_down(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Let each step of a training take longer than it does."""
    step = getattr(owner, name)

    @wraps(step)
    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(SLOW_S)
        return step(*args, **kwargs)

    monkeypatch.setattr(owner, name, slow)


def test_batches_of_encoded_images_are_not_steps_of_a_rater(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_down(monkeypatch, Bilevel, "step")
    assert seconds_a_rater_step(RaterTrainingConfig.model_validate(LARGE), LEAST_STEPS) >= SLOW_S


def test_batches_of_encoded_images_are_not_steps_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_down(monkeypatch, _Run, "_descend")
    model = DownstreamConfig(width=8, depth=1, n_heads=1, batch_size=128)
    assert seconds_a_model_step(model, RaterTrainingConfig.model_validate(LARGE), LEAST_STEPS) >= SLOW_S
