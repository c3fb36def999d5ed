"""Change the meaning of the code at one place at a time, and report the changes that no test notices.

`python -m tests.mutation [--room NAME] [--sample 30] [--seed 0]`: for each room of `rooms.toml`, a seeded sample of places, each changed
by one random operator of cosmic-ray, in a copy of the checkout; SQL and DAGs by the list of `sql_and_dags.yaml`. Writes
`.alchemist/bench/mutate.json`, and prints each change with the test that noticed it. For each survivor, write a test or a line in
`equivalent.toml`.
"""

import argparse
import ast
import difflib
import io
import random
import re
import tempfile
import tomllib
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from itertools import islice, pairwise
from pathlib import Path
from tokenize import generate_tokens
from typing import NamedTuple

from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.util import restore_contents
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec

from alchemist_core.store.engine import migrate
from alchemist_core.store.postgres import start_postgres, stop_postgres
from tests.benchmarks.rows import Row, at_least, write_rows
from tests.conftest import FASTER_SERVER, GIVEN_TEMPLATE, place_of_server
from tests.mutation import sql_and_dags
from tests.mutation.sql_and_dags import LEAST_FOUND, ROOT, copy_tree
from tests.mutation.warm import Ended, WarmTests, warm_tests

FOLDER = Path(__file__).parent
# Rooms with changes written by hand, because no tool supports their languages.
BY_HAND = ("sql", "dags")
# Operators that change nothing.
IDLE = ("core/NoOp",)
# Keyword arguments of a function that guard against a mistake in the code itself.
GUARDS = {"dataclass": ("slots", "frozen", "eq"), "zip": ("strict",)}


class Room(NamedTuple):
    """Code that belongs together, and the tests that have to notice what changes in it."""

    name: str
    sources: list[Path]
    tests: list[Path]
    marks: str

    def words(self, changed: Path | None = None) -> list[str]:
        """Return the arguments of pytest: the examples in the sources, and the tests; those of a changed file come first."""
        # alchemist_core/rating/rules.py has its tests in tests/rating/test_rules.py.
        own = changed and Path("tests", *changed.parts[1:-1], f"test_{changed.name}")
        first = [path for path in (changed, own) if path in (*self.sources, *self.tests)]
        ordered = [*first, *(path for path in (*self.sources, *self.tests) if path not in first)]
        return [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "--hypothesis-profile=quick",
            "--hypothesis-seed=0",
            "-m",
            self.marks,
            *map(str, ordered),
        ]


def read_rooms(root: Path) -> list[Room]:
    """Read `rooms.toml`, with paths relative to a checkout."""
    asked = tomllib.loads((FOLDER / "rooms.toml").read_text(encoding="utf-8"))
    rooms = []
    for name, room in asked["rooms"].items():
        sources = sorted(path.relative_to(root) for pattern in room["sources"] for path in root.glob(pattern))
        named = [root / given for given in room["tests"]]
        found = [path for given in named for path in ([given] if given.suffix else sorted(given.rglob("test_*.py")))]
        rooms.append(Room(name, sources, [path.relative_to(root) for path in found], asked["marks"]))
    return rooms


def read_equivalents() -> dict[str, str]:
    """Read the mutants that no test can find, with the reason of each."""
    return dict(tomllib.loads((FOLDER / "equivalent.toml").read_text(encoding="utf-8"))["mutants"])


def sample_mutants(room: Room, n: int, seed: int) -> list[MutationSpec]:
    """Sample places of a room uniformly, and one change for each that leaves a program; call it where the sources are."""
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
    places = draw.sample(sorted(at), len(at))
    by_operator = (sorted(at[place], key=lambda spec: (spec.operator_name, spec.occurrence)) for place in places)
    chosen = (draw.choice(choices) for choices in by_operator)
    return list(islice((spec for spec in chosen if is_program(mutated_code(spec))), n))


def mutated_code(spec: MutationSpec) -> str:
    """Return the source of a file with one change."""
    operator = get_operator(spec.operator_name)(**spec.operator_args)
    return str(mutate_code(spec.module_path.read_text(encoding="utf-8"), operator, spec.occurrence))


def is_program(source: str) -> bool:
    """Return whether Python compiles it without a warning.

    >>> is_program("f(**a)"), is_program("f(%a)"), is_program("a is 1")
    (True, False, False)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            compile(source, "mutant", "exec", dont_inherit=True)
        except SyntaxError:
            return False
    return True


def idle_places(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where expressions begin and end whose change changes no result, as (line, column).

    They are type hints, and what only guards against a mistake in the code itself: `slots`, `frozen` and `eq` of a dataclass, `strict` of
    zip, and the star before keyword-only parameters, which passes for a multiplication.
    """
    tokens = list(generate_tokens(io.StringIO(source).readline))
    stars = [(one.start, one.end) for one, after in pairwise(tokens) if (one.string, after.string) == ("*", ",")]
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            found.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, ast.Call):
            guards = GUARDS.get(ast.unparse(node.func), ())
            found += [given.value for given in node.keywords if given.arg in guards]
    return stars + [
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


class Tried(NamedTuple):
    """A mutant: its name, and the test that noticed it; none where all passed."""

    name: str
    found_by: str | None


def try_mutants(room: Room, specs: Sequence[MutationSpec], tests: WarmTests, limit_s: float) -> Iterator[Tried]:
    """Run the tests of a room on each mutant, those of the changed file first."""
    for spec in specs:
        path, became = spec.module_path, mutated_code(spec)
        with restore_contents(path):
            was = path.read_text(encoding="utf-8")
            path.write_text(became, encoding="utf-8")
            ended = tests.run(room.words(path), limit_s)
        lines = difflib.unified_diff(was.splitlines(), became.splitlines(), n=0, lineterm="")
        yield Tried(name_mutant(path, "\n".join(lines)), noticed_by(ended))


def noticed_by(ended: Ended) -> str | None:
    """Return the first test that failed; None if all passed.

    >>> noticed_by(Ended(1, "FAILED tests/test_a.py::test_b - assert 1", 1.0)), noticed_by(Ended(0, "1 passed", 1.0))
    ('tests/test_a.py::test_b', None)
    >>> noticed_by(Ended(None, "", 9.0)), noticed_by(Ended(2, "", 1.0))
    ('the limit of 9 s', 'pytest, with exit code 2')
    """
    if ended.code == 0:
        return None
    if ended.code is None:
        return f"the limit of {ended.used_s:.0f} s"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", ended.output, flags=re.MULTILINE)
    return failed[1] if failed else f"pytest, with exit code {ended.code}"


def mutate_room(room: Room, n: int, seed: int, tests: WarmTests) -> Row:
    """Try a sample of a room's mutants, print each, and return the share that was found."""
    # Bytecode of the unchanged code and of the tests; a changed file has another time, so that no mutant uses it.
    plain = tests.run(room.words(), keeps_bytecode=True)
    if plain.code != 0:
        raise SystemExit(
            f"The tests of room {room.name} fail without any mutant; mend them first:\n{plain.output[-3000:]}"
        )
    equivalents, n_found, lived = read_equivalents(), 0, []
    for name, found_by in try_mutants(room, sample_mutants(room, n, seed), tests, 2 * plain.used_s + 10):
        if name in equivalents:
            continue
        n_found += found_by is not None
        if found_by is None:
            lived.append(name)
        print(f"{'found' if found_by else 'lived'}  {name}  ({found_by or 'no test failed'})", flush=True)
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
        with chdir(copy), migrated_server(rooms) as environment, warm_tests(copy, environment) as tests:
            return [mutate_room(room, n, seed, tests) for room in rooms]


@contextmanager
def migrated_server(rooms: Sequence[Room]) -> Iterator[dict[str, str]]:
    """Start a server with a migrated database, for all runs of tests that need one; yield the variables by which tests find it."""
    if not any("mark.db" in (ROOT / path).read_text(encoding="utf-8") for room in rooms for path in room.tests):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="mutation-server-", dir=place_of_server()) as folder:
        home = Path(folder)
        home.chmod(0o755)  # So that the account that runs the server for root can reach it.
        try:
            server = start_postgres(home)
            server.run_sql(FASTER_SERVER)
            migrate(server.create_database("migrated"))
            yield {"ALCHEMIST_DATABASE_URL": server.url(), GIVEN_TEMPLATE: "migrated"}
        finally:
            stop_postgres(home)


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
