"""Weights of published networks: list those that a run needs, and check that they are whole and of the right size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from alchemist_core.config import BARE_WORD, Command, Config, Result, Words, lay_out
from alchemist_core.errors import ConfigError
from alchemist_core.models.published.catalogue import NETWORKS
from alchemist_core.presets import NETWORKS as STAGE_SECTIONS
from alchemist_core.presets import PRESETS, merge, preset_values
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.networks import NeededNetwork, aesthetic_networks, needed_networks, why_missing
from alchemist_core.telemetry import say
from alchemist_core.training.config import DownstreamConfig, PinnedConfig, RaterTrainingConfig, Source

_MODELS: dict[str, type[PinnedConfig]] = {"train_rater": RaterTrainingConfig, "train_downstream": DownstreamConfig}
_NAMES = ", ".join(NETWORKS)


class RunOptions(Config):
    """What a run uses: a preset, its options with weights, and evaluation protocols."""

    preset: str | None = Field(
        None, description=f"Preset of the training: {', '.join(PRESETS)}; none: all known networks"
    )
    protocol: Words = Field((), description="Evaluation protocols of the run, separated by commas")
    tokenizer_weights: Source | None = Field(None, description="As for train-rater")
    proxy_weights: Source | None = Field(None, description="As for train-rater")
    rater_weights: Source | None = Field(None, description="As for train-rater")
    text_encoder: str | None = Field(None, description="As for train-rater and train-downstream")
    base_model: Source | None = Field(None, description="As for train-downstream")
    flux_components: Path | None = Field(None, description="As for train-downstream")
    evaluation_weights: Path | None = Field(None, description="As for evaluate")

    def configs(self) -> list[Config]:
        """Return the configs of the run's stages.

        Raises:
            ConfigError: A preset, protocol or option is not valid.
        """
        stages = [stage for stage in _MODELS if self.preset is None or stage in _preset(self.preset).values]
        try:
            trained: list[Config] = [_MODELS[stage].model_validate(self._values(stage)) for stage in stages]
        except ValidationError as error:
            raise ConfigError(
                "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
            ) from None
        weights = self.evaluation_weights
        return trained + [EvaluateConfig(subset="any", protocol=name, weights=weights) for name in self.protocol]

    def needed(self) -> list[NeededNetwork]:
        """Return the networks of the run; without a preset, a protocol or an option, all known ones."""
        if not self.model_dump(exclude_defaults=True):
            return [NeededNetwork(name, ()) for name in NETWORKS]
        return needed_networks(self.configs(), {} if self.preset is None else _preset(self.preset).needs)

    def _values(self, stage: str) -> dict[str, Any]:
        preset = {} if self.preset is None else preset_values(stage, preset=self.preset).get(STAGE_SECTIONS[stage], {})
        fields = _MODELS[stage].model_fields
        given = {name: value for name, value in self if name in fields and value is not None}
        # What these two options require beside them.
        if "rater_weights" in given:
            given["rater_init"] = "weights"
        if "base_model" in given and preset.get("method") is None:
            given["method"] = "finetune"
        return merge(preset, given)


class WeightsListConfig(RunOptions):
    """Which networks to list."""


class NetworkRow(Result):
    """One network."""

    name: str
    network: str
    needed_by: list[str]
    publisher: str
    licence: str
    size: str
    layout: str
    get_it: str
    here: str


class WeightsListResult(Result):
    """The networks, and the locations of their weights."""

    networks: list[NetworkRow]

    def summary(self) -> str:
        """Return a paragraph for each network."""
        if not self.networks:
            return "No network with published weights is needed."
        return "\n\n".join(
            f"{row.name}\n" + lay_out({key.replace("_", " "): value for key, value in row if key != "name" and value})
            for row in self.networks
        )


def list_weights(config: WeightsListConfig) -> WeightsListResult:
    """List the networks that a run needs, with publisher, licence, size, and whether their weights are here."""
    return WeightsListResult(networks=[_row(needed) for needed in config.needed()])


def _row(needed: NeededNetwork) -> NetworkRow:
    network, settings = NETWORKS[needed.name], {one.name: one for one in aesthetic_networks()}
    if not needed.needed_by and needed.name in settings:
        needed = settings[needed.name]
    missing = why_missing(needed)
    reason = f": {missing}" if missing and needed.needed_by else ""
    here = f"not found{reason}" if missing else str(needed.find())
    return NetworkRow(
        name=needed.name, network=network.what, needed_by=list(needed.needed_by), publisher=network.publisher,
        licence=network.licence, size=network.size, layout=network.layout, get_it=network.source, here=here,
    )  # fmt: skip


class WeightsCheckConfig(RunOptions):
    """What to check: one file or folder, or what a run needs."""

    source: str | None = Field(
        None,
        description="File, folder or hub name to check; none: the weights that --preset, --protocol and the other options name",
        json_schema_extra=BARE_WORD,
    )
    layout: str | None = Field(
        None, description=f"Network that SOURCE must contain: {_NAMES}; none: recognised by its keys"
    )


class CheckedRow(Result):
    """One network that was loaded."""

    name: str
    path: str
    holds: str | None
    parameters: int
    shapes: dict[str, str]
    sha256: str


class WeightsCheckResult(Result):
    """The networks that were loaded."""

    checked: list[CheckedRow]

    def summary(self) -> str:
        """Return a paragraph for each network."""
        return "\n\n".join(
            f"{row.name}: loaded\n" + lay_out({key: value for key, value in row if key != "name" and value is not None})
            for row in self.checked
        )


def check_weights(config: WeightsCheckConfig) -> WeightsCheckResult:
    """Load weights as a run does: print shapes and hashes, or the first key that differs and the network that the file seems to contain.

    Raises:
        ConfigError: Weights are missing, cut off or another network's.
    """
    if config.source is not None:
        return WeightsCheckResult(checked=[_check(config.layout or _guess(config.source), config.source)])
    if config.layout is not None:
        raise ConfigError(
            f"--layout {config.layout} needs a file or folder: alchemist weights check SOURCE --layout {config.layout}."
        )
    needed = config.needed()
    if not any(one.needed_by for one in needed):
        raise ConfigError(
            "Nothing to check. Give a file or folder, or the options of a run: --preset NAME, --protocol NAMES."
        )
    return _check_run(config, needed)


def _check_run(config: WeightsCheckConfig, needed: Sequence[NeededNetwork]) -> WeightsCheckResult:
    """Check every network of a run, then report all faults at once."""
    from alchemist_core.stages.network_checks import check_sizes  # noqa: PLC0415  imports torch

    outcomes = [_try(one) for one in needed]
    faults = [outcome for outcome in outcomes if isinstance(outcome, str)]
    result = WeightsCheckResult(checked=[outcome for outcome in outcomes if isinstance(outcome, CheckedRow)])
    if faults:
        if result.checked:
            say(result.summary())
        raise ConfigError("\n".join(faults))
    for trained in config.configs():
        if isinstance(trained, RaterTrainingConfig):
            check_sizes(trained)
    return result


def _try(needed: NeededNetwork) -> CheckedRow | str:
    """Return a checked network, or what is wrong with it."""
    if (missing := why_missing(needed)) is not None:
        return f"{needed.name}: {missing} Get it: {NETWORKS[needed.name].source}."
    try:
        return _check(needed.name, needed.source or str(needed.find()))
    except ConfigError as error:
        return f"{needed.name}: {error}"


def _check(name: str, source: str) -> CheckedRow:
    from alchemist_core.stages.network_checks import check_network  # noqa: PLC0415  imports torch

    if name not in NETWORKS:
        raise ConfigError(f"--layout {name!r} is unknown. Choose from: {_NAMES}.")
    found = check_network(name, source)
    return CheckedRow(
        name=name, path=str(found.path), holds=found.recognised, parameters=found.n_numbers,
        shapes={key: " × ".join(map(str, shape)) or "one number" for key, shape in found.shapes.items()}, sha256=found.sha256,
    )  # fmt: skip


def _guess(source: str) -> str:
    """Return the network that a source's keys look like."""
    from alchemist_core.stages.network_checks import guess_network  # noqa: PLC0415  imports torch

    name = guess_network(source)
    if name is None:
        raise ConfigError(
            f"{source} does not have the keys of a known network. Give the network that it should contain: --layout, one of {_NAMES}."
        )
    return name


def _preset(name: str) -> Any:
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}. Choose from: {', '.join(PRESETS)}.")
    return PRESETS[name]


COMMANDS = {"list": Command(WeightsListConfig, list_weights), "check": Command(WeightsCheckConfig, check_weights)}
