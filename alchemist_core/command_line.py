"""Flags from config models: a verb's module names its config model, this page turns each field into one typed flag."""

import argparse
import ast
import importlib
import json
import shutil
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alchemist_core import __version__
from alchemist_core.command import Command
from alchemist_core.config import Config
from alchemist_core.errors import ConfigError
from alchemist_core.flags import add_flag, explain, flag_fields, usage_of
from alchemist_core.notifications import send_announced
from alchemist_core.parser import Parser
from alchemist_core.presets import PRESETS, preset_values

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
    return f"alchemist_core.{'stages' if verb in STAGES else 'verbs'}.{verb}"


def load_commands(verb: str) -> dict[str, Command]:
    """Import a verb's module and return its commands: one under "" or one a sub-verb."""
    commands: dict[str, Command] = importlib.import_module(module_name(verb)).COMMANDS
    return commands


@cache
def first_line(verb: str) -> str:
    """Read the first line of a verb's docstring without importing it."""
    path = Path(__file__).parent.parent / (module_name(verb).replace(".", "/") + ".py")
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
    for path, field in flag_fields(command.config):
        add_flag(parser, path, field)


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
