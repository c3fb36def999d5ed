"""Presets and recipes: named values of a stage, which options override. The two combine.

A preset is a size, made for some hardware; a recipe is a scoring rule and how `select` uses its scores. Both contain only the
values that differ from the config models' own defaults.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alchemist_core.errors import ConfigError
from alchemist_core.models.published.catalogue import NETWORKS as PUBLISHED
from alchemist_core.preset_figures import FIGURES
from alchemist_core.training.gpus import DEFAULT_UTILISATION, GPUS, GpuName

Values = Mapping[str, Any]
NETWORKS = {"train_rater": "training", "train_downstream": "model"}
"""The stages with presets, each with the field of its config that describes networks and training."""
RECIPE_STAGES = {
    "train_rater": "Scoring rule (select reads a recipe of its own)",
    "select": "How select uses the scores (train-rater reads a recipe of its own)",
}
"""What a recipe decides in each stage that reads one."""
PLAN = "plan "
"""A command that begins with it plans a stage, for which no weights need to exist."""


WEIGHTS = {
    "tokenizer_weights": PUBLISHED["tokenizer"],
    "text_encoder": PUBLISHED["text-encoder"],
    "base_model": PUBLISHED["flux-mini"],
    "flux_components": PUBLISHED["flux-components"],
}
"""The published network of each option with weights that a preset may need."""


@dataclass(frozen=True, slots=True)
class Preset:
    """Sizes and lengths for some hardware, by stage; a preset without a stage cannot be used for it."""

    hardware: str
    networks: Mapping[str, str]
    """What is trained, in words, by stage."""
    values: Mapping[str, Values]
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Options with weights that have no default, by stage."""
    gpu: GpuName = "cpu"
    """The GPU on which its time is estimated; a CPU's is not."""
    n_gpus: int = 1
    n_samples: int = 1_000_000
    """The training samples, or the members of a subset, for which its time is estimated."""


_RATER: dict[str, Any] = {
    "rater_depth": 8, "rater_width": 512, "n_heads": None, "rater_init": "scratch", "rater_features": "hidden", "resolution": 256,
    "mixed_precision": "bf16", "proxy_learning_rate": 1e-4, "rater_learning_rate": 1e-4, "weight_decay": 0.05, "max_grad_norm": 2.0,
    "softmax_group_size": 32, "rater_ema_decay": 0.9997, "gradient_checkpointing": True,
}  # fmt: skip
_STAR_40M: dict[str, Any] = {"depth": 8, "width": 512, "n_heads": 8}
_STAR_03B: dict[str, Any] = {"depth": 16, "width": 1024, "n_heads": 16}
_DOWNSTREAM: dict[str, Any] = {
    "batch_size": 512,
    "mixed_precision": "bf16",
    "learning_rate": 1e-4,
    "weight_decay": 0.05,
    # The protocols sample images with guidance, as the paper does.
    "proportion_empty_prompts": 0.1,
}
_STAR_NEEDS = {"train_rater": ("tokenizer_weights", "text_encoder"), "train_downstream": ("text_encoder",)}
_PAPER_RATER = _RATER | {
    "proxy_depth": 16, "proxy_width": 1024, "proxy_warmup_steps": 50_000, "max_train_steps": 50_000, "validation_steps": 1000,
    "checkpointing_steps": 1000,
}  # fmt: skip
_PAPER_DOWNSTREAM = _DOWNSTREAM | _STAR_03B | {"gradient_accumulation_steps": 8}

PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        "2 CPU cores; for the demo",
        {
            "train_rater": "rater and proxies of 2 blocks on images of 16 px and hashed words",
            "train_downstream": "a generator of 2 blocks on images of 16 px and hashed words",
        },
        # The config models' own defaults.
        {"train_rater": {}, "train_downstream": {}},
        n_samples=12_000,
    ),
    "gpu24": Preset(
        "one GPU of 24 GB",
        {
            "train_rater": "the paper's rater (39 M parameters) with STAR-40M as both proxies, at 256 px; a night for 1 M samples",
            "train_downstream": "STAR-40M at 256 px",
        },
        {
            # Warm-up and training each read 1 M samples once.
            "train_rater": {"training": _RATER | {
                "proxy_depth": 8, "proxy_width": 512, "proxy_warmup_steps": 15_625,
                "max_train_steps": 15_625, "validation_steps": 500, "checkpointing_steps": 500,
            }},
            "train_downstream": {"model": _DOWNSTREAM | _STAR_40M | {"gradient_accumulation_steps": 8}},
        },
        _STAR_NEEDS,
        gpu="rtx4090",
    ),
    "gpu80": Preset(
        "one GPU of 80 GB",
        {
            "train_rater": "the paper's rater (39 M parameters) with STAR-0.3B as both proxies, at 256 px",
            "train_downstream": "STAR-0.3B at 256 px",
        },
        {"train_rater": {"training": _PAPER_RATER}, "train_downstream": {"model": _PAPER_DOWNSTREAM}},
        _STAR_NEEDS,
        gpu="h100",
    ),
    "paper": Preset(
        "two GPUs of 80 GB",
        {
            "train_rater": "as gpu80, with the paper's lengths; its scoring rule is --recipe paper",
            "train_downstream": "as gpu80, for 3 epochs",
        },
        {
            # The authors warm the proxy up for 50,000 steps of 512 samples, then pass 10 times over 1 M validation samples.
            "train_rater": {"training": _PAPER_RATER | {"proxy_warmup_steps": 400_000, "max_train_steps": 156_250}},
            "train_downstream": {"model": _PAPER_DOWNSTREAM | {"num_train_epochs": 3}},
        },
        _STAR_NEEDS,
        gpu="h100",
        n_gpus=2,
        n_samples=30_000_000,
    ),
    "flux_mini": Preset(
        "one GPU of 24 GB",
        {"train_downstream": "LoRA adapters of rank 16 on FLUX-mini (3.2 B frozen weights) at 512 px, one epoch, as FluxKits does"},
        {"train_downstream": {"model": {
            "flux": {}, "method": "lora", "lora_rank": 16, "num_train_epochs": 1, "batch_size": 8, "learning_rate": 1e-4,
            "lr_warmup_steps": 0, "weight_decay": 0.01,
        }}},
        {"train_downstream": ("base_model", "flux_components")},
        gpu="rtx4090",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    """A scoring rule and how `select` uses its scores: values by stage, for a retention."""

    text: str
    values: Callable[[float], Mapping[str, Values]]


PAPER_CUTS = (0.25, 0.15, 0.05)
"""The authors' drop-top ratios: 0.25 for retentions of 10% to 50%, 0.15 for 80%, 0.05 for 90%."""


def _paper(retention: float) -> Mapping[str, Values]:
    """Return Eq. 9 and Eq. 11 as the paper's tables use them; subsets of equal drop-top ratios are nested, others need not be."""
    cut = next((cut for cut in PAPER_CUTS if retention <= 1 - cut), PAPER_CUTS[-1])
    shift = {"strategy": "shift_gsample", "drop_top_ratio": cut, "mean_rank": 0.625, "std_rank": 0.125}
    return {"train_rater": {"training": {"rule": "loss"}}, "select": {"policy": shift}}


def _paper_exact(retention: float) -> Mapping[str, Values]:
    training = {"rule": "loss", "objective": "paper_exact"}
    return {**_paper(retention), "train_rater": {"training": training}}


FUSION: Mapping[str, object] = {
    "rank_by": "rater+critic+density",
    "strategy": "head_gsample",
    "accept": "auto",
    "fill": "repeat",
}
"""The fusion that did best with small validation datasets, over four corpora (research page 039)."""

RECIPES: dict[str, Recipe] = {
    "ours": Recipe("rule alignment; most selected samples are near the best rank", lambda _: {}),
    "paper": Recipe(
        "rule loss (Eq. 9); samples are selected by Shift-Gsample (Eq. 11) with the authors' drop-top ratio for the retention",
        _paper,
    ),
    "paper_exact": Recipe("as paper, with the training loss as printed, which collapses", _paper_exact),
    "learnability": Recipe(
        "rule learnability, without a rater network; most selected samples are near the best rank",
        lambda _: {"train_rater": {"training": {"rule": "learnability"}}},
    ),
    "fusion": Recipe(
        "rule alignment; select ranks by rater, critic and density ratio (scorers critic and density) and repeats what it accepts",
        lambda _: {"select": {"policy": FUSION}},
    ),
}
DEFAULT_RECIPE = "ours"


def stage_of(command: str) -> str:
    """Return the stage that a command runs or plans.

    >>> stage_of("train-rater"), stage_of("plan train-rater")
    ('train_rater', 'train_rater')
    """
    return command.removeprefix(PLAN).replace("-", "_")


def presets_of(stage: str) -> dict[str, Preset]:
    """Return the presets that a stage can use.

    >>> list(presets_of("train_rater"))
    ['tiny', 'gpu24', 'gpu80', 'paper']
    """
    return {name: preset for name, preset in PRESETS.items() if stage in preset.values}


def preset_values(
    stage: str, *, preset: str | None = None, recipe: str | None = None, retention: float | None = None
) -> dict[str, Any]:
    """Return the values of a stage: those of the preset, some of them replaced by those of the recipe.

    Args:
        stage: Name of the stage, such as train_rater.
        preset: Name of the preset; stages without presets ignore it.
        recipe: Name of the recipe; stages without recipes ignore it.
        retention: Share of the samples that `select` keeps; the recipe paper depends on it.

    Raises:
        ConfigError: There is no such preset or recipe, or the preset has no values for this stage.

    >>> preset_values("train_rater", preset="tiny", recipe="paper")
    {'training': {'rule': 'loss'}}
    >>> [preset_values("select", recipe="paper", retention=r)["policy"]["drop_top_ratio"] for r in (0.5, 0.8, 0.9)]
    [0.25, 0.15, 0.05]
    """
    values: dict[str, Any] = {}
    if preset is not None and stage in NETWORKS:
        known = presets_of(stage)
        if preset not in known:
            raise ConfigError(f"{_command_of(stage)} has no preset {preset!r}. Choose from: {', '.join(known)}.")
        values = merge(values, known[preset].values[stage])
    if recipe is not None and stage in RECIPE_STAGES:
        if recipe not in RECIPES:
            raise ConfigError(f"There is no recipe {recipe!r}. Choose from: {', '.join(RECIPES)}.")
        values = merge(values, RECIPES[recipe].values(0.2 if retention is None else retention).get(stage, {}))
    return values


def merge(below: Values, above: Values) -> dict[str, Any]:
    """Return a copy of both, nested models field by field; values of `above` take precedence.

    >>> merge({"training": {"rule": "loss", "seed": 1}}, {"training": {"seed": 2}})
    {'training': {'rule': 'loss', 'seed': 2}}
    """
    merged = dict(below)
    for name, value in above.items():
        beneath = merged.get(name)
        merged[name] = (
            merge(beneath if isinstance(beneath, Mapping) else {}, value) if isinstance(value, Mapping) else value
        )
    return merged


def refuse_missing_weights(preset: str, stage: str, values: Values) -> None:
    """Refuse to run a preset without the weights that it needs.

    Args:
        preset: Name of the preset.
        stage: Name of the stage.
        values: Values of the stage from all sources but the defaults of the config model.

    Raises:
        ConfigError: Weights are missing; the message gives each with its option and its publisher.
    """
    given = values.get(NETWORKS[stage], {})
    missing = [name for name in PRESETS[preset].needs.get(stage, ()) if given.get(name) is None]
    if not missing:
        return
    lines = [f"{_command_of(stage)} with preset {preset} needs weights that were not given:"]
    lines += [f"  --{name.replace('_', '-')}: {WEIGHTS[name].what} ({WEIGHTS[name].source})" for name in missing]
    lines.append(f"Publishers, licences and sizes: alchemist weights list --preset {preset}.")
    if preset in RECIPES and stage in RECIPE_STAGES:
        lines.append(f"For its scoring rule with another preset: --recipe {preset}.")
    raise ConfigError("\n".join(lines))


def assume_weights(preset: str, stage: str, values: Values) -> dict[str, Any]:
    """Return the values of a stage with the published weights for those that its preset needs and nothing names.

    >>> assume_weights("flux_mini", "train_downstream", {"model": {"base_model": "mine"}})
    {'model': {'base_model': 'mine', 'flux_components': 'black-forest-labs/FLUX.1-dev'}}
    """
    usual = {name: WEIGHTS[name].address for name in PRESETS[preset].needs.get(stage, ())}
    return merge({NETWORKS[stage]: usual}, values) if usual else dict(values)


def planned_values(preset: str, stage: str, values: Values) -> dict[str, Any]:
    """Return the values of a plan of a stage: with the hardware of the preset, and as `assume_weights` does.

    >>> planned_values("paper", "train_rater", {"hardware": {"gpu": "a100"}})["hardware"]
    {'gpu': 'a100', 'n_gpus': 2}
    """
    hardware = {"gpu": PRESETS[preset].gpu, "n_gpus": PRESETS[preset].n_gpus}
    return merge({"hardware": hardware}, assume_weights(preset, stage, values))


def line_of(stage: str, name: str) -> str:
    """Describe a preset for a stage: hardware, networks, memory, time, and the weights that it needs."""
    preset = PRESETS[name]
    parts = [
        f"{preset.hardware}: {preset.networks[stage]}",
        f"{gigabytes(FIGURES[stage][name]['peak_bytes'])} of memory",
    ]
    if (seconds := seconds_of(stage, name)) is not None:
        device = f"{preset.n_gpus} {GPUS[preset.gpu].title}"
        parts.append(f"about {seconds / 3600:,.0f} hours for {preset.n_samples:,} samples on {device}")
    if needs := preset.needs.get(stage):
        parts.append(f"needs {', '.join('--' + need.replace('_', '-') for need in needs)}")
    return "; ".join(parts)


def seconds_of(stage: str, name: str) -> float | None:
    """Estimate the time of a preset on its GPUs at the default utilisation; None for a CPU."""
    gpu, figures = GPUS.get(PRESETS[name].gpu), FIGURES[stage][name]
    if gpu is None:
        return None
    at_peak = float(figures["bf16_flops"]) / gpu.bf16 + float(figures["fp32_flops"]) / gpu.fp32
    return at_peak / (DEFAULT_UTILISATION * PRESETS[name].n_gpus)


def gigabytes(n_bytes: float) -> str:
    """Return a size in gigabytes.

    >>> gigabytes(23_800_000_000), gigabytes(80_000_000)
    ('23.8 GB', '0.08 GB')
    """
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e9:.2g} GB"


def preset_required(stage: str) -> ConfigError:
    """Return the error of a stage without a preset: a list of its presets."""
    lines = [f"  {name:<10} {line_of(stage, name)}" for name in presets_of(stage)]
    # The section that holds the stage's options, such as [rater] for train_rater.
    section = stage.removeprefix("train_")
    head = (
        f"{_command_of(stage)} requires --preset, or preset in [{section}] of alchemist.toml, "
        "which alchemist init writes. The sizes of the networks:"
    )
    return ConfigError("\n".join([head, *lines]))


def _command_of(stage: str) -> str:
    return stage.replace("_", "-")
