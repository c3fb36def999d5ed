"""The `alchemist` command line: one verb a stage, its flags generated from the stage's config model.

A verb's module is imported only when the verb is called, so that `alchemist --help` answers at once.
"""

import signal
import sys
from types import FrameType

from alchemist_core.cli.command_line import build_parser, run_command
from alchemist_core.compute_defaults import set_compute_defaults
from alchemist_core.errors import AlchemistError
from alchemist_core.telemetry import escape_control, say


def _stop(number: int, _frame: FrameType | None) -> None:
    # As an exception, so that a stopped run is noted as failed and its lease is given back.
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; what fails ends in one line, never in a traceback."""
    signal.signal(signal.SIGTERM, _stop)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        parser = build_parser(given)
        set_compute_defaults()
        report = run_command(parser, given)
        if report:
            print(escape_control(report), flush=True)
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        say("Stopped. The same command goes on where it was.")
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001  each one has a line and an exit code
        return _fail(error, given)
    return 0


def _fail(error: Exception, words: list[str]) -> int:
    """Print the line that helps and return its exit code; a defect's traceback goes to a file."""
    from alchemist_core.cli.failures import explain, report_defect  # noqa: PLC0415  only where something failed

    known = explain(error)
    say(f"error: {known or report_defect(error, words)}")
    return known.exit_code if known else AlchemistError.exit_code


if __name__ == "__main__":
    sys.exit(main())
