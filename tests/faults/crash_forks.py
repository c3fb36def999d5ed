"""A process with all imports done that forks one command per line of input, so that 500 crashes take minutes.

A line is JSON: words, environment, and a crash point with the number of the call, or none. For each it prints the child's exit
status and, if no crash point was set, how often each of the command's points was passed.
"""

import importlib
import json
import os
import pkgutil
import sys
from typing import Any

import alchemist_core
from alchemist_core.__main__ import main as run_command
from alchemist_core.settings import load_settings
from tests.faults.crash_points import CrashPoint, arm, count, points_of


def main() -> None:
    import_all()
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            os._exit(work(order, writing))
        os.close(writing)
        with os.fdopen(reading) as pipe:
            counted = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"status": status, "counts": json.loads(counted or "{}")}), flush=True)


def import_all() -> None:
    for room in ("stages", "cli", "training", "store", "shards", "subsets"):
        package = importlib.import_module(f"{alchemist_core.__name__}.{room}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("worker"):
                importlib.import_module(module.name)


def work(order: dict[str, Any], writing: int) -> int:
    os.environ.update(order["environment"])
    load_settings.cache_clear()
    words: list[str] = order["words"]
    n_calls: dict[str, int] = {}
    if order["point"] is None:
        n_calls = count(points_of(words))
    else:
        arm(CrashPoint(*order["point"]), call=order["call"])
    try:
        sys.stdout = sys.stderr
        status = run_command(words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException as error:  # noqa: BLE001  the child must not go on as its parent
        print(repr(error), file=sys.stderr)
        status = 1
    with os.fdopen(writing, "w") as pipe:
        json.dump(n_calls, pipe)
    return status or 0


if __name__ == "__main__":
    main()
