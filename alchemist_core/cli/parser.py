"""The parser of `alchemist` and its list of commands. It imports no command and no config model, so that help appears at once."""

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NoReturn

from alchemist_core.cli.verbs import GROUPS, REMOVED, RENAMED

# argparse reports errors as text only; newer Python versions omit the quotes around the choices.
_NOT_A_CHOICE = re.compile(r"argument (?P<name>\S+): invalid choice: '(?P<given>.*)' \(choose from (?P<choices>.*)\)")
_NO_VALUE = re.compile(r"argument (?P<name>\S+): expected (?:one|at least one) argument")
_MISSING = "the following arguments are required: "


class Parser(argparse.ArgumentParser):
    """A parser whose errors name the nearest valid word and the command that prints help."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.renamed_flags: dict[str, str] = {}
        """What has become of each former option, such as `now --dedup`."""
        self.renamed_values: dict[tuple[str, str], str] = {}
        """The current word of each former value, by option and value."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse unknown arguments here, where the options that may have been meant are known."""
        # Before argparse, which would take --base for an abbreviation of --base-model.
        for flag in (word.partition("=")[0] for word in args or ()):
            if flag == "--":
                break
            if flag in self.renamed_flags:
                self.error(f"The option {flag} is {self.renamed_flags[flag]}.")
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(
                " ".join(self._refuse_option(word) for word in unknown if word.startswith("-")) or _extra(unknown)
            )
        return options, unknown

    def make_positional_optional(self) -> None:
        """Accept a command line without its positional argument."""
        for action in self._get_positional_actions():
            action.nargs, action.required, action.default = "?", False, argparse.SUPPRESS

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, what was probably meant and where to look, on one line; exit with 2."""
        if message.startswith(_MISSING):
            self.print_help(sys.stderr) if self._subparsers else self.print_usage(sys.stderr)
            message = f"Missing {message.removeprefix(_MISSING)}."
        elif found := _NOT_A_CHOICE.match(message):
            message = self._refuse_choice(found["name"], found["given"], re.findall(r"[\w.-]+", found["choices"]))
        elif found := _NO_VALUE.match(message):
            message = f"{found['name']} requires a value."
        end = "" if message.endswith(("?", ".")) else "."
        self.exit(2, f"error: {message}{end} See: {self.prog} --help\n")

    def _refuse_choice(self, name: str, given: str, choices: list[str]) -> str:
        if renamed := self.renamed_values.get((name, given)):
            return f"{name}: {given} is now {renamed}."
        if not self._subparsers:
            return f"{name} {given!r} is not one of {', '.join(choices)}.{_meant(given, choices)}"
        if self.prog == "alchemist" and given in RENAMED:
            return f"The command alchemist {given} was renamed. Run: alchemist {RENAMED[given]}."
        command = f"{self.prog} {given}".removeprefix("alchemist ")
        if command in REMOVED:
            return f"The command alchemist {command} was removed. {REMOVED[command]}"
        return f"Unknown command {given!r}.{_meant(given, choices)}"

    def _refuse_option(self, word: str) -> str:
        option = word.partition("=")[0]
        if self._subparsers:
            # An option that a group of commands does not have may belong to one of its commands.
            return f"Unknown option {option}. Options come after the command."
        operand = option.removeprefix("--").upper().replace("-", "_")
        if any(action.metavar in (operand, operand.lower()) for action in self._get_positional_actions()):
            return f"Unknown option {option}. Give {operand} without an option name: {self.prog} {operand}."
        return f"Unknown option {option}.{_meant(option, self._option_string_actions)}"


def _meant(given: str, known: Iterable[str]) -> str:
    near = get_close_matches(given, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _extra(words: list[str]) -> str:
    return f"Unexpected argument {', '.join(map(repr, words))}. Quote values that contain spaces."


class _PrintVersion(argparse.Action):
    """Print the version that runs record. Only this option asks git for the commit."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from alchemist_core.code_version import code_version  # noqa: PLC0415  see above

        sys.stdout.write(f"alchemist {code_version()}\n")
        parser.exit()


def bare_parser() -> Parser:
    """Return the parser of `alchemist` without its commands: it prints help and version, and refuses everything else."""
    parser = Parser(
        prog="alchemist",
        description="Alchemist selects training data for text-to-image models.\nIt scores every "
        "image-text pair by its estimated effect on a validation\n"
        "loss, and publishes reproducible subsets.",
        epilog=_list_verbs(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version",
        action=_PrintVersion,
        nargs=0,
        # Commands have an option of this name, whose value must not be overwritten by a default of this one.
        dest=argparse.SUPPRESS,
        default=argparse.SUPPRESS,
        help="print the version, with the commit where it is known, and exit",
    )
    return parser


def add_verbs(parser: Parser) -> "argparse._SubParsersAction[Parser]":
    """Add the place of a command, to which the caller adds the parsers of commands."""
    return parser.add_subparsers(dest="verb", metavar="COMMAND", required=True, help="one of the commands below")


def named_words(arguments: list[str]) -> list[str]:
    """Return the words that are not options, the first of which name the command."""
    return [word for word in arguments if not word.startswith("-")]


def _list_verbs() -> str:
    """Return every command with its line of help, by group."""
    lines = []
    for title, verbs in GROUPS.items():
        lines += [f"{title}:", *columns({name: verb.help for name, verb in verbs.items()}), ""]
    lines += [
        "Run alchemist COMMAND --help for the options of a command.",
        "Paths, addresses and credentials are set by ALCHEMIST_ variables:",
        "alchemist docs reference/environment",
    ]
    return "\n".join(lines)


def columns(texts: Mapping[str, str]) -> list[str]:
    """Return names in one column and their texts in the next, wrapped to the terminal."""
    width = min(shutil.get_terminal_size().columns - 2, 120)
    lines = []
    for name, text in texts.items():
        head = f"  {name:<17} "
        lines += textwrap.wrap(head + text, width, subsequent_indent=" " * len(head), break_on_hyphens=False)
    return lines
