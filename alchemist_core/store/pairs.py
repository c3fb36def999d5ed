"""Pairs and where their bytes lie, for stages that read images. Letters: K pairs that are wanted."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ARRAY, BigInteger, Connection, Engine, any_, cast, select, text

from alchemist_core.store.copy_in import copy_columns, copy_rows
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import AnyRow, Sample, Takedown

_ROWS_A_COPY, _ROWS_A_BATCH = 250_000, 20_000


def read_training_pairs(engine: Engine, dataset_id: int, *, max_pairs: int | None = None) -> Sequence[AnyRow]:
    """Return a dataset's distinct pairs in the order of pair_hash, each with its first live location."""
    with engine.connect() as connection:
        return connection.execute(
            load_query("training_pairs"), {"dataset_id": dataset_id, "max_pairs": max_pairs}
        ).all()


def read_pair_locations(engine: Engine, pair_hash_K: Sequence[bytes]) -> Sequence[AnyRow]:
    """Return the first live location of each pair; pairs without one (taken down, shard retired) are absent."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE wanted (pair_hash bytea) ON COMMIT DROP"))
        copy_rows(connection, "wanted", ("pair_hash",), ((pair_hash,) for pair_hash in pair_hash_K))
        connection.execute(text("ANALYZE wanted"))
        return connection.execute(load_query("pair_locations")).all()


def stream_locations(engine: Engine, pair_hash_K32: NDArray[np.uint8]) -> Iterator[Sequence[AnyRow]]:
    """Yield the first live location of each pair, some thousands at a time, as the query `member_locations` gives them.

    Args:
        engine: The store.
        pair_hash_K32: The pairs; a row's number is the pair's place here. Pairs without a live location are absent.
    """
    return _stream(engine, "member_locations", pair_hash_K32)


def stream_members(engine: Engine, pair_hash_K32: NDArray[np.uint8]) -> Iterator[Sequence[AnyRow]]:
    """Yield who the pairs are, some thousands at a time, as the query `export_members` gives them; those taken down are absent."""
    return _stream(engine, "export_members", pair_hash_K32)


def read_categories(engine: Engine, sample_ids: Sequence[int]) -> dict[int, str]:
    """Return the category that the crawl gives each pair, by its id; pairs without one are absent."""
    category = Sample.metadata_["category"].astext
    statement = select(Sample.sample_id, category.label("category")).where(
        Sample.sample_id == any_(cast(list(sample_ids), ARRAY(BigInteger))), category.is_not(None)
    )
    with engine.connect() as connection:
        return {row.sample_id: row.category for row in connection.execute(statement)}


def read_taken_down(engine: Engine) -> list[bytes]:
    """Return the pairs whose picture was taken down."""
    statement = select(Sample.pair_hash).join(Takedown, Takedown.image_hash == Sample.image_hash)
    with engine.connect() as connection:
        return [bytes(pair_hash) for pair_hash in connection.execute(statement).scalars()]


def _stream(engine: Engine, query: str, pair_hash_K32: NDArray[np.uint8]) -> Iterator[Sequence[AnyRow]]:
    with engine.begin() as connection:
        list_wanted(connection, pair_hash_K32)
        streamed = connection.execution_options(yield_per=_ROWS_A_BATCH)
        yield from streamed.execute(load_query(query)).partitions()


def list_wanted(connection: Connection, pair_hash_K32: NDArray[np.uint8]) -> None:
    """Make the temporary table wanted (number integer, pair_hash bytea), a row a pair, until the transaction ends."""
    connection.execute(text("CREATE TEMPORARY TABLE wanted (number integer, pair_hash bytea) ON COMMIT DROP"))
    # 32 bytes as one value: a column of bytea, to numpy.
    pair_hash_K = np.ascontiguousarray(pair_hash_K32).view("V32").ravel()
    number_K = np.arange(len(pair_hash_K), dtype=np.int32)
    for start in range(0, len(pair_hash_K), _ROWS_A_COPY):
        rows = slice(start, start + _ROWS_A_COPY)
        copy_columns(connection, "wanted", {"number": number_K[rows], "pair_hash": pair_hash_K[rows]})
    # Without it the planner expects a few rows and looks each of millions up by the index.
    connection.execute(text("ANALYZE wanted"))
