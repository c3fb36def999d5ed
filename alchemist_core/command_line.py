"""Flags from config models: a verb's module names its config model, this page turns each field into one typed flag."""

import argparse
import ast
import importlib
import json
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from alchemist_core.command import Command
from alchemist_core.config import BARE_WORD, NO_FLAG, Config
from alchemist_core.errors import ConfigError
from alchemist_core.presets import PRESETS, preset_values

STAGES = ("ingest", "train_rater", "score", "select", "materialize", "train_downstream", "evaluate", "report")
VERBS = (
    "check",
    "plan",
    "drift",
    "certify",
    "promote",
    "publish",
    "release",
    "takedown",
    "retry_quarantine",
    "duplicates",
    "aesthetic",
    "export",
    "subset",
    "explain",
    "compare",
    "experiment",
    "region_probe",
    "db",
    "corpus",
    "geneval",
    "up",
    "down",
    "status",
    "logs",
    "metrics",
    "maintain",
    "note",
    "demo",
)


PASS_THROUGH = ("db", "psql")


def module_name(verb: str) -> str:
    """Return the module of a verb."""
    return f"alchemist_core.{'stages' if verb in STAGES else 'verbs'}.{verb}"


def load_commands(verb: str) -> dict[str, Command]:
    """Import a verb's module and return its commands: one under "" or one a sub-verb."""
    commands: dict[str, Command] = importlib.import_module(module_name(verb)).COMMANDS
    return commands


def first_line(verb: str) -> str:
    """Read the first line of a verb's docstring without importing it."""
    path = Path(__file__).parent.parent / (module_name(verb).replace(".", "/") + ".py")
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def build_parser(arguments: list[str] | None = None) -> argparse.ArgumentParser:
    """Build the parser; only the verb that `arguments` name is imported (all of them when None)."""
    parser = argparse.ArgumentParser(
        prog="alchemist", description="Decide which images a text-to-image model should learn from."
    )
    parser.epilog = (
        "Each verb explains itself: alchemist VERB --help. Settings (where things are) come from ALCHEMIST_ variables."
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    wanted = next((word for word in arguments or [] if not word.startswith("-")), None)
    for verb in (*STAGES, *VERBS):
        name = verb.replace("_", "-")
        child = verbs.add_parser(name, help=first_line(verb), description=first_line(verb))
        if arguments is None or name == wanted:
            _add_commands(child, verb)
    return parser


def _add_commands(parser: argparse.ArgumentParser, verb: str) -> None:
    commands = load_commands(verb)
    if "" in commands:
        _add_flags(parser, verb, commands[""])
        return
    children = parser.add_subparsers(dest="sub_verb", metavar="WHAT", required=True)
    for name, command in commands.items():
        text = (command.run.__doc__ or "").partition("\n")[0]
        _add_flags(children.add_parser(name, help=text, description=text), verb, command)


def _add_flags(parser: argparse.ArgumentParser, verb: str, command: Command) -> None:
    parser.set_defaults(command=command, verb_name=verb)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object on the last line")
    if verb in STAGES:
        text = "defaults by name; flags override single fields"
        parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny", help=f"{text} (default: tiny)")
        parser.add_argument("--slot", type=int, default=0, help="worker slot of a mapped stage (default: 0)")
    for path, field in flag_fields(command.config):
        _add_flag(parser, path, field)


def flag_fields(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield every field of a config model, nested models flattened: the last part of the path names the flag."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from flag_fields(field.annotation, (*prefix, name))
        elif field.json_schema_extra != NO_FLAG:
            yield (*prefix, name), field


def _add_flag(parser: argparse.ArgumentParser, path: tuple[str, ...], field: FieldInfo) -> None:
    # A field may not be called as Python's own words are: `from_` is the flag --from.
    flag = "--" + path[-1].rstrip("_").replace("_", "-")
    kind, choices = _flag_type(field.annotation)
    default = "required" if field.is_required() else f"default: {_plain(field.get_default(call_default_factory=True))}"
    text = f"{field.description or path[-1]} ({_bounds(field)}{default})".replace("%", "%%")
    options: dict[str, Any] = {"dest": ".".join(path), "default": argparse.SUPPRESS, "help": text}
    if field.json_schema_extra == BARE_WORD:
        parser.add_argument(path[-1], metavar=path[-1].upper(), help=options["help"])
    elif kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
    elif kind is argparse.REMAINDER:
        parser.add_argument(
            path[-1], nargs=argparse.REMAINDER, **(options | {"default": []}) | {"dest": ".".join(path)}
        )
    else:
        parser.add_argument(flag, choices=choices, metavar=None if choices else path[-1].strip("_").upper(), **options)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _flag_type(annotation: Any) -> tuple[Any, list[str] | None]:
    """Return how a field is read from the command line; pydantic does the parsing and the bounds."""
    if get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return str, [str(choice) for choice in get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return str, [str(choice.value) for choice in annotation]
    if get_origin(annotation) is list:
        return list, None
    return annotation, None


def _bounds(field: FieldInfo) -> str:
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    parts = [f"{words[name]} {getattr(rule, name)}" for rule in field.metadata for name in words if hasattr(rule, name)]
    return ", ".join(parts) + "; " if parts else ""


def run_command(parser: argparse.ArgumentParser, arguments: list[str]) -> str:
    """Run the parsed command and return its report as text.

    Raises:
        ConfigError: If a value breaks a bound of the config model.
    """
    # What follows a pass-through command is another program's: argparse would take its flags for ours.
    n_ours = len(PASS_THROUGH) if _is_passed_through(arguments) else len(arguments)
    options = vars(parser.parse_args(arguments[:n_ours]))
    options["arguments"] = arguments[n_ours:]
    command: Command = options["command"]
    config = read_config(command.config, options)
    is_stage = options["verb_name"] in STAGES
    report = command.run(config, slot=options["slot"]) if is_stage else command.run(config)
    if report is None:
        return ""
    return json.dumps(report.model_dump(mode="json")) if options["json"] else report.summary()


def _is_passed_through(arguments: list[str]) -> bool:
    n = len(PASS_THROUGH)
    return tuple(arguments[:n]) == PASS_THROUGH and arguments[n : n + 1] not in (["-h"], ["--help"])


def read_config(model: type[Config], options: dict[str, Any]) -> Config:
    """Compose the preset's defaults with the given flags into a validated config."""
    values: dict[str, Any] = preset_values(options["preset"], options["verb_name"]) if "preset" in options else {}
    for path, _ in flag_fields(model):
        name = ".".join(path)
        if name in options:
            place = values
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = options[name]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    lines = []
    for fault in error.errors():
        flag = "--" + str(fault["loc"][-1]).rstrip("_").replace("_", "-") if fault["loc"] else "the flags together"
        given = "" if fault["type"] == "missing" else f" (given: {fault['input']!r})"
        lines.append(f"{flag}: {fault['msg']}{given}. See the flag's text in --help.")
    return "\n".join(lines)
