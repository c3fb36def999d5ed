"""Pages of the command line: every command with its options, from the parser that the program itself uses."""

import argparse
import inspect
import re
from collections.abc import Iterator

from alchemist_core.cli.command_line import build_parser
from alchemist_core.cli.verbs import GROUPS
from infra.docs.markdown import cell, plain, table

PAGES = {
    "stages, in the order of the pipeline": ("reference/commands/stages.md", "Stages"),
    "decide and publish": ("reference/commands/decide.md", "Commands to decide and publish"),
    "plan, export and compare": ("reference/commands/plan.md", "Commands to plan, export and compare"),
    "run the installation": ("reference/commands/run.md", "Commands to run the installation"),
}
"""Page and title of each group of commands."""
OVERVIEW = "reference/commands/index.md"
HEAD = """# Command line

`alchemist COMMAND [OPTIONS]`. What a command works on is a bare word (`alchemist subset show NAME`); everything else is an option.
A command prints its result on standard output and its progress on standard error; `--json` prints the result as one JSON object
on the last line.
[Exit codes](../exit-codes.md) say whether a failed command may be tried again. Options that have a key in the
[project file](../project-file.md) take their value from it if they are not given.
"""


def render() -> dict[str, str]:
    """Return the pages by path."""
    children = _children(build_parser())
    pages, overview = {}, [HEAD]
    for title, verbs in GROUPS.items():
        path, heading = PAGES[title]
        overview += [f"## {title[0].upper()}{title[1:]}\n", table(("command", "does"), _links(path, verbs))]
        parts = [f"# {heading}\n"]
        for verb, about in verbs.items():
            parts += [f"## alchemist {verb}\n", plain(about.help) + "\n", *_sections(children[verb])]
        pages[path] = "\n".join(parts)
    return {OVERVIEW: "\n".join(overview), **pages}


def _links(path: str, verbs: dict) -> Iterator[tuple[str, str]]:
    for verb, about in verbs.items():
        yield f"[`{verb}`]({path.rpartition('/')[2]}#alchemist-{verb})", about.help


def _children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    action = next((one for one in parser._actions if isinstance(one, argparse._SubParsersAction)), None)  # noqa: SLF001
    return {} if action is None else dict(action.choices)


def _sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the text of a command, or of each command of a group."""
    children = _children(parser)
    if not children:
        yield from _command(parser)
    for child in children.values():
        yield f"### {child.prog}\n"
        yield f"{plain(child.description or '')}\n"
        yield from _command(child)


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    usage = (parser.usage or "%(prog)s") % {"prog": parser.prog}
    yield f"```text\n{usage}\n```\n"
    options = [_option(action) for action in parser._actions if action.dest not in ("help", "json")]  # noqa: SLF001
    if options:
        yield table(("option", "meaning"), options)
    if parser.epilog:
        yield f"```text\n{parser.epilog.strip()}\n```\n"
    command = parser.get_default("command")
    if command is not None and (errors := list(_errors(command.run))):
        yield "Errors:\n"
        yield "\n".join(f"- [`{name}`](../exit-codes.md): {plain(text)}" for name, text in errors) + "\n"


def _option(action: argparse.Action) -> tuple[str, str]:
    names = [f"`{name}`" for name in action.option_strings] or [f"`{action.metavar or action.dest}`"]
    value = action.metavar if action.option_strings and action.nargs != 0 else None
    if isinstance(action, argparse.BooleanOptionalAction):
        value = None
    shown = ", ".join(names) + (f" `{value}`" if value else "")
    choices = ""
    if action.choices is not None and action.option_strings:
        choices = " One of: " + ", ".join(f"`{choice}`" for choice in action.choices) + "."
    return shown, plain((action.help or "").replace("%%", "%")) + ("." if choices else "") + choices


def _errors(run: object) -> Iterator[tuple[str, str]]:
    """Yield the errors that the docstring of a command names, with their conditions."""
    _, _, raised = (inspect.getdoc(run) or "").partition("Raises:\n")
    for found in re.finditer(r"^ {4}(\w+): (.+?)(?=^ {4}\w+: |^\S|\Z)", raised, re.MULTILINE | re.DOTALL):
        yield found[1], cell(found[2].split("\n\n")[0])
