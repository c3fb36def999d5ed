"""Scores in bf16 against fp32, for the rater of tiny and that of gpu24, both trained briefly on the synthetic corpus."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alchemist_core.cores import n_own_cores
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import ImageTokens
from alchemist_core.statistics import spearman
from alchemist_core.training.launching import own_device
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import Samples
from alchemist_core.training.scoring import BF16_TOLERANCE, Scorer
from tests.benchmarks.rows import Row, at_least
from tests.benchmarks.scenes_study import load_study
from tests.gpu.networks import preset_config
from tests.gpu.parts import Given, release_memory

LEAST_CORRELATION = 0.999
N_ON_CPU = 64
"""A CPU takes seconds for an image of 256 px."""


def measure(given: Given) -> Iterator[Row]:
    """Train each rater, and score the same samples in both number formats."""
    lengths = given.pick(
        {"proxy_warmup_steps": 100, "max_train_steps": 200}, {"proxy_warmup_steps": 2, "max_train_steps": 2}
    )
    sizes = given.pick(
        {"n_train": 1024, "n_validation": 512, "n_test": 8}, {"n_train": 12, "n_validation": 4, "n_test": 1}
    )
    for preset in ("tiny", "gpu24"):
        release_memory()
        config = preset_config(given, "train_rater", preset, **lengths)
        study = load_study(given.place / "scenes", seed=0, side=config.resolution, **sizes)
        out = given.place / f"rater-{preset}"
        train_rater(config, study.train, study.validation, out=out, on_progress=lambda *_: None)
        device = own_device()
        found = {
            "bf16": _scores(out, device, study.train, is_bf16=True),
            "fp32": _scores(out, device, study.train, is_bf16=False),
        }
        yield from _compare(f"{preset}: bf16 against fp32", found["bf16"], found["fp32"])
        if device.type == "cuda":
            few = study.train.rows(np.arange(N_ON_CPU))
            yield from _compare(
                f"{preset}: card's bf16 against the CPU's fp32", found["bf16"][:N_ON_CPU], _on_cpu(out, few)
            )


def _on_cpu(folder: Path, samples: Samples) -> np.ndarray:
    torch.set_num_threads(n_own_cores())
    scorer = Scorer.load(folder)
    # Padding takes as long as images.
    scorer.batch = len(samples)
    return scorer.score(samples.image_NHWC, samples.captions)


def _compare(name: str, score_N: np.ndarray, expected_N: np.ndarray) -> Iterator[Row]:
    difference = float(np.abs(score_N - expected_N).max() / expected_N.std())
    target, is_near = f"≤ {BF16_TOLERANCE}", difference <= BF16_TOLERANCE
    detail = f"of {len(score_N):,} scores, in standard deviations of the scores"
    yield Row(f"{name}: largest difference", difference, "spreads", target, is_near, detail)
    yield at_least(f"{name}: rank correlation", spearman(score_N, expected_N), LEAST_CORRELATION, "Spearman")


class _InFormat(torch.nn.Module):
    """A rater that computes in one number format instead of the scorer's default."""

    def __init__(self, rater: Any, *, is_bf16: bool) -> None:
        super().__init__()
        self.rater, self.is_bf16 = rater, is_bf16

    def score(self, tokens: ImageTokens, text: TextFeatures) -> Tensor:
        """Return the scores of a batch."""
        with torch.autocast(tokens.code_BS.device.type, torch.bfloat16, enabled=self.is_bf16):
            scored: Tensor = self.rater.score(tokens, text)
            return scored


def _scores(folder: Path, device: torch.device, samples: Samples, *, is_bf16: bool) -> np.ndarray:
    scorer = Scorer.load(folder, device)
    scorer._rater = _InFormat(scorer._rater, is_bf16=is_bf16)
    return scorer.score(samples.image_NHWC, samples.captions)
