"""The presets' networks with random weights in the published layouts, and the time and memory of a few of their training steps."""

import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from alchemist_core.models.published.flux import export_flux
from alchemist_core.presets import NETWORKS, PRESETS, preset_values
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig
from alchemist_core.training.downstream_training import train_downstream
from alchemist_core.training.pinning import pin
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import Samples
from tests.benchmarks.rows import Row
from tests.gpu.parts import Given, release_memory
from tests.models.given_flux import TINY, new_transformer, write_flux_parts
from tests.peak_memory import peak_mib
from tests.rehearsal.weights import (
    write_flux,
    write_flux_components,
    write_text_encoder,
    write_tokenizer,
    write_weights,
)

SMALLEST: dict[str, dict[str, Any]] = {
    # One narrow block, on images of 16 px and hashed words: published encoders take minutes on a CPU.
    "train_rater": {
        "resolution": 16,
        "batch_size": 4, "softmax_group_size": 2, "proxy_depth": 1, "proxy_width": 64, "rater_depth": 1, "rater_width": 64,
    },
    "train_downstream": {"batch_size": 2, "gradient_accumulation_steps": 1, "depth": 1, "width": 64, "n_heads": 1},
}  # fmt: skip
CONFIGS: dict[str, type[RaterTrainingConfig] | type[DownstreamConfig]] = {
    "train_rater": RaterTrainingConfig, "train_downstream": DownstreamConfig,
}  # fmt: skip
# The plan's CLIP has 12 heads.
SMALL_FLUX = TINY.model_copy(update={"pooled_dim": 24})
N_STEPS = 6


def preset_config(given: Given, stage: str, preset: str, **changed: Any) -> Any:
    """Return the networks and training of a preset with random weights; at the smallest size of one narrow block."""
    values = dict(preset_values(stage, preset=preset).get(NETWORKS[stage], {}))
    if "flux" in values:
        values |= _flux_values(given)
    else:
        needed = PRESETS[preset].needs.get(stage, ())
        values |= (
            SMALLEST[stage]
            if given.is_smallest
            else {name: _weights(given, name) for name in needed if name not in changed}
        )
    return CONFIGS[stage].model_validate(values | changed)


def _weights(given: Given, name: str) -> str:
    if name == "tokenizer_weights":
        return str(write_weights(given.place, "tokenizer.pth", write_tokenizer))
    return f"clip:{write_weights(given.place, 'text-encoder', write_text_encoder)}"


def _flux_values(given: Given) -> dict[str, Any]:
    """FLUX-mini at its full size, with a T5 of two layers; or all of it small."""
    if given.is_smallest:
        base = write_weights(given.place, "flux.safetensors", _write_tiny_flux)
        components = write_weights(given.place, "flux", lambda folder: write_flux_parts(folder, SMALL_FLUX))
        return {"flux": SMALL_FLUX, "base_model": base, "flux_components": components, "batch_size": 2}
    with torch.device(given.device):
        base = write_weights(given.place, "flux.safetensors", write_flux)
    return {"base_model": base, "flux_components": write_weights(given.place, "flux", write_flux_components)}


def _write_tiny_flux(path: Path) -> None:
    save_file(export_flux(new_transformer(SMALL_FLUX).state_dict(), SMALL_FLUX), path)


class Steps(NamedTuple):
    """A few training steps."""

    seconds: float
    """Median time of a step."""
    peak_bytes: int
    """Most memory in a step: on a GPU that of its tensors, on a CPU the growth of the process."""
    losses: list[float]


class _Meter:
    """A progress callback that measures each step; the first two warm up."""

    def __init__(self) -> None:
        release_memory()
        self._ticks: list[float] = []
        self._before = 0 if torch.cuda.is_available() else _process_bytes(reset=True)
        self.peak_bytes = 0

    def __call__(self, done: int, _total: int, _note: str) -> None:
        self._ticks.append(time.perf_counter())
        if torch.cuda.is_available():
            self.peak_bytes = torch.cuda.max_memory_allocated()
        else:
            self.peak_bytes = _process_bytes() - self._before
        if done == 1 and torch.cuda.is_available():
            # Encoding the samples, which came before the first step, is not part of a step.
            torch.cuda.reset_peak_memory_stats()

    def seconds(self) -> float:
        """Return the median time between two steps."""
        return median(after - before for before, after in pairwise(self._ticks[1:]))


def _process_bytes(*, reset: bool = False) -> int:
    return round(peak_mib(reset=reset) * 2**20)


def few_steps(config: Any, folder: Path, *, rater: Path | None = None) -> Steps:
    """Train for a few steps on noise by the platform's own loop.

    Args:
        config: Options of a rater, or of a downstream model.
        folder: Folder to write.
        rater: Folder of the rater whose tokenizer a downstream model uses.
    """
    is_rater = isinstance(config, RaterTrainingConfig)
    side = config.resolution if is_rater else (config.flux.resolution if config.flux else 16)
    samples = noise(max(config.batch_size, 4), side)
    meter = _Meter()
    if is_rater:
        short = pin(config).model_copy(update={"proxy_warmup_steps": 0, "max_train_steps": N_STEPS})
        metrics = train_rater(short, samples, samples, out=folder, on_progress=meter)
        losses = [step["train_loss"] for step in metrics["history"]]
    else:
        trained = pin(config).model_copy(update={"max_train_steps": N_STEPS})
        metrics = train_downstream(trained, samples, tokenizer_from=rater or folder, out=folder, on_progress=meter)
        losses = metrics["losses"]
    return Steps(meter.seconds(), meter.peak_bytes, losses)


def noise(n: int, side: int) -> Samples:
    """Return samples without content: the time of a step depends on sizes only."""
    images = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)
    return Samples(images, [f"a red house near the river, number {number}" for number in range(n)])


def compare(title: str, found: Mapping[str, Steps], *, largest_difference: float) -> Iterator[Row]:
    """Yield the memory and time of a training relative to those of a first one, and the largest difference of their losses."""
    (_, before), (name, after) = found.items()
    detail = "; ".join(f"{n}: {s.seconds * 1000:,.0f} ms a step, {s.peak_bytes / 1e9:.2f} GB" for n, s in found.items())
    yield Row(f"{title}, {name}: time", after.seconds / before.seconds, "ratio", None, None, detail)
    yield Row(f"{title}, {name}: memory", after.peak_bytes / max(1, before.peak_bytes), "ratio", None, None)
    difference = float(np.max(np.abs(np.subtract(before.losses, after.losses)) / np.abs(before.losses)))
    target, is_near = f"≤ {largest_difference:g}", difference <= largest_difference
    yield Row(f"{title}, {name}: difference of a loss", difference, "relative", target, is_near)
