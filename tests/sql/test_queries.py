"""Each view and query on a real Postgres: given.yaml is inserted, expect.yaml is the result, and everything is rolled back.

A folder is named after its view or query; further cases have a suffix `-case`. A case that leaves out a column says so in `unchecked`.
"""

import math
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Connection, text

from alchemist_core.store.engine import SQL
from tests.given import insert_rows, sha256


class Rows(yaml.SafeLoader):
    """YAML with `!sha256 word` for the hash of a word, as tests/given.py makes it."""


Rows.add_constructor("!sha256", lambda loader, node: sha256(loader.construct_scalar(node)))

FOLDERS = sorted(path.parent for path in Path(__file__).parent.glob("*/expect.yaml"))
HEADER = ("Purpose", "Parameters", "One row is", "Relies on", "Safe to re-run")
VIEW_HEADER = ("Purpose", "One row is", "Relies on")


def plain(value: Any) -> Any:
    """A value as YAML writes it; float8 keeps twelve digits, so that a file can hold it."""
    match value:
        case Decimal():
            return float(value)
        case float():
            return "NaN" if math.isnan(value) else float(f"{value:.12g}")
        case datetime() | date():
            return value.isoformat()
        case memoryview() | bytes():
            return bytes(value).hex()[:8]
    return value


def statement(name: str, order_by: str | None) -> str:
    if (SQL / "views" / f"{name}.sql").exists():
        return f"SELECT * FROM alchemist.{name}" + (f" ORDER BY {order_by}" if order_by else "")
    return (SQL / "queries" / f"{name}.sql").read_text()


def header(path: Path) -> list[str]:
    lines = [line.removeprefix("-- ") for line in path.read_text().splitlines() if line.startswith("-- ")]
    return [line.split(":", 1)[0] for line in lines if ":" in line]


@pytest.mark.db
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_given_rows_give_the_expected_ones(rolled_back: Connection, folder: Path) -> None:
    expect: Mapping[str, Any] = yaml.load((folder / "expect.yaml").read_text(), Rows)
    insert_rows(rolled_back, yaml.load((folder / "given.yaml").read_text(), Rows))
    for sql in expect.get("first", []):
        rolled_back.execute(text(sql))
    sql = statement(folder.name.split("-")[0], expect.get("order_by"))
    result = rolled_back.execute(text(sql), expect.get("parameters", {}))
    wanted = expect["rows"]
    names = wanted[0] if wanted else {}
    if wanted:
        assert sorted([*names, *expect.get("unchecked", [])]) == sorted(result.keys())
    rows = [{name: plain(row[name]) for name in names} for row in result.mappings()]
    if expect.get("is_unordered"):
        rows.sort(key=str)
    assert rows == [{name: plain(value) for name, value in row.items()} for row in wanted]


@pytest.mark.parametrize("path", sorted((SQL / "queries").glob("*.sql")), ids=lambda path: path.stem)
def test_a_query_has_a_complete_header(path: Path) -> None:
    assert [word for word in header(path) if word in HEADER] == list(HEADER)


@pytest.mark.parametrize("path", sorted((SQL / "views").glob("*.sql")), ids=lambda path: path.stem)
def test_a_view_has_a_complete_header_and_is_tested(path: Path) -> None:
    assert [word for word in header(path) if word in VIEW_HEADER] == list(VIEW_HEADER)
    assert any(folder.name.split("-")[0] == path.stem for folder in FOLDERS), f"no tests/sql/{path.stem}/expect.yaml"


@pytest.mark.parametrize("path", sorted((SQL / "queries").glob("*.sql")), ids=lambda path: path.stem)
def test_a_query_has_a_given_and_an_expected_result(path: Path) -> None:
    if path.stem.startswith("checksum_"):
        return  # One file a table; tests/store/test_checksum.py runs them all together.
    assert any(folder.name.split("-")[0] == path.stem for folder in FOLDERS), f"no tests/sql/{path.stem}/expect.yaml"


@pytest.mark.parametrize(
    "path", sorted(SQL.glob("queries/*.sql")) + sorted(SQL.glob("views/*.sql")), ids=lambda path: path.stem
)
def test_a_sql_file_stays_on_one_screen(path: Path) -> None:
    statement, _, _ = path.read_text().partition("\nCOMMENT ON ")
    assert len(statement.splitlines()) <= 80
