"""Each preset with random weights: samples a second, share of the card's peak, and memory against the plan."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from alchemist_core.presets import PRESETS
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.footprint import Footprint, downstream_footprint, rater_footprint
from alchemist_core.training.gpus import GPUS
from tests.benchmarks.rows import Row
from tests.gpu.networks import Steps, few_steps, preset_config
from tests.gpu.parts import Given, describe, failed, unmeasured

LENGTHS = {"proxy_warmup_steps", "max_train_steps", "num_train_epochs"}
NEAR = (0.75, 1.25)
"""How near the plan's memory should be to what is measured."""


def measure(given: Given) -> Iterator[Row]:
    """Train a few steps of each; what needs more memory than the card has is left out, and so is what was measured before."""
    seen: dict[str, Any] = {}
    rater, tokenizer = given.place, RaterTrainingConfig().tokenizer_config
    for preset, declared in PRESETS.items():
        for stage in declared.values:
            name, config = f"{preset}, {stage.replace('_', '-')}", preset_config(given, stage, preset)
            step = config.model_dump(exclude=LENGTHS)
            if (same := next((other for other, known in seen.items() if known == step), None)) is not None:
                yield unmeasured(name, f"a step is the same as that of {same}")
                continue
            seen[name] = step
            if stage == "train_rater":
                tokenizer = config.tokenizer_config
                plan = rater_footprint(config, is_gpu=torch.cuda.is_available())
            else:
                plan = downstream_footprint(config, tokenizer)
            n_bytes = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else math.inf
            if plan.peak > n_bytes:
                yield unmeasured(
                    name, f"does not fit: {plan.peak / 1e9:.0f} GB planned, {n_bytes / 1e9:.0f} GB on the card"
                )
                continue
            try:
                steps = few_steps(config, given.place / name, rater=rater)
            except torch.OutOfMemoryError as error:
                yield failed(f"{name}: memory", f"{describe(error)}; {plan.peak / 1e9:.1f} GB planned")
            else:
                yield from _rows(name, config, plan, steps)
                # Presets with one tokenizer can share a rater, of which a downstream model uses nothing else.
                rater = given.place / name if stage == "train_rater" else rater


def _rows(name: str, config: Any, plan: Footprint, steps: Steps) -> Iterator[Row]:
    batch_size = config.batch_size
    detail = f"{steps.seconds * 1000:,.1f} ms a step of {batch_size} samples"
    yield Row(f"{name}: speed", batch_size / steps.seconds, "samples/s", None, None, detail)
    work = plan.work["step"]
    rate = work.flops / steps.seconds
    detail = f"{rate / 1e12:.3g} TFLOP/s, {work.number_format}; {work.flops / 1e12:.3g} TFLOP a step"
    if (peak := _peak(work.number_format)) is None:
        yield unmeasured(f"{name}: share of peak", f"the peak of this device is not known; {detail}")
    else:
        yield Row(f"{name}: share of peak", rate / peak, "ratio", None, None, f"{detail}; peak {peak / 1e12:g} TFLOP/s")
    planned = plan.peak - _missing_layers(config, plan)
    ratio = steps.peak_bytes / planned
    # What a process on a CPU takes includes what its allocator keeps.
    is_near = NEAR[0] <= ratio <= NEAR[1] if torch.cuda.is_available() else None
    target = None if is_near is None else f"{NEAR[0]}–{NEAR[1]}"
    detail = f"measured {steps.peak_bytes / 1e9:.2f} GB, planned {planned / 1e9:.2f} GB"
    yield Row(f"{name}: memory over plan", ratio, "ratio", target, is_near, detail)


def _missing_layers(config: Any, plan: Footprint) -> int:
    """Return the bytes of FLUX's text encoders that their stand-ins here lack."""
    if getattr(config, "flux", None) is None:
        return 0
    folders = (config.flux_components / name for name in ("text_encoder", "text_encoder_2"))
    n_bytes = sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors"))
    return 2 * plan.parameters["text encoder"] - n_bytes


def _peak(number_format: str) -> float | None:
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    found = next((gpu for gpu in GPUS.values() if gpu.is_device(name)), None)
    return None if found is None else getattr(found, number_format)
