"""Imports point down only, and each heavy library is imported only in its packages. Reads every file's syntax, lazy imports included."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import alchemist_core

ROOT = Path(alchemist_core.__file__).parent
# From the top: a package imports only packages below it. Each package has its own level.
ORDER = (
    "__main__", "interface", "explorer", "cli", "experiments", "presets", "preset_figures", "stages", "report", "metrics", "project",
    "training",
    "quality", "subsets", "local", "scorers", "embeddings",
    "store", "models", "shards", "heuristics", "selection", "rating", "protocols", "statistics", "code_version", "extras",
    "compute_defaults", "cores", "notifications", "telemetry", "files", "log_files", "ports", "resources", "settings", "prices", "config",
    "errors", "lazy",
)  # fmt: skip
LEVELS = {room: level for level, room in enumerate(ORDER)}
OWNERS = {
    "apprise": {"notifications"},
    "accelerate": {"training"},
    "airflow": {"explorer"},
    "boto3": {"shards"},
    "faiss": {"embeddings"},
    "botocore": {"shards"},
    "great_expectations": {"quality"},
    "psycopg2": {"store"},
    "sqlalchemy": {"store"},
    "sqlglot": {"store"},
    "starlette": {"explorer"},
    "uvicorn": {"explorer"},
}
# Types that the store returns and that its callers name in their signatures.
HANDLES = {"Connection", "Engine"}
PURE = {"rating", "selection", "heuristics", "protocols", "statistics"}


@cache
def imports() -> list[tuple[str, str]]:
    """File and module of every import, at any place in the file."""
    return list(read_imports())


def read_imports() -> Iterator[tuple[str, str]]:
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name == "__init__.py":
            continue  # the package's front imports the highest level
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not {alias.name for alias in node.names} <= HANDLES:
                assert node.level == 0, (
                    f"{name}:{node.lineno} is a relative import, whose package these tests do not know"
                )
                yield from ((name, module) for module in modules_of(node))
            elif isinstance(node, ast.Import):
                yield from ((name, alias.name) for alias in node.names)


def modules_of(node: ast.ImportFrom) -> set[str]:
    """The modules of an import; `from alchemist_core import cli` is one of alchemist_core.cli."""
    if node.module != "alchemist_core":
        return {str(node.module)}
    return {f"alchemist_core.{alias.name}" for alias in node.names} - {"alchemist_core.__version__"}


def room_of(name: str) -> str:
    return Path(name).parts[0].removesuffix(".py")


def test_every_package_has_its_level() -> None:
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


def test_pure_packages_import_no_store() -> None:
    known = PURE | {"config", "settings", "errors", "files", "extras", "resources", "lazy"}
    outside = [
        (name, module)
        for name, module in imports()
        if room_of(name) in PURE and module.startswith("alchemist_core.") and module.split(".")[1] not in known
    ]
    assert outside == []


def test_only_the_plugin_of_airflow_imports_airflow() -> None:
    assert {name for name, module in imports() if module.split(".")[0] == "airflow"} == {"explorer/airflow_tab.py"}
