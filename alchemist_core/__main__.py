"""The program `alchemist`: run one command and print its result, or one line that explains why it failed."""

import argparse
import atexit
import gc
import logging
import os
import signal
import sys
from types import FrameType

from alchemist_core.cli.parser import add_verbs, bare_parser, named_words
from alchemist_core.compute_defaults import set_compute_defaults
from alchemist_core.errors import AlchemistError
from alchemist_core.lazy import freeze, importing
from alchemist_core.telemetry import configure_logging, escape_control, say


def _stop(number: int, _frame: FrameType | None) -> None:
    # As an exception, so that a stopped run is recorded as failed and its lease is released.
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; an error is printed as one line, never as a traceback."""
    signal.signal(signal.SIGTERM, _stop)
    if arguments is None:
        # This process ends with the command. Collections of garbage, two of them at its end, would visit every object that imports have
        # made: a sixth of the time of a short command.
        freeze()
        atexit.register(gc.freeze)
    given = sys.argv[1:] if arguments is None else arguments
    configure_logging()
    try:
        if not named_words(given):
            return _print_help(given)
        parser = _load_parser(given)
        set_compute_defaults()
        from alchemist_core.cli.command_line import run_command  # noqa: PLC0415  help needs no config model

        outcome = run_command(parser, given)
        if outcome.text:
            print(escape_control(outcome.text), flush=True)
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        say("Stopped. Run the same command again: it continues from what was stored.")
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001  every exception becomes a line and an exit code
        return _fail(error, given)
    return outcome.exit_code


def _load_parser(words: list[str]) -> argparse.ArgumentParser:
    """Import the command that the words name, and return its parser."""
    # Our config models use no plugins, for which pydantic would look into every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    with importing():
        from alchemist_core.cli.command_line import build_parser  # noqa: PLC0415  help needs no config model

        return build_parser(words)


def _print_help(words: list[str]) -> int:
    """Print the list of commands or the version, or refuse words without a command; each exits."""
    parser = bare_parser()
    add_verbs(parser)
    parser.parse_args(words)
    return 0


def _fail(error: Exception, words: list[str]) -> int:
    """Print the error and return its exit code; the traceback of a defect is written to a file."""
    from alchemist_core.cli.failures import explain, report_defect  # noqa: PLC0415  only needed after an error

    known = explain(error)
    say(f"error: {known or report_defect(error, words)}", logging.ERROR)
    return known.exit_code if known else AlchemistError.exit_code


if __name__ == "__main__":
    sys.exit(main())
