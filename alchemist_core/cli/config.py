"""The effective options of the stages with the origin of each value, and a check of the project file."""

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from alchemist_core.cli.command_line import stage_parser
from alchemist_core.cli.effective import Origin, check_project, choices_of, compose
from alchemist_core.cli.flags import flag_fields, flag_of
from alchemist_core.cli.sections import SECTIONS, config_of, declared_values, read_value
from alchemist_core.cli.verbs import STAGES
from alchemist_core.config import BARE_WORD, Command, Config, Result
from alchemist_core.errors import ConfigError
from alchemist_core.project import VARIABLES, Project, load_project
from alchemist_core.settings import load_settings

OTHER_SECTIONS = tuple(name for name in Project.model_fields if name not in (*SECTIONS, "datasets"))
LONGEST_VALUE = 60
DEFAULT = Origin("default")


class ConfigShowConfig(Config):
    """What to show."""

    arguments: list[str] = Field(
        default_factory=list,
        description="A stage such as train-rater, with options of it as for a run, or a section such as checks; none: everything",
    )


class ConfigCheckConfig(Config):
    """No options: the working directory or ALCHEMIST_PROJECT names the file."""


class ShownValue(BaseModel):
    """An effective value: where it comes from, and the file if it comes from one."""

    value: Any
    kind: str
    origin: str
    path: str | None = None


class ConfigShowResult(Result):
    """The effective values by stage or section, then by option or key."""

    project: str | None
    values: dict[str, dict[str, ShownValue]]
    is_json: bool = Field(False, exclude=True)

    def summary(self) -> str:
        """Return a table for each stage or section; as JSON if the stage's options asked for it."""
        if self.is_json:
            return json.dumps(self.model_dump(mode="json"))
        lines = [f"project file: {self.project or 'none, so no value comes from a file (alchemist init writes one)'}"]
        for title, values in self.values.items():
            lines += ["", title, *_table(values)]
        return "\n".join(lines)


class ConfigCheckResult(Result):
    """A valid project file."""

    path: str
    sections: list[str]
    datasets: list[str]


def show(config: ConfigShowConfig) -> ConfigShowResult:
    """Show each effective value and where it comes from: an option, the project file, a recipe, a preset or the default.

    Raises:
        ConfigError: The project file is not valid, or there is no such stage or section.
    """
    project = load_project()
    check_project(project)
    wanted, *words = config.arguments or [""]
    path = None if project.path is None else str(project.path)
    if wanted in STAGES:
        options = vars(stage_parser(wanted, f"alchemist config show {wanted}").parse_args(words))
        values = {wanted: dict(_stage_values(wanted, options, project))}
        return ConfigShowResult(project=path, values=values, is_json=options["json"])
    known = [*STAGES, *OTHER_SECTIONS, "datasets"]
    if wanted and (wanted not in known or words):
        raise ConfigError(_explain_unknown(wanted, words, known))
    values = {stage: dict(_stage_values(stage, {}, project)) for stage in STAGES if not wanted}
    values |= {name: dict(_section_values(project, name)) for name in OTHER_SECTIONS if wanted in ("", name)}
    if wanted in ("", "datasets"):
        values |= {f"datasets.{name}": dict(_dataset_values(project, name)) for name in project.datasets}
    return ConfigShowResult(project=path, values=values)


def check(_config: ConfigCheckConfig) -> ConfigCheckResult:
    """Check every section of the project file, and the rules between the values of each stage.

    Raises:
        ConfigError: There is no project file, or a key or value is not allowed; each is named.
    """
    project = load_project()
    if project.path is None:
        raise ConfigError("There is no project file here or in a folder above. Write one: alchemist init.")
    check_project(project)
    given = [name for name in Project.model_fields if project.gives(name)]
    return ConfigCheckResult(path=str(project.path), sections=given, datasets=sorted(project.datasets))


def _stage_values(stage: str, options: Mapping[str, Any], project: Project) -> Iterator[tuple[str, ShownValue]]:
    """Yield each option of a stage; a positional argument belongs to a run and is not shown."""
    model = config_of(stage)
    composed = compose(stage, model, options, declared_values(stage, options))
    for name in choices_of(stage):
        value = composed.preset if name == "preset" else composed.recipe
        yield name, _shown(value, composed.origins.get(name, DEFAULT), project)
    for path, field in flag_fields(model):
        if field.json_schema_extra == BARE_WORD:
            continue
        origin = composed.origins.get(".".join(path), DEFAULT)
        if origin.kind == "default":
            value = None if field.is_required() else field.get_default(call_default_factory=True)
            origin = Origin("default", "required") if field.is_required() else origin
        else:
            value = _read_value(composed.values, path, field)
        yield path[-1], _shown(value, origin, project)
    if stage == "evaluate":
        yield from _network_files(project)


def _read_value(values: Mapping[str, Any], path: tuple[str, ...], field: FieldInfo) -> Any:
    """Return a nested value as its field reads it: options are text."""
    value: Any = values
    for part in path:
        value = value[part]
    try:
        return read_value(field, value)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{flag_of(path[-1], field)} {value!r} is not valid: {said}.") from None


def _network_files(project: Project) -> Iterator[tuple[str, ShownValue]]:
    for protocol in project.evaluation:
        for kind, path in project.files_of(protocol).items():
            yield f"{kind} of {protocol}", _shown(path, Origin("file", f"[evaluation.{protocol}] {kind}"), project)


def _section_values(project: Project, section: str) -> Iterator[tuple[str, ShownValue]]:
    """Yield each key of a section that belongs to no stage; a variable of the deployment overrides some of them."""
    for key, value in getattr(project, section):
        variable = VARIABLES.get((section, key))
        own = None if variable is None else getattr(load_settings(), variable)
        if own is not None:
            yield key, _shown(own, Origin("variable", f"ALCHEMIST_{str(variable).upper()}"), project)
        else:
            origin = Origin("file", f"[{section}] {key}") if project.gives(section, key) else DEFAULT
            yield key, _shown(value, origin, project)


def _dataset_values(project: Project, name: str) -> Iterator[tuple[str, ShownValue]]:
    """Yield the role and the root of a dataset, and the limits that it sets itself."""
    own, place = project.datasets[name], f"datasets.{name}"
    values = {"role": own.role, "root": own.root and project.locate(own.root)}
    for key, value in values.items():
        origin = Origin("file", f"[{place}] {key}") if project.gives("datasets", name, key) else DEFAULT
        yield key, _shown(value, origin, project)
    for section in ("ingest", "checks", "drift"):
        for key, value in getattr(own, section):
            if project.gives("datasets", name, section, key):
                yield f"{section}.{key}", _shown(value, Origin("file", f"[{place}.{section}] {key}"), project)


def _shown(value: Any, origin: Origin, project: Project) -> ShownValue:
    path = str(project.path) if origin.kind == "file" else None
    return ShownValue(value=to_jsonable_python(value), kind=origin.kind, origin=str(origin), path=path)


def _explain_unknown(wanted: str, words: list[str], known: list[str]) -> str:
    if wanted in known:
        return f"Unexpected argument {words[0]!r}: {wanted} is a section of the project file and has no options."
    if wanted in SECTIONS:
        return f"Section [{wanted}] holds options of {SECTIONS[wanted].stage}. Run: alchemist config show {SECTIONS[wanted].stage}."
    near = get_close_matches(wanted, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    listed = f"Stages: {', '.join(STAGES)}. Sections: {', '.join(OTHER_SECTIONS)}, datasets."
    return f"There is no stage or section {wanted!r}.{hint} {listed} See: alchemist config show --help"


def _table(values: Mapping[str, ShownValue]) -> list[str]:
    """Return a line for each value: name, value and origin."""
    texts = {name: _text(shown.value) for name, shown in values.items()}
    widths = [max((len(text) for text in column), default=0) for column in (texts, texts.values())]
    width = min(widths[1], LONGEST_VALUE)
    return [f"  {name:<{widths[0]}}  {text:<{width}}  {values[name].origin}" for name, text in texts.items()]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None or value == "" else str(value)


COMMANDS = {
    "show": Command(ConfigShowConfig, show),
    "check": Command(ConfigCheckConfig, check),
}
