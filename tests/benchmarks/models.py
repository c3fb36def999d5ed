"""Speed and quality of the models: tokenizers with equal tokens and codes, a training step of the tiny generator, sampling images.

python -m tests.benchmarks.models → .alchemist/bench/models.json
"""

import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alchemist_core.local import scenes
from alchemist_core.models.config import SamplingConfig, StarConfig, TokenizerConfig, tokenizer_tiny
from alchemist_core.models.images import ImageArray, resize_images
from alchemist_core.models.sampling import sample_codes
from alchemist_core.models.star import Star
from alchemist_core.models.text import WordVectors
from alchemist_core.models.tokenizer import Tokenizer, fit_tokenizer

OUT = Path(".alchemist/bench/models.json")
_DRAWERS = (scenes.draw_informative, scenes.draw_plain, scenes.draw_chaotic)
_KIND_RATIOS = (0.55, 0.25, 0.20)
_MOST_FIT_S = 60.0


def draw_scenes(n_images: int, seed: int) -> ImageArray:
    """Scenes of 64 px in the synthetic corpus' proportions."""
    rng = random.Random(seed)
    drawers = rng.choices(_DRAWERS, _KIND_RATIOS, k=n_images)
    return np.stack([np.asarray(draw(rng, 64).image) for draw in drawers])


def measure_tokenizer(name: str, config: TokenizerConfig) -> list[dict[str, Any]]:
    """Seconds to fit, and the mean squared error of unseen scenes in grey levels."""
    train_NHWC, unseen_NHWC = draw_scenes(3000, 0), draw_scenes(600, 1)
    start = time.perf_counter()
    tokenizer = fit_tokenizer(train_NHWC, config, seed=0)
    fit_s = time.perf_counter() - start
    wanted_NHWC = ((resize_images(unseen_NHWC, config.resolution) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    code_NS = tokenizer.encode(unseen_NHWC)
    error = float(np.mean((tokenizer.decode(code_NS).astype(float) - wanted_NHWC) ** 2))
    detail = f"{config.n_tokens} tokens, {config.n_codes} codes, {len(code_NS.unique())} of them used"
    return [
        row(f"{name}: fit", fit_s, "s", target=f"< {_MOST_FIT_S:.0f}", ok=fit_s < _MOST_FIT_S),
        row(f"{name}: squared error", error, "grey levels²", detail=detail),
    ]


def measure_star(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """A training step of the tiny generator, and drawing images from it."""
    torch.manual_seed(0)
    star = Star(StarConfig(width=64, depth=2, n_heads=2, token_dim=tokenizer.config.token_dim))
    text = WordVectors().encode([f"a red circle left of a blue square {index}" for index in range(128)])
    tokens = tokenizer.tokens(tokenizer.encode(draw_scenes(128, 0)))

    def step() -> None:
        star(tokens, text).mean().backward()
        star.zero_grad()

    def draw() -> None:
        sampling = SamplingConfig(batch_size=128)
        sample_codes(star, tokenizer, text, empty=WordVectors().encode([""]), seeds=range(128), config=sampling)

    return [
        row("tiny star: forward and backward of 128", 1e3 * typical_s(step), "ms"),
        row("tiny star: drawing 128 images, guided", 1e3 * typical_s(draw), "ms"),
    ]


def typical_s(action: Callable[[], None], n_times: int = 20) -> float:
    """The median of some runs after two more."""
    seconds = []
    for _ in range(n_times + 2):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def row(
    name: str, value: float, unit: str, *, target: str = "", ok: bool | None = None, detail: str = ""
) -> dict[str, Any]:
    """One line of the result."""
    return {"name": name, "value": round(value, 3), "unit": unit, "target": target, "ok": ok, "detail": detail}


def main() -> None:
    """Measure all and write the result."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    rows = []
    for resolution in (16, 32):
        rows += measure_tokenizer(f"patches, {resolution} px", TokenizerConfig(resolution=resolution))
        rows += measure_tokenizer(f"convolutions, {resolution} px", tokenizer_tiny(resolution))
    rows += measure_star(fit_tokenizer(draw_scenes(500, 0), TokenizerConfig(), seed=0))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1))
    for line in rows:
        print(f"{line['name']:42} {line['value']:10.2f} {line['unit']:14} {line['detail']}")


if __name__ == "__main__":
    main()
