"""Aesthetic scores of pictures: who has none yet, and keeping them. What they mean is `heuristics/aesthetic.py`'s."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, text

from alchemist_core.store.copy_in import copy_columns
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import AnyRow

_RANGE = 4096
_KEEP = """
    INSERT INTO alchemist.heuristic_scores (sample_id, aesthetic) SELECT sample_id, aesthetic FROM judged ORDER BY sample_id
    ON CONFLICT (sample_id) DO UPDATE SET aesthetic = excluded.aesthetic WHERE heuristic_scores.aesthetic IS NULL
"""


def unjudged_pairs(engine: Engine, dataset_id: int) -> Iterator[tuple[Sequence[AnyRow], int]]:
    """Yield the pairs without an aesthetic score, some thousands at a time, and how many ids are left to look at."""
    with engine.connect() as connection:
        last = connection.execute(text("SELECT coalesce(max(sample_id), 0) FROM alchemist.samples")).scalar_one()
    for start in range(0, last, _RANGE):
        given = {"dataset_id": dataset_id, "after_id": start, "last_id": start + _RANGE}
        with engine.connect() as connection:
            rows = connection.execute(load_query("unjudged_pairs"), given).all()
        yield rows, max(0, last - start - _RANGE)


def store_aesthetic(engine: Engine, sample_id_N: NDArray[np.int64], value_N: NDArray[np.float32]) -> int:
    """Keep scores of pairs that have none, and return how many those are; the first value stays."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE judged (sample_id bigint, aesthetic real) ON COMMIT DROP"))
        copy_columns(connection, "judged", {"sample_id": sample_id_N, "aesthetic": value_N})
        return connection.execute(text(_KEEP)).rowcount
