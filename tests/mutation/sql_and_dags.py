"""Change the meaning of SQL and of DAG files at one place at a time, and report the changes that no test notices.

`python -m tests.mutation.sql_and_dags [--only sql|dags] [--sample N]`: the changes of `sql_and_dags.yaml`, which were written by hand, as
no tool supports these two languages, each in a copy of the checkout. A change takes 6 to 40 seconds. For each survivor, write a test.
"""

import argparse
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from tests.benchmarks.rows import at_least, write_rows

LIST = Path(__file__).with_suffix(".yaml")
ROOT = LIST.parents[2]
LEAST_FOUND = 0.9
TIMEOUT_S = 600
PASSED, FAILED = 0, 1  # Exit codes of pytest; with any other one no test was run.


class Change(NamedTuple):
    """One change of meaning, and the arguments of pytest that run the tests which have to notice it."""

    room: str
    file: str
    before: str
    after: str
    tests: str

    @property
    def name(self) -> str:
        """Return the change on one line."""
        was, became = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.file}: {was} -> {became or 'nothing'}"


class Outcome(NamedTuple):
    """Whether a change was found, and by which test."""

    room: str
    name: str
    is_found: bool
    detail: str


def read_changes() -> list[Change]:
    """Read the list."""
    rooms = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    return [
        Change(room, part["file"], before, after, part["tests"])
        for room, parts in rooms.items()
        for part in parts
        for before, after in part["changes"]
    ]


def run(sample: int | None = None, *, only: str | None = None) -> list[Outcome]:
    """Try the changes, or as many of each room, and print each as its tests end.

    Raises:
        RuntimeError: The tests of a change fail without it, or cannot be run.
    """
    chosen = []
    for room in ("sql", "dags"):
        changes = [change for change in read_changes() if change.room == room and only in (None, room)]
        chosen += changes if sample is None else random.Random(0).sample(changes, min(sample, len(changes)))
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(ROOT, tree)
        for tests in sorted({change.tests for change in chosen}):
            if (broken := _run_tests(tree, tests)) is not None:
                raise RuntimeError(f"pytest {tests} fails without any change; mend it first: {broken}")
        return [try_change(tree, change) for change in chosen]


def copy_tree(root: Path, target: Path) -> None:
    """Copy what git keeps, or would keep: the working tree itself is never changed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


def try_change(tree: Path, change: Change) -> Outcome:
    """Make a change, run its tests, and take it back."""
    path = tree / change.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(change.before, change.after), encoding="utf-8")
    try:
        found_by = _run_tests(tree, change.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    outcome = Outcome(change.room, change.name, found_by is not None, found_by or "no test failed")
    print(f"{'found' if outcome.is_found else 'lived'}  {outcome.name}  ({outcome.detail})", flush=True)
    return outcome


def _run_tests(tree: Path, tests: str) -> str | None:
    """Return the first test that failed; none where all passed."""
    # Python compares bytecode with its source by size and second, so bytecode of the last change could be used for this one.
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)]
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=tree, env=env, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"not done after {TIMEOUT_S} s"
    if done.returncode == PASSED:
        return None
    failed = re.search(r"^FAILED (\S+)", done.stdout, flags=re.MULTILINE)
    # A change that keeps the tests from beginning is no change of meaning, but a mistake in the list.
    if done.returncode != FAILED or failed is None:
        raise RuntimeError(f"pytest {tests} could not be run:\n{(done.stdout + done.stderr)[-3000:]}")
    return failed[1]


def main(words: Sequence[str] | None = None) -> None:
    """Run the requested changes, and write a row for each room."""
    parser = argparse.ArgumentParser(description="Change SQL and DAG files and report which changes no test notices.")
    parser.add_argument("--only", choices=["sql", "dags"], help="one room (default: both)")
    parser.add_argument("--sample", type=int, help="so many changes of each room (default: all)")
    options = parser.parse_args(words)
    outcomes = run(options.sample, only=options.only)
    rows = []
    for room in sorted({outcome.room for outcome in outcomes}):
        own = [outcome for outcome in outcomes if outcome.room == room]
        lived = [outcome.name for outcome in own if not outcome.is_found]
        detail = f"{len(own) - len(lived)} of {len(own)}" + "".join(f"; {name}" for name in lived)
        found = (len(own) - len(lived)) / len(own)
        rows.append(at_least(f"changes found, {room}", found, LEAST_FOUND, "share", detail))
    write_rows("mutate_sql_and_dags", rows)


if __name__ == "__main__":
    main()
