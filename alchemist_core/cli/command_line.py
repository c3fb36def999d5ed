"""Flags from config models: a verb's module names its config model, this page turns each field into one typed flag."""

import argparse
import ast
import importlib
import json
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from alchemist_core import __version__
from alchemist_core.config import BARE_WORD, NO_FLAG, Command, Config, Formerly, bounds_of
from alchemist_core.errors import ConfigError
from alchemist_core.notifications import send_announced
from alchemist_core.presets import PRESETS, preset_values

# argparse tells its mistakes as texts only; later Pythons leave the quotes around the choices out.
_NOT_A_CHOICE = re.compile(r"argument (?P<name>\S+): invalid choice: '(?P<given>.*)' \(choose from (?P<choices>.*)\)")
_MISSING = "the following arguments are required"


class Parser(argparse.ArgumentParser):
    """A parser whose refusals name the nearest word and the next step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.renamed_flags: dict[str, str] = {}
        """The present flag of each former one."""
        self.renamed_values: dict[tuple[str, str], str] = {}
        """The present word of each former value, by flag and value."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse what is left over here, where the flags are known that may have been meant."""
        # Before argparse, which would read --base as an abbreviation of --base-model.
        for flag in (word.partition("=")[0] for word in args or ()):
            if flag == "--":
                break
            if flag in self.renamed_flags:
                self.error(f"{flag} is now {self.renamed_flags[flag]}")
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(" ".join(self._refusal(word) for word in unknown if word.startswith("-")) or _too_many(unknown))
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, what was probably meant and where to look; exit with 2."""
        if message.startswith(_MISSING):
            self.print_help(sys.stderr) if self._subparsers else self.print_usage(sys.stderr)
        elif found := _NOT_A_CHOICE.match(message):
            choices = re.findall(r"[\w.-]+", found["choices"])
            message = f"{found['name']} is none of {', '.join(choices)}: {found['given']!r}"
            if self._subparsers:
                message = f"{self.prog} knows no {found['given']!r}"
            renamed = self.renamed_values.get((found["name"], found["given"]))
            message += f". {found['given']} is now {renamed}" if renamed else _meant(found["given"], choices)
        end = "" if message.endswith(("?", ".")) else "."
        self.exit(2, f"error: {message}{end} See: {self.prog} --help\n")

    def _refusal(self, word: str) -> str:
        flag = word.partition("=")[0]
        # What a group of verbs does not know may be known to its verbs.
        if self._subparsers:
            return f"{self.prog} knows no {flag}; flags stand behind the verb."
        return f"{self.prog} knows no {flag}{_meant(flag, self._option_string_actions)}"


def _meant(given: str, known: Iterable[str]) -> str:
    near = get_close_matches(given, list(known), n=1)
    return f". Did you mean {near[0]}?" if near else "."


def _too_many(words: list[str]) -> str:
    return f"{', '.join(map(repr, words))} stands where nothing is expected; a value of several words needs quotes"


def flag_fields(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield every field of a config model, nested models flattened: the last part of the path names the flag."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from flag_fields(field.annotation, (*prefix, name))
        elif field.json_schema_extra != NO_FLAG:
            yield (*prefix, name), field


def usage_of(model: type[BaseModel]) -> str:
    """Return a command's usage in one line: what must be given, and that there is more."""
    named = [(flag_of(path[-1], field), path[-1].upper(), field.is_required()) for path, field in flag_fields(model)]
    bare = [flag if is_required else f"[{flag}]" for flag, word, is_required in named if flag == word]
    flags = [f"{flag} {word}" for flag, word, is_required in named if is_required and flag != word]
    rest = "..." if any(_flag_type(field.annotation)[0] is list for _, field in flag_fields(model)) else "[flags]"
    return " ".join(["%(prog)s", *bare, *flags, rest])


def add_flag(parser: argparse.ArgumentParser, path: tuple[str, ...], field: FieldInfo) -> None:
    """Add the flag of one field, or its bare word."""
    kind, choices = _flag_type(field.annotation)
    options: dict[str, Any] = {
        "dest": ".".join(path), "default": argparse.SUPPRESS, "help": describe(path[-1], field).replace("%", "%%"),
    }  # fmt: skip
    if kind is list:
        # What another program is given, unchanged.
        parser.add_argument(path[-1], nargs=argparse.REMAINDER, metavar="...", help=options["help"])
    elif field.json_schema_extra == BARE_WORD:
        # One that may be left out stays out of the options: its default is the config model's.
        word = options | {"metavar": flag_of(path[-1], field), "nargs": None if field.is_required() else "?"}
        parser.add_argument(path[-1], **{name: value for name, value in word.items() if name != "dest"})
    elif kind is bool:
        parser.add_argument(flag_of(path[-1], field), action=argparse.BooleanOptionalAction, **options)
    else:
        metavar = None if choices else path[-1].strip("_").upper()
        parser.add_argument(flag_of(path[-1], field), choices=choices, metavar=metavar, **options)


def flag_of(name: str, field: FieldInfo) -> str:
    """Return what a user types for a field, or the word that help shows where its value stands bare.

    >>> flag_of("n_steps", FieldInfo(annotation=int))
    '--n-steps'
    """
    if field.json_schema_extra == BARE_WORD:
        return name.upper()
    # A field may not be called as Python's own words are: `from_` is the flag --from.
    return "--" + name.rstrip("_").replace("_", "-")


def describe(name: str, field: FieldInfo) -> str:
    """Return a field's text with its bounds and its default."""
    default = "required" if field.is_required() else f"default: {_plain(field.get_default(call_default_factory=True))}"
    bounds = bounds_of(field)
    return f"{field.description or name} ({bounds + '; ' if bounds else ''}{default})"


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
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


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """Say of each refused value what is wrong with it, and what its flag is for."""
    fields = {path[-1]: field for path, field in flag_fields(model)}
    return "\n".join(line for fault in error.errors() for line in _explain_fault(fields, fault))


def _explain_fault(fields: dict[str, FieldInfo], fault: ErrorDetails) -> Iterator[str]:
    if fault["type"] == "missing":
        said = "is required"
    else:
        wrong = "not of the form that is needed" if fault["type"] == "string_pattern_mismatch" else fault["msg"]
        given = "" if isinstance(fault["input"], dict) else f" (given: {fault['input']!r})"
        said = wrong.removeprefix("Value error, ") + given
    # The place may end in a position within a list, or be a whole model's.
    name = next((str(part) for part in reversed(fault["loc"]) if part in fields), None)
    if name is None:
        yield said
    else:
        yield f"{flag_of(name, fields[name])}: {said}"
        yield f"    {describe(name, fields[name])}"


STAGES = ("ingest", "train_rater", "score", "select", "materialize", "train_downstream", "evaluate", "report")
VERB_GROUPS = {
    "decide and publish": (
        "certify",
        "promote",
        "check",
        "drift",
        "publish",
        "release",
        "takedown",
        "retry_quarantine",
        "shard",
        "duplicates",
        "aesthetic",
    ),
    "ask and compare": (
        "plan",
        "night",
        "subset",
        "explain",
        "export",
        "compare",
        "experiment",
        "region_probe",
        "geneval",
        "image_text_head",
    ),
    "keep the installation": (
        "dataset",
        "corpus",
        "db",
        "up",
        "down",
        "status",
        "logs",
        "dags",
        "airflow",
        "metrics",
        "maintain",
        "note",
        "demo",
    ),
}
VERBS = tuple(verb for group in VERB_GROUPS.values() for verb in group)
PASS_THROUGH = (("db", "psql"), ("airflow",))


def module_name(verb: str) -> str:
    """Return the module of a verb."""
    return f"alchemist_core.{'stages' if verb in STAGES else 'cli'}.{verb}"


def load_commands(verb: str) -> dict[str, Command]:
    """Import a verb's module and return its commands: one under "" or one a sub-verb."""
    commands: dict[str, Command] = importlib.import_module(module_name(verb)).COMMANDS
    return commands


@cache
def first_line(verb: str) -> str:
    """Read the first line of a verb's docstring without importing it."""
    path = Path(__file__).parents[2] / (module_name(verb).replace(".", "/") + ".py")
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def build_parser(arguments: list[str] | None = None) -> argparse.ArgumentParser:
    """Build the parser; only the verb that `arguments` name is imported (all of them when None)."""
    parser = Parser(
        prog="alchemist",
        description="Decide which images a text-to-image model should learn from.",
        epilog=_list_verbs(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"alchemist {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, help="what to do, from the lists below")
    wanted = next((word for word in arguments or [] if not word.startswith("-")), None)
    for verb in (*STAGES, *VERBS):
        name = verb.replace("_", "-")
        # Without a help text of its own: the epilog lists the verbs by what they are for.
        child = verbs.add_parser(name, description=first_line(verb))
        if arguments is None or name == wanted:
            _add_commands(child, verb)
    return parser


def _list_verbs() -> str:
    """Return every verb with its first line, the stages in their order."""
    width = min(shutil.get_terminal_size().columns - 2, 120)
    lines = []
    for title, verbs in {"the stages, in their order": STAGES, **VERB_GROUPS}.items():
        lines.append(f"{title}:")
        for verb in verbs:
            head = f"  {verb.replace('_', '-'):<17} "
            lines += textwrap.wrap(
                head + first_line(verb), width, subsequent_indent=" " * len(head), break_on_hyphens=False
            )
        lines.append("")
    lines += [
        "Each verb explains itself: alchemist VERB --help.",
        "Settings (where things are) are ALCHEMIST_ variables; the README names them.",
    ]
    return "\n".join(lines)


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
    parser.set_defaults(command=command, verb_name=verb, program=parser.prog)
    parser.usage = usage_of(command.config)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object on the last line")
    if verb in STAGES:
        text = "defaults by name; flags override single fields"
        parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny", help=f"{text} (default: tiny)")
        parser.add_argument("--slot", type=int, default=0, help="worker slot of a mapped stage (default: 0)")
    add_flags(parser, command.config)


def add_flags(parser: argparse.ArgumentParser, model: type[BaseModel]) -> None:
    """Add a flag for each field of a config model; the former names of renamed ones are refused."""
    for path, field in flag_fields(model):
        add_flag(parser, path, field)
        if isinstance(parser, Parser):
            _refuse_former_names(parser, path[-1], field)


def _refuse_former_names(parser: Parser, name: str, field: FieldInfo) -> None:
    """Name the present flag, or the present word of a value, where somebody types the former one."""
    flag = flag_of(name, field)
    for mark in field.metadata:
        if isinstance(mark, Formerly):
            former = flag_of(mark.name or name, field)
            parser.renamed_values |= {(flag, was): value for value, was in mark.values.items()}
            if former != flag:
                parser.renamed_flags[former] = flag
                parser.renamed_flags[former.replace("--", "--no-", 1)] = flag.replace("--", "--no-", 1)


def run_command(parser: argparse.ArgumentParser, arguments: list[str]) -> str:
    """Run the parsed command and return its report as text.

    Raises:
        ConfigError: If a value breaks a bound of the config model.
    """
    if any("\0" in word for word in arguments):
        raise ConfigError(
            "An argument holds a NUL character, which neither paths nor the database can hold. Remove it."
        )
    # What follows a pass-through command is another program's: argparse would take its flags for ours.
    n_ours = _count_ours(arguments)
    options = vars(parser.parse_args(arguments[:n_ours]))
    options["arguments"] = arguments[n_ours:]
    command: Command = options["command"]
    config = read_config(command.config, options)
    is_stage = options["verb_name"] in STAGES
    try:
        report = command.run(config, slot=options["slot"]) if is_stage else command.run(config)
    finally:
        send_announced()
    if report is None:
        return ""
    if options["json"]:
        return json.dumps(report.model_dump(mode="json"))
    following = command.next_step(config, report)
    return f"{report.summary()}\nnext: {following}" if following else str(report.summary())


def _count_ours(arguments: list[str]) -> int:
    """Return how many of the words are ours: behind a pass-through command only --role, when it comes first."""
    n = next((len(words) for words in PASS_THROUGH if tuple(arguments[: len(words)]) == words), len(arguments))
    if arguments[n : n + 1] in (["-h"], ["--help"]):
        return len(arguments)
    flag, equals, _ = arguments[n].partition("=") if len(arguments) > n else ("", "", "")
    return n + (0 if flag != "--role" else 1 if equals else 2)


def _number(given: Any) -> float | None:
    """Return a flag's value as a number; None where it is none, which the config model then refuses with its own text."""
    try:
        return None if given is None else float(given)
    except ValueError:
        return None


def read_config(model: type[Config], options: dict[str, Any]) -> Config:
    """Compose the preset's defaults with the given flags into a validated config."""
    values: dict[str, Any] = {}
    if "preset" in options:
        values = preset_values(
            options["preset"], options["verb_name"], retention=_number(options.get("policy.retention"))
        )
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
        help_line = f"{options.get('program', 'alchemist')} --help explains every flag."
        raise ConfigError(f"{explain(model, error)}\n{help_line}") from None
