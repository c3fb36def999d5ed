"""Commands as the documentation writes them, parsed as a shell and the command line would."""

import shlex
from collections.abc import Iterator

from alchemist_core.cli.command_line import build_parser, read_config

# Where a page leaves these out, the project file names them.
OF_PROJECT = {
    "train-rater": {"--preset": "tiny", "--dataset": "d", "--validation": "v"},
    "train-downstream": {"--preset": "tiny"},
    "select": {"--dataset": "d"},
}


def commands_in(text: str) -> Iterator[str]:
    """Yield each command of the lines that begin with `alchemist`; a line may join several by &&."""
    for line in text.splitlines():
        if line.startswith("alchemist "):
            yield from line.partition("   #")[0].split(" && ")


def require_accepted(command: str) -> None:
    """Refuse a command that the command line refuses."""
    words = shlex.split(command, comments=True)[1:]
    given = {word.partition("=")[0] for word in words}
    project = [
        part
        for option, value in OF_PROJECT.get(words[0], {}).items()
        if option not in given
        for part in (option, value)
    ]
    parsed = words[:2] if words[:2] == ["db", "psql"] else [*words, *project]
    options = vars(build_parser(words).parse_args(parsed))
    assert read_config(options["command"].config, options) is not None, command
