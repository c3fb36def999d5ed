"""The JSON of a crawl has up to 1 MiB a sample: what reads all samples holds few of them at a time."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text

from alchemist_core.store import export, queries
from alchemist_core.store.backups import checksum
from alchemist_core.store.export import EXPORTED_COLUMNS, stream_rows
from alchemist_core.store.queries import fetch_bounded
from tests.given import insert_rows
from tests.peak_memory import peak_mib

pytestmark = pytest.mark.db
N_SAMPLES, N_LETTERS = 1000, 200_000
READERS: dict[str, Callable[[str, Engine], object]] = {
    "checksum": lambda url, _: checksum(url),
    "export": lambda _, engine: sum(len(batch) for batch in stream_samples(engine)),
}


def stream_samples(engine: Engine):
    return stream_rows(engine, "export_samples", EXPORTED_COLUMNS, None, {})


def fill(engine: Engine, n_samples: int, n_letters: int) -> None:
    change = text("UPDATE alchemist.samples SET metadata = jsonb_build_object('a', repeat('x', :n_letters))")
    with engine.begin() as connection:
        insert_rows(connection, {"samples": [{"sample_id": number + 1} for number in range(n_samples)]})
        connection.execute(change, {"n_letters": n_letters})


@pytest.mark.parametrize("reader", READERS)
def test_memory_does_not_grow_with_the_metadata_of_all_samples(database_url: str, engine: Engine, reader: str) -> None:
    fill(engine, N_SAMPLES, N_LETTERS)
    before = peak_mib(reset=True)
    assert READERS[reader](database_url, engine)
    assert peak_mib() - before < N_SAMPLES * N_LETTERS / (1 << 20)


def test_a_batch_of_an_export_ends_at_so_many_characters(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "CHARS_A_BATCH", 50_000)
    monkeypatch.setattr(queries, "FIRST_ROWS", 2)
    monkeypatch.setattr(queries, "CHARS_A_FETCH", 45_000)
    fill(engine, 9, 20_000)
    batches = list(stream_samples(engine))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert [row[0] for batch in batches for row in batch] == list(range(1, 10))


def test_short_rows_are_fetched_by_the_thousand_and_long_ones_within_a_limit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "CHARS_A_FETCH", 100_000)
    lines = text(
        "SELECT repeat('x', CASE WHEN number > 5000 THEN 1000 ELSE 10 END) FROM generate_series(1, 6700) AS number"
    )
    with engine.connect().execution_options(stream_results=True) as connection:
        fetched = [(len(rows), n_chars) for rows, n_chars in fetch_bounded(connection.execute(lines))]
    assert fetched[:3] == [(200, 2000), (2000, 20_000), (2000, 20_000)]
    # Lines become long in the fourth fetch.
    assert fetched[3][0] == 2000
    assert [n_rows for n_rows, _ in fetched[4:]] == [165, 100, 100, 100, 35]
