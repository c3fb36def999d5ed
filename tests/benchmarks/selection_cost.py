"""What a selection costs in GPU hours and what it saves in training, counted for the paper's size; nothing is trained.

`python -m tests.benchmarks.selection_cost [--gpu a100] [--preset paper] [--epochs 3]` prints a table of research page 033.

Arithmetic is that of `alchemist plan`; the time is arithmetic over a share of the GPU's peak.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from alchemist_core.presets import planned_values, preset_values
from alchemist_core.rating.config import ScoringRule
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig
from alchemist_core.training.footprint import Work, downstream_footprint, rater_footprint, scoring_footprint
from alchemist_core.training.gpus import DEFAULT_UTILISATION, GPUS, Gpu

N_VALIDATION = 1_000_000
RULES = (ScoringRule.LEARNABILITY, ScoringRule.ALIGNMENT)
SIZES, RETENTIONS = (1_000_000, 30_000_000), (0.5, 0.2)


class Cost(NamedTuple):
    """GPU hours of one selection for one corpus."""

    what: str
    n_samples: int
    rater: float
    scoring: float
    encoders: float
    """The part of the scoring that frozen encoders in fp32 take: tokenizer, text encoder, and CLIP for critic and density."""
    training: float
    """Of the downstream model, on all samples."""

    def total(self, retention: float, n_models: int) -> float:
        """Return the hours of one selection and some trainings on it, as a share of these trainings on all samples."""
        return retention + (self.rater + self.scoring) / (n_models * self.training)


def main() -> None:
    """Count, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", choices=sorted(GPUS), default="a100")
    parser.add_argument("--preset", choices=("gpu80", "paper"), default="paper")
    parser.add_argument(
        "--epochs", type=int, default=3, help="epochs of the downstream model, as in the paper's tables"
    )
    given = parser.parse_args()
    gpu = GPUS[given.gpu]
    print(
        f"GPU hours on {gpu.title} at {DEFAULT_UTILISATION:.0%} of its peak, preset {given.preset}, {given.epochs} epochs."
    )
    print(
        "| samples | selection | rater | scoring (encoders) | training on all | 50%, one model | ten models | 20%, one model | ten |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for cost in costs(gpu, given.preset, given.epochs):
        shares = " | ".join(f"{cost.total(kept, n_models):.0%}" for kept in RETENTIONS for n_models in (1, 10))
        spent = f"{cost.rater:.0f} | {cost.scoring:.0f} ({cost.encoders:.0f}) | {cost.training:.0f}"
        print(f"| {cost.n_samples:,} | {cost.what} | {spent} | {shares} |", flush=True)


def costs(gpu: Gpu, preset: str, epochs: int) -> Iterator[Cost]:
    """Yield the costs of each selection for each size of corpus."""

    def planned(stage: str, field: str) -> dict[str, object]:
        found: dict[str, object] = planned_values(preset, stage, preset_values(stage, preset=preset))[field]
        return found

    model = DownstreamConfig.model_validate(planned("train_downstream", "model") | {"num_train_epochs": epochs})
    given = planned("train_rater", "training")
    raters = {rule: RaterTrainingConfig.model_validate(given | {"rule": rule}) for rule in RULES}
    trained = downstream_footprint(model, raters[RULES[0]].tokenizer_config).work
    work_of = {rule: (rater_footprint(config).work, scoring_footprint(config).work) for rule, config in raters.items()}
    embedding = embedding_work()
    for n in SIZES:
        once = {"images": n, "captions": n, "step": model.steps(n)}
        training = sum(hours(gpu, trained[name], times) for name, times in once.items())
        clip = hours(gpu, embedding, n)
        for rule, config in raters.items():
            work, scoring = work_of[rule]
            n_read = min(n, config.n_read) + N_VALIDATION
            parts = {
                "images": n_read,
                "captions": n_read,
                "warm-up": config.proxy_warmup_steps,
                "step": config.max_train_steps,
            }
            rater = sum(hours(gpu, work[name], times) for name, times in parts.items())
            encoders = sum(hours(gpu, scoring[name], n) for name in ("images", "captions"))
            network = hours(gpu, scoring["scores"], n)
            yield Cost(f"rule `{rule}`", n, rater, encoders + network, encoders, training)
            with_clip = encoders + clip
            yield Cost(f"rule `{rule}`, critic and density", n, rater, with_clip + network, with_clip, training)


def hours(gpu: Gpu, work: Work, n: int) -> float:
    """Return the GPU hours of some arithmetic, done n times."""
    peak = gpu.bf16 if work.number_format == "bf16" else gpu.fp32
    return n * work.flops / (peak * DEFAULT_UTILISATION) / 3600


def embedding_work() -> Work:
    """Count the arithmetic of one image and one caption in CLIP ViT-L/14, on whose features critic and density ratio are trained."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    }
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counted:
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))
        model.get_image_features(pixel_values=torch.zeros(1, 3, 224, 224))
        model.get_text_features(input_ids=torch.zeros(1, 77, dtype=torch.int64))
    return Work(counted.get_total_flops(), "fp32")


if __name__ == "__main__":
    main()
