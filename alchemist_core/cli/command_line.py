"""The commands of `alchemist`: each field of a command's config model becomes one typed option."""

import argparse
import json
import os
import shlex
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from alchemist_core.cli.flags import add_flag, flag_fields, flag_of, usage_of
from alchemist_core.cli.parser import Parser, add_verbs, bare_parser, columns, named_words
from alchemist_core.cli.verbs import LAUNCHED, PASS_THROUGH, STAGES, VERBS, load_commands
from alchemist_core.config import WITHOUT_DRY_RUN, Command, Config, Formerly
from alchemist_core.errors import ConfigError
from alchemist_core.presets import (
    DEFAULT_RECIPE,
    NETWORKS,
    RECIPE_STAGES,
    RECIPES,
    line_of,
    presets_of,
    stage_of,
)
from alchemist_core.settings import load_settings
from alchemist_core.telemetry import configure_logging


def build_parser(arguments: list[str] | None = None) -> argparse.ArgumentParser:
    """Build the parser; only the module of the command that `arguments` name is imported (all of them when None)."""
    parser = bare_parser()
    verbs = add_verbs(parser)
    wanted, *further = [*named_words(arguments or []), ""]
    for name, verb in VERBS.items():
        # Without a help text of its own: the epilog lists the commands in groups.
        child = verbs.add_parser(name, description=verb.help)
        if arguments is None or name == wanted:
            _add_commands(child, name, further)
    return parser


def _add_commands(parser: argparse.ArgumentParser, verb: str, further: list[str]) -> None:
    """Add the options of a command, or the commands of a group; of those, only the first one of `further` gets its options if it is one."""
    commands = load_commands(verb, *further[:1])
    if "" in commands:
        _add_flags(parser, verb, commands[""])
        return
    children = parser.add_subparsers(dest="sub_verb", metavar="COMMAND", required=True)
    for name, command in commands.items():
        text = (command.run.__doc__ or "").partition("\n")[0]
        child = children.add_parser(name, help=text, description=text)
        if name in further[:1] or not commands.keys() & set(further[:1]):
            _add_flags(child, verb, command)


def _add_flags(parser: argparse.ArgumentParser, verb: str, command: Command) -> None:
    parser.set_defaults(command=command, verb_name=verb, program=parser.prog)
    parser.usage = usage_of(command.config)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line")
    stage = stage_of(verb if verb in STAGES else parser.prog.removeprefix("alchemist "))
    if verb in STAGES or stage in NETWORKS:
        _add_preset_flags(parser, stage)
    if verb in STAGES:
        parser.add_argument(
            "--slot",
            type=int,
            default=0,
            help="number of this process (0, 1, …) when several run the same stage at the same time, such as two scorers "
            "(default: 0)",
        )
    add_flags(parser, command.config)


def _add_preset_flags(parser: argparse.ArgumentParser, stage: str) -> None:
    """Add --preset and --recipe to the stages that use them, with a line of help for each choice; refuse their former use."""
    has_recipes, epilog = stage in RECIPE_STAGES, []
    if stage in NETWORKS:
        text = "size of the networks, as listed below; other options override single values (required, here or in the project file)"
        parser.add_argument("--preset", choices=list(presets_of(stage)), default=argparse.SUPPRESS, help=text)
        lines = {name: line_of(stage, name) for name in presets_of(stage)}
        epilog += ["presets (all values of one: alchemist presets NAME):", *columns(lines), ""]
    if has_recipes:
        text = (
            f"{RECIPE_STAGES[stage]}. Recipes are listed below; other options override them (default: {DEFAULT_RECIPE})"
        )
        parser.add_argument("--recipe", choices=list(RECIPES), default=argparse.SUPPRESS, help=text)
        epilog += ["recipes:", *columns({name: recipe.text for name, recipe in RECIPES.items()})]
    parser.epilog, parser.formatter_class = "\n".join(epilog), argparse.RawDescriptionHelpFormatter
    if isinstance(parser, Parser):
        _refuse_former_presets(parser, stage)


def _refuse_former_presets(parser: Parser, stage: str) -> None:
    """Until version 0.1, presets were also recipes, and every stage had them."""
    has_recipes = stage in RECIPE_STAGES
    if stage in NETWORKS:
        exact = "--recipe paper_exact" if has_recipes else "tiny"
        parser.renamed_values |= {("--preset", "paper_size"): "gpu80", ("--preset", "paper_exact"): exact}
    elif has_recipes:
        parser.renamed_flags["--preset"] = "now --recipe"
    else:
        parser.renamed_flags["--preset"] = "only an option of train-rater and train-downstream. Omit it"


def add_flags(parser: argparse.ArgumentParser, model: type[BaseModel]) -> None:
    """Add an option for each field of a config model; former names are refused with the current one."""
    for path, field in flag_fields(model):
        add_flag(parser, path, field)
        if isinstance(parser, Parser):
            _refuse_former_names(parser, path[-1], field)


def _refuse_former_names(parser: Parser, name: str, field: FieldInfo) -> None:
    """Register the former names of an option and of its values, which are refused with the current ones."""
    flag = flag_of(name, field)
    for mark in field.metadata:
        if isinstance(mark, Formerly):
            former = flag_of(mark.name or name, field)
            parser.renamed_values |= {(flag, was): value for value, was in mark.values.items()}
            if former != flag:
                parser.renamed_flags[former] = f"now {flag}"
                parser.renamed_flags[former.replace("--", "--no-", 1)] = f"now {flag.replace('--', '--no-', 1)}"


class Outcome(NamedTuple):
    """The result of a command as text, and the exit code."""

    text: str
    exit_code: int = 0


def run_command(parser: argparse.ArgumentParser, arguments: list[str]) -> Outcome:
    """Run the parsed command and return its result.

    Raises:
        ConfigError: If a value breaks a bound of the config model.
    """
    if any("\0" in word for word in arguments):
        raise ConfigError(
            "An argument contains a NUL character, which neither paths nor the database can store. Remove it."
        )
    # The arguments of a pass-through command belong to another program: argparse would read its options as ours.
    n_ours = _count_ours(arguments)
    options = vars(parser.parse_args(arguments[:n_ours]))
    options["arguments"] = arguments[n_ours:]
    configure_logging(load_settings().log_format)
    command: Command = options["command"]
    config = read_config(command.config, options)
    is_stage = options["verb_name"] in STAGES
    can_launch = options["verb_name"] in LAUNCHED
    if can_launch and (code := _launch(options["verb_name"], config, arguments)) is not None:
        return Outcome("", code)
    from alchemist_core.notifications import read_command_from, send_announced  # noqa: PLC0415  help sends none

    read_command_from(_notification_command)
    try:
        result = command.run(config, slot=options["slot"]) if is_stage else command.run(config)
    finally:
        send_announced()
    # Of several processes that compute together, the first one prints.
    is_helper = can_launch and int(os.environ.get("RANK", "0")) > 0
    if is_helper:
        return Outcome("")
    if result is None:
        # Programs parse the last line of every command.
        return Outcome("{}" if options["json"] else "")
    if options["json"]:
        return Outcome(json.dumps(result.model_dump(mode="json")), result.exit_code)
    following = command.next_step(config, result)
    if following == WITHOUT_DRY_RUN:
        # argparse also takes a shortened option.
        words = [word for word in arguments if len(word) < 4 or not "--dry-run".startswith(word)]
        following = shlex.join(["alchemist", *words])
    summary = f"{result.summary()}\nnext: {following}" if following else str(result.summary())
    return Outcome(summary, result.exit_code)


def _launch(verb: str, config: Config, arguments: list[str]) -> int | None:
    """Run a training in several processes if the project file declares them, and return its exit code; else return None."""
    from alchemist_core.cli.launch import declared_topology, launch  # noqa: PLC0415  only trainings have several processes

    topology = declared_topology(verb)
    return None if topology is None else launch(topology, config, arguments)


def _notification_command() -> str | None:
    from alchemist_core.project import load_project  # noqa: PLC0415  only commands that send notifications need it

    return load_project().notifications.command


def _count_ours(arguments: list[str]) -> int:
    """Return how many words are ours: after a pass-through command only --role or --json, if it comes first."""
    n = next((len(words) for words in PASS_THROUGH if tuple(arguments[: len(words)]) == words), len(arguments))
    if arguments[n : n + 1] in (["-h"], ["--help"]):
        return len(arguments)
    flag, equals, _ = arguments[n].partition("=") if len(arguments) > n else ("", "", "")
    return n + {"--role": 1 if equals else 2, "--json": 1}.get(flag, 0)


def stage_parser(stage: str, prog: str) -> argparse.ArgumentParser:
    """Return a parser of the options of a stage, whose positional argument may be omitted."""
    parser = Parser(prog=prog)
    _add_flags(parser, stage, load_commands(stage)[""])
    parser.make_positional_optional()
    return parser


def read_config(model: type[Config], options: dict[str, Any]) -> Config:
    """Return the config of a command from its options and the project file.

    Raises:
        ConfigError: The project file is not valid, a preset or its weights are missing, or a value is not valid.
    """
    # The list of commands needs neither the project file nor what its sections are made of.
    from alchemist_core.cli.effective import read_effective  # noqa: PLC0415

    return read_effective(model, options).config
