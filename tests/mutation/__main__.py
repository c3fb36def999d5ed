"""Change the meaning of the code at one place at a time, and report the changes that no test notices.

`python -m tests.mutation [--room NAME] [--sample 30] [--seed 0]`: for each room of `rooms.toml`, a seeded sample of places, each changed
by one random operator of cosmic-ray, in a copy of the checkout; SQL and DAGs by the list of `sql_and_dags.yaml`. Writes
`.alchemist/bench/mutate.json`. Alone on the machine: a room takes 3 to 15 minutes. For each survivor, write a test or
a line in `equivalent.toml`.
"""

import argparse
import ast
import random
import shlex
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import pytest
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.testing import run_tests
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome

from tests.benchmarks.rows import Row, at_least, write_rows
from tests.mutation import sql_and_dags
from tests.mutation.sql_and_dags import LEAST_FOUND, ROOT, copy_tree

FOLDER = Path(__file__).parent
# Rooms with changes written by hand, because no tool supports their languages.
BY_HAND = ("sql", "dags")
# Operators that change nothing.
IDLE = ("core/NoOp",)


class Room(NamedTuple):
    """Code that belongs together, and the command of the tests that have to notice what changes in it."""

    name: str
    sources: list[Path]
    command: str


def read_rooms(root: Path) -> list[Room]:
    """Read `rooms.toml`, with sources relative to a checkout."""
    asked = tomllib.loads((FOLDER / "rooms.toml").read_text(encoding="utf-8"))
    rooms = []
    for name, room in asked["rooms"].items():
        sources = sorted(path.relative_to(root) for pattern in room["sources"] for path in root.glob(pattern))
        words = [
            sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-m", asked["marks"],
            # The sources for their examples.
            *map(str, sources), *room["tests"],
        ]  # fmt: skip
        rooms.append(Room(name, sources, shlex.join(words)))
    return rooms


def read_equivalents() -> dict[str, str]:
    """Read the mutants that no test can find, with the reason of each."""
    return dict(tomllib.loads((FOLDER / "equivalent.toml").read_text(encoding="utf-8"))["mutants"])


def sample_mutants(room: Room, n: int, seed: int) -> list[MutationSpec]:
    """Sample places of a room uniformly, and one change for each; call it where the sources are."""
    with (
        tempfile.TemporaryDirectory() as folder,
        use_db(str(Path(folder) / "places.sqlite"), WorkDB.Mode.create) as found,
    ):
        init(room.sources, found, {})
        specs = [spec for item in found.work_items for spec in item.mutations if spec.operator_name not in IDLE]
    idle = {path: idle_places(path.read_text(encoding="utf-8")) for path in room.sources}
    at: dict[tuple[str, tuple[int, int]], list[MutationSpec]] = defaultdict(list)
    for spec in specs:
        if not any(start <= spec.start_pos < end for start, end in idle[spec.module_path]):
            at[str(spec.module_path), spec.start_pos].append(spec)
    draw = random.Random(f"{seed} {room.name}")
    places = draw.sample(sorted(at), min(n, len(at)))
    by_operator = [sorted(at[place], key=lambda spec: (spec.operator_name, spec.occurrence)) for place in places]
    return [draw.choice(choices) for choices in by_operator]


def idle_places(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where expressions begin and end whose change changes no result, as (line, column): type hints, and `slots` of a dataclass."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            found.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, ast.keyword) and node.arg == "slots":
            found.append(node.value)
    return [
        ((each.lineno, each.col_offset), (each.end_lineno or 0, each.end_col_offset or 0)) for each in found if each
    ]


def name_mutant(path: Path, diff: str) -> str:
    """Name a mutant by its file and the line that it changes, which stays when lines are added elsewhere.

    >>> name_mutant(Path("a.py"), "--- a/a.py\\n+++ b/a.py\\n@@ -1 +1 @@\\n-    x < 1\\n+    x <= 1")
    'a.py: x < 1 -> x <= 1'
    """
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    was, became = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    return f"{path}: {was} -> {became}"


def try_mutants(room: Room, specs: Sequence[MutationSpec], timeout_s: float) -> Iterator[tuple[str, bool]]:
    """Yield each mutant's name and whether a test noticed it; one that could not be made is left out."""
    for spec in specs:
        result = mutate_and_test([spec], room.command, timeout_s)
        if result.diff:
            yield name_mutant(spec.module_path, result.diff), result.test_outcome is not TestOutcome.SURVIVED


def mutate_room(room: Room, n: int, seed: int) -> Row:
    """Try a sample of a room's mutants, print those that lived, and return the share that was found."""
    began = time.monotonic()
    outcome, output = run_tests(room.command, 1800)
    if outcome is not TestOutcome.SURVIVED:
        raise SystemExit(f"The tests of room {room.name} fail without any mutant; mend them first:\n{output[-3000:]}")
    timeout_s = 3 * (time.monotonic() - began) + 10
    equivalents, n_found, lived = read_equivalents(), 0, []
    for name, is_found in try_mutants(room, sample_mutants(room, n, seed), timeout_s):
        if name in equivalents:
            continue
        n_found += is_found
        if not is_found:
            lived.append(name)
            print(f"lived  {name}", flush=True)
    return row_of(room.name, n_found, lived)


def change_room(name: str, n: int) -> Row:
    """Try a sample of the changes that were made by hand, and return the share that was found."""
    outcomes = sql_and_dags.run(n, only=name)
    lived = [outcome.name for outcome in outcomes if not outcome.is_found]
    return row_of(name, len(outcomes) - len(lived), lived)


def row_of(room: str, n_found: int, lived: Sequence[str]) -> Row:
    """Make the row of a room: the share that was found, and each mutant that lived."""
    n_tried = n_found + len(lived)
    detail = f"{n_found} of {n_tried}" + "".join(f"; {name}" for name in lived)
    return at_least(f"mutants found, {room}", n_found / max(n_tried, 1), LEAST_FOUND, "share", detail)


def mutate_rooms(rooms: Sequence[Room], n: int, seed: int) -> list[Row]:
    """Mutate rooms in a copy of the checkout, one after the other."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder) / "checkout"
        copy_tree(ROOT, copy)
        with chdir(copy), pytest.MonkeyPatch.context() as patch:
            # What tests start finds the copy, too, and not the checkout that is installed.
            patch.setenv("PYTHONPATH", str(copy))
            return [mutate_room(room, n, seed) for room in rooms]


def main() -> None:
    """Mutate the requested rooms."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description="Find changes that no test notices.")
    rooms = {room.name: room for room in read_rooms(ROOT)}
    parser.add_argument("--room", choices=[*rooms, *BY_HAND], help="One room (default: all, one after the other)")
    parser.add_argument("--sample", type=int, default=30, help="Mutants to try in each room (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="Draws the sample (default: 0)")
    asked = parser.parse_args()
    names = [asked.room] if asked.room else [*rooms, *BY_HAND]
    rows = mutate_rooms([rooms[name] for name in names if name in rooms], asked.sample, asked.seed)
    write_rows("mutate", rows + [change_room(name, asked.sample) for name in names if name in BY_HAND])


if __name__ == "__main__":
    main()
