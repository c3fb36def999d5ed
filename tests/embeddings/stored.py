"""A store with embeddings that a test gives, in files by shard, without images and without a scorer's code."""

from collections.abc import Sequence
from datetime import date

import numpy as np
from sqlalchemy import Engine

from alchemist_core.embeddings.files import file_uri, write_embeddings
from alchemist_core.store.embeddings import insert_file
from tests.given import insert_rows

RATER = 1


def add_embeddings(
    engine: Engine, vector_ND: np.ndarray, *, first_id: int = 1, n_files: int = 3, ids: Sequence[int] | None = None
) -> list[int]:
    """Store samples with these embeddings, with ids from first_id on, in files of about the same size."""
    ids = list(ids or range(first_id, first_id + len(vector_ND)))
    with engine.begin() as connection:
        shard_id = connection.exec_driver_sql(
            "SELECT coalesce(max(shard_id), 0) + 1 FROM alchemist.shards"
        ).scalar_one()
        if not connection.exec_driver_sql("SELECT count(*) FROM alchemist.raters").scalar_one():
            scorer = {"rater_id": RATER, "name": "clip", "kind": "scorer", "rule": "scorer", "config": {"name": "clip"}}
            insert_rows(connection, {"raters": [scorer]})
        if shard_id == 1:
            insert_rows(connection, {
                "datasets": [{"dataset_id": 1, "name": "web"}],
                "nights": [{"night_id": 1, "dataset_id": 1, "crawl_date": "2026-01-01", "rater_id": RATER}],
            })  # fmt: skip
        insert_rows(connection, {"samples": [{"sample_id": sample_id} for sample_id in ids]})
        for part in np.array_split(np.arange(len(ids)), n_files):
            if not len(part):
                continue
            insert_rows(connection, {
                "shards": [{"shard_id": shard_id, "dataset_id": 1, "crawl_date": date(2026, 1, 1)}],
                "sample_locations": [
                    {"shard_id": shard_id, "ordinal": at, "sample_id": ids[row]} for at, row in enumerate(part.tolist())
                ],
                "shard_scores": [{"rater_id": RATER, "shard_id": shard_id, "night_id": 1, "n_scored": len(part)}],
            })  # fmt: skip
            own = np.array([ids[row] for row in part.tolist()])
            file = write_embeddings(file_uri(RATER, str(shard_id)), own, vector_ND[part].astype(np.float16))
            insert_file(connection, RATER, shard_id, file)
            shard_id += 1
    return ids
