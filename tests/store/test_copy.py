"""COPY returns every value as it was written."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from alchemist_core.store.copy import RowReader, copy_rows

# What ingest lets through: no NUL and no lone surrogate.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)


@pytest.mark.db
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            TEXTS, st.binary(max_size=20), st.lists(TEXTS, max_size=3), st.dictionaries(TEXTS, TEXTS, max_size=3)
        ),
        max_size=8,
    )
)
def test_any_storable_value_survives_copy(connection: Connection, rows: list[tuple[Any, ...]]) -> None:
    connection.execute(
        text("CREATE TEMPORARY TABLE IF NOT EXISTS target (i int, word text, blob bytea, words text[], doc jsonb)")
    )
    connection.execute(text("TRUNCATE target"))
    copy_rows(connection, "target", ("i", "word", "blob", "words", "doc"), [(i, *row) for i, row in enumerate(rows)])
    found = connection.execute(text("SELECT word, blob, words, doc FROM target ORDER BY i")).all()
    assert [(row.word, bytes(row.blob), row.words, row.doc) for row in found] == [tuple(row) for row in rows]


@pytest.mark.db
def test_null_true_and_numbers_survive_copy(connection: Connection) -> None:
    connection.execute(text("CREATE TEMPORARY TABLE target (a text, b boolean, c real, d bigint)"))
    copy_rows(connection, "target", ("a", "b", "c", "d"), [(None, True, 0.1, -(2**63)), ("\\N", False, -1e-38, 0)])
    found = connection.execute(text("SELECT a, b, c, d FROM target ORDER BY d")).all()
    assert [tuple(row) for row in found] == [
        (None, True, pytest.approx(0.1), -(2**63)),
        ("\\N", False, pytest.approx(-1e-38), 0),
    ]


@given(n_rows=st.integers(0, 50), size=st.integers(1, 64))
def test_a_reader_gives_all_bytes_whatever_the_chunk(n_rows: int, size: int) -> None:
    rows = [(i, json.dumps(i)) for i in range(n_rows)]
    reader, parts = RowReader(rows), []
    while part := reader.read(size):
        assert len(part) <= size
        parts.append(part)
    assert b"".join(parts) == b"".join(f"{i}\t{i}\n".encode() for i in range(n_rows))
