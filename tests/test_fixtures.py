"""Fixtures of the test suite: none hides another one on which longer-lived fixtures depend."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent


def fixtures(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the scope of each fixture of a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
            if ast.unparse(mark).startswith("pytest.fixture"):
                given = {one.arg: ast.unparse(one.value) for one in mark.keywords} if isinstance(mark, ast.Call) else {}
                yield node.name, given.get("scope", "'function'").strip("'")


def test_no_file_hides_a_fixture_that_lives_longer_than_a_test() -> None:
    # A fixture of the session that asks for the hidden one would get the file's, which lives too briefly: each of its tests would fail.
    shared = {name for name, scope in fixtures(TESTS / "conftest.py") if scope != "function"}
    assert "server" in shared
    others = (path for path in TESTS.rglob("*.py") if path != TESTS / "conftest.py")
    hidden = [f"{path.relative_to(TESTS)}: {name}" for path in others for name, _ in fixtures(path) if name in shared]
    assert not hidden
