"""Imports point down only, and each heavy library has its rooms: read from the syntax of every file, lazy imports included."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import alchemist_core

ROOT = Path(alchemist_core.__file__).parent
# From the top: what stands lower knows nothing of what stands higher.
LAYERS = (
    {"__main__", "command_line", "failures", "flags", "forms", "parser", "presets", "experiments", "verbs"},
    {"stages"},
    {"project"},
    {"loops"},
    {"data", "store", "quality", "models", "local"},
    {"rating", "selection", "evaluation", "heuristics"},
    {
        "code_version",
        "command",
        "compute_defaults",
        "config",
        "errors",
        "extras",
        "notifications",
        "resources",
        "settings",
        "telemetry",
    },
)
LEVELS = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
OWNERS = {
    "apprise": {"notifications"},
    "accelerate": {"loops"},
    "airflow": set(),
    "boto3": {"data"},
    "botocore": {"data"},
    "great_expectations": {"quality"},
    "psycopg2": {"store"},
    "sqlalchemy": {"store"},
    "sqlglot": {"store"},
}
# What the store gives out, by the names that its users write into their signatures.
HANDLES = {"Connection", "Engine"}
PURE = LAYERS[5]


def imports() -> Iterator[tuple[str, str]]:
    """File and module of every import, wherever in the file it stands."""
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not {alias.name for alias in node.names} <= HANDLES:
                yield name, node.module or ""
            elif isinstance(node, ast.Import):
                yield from ((name, alias.name) for alias in node.names)


def room_of(name: str) -> str:
    return Path(name).parts[0].removesuffix(".py")


def test_every_room_has_its_layer() -> None:
    rooms = {room_of(path.relative_to(ROOT).as_posix()) for path in ROOT.rglob("*.py")} - {"__init__"}
    assert rooms == set(LEVELS)


def test_imports_point_down_only() -> None:
    upward = [
        (name, module)
        for name, module in imports()
        if module.startswith("alchemist_core.") and LEVELS[module.split(".")[1]] < LEVELS[room_of(name)]
    ]
    assert upward == []


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    found = {room_of(name) for name, module in imports() if module.split(".")[0] == library}
    assert found <= OWNERS[library]


def test_pure_rooms_read_no_files_through_us_and_know_no_store() -> None:
    known = PURE | LAYERS[6]
    outside = [
        (name, module)
        for name, module in imports()
        if room_of(name) in PURE and module.startswith("alchemist_core.") and module.split(".")[1] not in known
    ]
    assert outside == []
