"""Scores samples 0 to N by a server, as a process that a test kills: python -m tests.scorers.score_by_vlm URL N."""

import sys
from typing import Any

import numpy as np

from alchemist_core.scorers import vlm
from alchemist_core.scorers.registration import open_scorer
from alchemist_core.scorers.running import ScorerRunner
from alchemist_core.scorers.scorer import Batch, Rated

PROMPT = "How good is the image of {caption}"


def options(url: str, **more: Any) -> dict[str, Any]:
    return {
        "endpoint": url, "model": "judge-1", "prompt": PROMPT, "outputs": "quality:0:10 text:0:1", "image_side": 32,
        "concurrency": 4, "timeout_s": 1.0, "retries": 4,
    } | more  # fmt: skip


def make_batch(samples: range) -> Batch:
    image_BHWC = np.stack([np.full((32, 32, 3), sample % 256, np.uint8) for sample in samples])
    return Batch(
        image_BHWC, [f"sample {sample}" for sample in samples], [sample.to_bytes(32, "big") for sample in samples]
    )


def score(url: str, samples: range, **more: Any) -> Rated:
    scorer = open_scorer("vlm", options(url, **more))
    try:
        return ScorerRunner(scorer, "judge").rate(make_batch(samples))
    finally:
        scorer.close()


if __name__ == "__main__":
    vlm.BACKOFF_S = 0.001
    score(sys.argv[1], range(int(sys.argv[2])), timeout_s=60)
