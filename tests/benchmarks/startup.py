"""Processor time of commands that have nothing to do: what every task of a night pays before it works.

`python -m tests.benchmarks.startup [--times 5]` starts its own embedded Postgres with a few hundred scored samples and removes it
afterwards. Each command is a process of its own, as in Airflow; its processor time (user and system) does not depend on what else the
machine does as much as its wall time. It writes `.alchemist/bench/startup.json` with minimum, median and maximum. One minute.
"""

import argparse
import os
import statistics
import subprocess
import sys
from typing import NamedTuple

from alchemist_core.resources import resource
from tests.benchmarks.picture_store import own_store
from tests.benchmarks.rows import Row, write_rows
from tests.selectable_store import fill

HELP_S, TASK_S, CHECK_S, PARSE_S = 0.2, 0.5, 2.0, 0.2
TASKS = (
    "plan night --crawl-date 2026-01-02 --json",
    "ingest --dataset web",
    "plan score --rater nightly --json",
    "score --rater nightly",
    "night check-drift --dataset web",
    "night publish --dataset web",
    "night announce --json",
    "night list",
    "duplicates find",
    "maintain takedowns",
    "note failure --subject d.t --run r --reason why",
)
"""The commands of the DAGs that can have nothing to do."""
CHECKS = ("check --suite shards", "check --suite scores --dataset web")
# Airflow's own import is not counted: each of its processes has it already. What a DAG file imports is, as with tasks that run locally:
# the provider of Kubernetes is imported only where tasks are pods.
PARSE = """
import time, pathlib, runpy, sys
import airflow.sdk, airflow.providers.standard.operators.hitl
sys.path.insert(0, sys.argv[1])
folder = pathlib.Path(sys.argv[1], "alchemist_dags")
ignored = (folder / ".airflowignore").read_text().split()
began = time.process_time()
for path in sorted(path for path in folder.glob("*.py") if path.name not in ignored):
    runpy.run_path(str(path), run_name=f"alchemist_dags.{path.stem}")
print(time.process_time() - began)
"""


class Measured(NamedTuple):
    """Seconds of processor time of repetitions, and the exit code of the last one."""

    seconds: list[float]
    code: int

    @property
    def detail(self) -> str:
        """Minimum, median and maximum."""
        low, middle, high = min(self.seconds), statistics.median(self.seconds), max(self.seconds)
        return f"{low:.3f}, {middle:.3f}, {high:.3f} s" + (f"; exit code {self.code}" if self.code else "")


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    rows = [row_of("start-up: Python itself", measure(["-c", "pass"], times), None)]
    rows.append(row_of("start-up: alchemist --help", measure(["-m", "alchemist_core", "--help"], times), HELP_S))
    with own_store() as engine:
        fill(engine)
        limits = dict.fromkeys(TASKS, TASK_S) | dict.fromkeys(CHECKS, CHECK_S)
        rows += [
            row_of(f"task: {words}", measure(["-m", "alchemist_core", *words.split()], times), limit)
            for words, limit in limits.items()
        ]
        rows.append(parse_row(times))
    write_rows("startup", rows)


def measure(words: list[str], times: int) -> Measured:
    """Run a Python process several times, after once to fill the caches of files."""
    seconds, code = [], 0
    for _ in range(times + 1):
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        seconds.append(used.ru_utime + used.ru_stime)
    return Measured(seconds[1:], code)


def row_of(name: str, measured: Measured, limit: float | None) -> Row:
    """Make a row of the fastest repetition: what others on the machine add is never negative."""
    value = min(measured.seconds)
    target = None if limit is None else f"< {limit:g} s"
    return Row(name, round(value, 3), "s", target, None if limit is None else value < limit, measured.detail)


def parse_row(times: int) -> Row:
    """Time the execution of all DAG files beside a loaded Airflow."""
    folder = str(resource("dags"))
    seconds = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PARSE, folder], stdout=subprocess.PIPE, text=True, check=True
        )
        seconds.append(float(done.stdout.splitlines()[-1]))
    return row_of("start-up: all DAG files", Measured(seconds, 0), PARSE_S)


if __name__ == "__main__":
    main()
