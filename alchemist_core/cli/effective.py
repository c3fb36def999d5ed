"""The effective config of a command and the origin of each value.

Precedence: option > project file > recipe > preset > default of the config model. A form of Airflow gives options, one for each field
that was filled in. The config, and so its hash, does not depend on where a value came from.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from alchemist_core.cli.flags import explain, flag_fields, flag_of
from alchemist_core.cli.sections import (
    SECTIONS,
    Declared,
    config_of,
    declared_values,
    faults_of,
    keys_of,
    places_of,
    section_values,
)
from alchemist_core.config import Config, ratio_of, split_commas
from alchemist_core.errors import ConfigError
from alchemist_core.presets import (
    NETWORKS,
    PLAN,
    RECIPE_STAGES,
    merge,
    planned_values,
    preset_required,
    preset_values,
    refuse_missing_weights,
    stage_of,
)
from alchemist_core.project import NEVER, Project


class Origin(NamedTuple):
    """Where a value comes from."""

    kind: Literal["option", "file", "variable", "recipe", "preset", "default"]
    name: str = ""
    """The option, the section and key of the file, the variable, or the name of the recipe or preset."""

    def __str__(self) -> str:
        """Return the origin in words."""
        return f"{self.kind} {self.name}" if self.kind in ("recipe", "preset") else self.name or self.kind


class Composed(NamedTuple):
    """The values of a command from all its sources, before its config model checks them."""

    values: dict[str, Any]
    """As the config model takes them, without its defaults."""
    origins: dict[str, Origin]
    """By dotted path; what is not in it is a default."""
    preset: str | None
    recipe: str | None


class Effective(NamedTuple):
    """The config of a command, and the origins of its values by dotted path."""

    config: Config
    origins: dict[str, Origin]


def read_effective(model: type[Config], options: Mapping[str, Any]) -> Effective:
    """Return the config of a command from its options and the project file.

    Args:
        model: The config model of the command.
        options: The given options by the dotted paths of their fields, with the command under `program` or `verb_name`.

    Raises:
        ConfigError: The project file is not valid, a preset or its weights are missing, or a value is not valid.
    """
    command = command_of(options)
    declared = declared_values(command, options)
    composed, stage = compose(command, model, options, declared), stage_of(command)
    values = composed.values
    if stage in NETWORKS:
        if composed.preset is None:
            raise preset_required(stage)
        if command.startswith(PLAN):
            values = planned_values(composed.preset, stage, values)
        else:
            refuse_missing_weights(composed.preset, stage, values)
    try:
        return Effective(model.model_validate(values), composed.origins)
    except ValidationError as error:
        said = [explain(model, error, places_of(command)), *_declared_in(error, declared)]
        raise ConfigError(f"{' '.join(said)} See: {options.get('program', 'alchemist')} --help") from None


def compose(
    command: str, model: type[Config], options: Mapping[str, Any], declared: Mapping[str, Declared]
) -> Composed:
    """Combine the sources of a command's values.

    Raises:
        ConfigError: There is no such preset or recipe.
    """
    stage = stage_of(command)
    flags = {".".join(path): flag_of(path[-1], field) for path, field in flag_fields(model)}
    choices = choices_of(command)
    flags |= {name: f"--{name}" for name in choices}
    sources = {name: (found.value, Origin("file", found.place)) for name, found in declared.items()}
    sources |= {name: (options[name], Origin("option", flag)) for name, flag in flags.items() if name in options}
    retention = _number(sources.get("policy.retention", (None,))[0])
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    chosen: dict[str, str] = {}
    for name in choices:
        if name in sources:
            chosen[name], origins[name] = sources.pop(name)
            own = preset_values(stage, **{name: chosen[name]}, retention=retention)
            values = merge(values, deepcopy(own))
            origins |= {path: Origin("preset" if name == "preset" else "recipe", chosen[name]) for path in leaves(own)}
    for name, (value, origin) in sources.items():
        _place(values, name, value)
        origins[name] = origin
    return Composed(values, origins, chosen.get("preset"), chosen.get("recipe"))


def choices_of(command: str) -> list[str]:
    """Return which of preset and recipe a command has."""
    return [name for name, stages in (("preset", NETWORKS), ("recipe", RECIPE_STAGES)) if stage_of(command) in stages]


def declared_names(command: str) -> set[str]:
    """Return the options of a command that take a value of the project file, or of its recipe, if the command leaves them out.

    Raises:
        ConfigError: The project file is not valid.
    """
    found = compose(command, config_of(command), {}, declared_values(command, {}))
    return {path.rpartition(".")[2] for path in found.origins}


def check_project(project: Project) -> None:
    """Check the sections of all stages: each value, and the rules between the values of a stage.

    Raises:
        ConfigError: A key or a value is not allowed; each is named.
    """
    faults = [fault for section in SECTIONS for fault in faults_of(project, section)]
    if not faults:
        faults = [fault for section in SECTIONS for fault in _faults_between(project, section)]
        faults += [*_faults_of_schedule(project), *_faults_of_protocols(project)]
    if faults:
        raise ConfigError("\n".join(f"{project.path}: {fault}" for fault in faults))


def _faults_between(project: Project, section: str) -> Iterator[str]:
    """Yield the rules between several values that a section breaks; without a preset the other values are not known yet."""
    command = SECTIONS[section].stage
    model, declared = config_of(command), section_values(project, section)
    composed = compose(command, model, {}, declared)
    if not declared or ("preset" in keys_of(section) and composed.preset is None):
        return
    try:
        model.model_validate(composed.values)
    except ValidationError as error:
        for fault in error.errors():
            if fault["type"] != "missing":
                said = fault["msg"].removeprefix("Value error, ").rstrip(".")
                yield f"[{section}] is not allowed: {said}."


def _faults_of_schedule(project: Project) -> Iterator[str]:
    """Yield the required values that a scheduled training lacks, because its form is not filled in."""
    missing = [key for key in ("preset", "dataset", "validation") if key not in project.rater]
    if project.schedule.train != NEVER and missing:
        yield f"[schedule] train = {project.schedule.train!r} requires {', '.join(missing)} in [rater]."


def _faults_of_protocols(project: Project) -> Iterator[str]:
    """Yield which of the declared protocols cannot be read."""
    from alchemist_core.protocols.protocol import read_protocol  # noqa: PLC0415  few commands check a whole project file

    declared = section_values(project, "evaluation").get("protocol")
    for name in () if declared is None else split_commas(declared.value):
        try:
            read_protocol(name)
        except ConfigError as error:
            yield f"[evaluation] protocols: {error}"


def command_of(options: Mapping[str, Any]) -> str:
    """Return the name of a command, such as `train-rater` or `plan evaluate`."""
    return str(options.get("program") or options.get("verb_name", "")).removeprefix("alchemist ")


def _number(given: Any) -> float | None:
    """Return the value as a number; None if it is not one, which the config model then refuses."""
    if (ratio := ratio_of(given)) is not None:
        return ratio
    try:
        return None if given is None else float(given)
    except (TypeError, ValueError):
        return None


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of nested values."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _place(values: dict[str, Any], name: str, value: Any) -> None:
    """Set a nested value by its dotted path."""
    *parents, last = name.split(".")
    for part in parents:
        values = values.setdefault(part, {})
    values[last] = value


def _declared_in(error: ValidationError, declared: Mapping[str, Declared]) -> list[str]:
    """Name the values of the project file that a message mentions."""
    text = " ".join(fault["msg"] for fault in error.errors())
    places = [found.place for name, found in declared.items() if name.rpartition(".")[2] in text.split()]
    return [f"The project file gives {', '.join(places)}."] if places else []
