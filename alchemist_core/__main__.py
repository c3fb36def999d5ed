"""The `alchemist` command line: one verb a stage, its flags generated from the stage's config model.

A verb's module is imported only when the verb is called, so that `alchemist --help` answers at once.
"""

import signal
import sys
from types import FrameType

from alchemist_core.command_line import build_parser, run_command
from alchemist_core.errors import AlchemistError
from alchemist_core.telemetry import say


def _stop(number: int, _frame: FrameType | None) -> None:
    # As an exception, so that a stopped run is noted as failed and its lease is given back.
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    signal.signal(signal.SIGTERM, _stop)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        report = run_command(build_parser(given), given)
    except AlchemistError as error:
        say(f"error: {error}")
        return error.exit_code
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        say("Stopped. The same command goes on where it was.")
        return 128 + signal.SIGINT
    if report:
        print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
