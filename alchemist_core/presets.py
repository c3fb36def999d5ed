"""Presets: named defaults for every stage; options override single values.

Each is a function that returns, for each stage, the fields that differ from the config models' own defaults.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

Values = dict[str, dict[str, Any]]
# The drop-top ratios of the authors: 0.25 for retentions of 10% to 50%, 0.15 for 80%, 0.05 for 90%.
PAPER_CUTS = (0.25, 0.15, 0.05)


def tiny() -> Values:
    """Run everything on a laptop: the config models' own defaults.

    Hardware: 2 CPU cores. Duration: minutes for 12,000 samples of 64 px.
    """
    return {}


def paper(retention: float = 0.2) -> Values:
    """Rate by loss (Eq. 9) and select by Shift-Gsample (Eq. 11), as the paper's tables do.

    Hardware: 2 CPU cores at tiny size. The drop-top ratio is 0.25; at high retentions it is lowered as the authors did, to 0.15 (at
    80%) and 0.05 (at 90%). Subsets with the same drop-top ratio are nested, 20% ⊂ 50% ⊂ 70%; others need not be.
    """
    cut = next((cut for cut in PAPER_CUTS if retention <= 1 - cut), PAPER_CUTS[-1])
    shift = {"strategy": "shift_gsample", "drop_top_ratio": cut, "mean_rank": 0.625, "std_rank": 0.125}
    return {"train_rater": {"training": {"rule": "loss"}}, "select": {"policy": shift}}


def paper_exact(retention: float = 0.2) -> Values:
    """Use the objective and the product of weights exactly as the paper prints them. Training collapses, as this preset shows.

    Hardware: 2 CPU cores at tiny size. Drop-top ratios as in the preset paper.
    """
    values = paper(retention)
    values["train_rater"]["training"]["objective"] = "paper_exact"
    return values


def paper_size() -> Values:
    """Train the paper's networks: STAR-0.3B as both proxies, a depth-8 rater of 38.95 M, the published tokenizer at 256 px.

    Hardware: GPUs under accelerate launch; parameters were counted, nothing was trained yet. Scoring rule alignment. A micro-batch
    of 64 samples has 44 GB of activations by calculation, so one GPU of 80 GB is enough; with --gradient-checkpointing about a seventh.
    Needs --tokenizer-weights and --text-encoder clip:NAME.
    """
    training = {
        "proxy_depth": 16, "proxy_width": 1024, "rater_depth": 8, "rater_width": 512, "n_heads": None,
        "rater_init": "scratch", "rater_features": "hidden", "resolution": 256, "mixed_precision": "bf16",
        "proxy_learning_rate": 1e-4, "rater_learning_rate": 1e-4, "weight_decay": 0.05, "max_grad_norm": 2.0,
        "softmax_group_size": 32, "proxy_warmup_steps": 50_000, "max_train_steps": 50_000, "rater_ema_decay": 0.9997,
        "validation_steps": 1000, "checkpointing_steps": 1000,
    }  # fmt: skip
    model = {
        "depth": 16, "width": 1024, "n_heads": 16, "batch_size": 512, "gradient_accumulation_steps": 8, "mixed_precision": "bf16",
        "learning_rate": 1e-4, "weight_decay": 0.05,
    }  # fmt: skip
    return {"train_rater": {"training": training}, "train_downstream": {"model": model}}


def flux_mini() -> Values:
    """Adapt FLUX-mini to a subset, as FluxKits does: rank 16 on attention, one epoch at 512 px (Table 2c).

    Hardware: one GPU of 24 GB (3.2 B frozen weights in bf16). Run at tiny size; the full size was not trained yet.
    Needs --base-model flux-mini.safetensors and --flux-components FOLDER of FLUX.1's VAE and encoders.
    """
    model = {
        "flux": {}, "method": "lora", "lora_rank": 16, "num_train_epochs": 1, "batch_size": 8, "learning_rate": 1e-4,
        "lr_warmup_steps": 0, "weight_decay": 0.01,
    }  # fmt: skip
    return {"train_downstream": {"model": model}}


PRESETS: dict[str, Callable[..., Values]] = {
    "tiny": tiny,
    "paper": paper,
    "paper_exact": paper_exact,
    "paper_size": paper_size,
    "flux_mini": flux_mini,
}


def preset_values(name: str, stage: str, *, retention: float | None = None) -> dict[str, Any]:
    """Return the values of a preset for one stage; some presets depend on the retention.

    >>> preset_values("paper", "train_rater")
    {'training': {'rule': 'loss'}}
    >>> [preset_values("paper", "select", retention=r)["policy"]["drop_top_ratio"] for r in (0.5, 0.8, 0.9)]
    [0.25, 0.15, 0.05]
    """
    preset = PRESETS[name]
    is_used = retention is not None and "retention" in signature(preset).parameters
    return (preset(retention) if is_used else preset()).get(stage, {})
