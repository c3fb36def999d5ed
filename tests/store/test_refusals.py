"""An error of Postgres ends in one line with a remedy; a defect of ours keeps its traceback. Each error comes from a real server."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import psycopg2
import pytest
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, text

from alchemist_core.errors import AlchemistError, ConfigError, StoreError
from alchemist_core.store import copy
from alchemist_core.store.copy import copy_columns, copy_rows
from alchemist_core.store.engine import DatabaseError, make_engine
from alchemist_core.store.refusals import explain_refusal

pytestmark = pytest.mark.db
N_ROWS = 1_000_000


def refusal(engine: Engine, *statements: str) -> AlchemistError | None:
    """Return the error of one of these statements."""
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
    except DatabaseError as refused:
        return explain_refusal(refused)
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize(("state", "remedy"), [
    ("53100", "disk of Postgres is full"),
    ("53300", "no resources left"),
    ("58030", "cannot access its files"),
    ("57P01", "stopping or starting"),
    ("57014", "cancelled a statement"),
    ("25006", "read-only for this user"),
    ("42501", "may not do that"),
    ("2BP01", "Drop them"),
    ("42P01", "alchemist db migrate"),
    ("40001", "Run the command again"),
    ("55P03", "Other sessions hold"),
    ("XX001", "Restore a backup"),
])  # fmt: skip
def test_each_kind_of_refusal_is_one_line_with_its_remedy(engine: Engine, state: str, remedy: str) -> None:
    raised = f"DO $$ BEGIN RAISE 'no luck\nand a second line' USING ERRCODE = '{state}'; END $$"
    known = refusal(engine, raised)
    assert isinstance(known, StoreError)
    assert remedy in str(known)
    assert "no luck" in str(known)
    assert "\n" not in str(known)


@pytest.mark.parametrize(("statement", "kind"), [
    ("SELECT * FROM alchemist.nothing_of_the_kind", StoreError),
    ("SELECT nothing FROM alchemist.datasets", StoreError),
    ("SELECT nothing(1)", StoreError),
    ("SELECT CAST('x' AS integer)", ConfigError),
    ("SELECT 1 / 0", ConfigError),
])  # fmt: skip
def test_what_the_store_lacks_and_what_it_cannot_hold_are_distinguished(
    engine: Engine, statement: str, kind: type[AlchemistError]
) -> None:
    assert type(refusal(engine, statement)) is kind


def test_a_wrong_statement_of_ours_stays_a_defect(engine: Engine) -> None:
    assert refusal(engine, "SELEC 1") is None
    assert refusal(engine, "INSERT INTO alchemist.datasets (name) VALUES ('web')") is None


@pytest.mark.parametrize("url", [
    "postgresql://nobody@127.0.0.1:1/none",
    "postgresql://nobody@no-such-host.invalid/none",
])  # fmt: skip
def test_a_server_that_is_away_is_named_with_what_starts_it(url: str) -> None:
    with pytest.raises(DatabaseError) as refused:
        make_engine(url).connect()
    known = explain_refusal(refused.value)
    assert isinstance(known, StoreError)
    assert "alchemist db start" in str(known)


def end_session(engine: Engine, pid: int) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def cut_rows(engine: Engine, connection: Connection, pid: int) -> None:
    def rows() -> Iterator[Sequence[Any]]:
        for number in range(N_ROWS):
            if number == N_ROWS // 10:
                end_session(engine, pid)
            yield number, 1.0

    copy_rows(connection, "measured", ["n", "x"], rows())


def cut_columns(engine: Engine, connection: Connection, pid: int) -> None:
    columns = {"n": np.zeros(N_ROWS, np.int32), "x": np.zeros(N_ROWS)}
    encode = copy.encode_columns

    def encode_then_cut(values: Sequence[NDArray[Any]]) -> bytes:
        end_session(engine, pid)
        return encode(values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy, "encode_columns", encode_then_cut)
        copy_columns(connection, "measured", columns)


def copy_cut(engine: Engine, cut: Callable[[Engine, Connection, int], None]) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE measured (n integer, x float8)")
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        cut(engine, connection, pid)


@pytest.mark.parametrize("cut", [cut_rows, cut_columns])
def test_a_copy_whose_session_the_server_ends_raises_one_error_and_prints_nothing(
    engine: Engine, cut: Callable[[Engine, Connection, int], None], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((DatabaseError, psycopg2.Error)) as refused:
        copy_cut(engine, cut)
    assert re.search(
        r"(ended the connection|stopping).*run the same command again", str(explain_refusal(refused.value))
    )
    assert capfd.readouterr().err == ""
