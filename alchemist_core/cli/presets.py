"""The presets: hardware, networks, memory, time and needs of each, and all values of one.

Memory and arithmetic take minutes to count, so they are stored in `preset_figures`; `make figures` counts them again.
"""

import pprint
from typing import Any

from pydantic import Field

from alchemist_core.cli.estimates import model_times, rater_times
from alchemist_core.cli.flags import flag_fields, flag_of
from alchemist_core.config import BARE_WORD, Command, Config, Result, fingerprint
from alchemist_core.errors import ConfigError
from alchemist_core.models.config import TokenizerConfig
from alchemist_core.preset_figures import FIGURES
from alchemist_core.presets import (
    NETWORKS,
    PRESETS,
    RECIPES,
    WEIGHTS,
    assume_weights,
    gigabytes,
    preset_values,
    presets_of,
    seconds_of,
)
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig
from alchemist_core.training.gpus import DEFAULT_UTILISATION, GPUS


class PresetsConfig(Config):
    """Which presets to show."""

    name: str | None = Field(
        None, description="Preset whose values are shown; none: a table of all", json_schema_extra=BARE_WORD
    )


class PresetRow(Result):
    """What a preset is for a stage. Seconds are None on a CPU, whose peak is not known."""

    preset: str
    stage: str
    hardware: str
    networks: str
    parameters: dict[str, int]
    memory_bytes: int
    gpu: str
    n_gpus: int
    n_samples: int
    seconds: float | None
    needs: list[str]
    # Every option of networks and training, of one preset.
    values: dict[str, Any] | None = None
    # The options that the preset sets.
    own: list[str] = Field(default_factory=list)


class PresetsResult(Result):
    """The presets of each stage, and the recipes."""

    presets: list[PresetRow]
    recipes: dict[str, str]

    def summary(self) -> str:
        """Return a table of presets and a list of recipes, or all values of one preset."""
        if self.presets[0].values is not None:
            return "\n\n".join(_describe(row) for row in self.presets)
        lines = []
        for stage in dict.fromkeys(row.stage for row in self.presets):
            rows = [row for row in self.presets if row.stage == stage]
            head, *cells = _table([list(_FIGURES), *(list(_figures(row).values()) for row in rows)])
            indent = " " * (4 + max(len(row.preset) for row in rows))
            lines += [f"{stage} --preset", indent + head]
            for row, line in zip(rows, cells, strict=True):
                lines += [f"  {row.preset}".ljust(len(indent)) + line, indent + row.networks]
            lines.append("")
        recipes = _table([[f"  {name}", text] for name, text in self.recipes.items()])
        return "\n".join([*lines, *_NOTES, "", "--recipe of train-rater and select", *recipes])


_NOTES = (
    f"memory: of each GPU · time: of one rater, or of one arm, at {DEFAULT_UTILISATION:.0%} of the peak of its GPUs",
    "for other data or another GPU: alchemist plan train-rater --preset NAME · all values of a preset: alchemist presets NAME",
)
_FIGURES = ("hardware", "memory", "time", "for samples", "parameters", "needs")


def show(config: PresetsConfig) -> PresetsResult:
    """Print the presets with hardware, networks, memory, time and the weights that each needs, or all values of one.

    Raises:
        ConfigError: There is no such preset.
    """
    if config.name is not None and config.name not in PRESETS:
        raise ConfigError(f"There is no preset {config.name!r}. Choose from: {', '.join(PRESETS)}.")
    rows = [
        _row(stage, name, is_whole=config.name is not None)
        for stage in NETWORKS
        for name in presets_of(stage)
        if config.name in (None, name)
    ]
    return PresetsResult(presets=rows, recipes={name: recipe.text for name, recipe in RECIPES.items()})


def _row(stage: str, name: str, *, is_whole: bool) -> PresetRow:
    preset, figures = PRESETS[name], FIGURES[stage][name]
    options = options_of(stage, name)
    own = preset_values(stage, preset=name).get(NETWORKS[stage], {})
    return PresetRow(
        preset=name, stage=_spoken(stage), hardware=preset.hardware, networks=preset.networks[stage],
        parameters=figures["parameters"], memory_bytes=figures["peak_bytes"], gpu=preset.gpu, n_gpus=preset.n_gpus,
        n_samples=preset.n_samples, seconds=seconds_of(stage, name), needs=list(preset.needs.get(stage, ())),
        values=options.as_json() if is_whole else None, own=list(own),
    )  # fmt: skip


def options_of(stage: str, name: str) -> RaterTrainingConfig | DownstreamConfig:
    """Return the options of networks and training under a preset, with the published weights."""
    values = assume_weights(name, stage, preset_values(stage, preset=name)).get(NETWORKS[stage], {})
    return (RaterTrainingConfig if stage == "train_rater" else DownstreamConfig).model_validate(values)


def count_figures(stage: str, name: str) -> dict[str, Any]:
    """Count parameters, memory and arithmetic of a preset."""
    from alchemist_core.training.footprint import downstream_footprint, rater_footprint  # noqa: PLC0415  imports torch

    preset, options = PRESETS[name], options_of(stage, name)
    if isinstance(options, RaterTrainingConfig):
        footprint = rater_footprint(options, n_processes=preset.n_gpus)
        times = rater_times(options, preset.n_samples, preset.n_samples // 10)
    else:
        footprint = downstream_footprint(options, _tokenizer_of(name), n_processes=preset.n_gpus)
        times = model_times(options, options.steps(preset.n_samples), preset.n_samples, preset.n_samples)
    flops = {
        kind: sum(times[part] * work.flops for part, work in footprint.work.items() if work.number_format == kind)
        for kind in ("bf16", "fp32")
    }
    return {
        "config_hash": config_hash(stage, name), "parameters": dict(footprint.parameters), "peak_bytes": footprint.peak,
        "bf16_flops": flops["bf16"], "fp32_flops": flops["fp32"],
    }  # fmt: skip


def config_hash(stage: str, name: str) -> str:
    """Return the hash of what a preset's figures were counted for."""
    preset = PRESETS[name]
    return fingerprint({
        "options": options_of(stage, name).hashed_json(), "n_gpus": preset.n_gpus, "n_samples": preset.n_samples,
    })  # fmt: skip


def _tokenizer_of(name: str) -> TokenizerConfig:
    """Return the tokenizer of the preset's own rater."""
    if name not in presets_of("train_rater"):
        return TokenizerConfig()
    options = options_of("train_rater", name)
    assert isinstance(options, RaterTrainingConfig)
    return options.tokenizer_config


def _spoken(stage: str) -> str:
    return stage.replace("_", "-")


def _figures(row: PresetRow) -> dict[str, str]:
    parameters = ", ".join(
        f"{name} {n / 1e6:,.1f} M" for name, n in row.parameters.items() if name in ("proxy", "rater", "model")
    )
    time = "minutes" if row.seconds is None else f"{row.seconds / 3600:,.0f} h on {row.n_gpus} {GPUS[row.gpu].title}"
    needs = ", ".join(f"--{need.replace('_', '-')}" for need in row.needs) or "nothing"
    figures = (row.hardware, gigabytes(row.memory_bytes), time, f"{row.n_samples:,}", parameters, needs)
    return dict(zip(_FIGURES, figures, strict=True))


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _describe(row: PresetRow) -> str:
    """Return one preset of a stage: what it is, what it needs, and its values, those that it sets itself marked with *."""
    assert row.values is not None
    figures = {"networks": row.networks, **_figures(row)}
    lines = [f"{row.stage} --preset {row.preset}", *_table([[f"  {name}", cell] for name, cell in figures.items()])]
    lines += [f"  --{need.replace('_', '-')}: {WEIGHTS[need].what} ({WEIGHTS[need].source})" for need in row.needs]
    model = RaterTrainingConfig if row.stage == "train-rater" else DownstreamConfig
    flags = {path[0]: flag_of(path[-1], field) for path, field in flag_fields(model)}
    values = [
        [f"  {'*' if name in row.own else ' '} {flags.get(name, name)}", str(value)]
        for name, value in row.values.items()
    ]
    return "\n".join([*lines, "  values (* set by the preset, otherwise the default)", *_table(values)])


def render_figures() -> str:
    """Return the text of `preset_figures.py`."""
    found = {stage: {name: count_figures(stage, name) for name in presets_of(stage)} for stage in NETWORKS}
    return (
        '"""Parameters, memory and arithmetic of the presets. Written by `make figures`, which counts them; do not edit."""\n\n'
        "from typing import Any\n\n"
        f"FIGURES: dict[str, dict[str, dict[str, Any]]] = {pprint.pformat(found, sort_dicts=False, width=120)}\n"
    )


COMMANDS = {"": Command(PresetsConfig, show)}


if __name__ == "__main__":
    print(render_figures(), end="")  # noqa: T201  the output is the file
