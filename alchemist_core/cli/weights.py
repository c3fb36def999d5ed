"""Weights of published networks: list those that a run needs, and check that they are whole and of the right size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from alchemist_core.cli.effective import compose
from alchemist_core.cli.sections import GENEVAL, config_of, declared_values
from alchemist_core.config import BARE_WORD, Command, Config, Result, Words, lay_out
from alchemist_core.errors import ConfigError
from alchemist_core.models.flux_config import FluxConfig
from alchemist_core.models.published.catalogue import NETWORKS
from alchemist_core.presets import NETWORKS as STAGE_SECTIONS
from alchemist_core.presets import PRESETS
from alchemist_core.project import load_project
from alchemist_core.stages.evaluate import EvaluateConfig, split_protocols
from alchemist_core.stages.networks import NeededNetwork, aesthetic_networks, needed_networks, why_missing
from alchemist_core.telemetry import say
from alchemist_core.training.config import DownstreamConfig, PinnedConfig, RaterTrainingConfig, Source

_NAMES = ", ".join(NETWORKS)
_TRAININGS: dict[str, type[PinnedConfig]] = {"train-rater": RaterTrainingConfig, "train-downstream": DownstreamConfig}


class RunOptions(Config):
    """What a run uses, where it differs from the project file."""

    preset: str | None = Field(
        None, description=f"Preset of the training: {', '.join(PRESETS)}; default: that of the project file"
    )
    protocol: Words = Field(
        (), description="Evaluation protocols, separated by commas; default: those of the project file"
    )
    tokenizer_weights: Source | None = Field(None, description="As for train-rater")
    proxy_weights: Source | None = Field(None, description="As for train-rater")
    rater_weights: Source | None = Field(None, description="As for train-rater")
    text_encoder: str | None = Field(None, description="As for train-rater and train-downstream")
    base_model: Source | None = Field(None, description="As for train-downstream")
    flux_components: Path | None = Field(None, description="As for train-downstream")
    evaluation_weights: Path | None = Field(None, description="As --weights for evaluate")

    def needed(self) -> list[NeededNetwork]:
        """Return the networks of the run; all known ones if neither an option nor the project file says what a run uses.

        Raises:
            ConfigError: The project file, a preset, a protocol or an option is not valid.
        """
        trainings, evaluations = self.trainings(), self._evaluations()
        if not trainings and not evaluations:
            return [NeededNetwork(name, ()) for name in NETWORKS]
        required = {
            stage.replace("-", "_"): PRESETS[preset].needs.get(stage.replace("-", "_"), ())
            for stage, (preset, _) in trainings.items()
            if preset is not None
        }
        return needed_networks([*(config for _, config in trainings.values()), *evaluations], required)

    def trainings(self) -> dict[str, tuple[str | None, PinnedConfig]]:
        """Return the preset and the training config of each training stage that an option or the project file describes."""
        found = {}
        for stage, kind in _TRAININGS.items():
            if self.preset is None or stage.replace("-", "_") in _preset(self.preset).values:
                composed = compose(stage, config_of(stage), self._options(stage, kind), declared_values(stage, {}))
                values = composed.values.get(STAGE_SECTIONS[stage.replace("-", "_")], {})
                if values or composed.preset is not None:
                    found[stage] = composed.preset, _validate(kind, self._with_method(values))
        return found

    def _evaluations(self) -> list[EvaluateConfig]:
        declared = {name: one.value for name, one in declared_values("evaluate", {}).items()}
        names = self.protocol or tuple(filter(None, str(declared.get("protocol", "")).split(",")))
        if not self.protocol and load_project().files_of(GENEVAL):
            # alchemist evaluate does not measure it, so the file names it by its networks alone.
            names = (*names, GENEVAL)
        found = split_protocols(EvaluateConfig(subset="any", protocol=",".join(names))) if names else []
        return found if self.evaluation_weights is None else self._with_weights(found)

    def _with_weights(self, evaluations: list[EvaluateConfig]) -> list[EvaluateConfig]:
        """Return the evaluations, with the weights of the option for the one protocol that alchemist evaluate measures."""
        measured = [one.protocol for one in evaluations if one.protocol != GENEVAL]
        if len(measured) != 1:
            raise ConfigError(
                f"--evaluation-weights {self.evaluation_weights} belongs to one protocol, but the protocols are: "
                f"{', '.join(measured) or 'none'}. Name one: --protocol NAME."
            )
        own = {"weights": self.evaluation_weights}
        return [one.model_copy(update=own) if one.protocol in measured else one for one in evaluations]

    def _options(self, stage: str, kind: type[PinnedConfig]) -> dict[str, Any]:
        section = STAGE_SECTIONS[stage.replace("-", "_")]
        given = {name: value for name, value in self if name in kind.model_fields and value is not None}
        # What this option requires beside it.
        if "rater_weights" in given:
            given["rater_init"] = "weights"
        chosen = {} if self.preset is None else {"preset": self.preset}
        return chosen | {f"{section}.{name}": value for name, value in given.items()}

    def _with_method(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of a training; the option base_model requires a method, unless a preset or the project file names one."""
        is_new = self.base_model is not None and "base_model" in values and values.get("method", "scratch") == "scratch"
        return values | {"method": "finetune"} if is_new else values


def _validate(kind: type[PinnedConfig], values: dict[str, Any]) -> PinnedConfig:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        said = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise ConfigError(f"{said[:1].upper()}{said[1:]}.") from None


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
        description="File, folder or hub name to check; none: the weights that the project file and the options name",
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
    for _, trained in config.trainings().values():
        if isinstance(trained, RaterTrainingConfig):
            check_sizes(trained)
    return result


def _try(needed: NeededNetwork) -> CheckedRow | str:
    """Return a checked network, or what is wrong with it."""
    if (missing := why_missing(needed)) is not None:
        return f"{needed.name}: {missing} Get it: {NETWORKS[needed.name].source}."
    try:
        return _check(needed.name, needed.source or str(needed.find()), needed.flux)
    except ConfigError as error:
        return f"{needed.name}: {error}"


def _check(name: str, source: str, flux: FluxConfig | None = None) -> CheckedRow:
    from alchemist_core.stages.network_checks import check_network  # noqa: PLC0415  imports torch

    if name not in NETWORKS:
        raise ConfigError(f"--layout {name!r} is unknown. Choose from: {_NAMES}.")
    found = check_network(name, source, flux=flux)
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
