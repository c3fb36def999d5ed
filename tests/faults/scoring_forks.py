"""A process with all imports done that forks one scoring run per line of input, so that 50 kills take a minute.

A line is JSON: environment, dataset, rater and slot. For each it prints the child's pid, and after the child's end its exit status.
"""

import json
import os
import sys

import torch

from alchemist_core.errors import AlchemistError
from alchemist_core.settings import load_settings
from alchemist_core.stages.score import ScoreConfig, run
from alchemist_core.training import scoring

IMPORTED = (torch, scoring)


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        if (pid := os.fork()) == 0:
            os._exit(score(order))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def score(order: dict[str, object]) -> int:
    os.environ.update(order["environment"])  # type: ignore[call-overload]
    load_settings.cache_clear()
    try:
        config = ScoreConfig(dataset=str(order["dataset"]), rater=str(order["rater"]))
        run(config, slot=int(str(order["slot"])))
    except AlchemistError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except BaseException as error:  # noqa: BLE001  the child must not go on as its parent
        print(repr(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
