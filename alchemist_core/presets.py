"""Presets: named defaults for every stage; flags override single fields.

Each is a function that returns, for each stage, the fields that differ from the config models' own defaults.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

Values = dict[str, dict[str, Any]]
# The authors' head cuts: 0.25 for retentions of 10% to 50%, 0.15 for 80%, 0.05 for 90%.
PAPER_CUTS = (0.25, 0.15, 0.05)


def tiny() -> Values:
    """Run everything on a laptop: the config models' own defaults.

    Hardware: 2 CPU cores. Duration: minutes for 12,000 pairs of 64 px.
    """
    return {}


def paper(retention: float = 0.2) -> Values:
    """Rate by loss (Eq. 9) and select by Shift-Gsample (Eq. 11), as the paper's tables do.

    Hardware: 2 CPU cores at tiny size. The head cut is 0.25; where it would leave too few samples it is lowered as the authors did, to
    0.15 (at 80%) and 0.05 (at 90%). Subsets of one head cut are nested, 20% ⊂ 50% ⊂ 70%; those of different head cuts need not be.
    """
    cut = next((cut for cut in PAPER_CUTS if retention <= 1 - cut), PAPER_CUTS[-1])
    shift = {"strategy": "shift_gsample", "drop_top_ratio": cut, "mean_rank": 0.625, "std_rank": 0.125}
    return {"train_rater": {"training": {"rule": "loss"}}, "select": {"policy": shift}}


def paper_exact(retention: float = 0.2) -> Values:
    """Take the paper's bare objective and product of weights as printed; it collapses, which is the point of the preset.

    Hardware: 2 CPU cores at tiny size. Head cuts as in the preset paper.
    """
    values = paper(retention)
    values["train_rater"]["training"]["objective"] = "paper_exact"
    return values


def paper_size() -> Values:
    """Train the paper's networks: STAR-0.3B as both proxies, a depth-8 rater of 38.95 M, the published tokenizer at 256 px.

    Hardware: GPUs under accelerate launch; built and counted, not yet trained. Rule alignment. The 64 pairs of a part of the
    downstream batch hold 44 GB of activations by count, so that one GPU of 80 GB will do; with --is-checkpointed about a seventh.
    Needs --tokenizer-from and --text-encoder clip:NAME.
    """
    training = {
        "proxy_depth": 16, "proxy_width": 1024, "rater_depth": 8, "rater_width": 512, "n_heads": None,
        "rater_start": "scratch", "rater_reading": "hidden", "resolution": 256, "precision": "bf16",
        "proxy_learning_rate": 1e-4, "rater_learning_rate": 1e-4, "weight_decay": 0.05, "gradient_clip": 2.0,
        "softmax_group": 32, "n_warmup_steps": 50_000, "n_steps": 50_000, "rater_average": 0.9997,
        "check_every_steps": 1000, "checkpoint_every_steps": 1000,
    }  # fmt: skip
    model = {
        "depth": 16, "width": 1024, "n_heads": 16, "batch_size": 512, "n_accumulated": 8, "precision": "bf16",
        "learning_rate": 1e-4, "weight_decay": 0.05,
    }  # fmt: skip
    return {"train_rater": {"training": training}, "train_downstream": {"model": model}}


def flux_mini() -> Values:
    """Adapt FLUX-mini to a subset, as FluxKits does: rank 16 on attention, one epoch at 512 px (Table 2c).

    Hardware: one GPU of 24 GB (3.2 B frozen weights in bf16). Built, counted and run at tiny size; not yet trained whole.
    Needs --base flux-mini.safetensors and --flux-parts FOLDER of FLUX.1's VAE and encoders.
    """
    model = {
        "flux": {}, "method": "lora", "lora_rank": 16, "n_epochs": 1, "batch_size": 8, "learning_rate": 1e-4,
        "n_warmup_steps": 0, "weight_decay": 0.01,
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
    """Return the values that a preset gives to one stage; a preset whose values depend on the retention takes it as its argument.

    >>> preset_values("paper", "train_rater")
    {'training': {'rule': 'loss'}}
    >>> [preset_values("paper", "select", retention=r)["policy"]["drop_top_ratio"] for r in (0.5, 0.8, 0.9)]
    [0.25, 0.15, 0.05]
    """
    preset = PRESETS[name]
    is_used = retention is not None and "retention" in signature(preset).parameters
    return (preset(retention) if is_used else preset()).get(stage, {})
