"""The sections of the project file that hold options of stages: their keys, and the values that they give to a command.

A key is the name of the stage's option, with underscores. The option's own field checks the value, so that both have one declaration.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from alchemist_core.cli.flags import flag_fields, flag_of
from alchemist_core.cli.verbs import load_commands
from alchemist_core.config import BARE_WORD, Config, Formerly, Section, bounds_of, mark_of, or_word, split_commas
from alchemist_core.errors import ConfigError
from alchemist_core.presets import NETWORKS, RECIPE_STAGES, RECIPES, presets_of
from alchemist_core.project import Options, Project, load_project


class StageSection(NamedTuple):
    """A section: its stage, the options that belong to a single run, and the keys that are not named as their option."""

    stage: str
    of_one_run: frozenset[str] = frozenset()
    keys: Mapping[str, str] = {}


SECTIONS = {
    "rater": StageSection("train-rater"),
    "scoring": StageSection("score", frozenset({"crawl_date", "rater", "scorer"})),
    "selection": StageSection("select", frozenset({"name", "dry_run"})),
    "materialization": StageSection("materialize", frozenset({"version", "newest"})),
    "downstream": StageSection("train-downstream", frozenset({"version"})),
    "evaluation": StageSection(
        "evaluate", frozenset({"version", "weights"}), {"evaluation": "dataset", "protocol": "protocols"}
    ),
    "report": StageSection("report", frozenset({"out"})),
}
SECTION_OF = {section.stage: name for name, section in SECTIONS.items()}

SHARED = {
    "plan evaluate": {
        "evaluation": ("evaluation", "dataset"), "protocol": ("evaluation", "protocols"),
        "arms": ("downstream", "arms"), "seeds": ("downstream", "seeds"),
    },
}  # fmt: skip
"""Commands that are not stages and use options of a stage: section and key of each."""
PLANNED = {"plan train-rater": "rater", "plan train-downstream": "downstream"}
"""Commands that plan a stage: they use the values of its section for all options that they share with the stage."""
LISTS = {("evaluation", "protocols")}
"""Keys with a list in the file whose option is one text, separated by commas."""
GENEVAL = "geneval"
"""The protocol that `geneval judge` measures."""


class NetworkFiles(Section):
    """Files of the networks of one evaluation protocol: `[evaluation.PROTOCOL]`. Relative paths start at the project file's folder."""

    weights: str | None = Field(
        None, min_length=1, description="File or folder with the weights of the metric's network"
    )
    detector: str | None = Field(None, min_length=1, description="geneval: folder of Mask2Former")
    clip: str | None = Field(None, min_length=1, description="geneval: folder of CLIP ViT-L/14")
    class_names: str | None = Field(None, min_length=1, description="geneval: GenEval's object_names.txt")


class Key(NamedTuple):
    """A key of a section: the path of its field in the stage's config, and the field. `preset` and `recipe` have no field there."""

    path: tuple[str, ...]
    field: FieldInfo


class Declared(NamedTuple):
    """A value that the project file declares, and where: a section and its key."""

    value: Any
    section: str
    key: str

    @property
    def place(self) -> str:
        """The section and the key, such as `[rater] seed`."""
        return f"[{self.section}] {self.key}"


@cache
def keys_of(section: str) -> dict[str, Key]:
    """Return the allowed keys of a section."""
    stage, of_one_run, renamed = SECTIONS[section]
    name = stage.replace("-", "_")
    keys: dict[str, Key] = {}
    if name in NETWORKS:
        keys["preset"] = Key(("preset",), _choice(presets_of(name), "Size of the networks; see alchemist presets"))
    if name in RECIPE_STAGES:
        keys["recipe"] = Key(("recipe",), _choice(RECIPES, RECIPE_STAGES[name]))
    for path, field in flag_fields(config_of(stage)):
        if field.json_schema_extra != BARE_WORD and path[-1] not in of_one_run:
            keys[renamed.get(path[-1], path[-1])] = Key(path, field)
    if section == "downstream":
        # Sizes for trials: a table of the file only, because the options would be those of one preset among all.
        from alchemist_core.training.config import DownstreamConfig  # noqa: PLC0415  many models, of which other commands need none

        keys["flux"] = Key(("model", "flux"), DownstreamConfig.model_fields["flux"])
    return keys


def _choice(words: Mapping[str, object], text: str) -> FieldInfo:
    field = FieldInfo.from_annotation(Literal[tuple(words)])  # type: ignore[arg-type]  # the words are known at run time
    field.description = text
    return field


def config_of(stage: str) -> type[Config]:
    """Return the config model of a stage."""
    return load_commands(stage)[""].config


def _config_of_plan(command: str) -> type[Config]:
    verb, name = command.split()
    return load_commands(verb, name)[name].config


def declared_values(command: str, options: Mapping[str, Any]) -> dict[str, Declared]:
    """Return what the project file declares for a command, by the dotted path of the field.

    Args:
        command: The command, such as `train-rater` or `plan evaluate`.
        options: The options given on the command line; they name the dataset of an ingest.

    Raises:
        ConfigError: The file, or a section that the command uses, is not valid.
    """
    if command == "ingest":
        return _of_dataset(load_project(), options.get("dataset"))
    if command in SECTION_OF:
        return section_values(load_project(), SECTION_OF[command])
    if command in SHARED:
        return _shared_values(load_project(), SHARED[command])
    if command in PLANNED:
        own = {"preset", "recipe"} | {".".join(path) for path, _ in flag_fields(_config_of_plan(command))}
        values = section_values(load_project(), PLANNED[command])
        return {path: value for path, value in values.items() if path in own}
    if command == "geneval judge":
        project, section = load_project(), f"evaluation.{GENEVAL}"
        section_values(project, "evaluation")
        return {
            name: Declared(path, section, name) for name, path in project.files_of(GENEVAL).items() if name != "weights"
        }
    return {}


def section_values(project: Project, section: str) -> dict[str, Declared]:
    """Return the values of a section, by the dotted path of the field; paths are absolute.

    Raises:
        ConfigError: A key or a value is not allowed; each is named.
    """
    if faults := [f"{project.path}: {fault}" for fault in faults_of(project, section)]:
        raise ConfigError("\n".join(faults))
    keys, given = keys_of(section), options_of(project, section)
    return {
        ".".join(keys[name].path): Declared(_convert(project, keys[name].field, value), section, name)
        for name, value in given.items()
        if name in keys
    }


def options_of(project: Project, section: str) -> Options:
    """Return a section as the file holds it."""
    given: Options = getattr(project, section)
    return given


def places_of(command: str) -> dict[str, str]:
    """Return the place in the project file of each option of a command, by the name of the option's field."""
    section = SECTION_OF.get(command) or PLANNED.get(command)
    if section is not None:
        return {key.path[-1]: f"[{section}] {name}" for name, key in keys_of(section).items()}
    return {name: f"[{section}] {key}" for name, (section, key) in SHARED.get(command, {}).items()}


def _of_dataset(project: Project, name: str | None) -> dict[str, Declared]:
    own = project.datasets.get(name) if name is not None else None
    if own is None:
        return {}
    values = {"root": own.root and project.locate(own.root), "role": own.role}
    place = f"datasets.{name}"
    return {key: Declared(value, place, key) for key, value in values.items() if project.gives("datasets", name, key)}


def _shared_values(project: Project, places: Mapping[str, tuple[str, str]]) -> dict[str, Declared]:
    sections = {section for section, _ in places.values()}
    values = [value for section in sections for value in section_values(project, section).values()]
    of_place = {(value.section, value.key): value for value in values}
    return {name: of_place[place] for name, place in places.items() if place in of_place}


def _convert(project: Project, field: FieldInfo, value: Any) -> Any:
    """Return a value as an option would give it: relative paths start at the file's folder, protocols are joined by commas."""
    mark, folder = mark_of(field), project.path.parent if project.path else Path()
    if not isinstance(value, list):
        return value if mark is None else mark.anchor(value, folder)
    return value if mark is None else ",".join(mark.anchor(part, folder) for part in value)


def faults_of(project: Project, section: str) -> Iterator[str]:
    """Yield what is wrong with each key of a section by itself: a line for each."""
    keys = keys_of(section)
    for name, value in options_of(project, section).items():
        if name in keys:
            yield from _faults_of_value(section, name, keys[name].field, value)
        elif section == "evaluation" and isinstance(value, Mapping):
            yield from _faults_of_files(project, name, value)
        else:
            yield _explain_unknown(section, name)


def _faults_of_value(section: str, name: str, field: FieldInfo, value: Any) -> Iterator[str]:
    # Several protocols are a list in the file, and words separated by commas in the option, which is a text.
    parts = value if isinstance(value, list) and value and (section, name) in LISTS else [value]
    allowed = "; ".join(filter(None, [field.description, bounds_of(field)]))
    for part in parts:
        if fault := _fault(field, part):
            yield f"[{section}] {name!r} = {part!r} is not allowed: {fault} ({allowed})."


def _fault(field: FieldInfo, value: Any) -> str | None:
    """Return why a value of the file is not allowed. Strict: text is not a number, and a number is not a switch."""
    if _is_word(field, value):
        return None
    is_split = isinstance(value, str) and any(getattr(mark, "func", None) is split_commas for mark in field.metadata)
    try:
        # As JSON, in which paths, words of a list and choices are text for a strict check too.
        _adapter_of(field).validate_json(json.dumps(value, default=str), strict=not is_split)
    except ValidationError as error:
        (first, *_) = error.errors()
        return str(first["msg"]).removeprefix("Value error, ")
    return None


def read_value(field: FieldInfo, value: Any) -> Any:
    """Return a value as its field reads it, for example a number from the text of an option.

    Raises:
        ValidationError: The field does not allow it.
    """
    return value if _is_word(field, value) else _adapter_of(field).validate_python(value)


def _is_word(field: FieldInfo, value: Any) -> bool:
    """Return whether a value is the word that a number field takes as well."""
    return isinstance(value, str) and field.json_schema_extra == or_word(value)


def _adapter_of(field: FieldInfo) -> TypeAdapter[Any]:
    # `Field()` changes nothing: an annotation needs at least one part.
    annotated: Any = Annotated[field.annotation, Field(), *field.metadata]
    return TypeAdapter(annotated)


def _faults_of_files(project: Project, protocol: str, given: Mapping[str, Any]) -> Iterator[str]:
    from alchemist_core.protocols.protocol import shipped_protocols  # noqa: PLC0415  few sections name files of a protocol

    declared = project.evaluation.get("protocols")
    own = [Path(name).stem for name in declared if str(name).endswith(".toml")] if isinstance(declared, list) else []
    if protocol not in (known := [*shipped_protocols(), *own]):
        yield f"[evaluation.{protocol}] is not a protocol that is shipped or declared. {_meant(protocol, known)}"
    for name, value in given.items():
        field = NetworkFiles.model_fields.get(name)
        if field is None:
            yield f"[evaluation.{protocol}] {name!r} is not a known key. {_meant(name, list(NetworkFiles.model_fields))}"
        elif fault := _fault(field, value):
            yield f"[evaluation.{protocol}] {name!r} = {value!r} is not allowed: {fault} ({field.description})."


def _explain_unknown(section: str, name: str) -> str:
    stage, of_one_run, renamed = SECTIONS[section]
    fields = {path[-1]: field for path, field in flag_fields(config_of(stage))}
    formerly = {
        mark.name: current for current, field in fields.items() for mark in field.metadata if isinstance(mark, Formerly)
    }
    title = f"[{section}] {name!r}"
    if name in renamed:
        return f"{title} is not a known key. Did you mean {renamed[name]}?"
    if name in of_one_run:
        return f"{title} belongs to a single run and not to the project file. Give it to the command: {flag_of(name, fields[name])}."
    if name in formerly:
        return f"{title} is now {formerly[name]}."
    if name in fields:
        return f"{title} is an argument of the command and not an option, so it cannot be in the project file."
    elsewhere = [f"[{other}] {name}" for other in SECTIONS if name in keys_of(other)]
    return f"{title} is not a known key. {_meant(name, list(keys_of(section)), elsewhere)}"


def _meant(name: str, known: list[str], elsewhere: Sequence[str] = ()) -> str:
    near = get_close_matches(name.replace("-", "_"), known, n=1)
    return (
        f"Did you mean {(near or elsewhere)[0]}?" if near or elsewhere else f"Known keys: {', '.join(sorted(known))}."
    )
