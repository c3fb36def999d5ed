"""Nights with given scores, written directly into the store, for tests that do not test scoring."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Engine, text

from tests.given import insert_rows, sha256

RATER_ID, DATASET_ID = 1, 1


def add_rater(connection: Connection, *, rater_id: int = RATER_ID, name: str = "r", state: str = "production") -> None:
    rater = {"rater_id": rater_id, "name": name, "state": state}
    insert_rows(connection, {"raters": [rater]})
    connection.execute(text("SELECT alchemist.add_partition('scores', :id)"), {"id": rater_id})


def add_dataset(connection: Connection, *, dataset_id: int = DATASET_ID, name: str = "web") -> None:
    insert_rows(connection, {"datasets": [{"dataset_id": dataset_id, "name": name}]})


def add_night(
    engine: Engine,
    crawl_date: str,
    shards: Mapping[str, Sequence[float]],
    *,
    captions: Sequence[str] = ("a cat on a mat in the sun",),
    state: str = "scored",
    dataset_id: int = DATASET_ID,
    rater_id: int = RATER_ID,
) -> int:
    """Add shards to a night (the open one of its date, if there is one), by address with their pairs' scores. Returns night_id.

    Captions are dealt out in turn.
    """
    with engine.begin() as connection:
        opened = text("""
            INSERT INTO alchemist.nights (dataset_id, crawl_date, rater_id, revision, state, reason, decided_at)
            SELECT :dataset_id, :crawl_date, :rater_id, 1 + count(*), :state, CASE WHEN :state = 'held' THEN 'drift' END,
                CASE WHEN :state <> 'scored' THEN now() END
            FROM alchemist.nights WHERE dataset_id = :dataset_id AND crawl_date = :crawl_date AND rater_id = :rater_id
            ON CONFLICT (dataset_id, crawl_date, rater_id) WHERE state = 'scored' DO UPDATE SET state = 'scored'
            RETURNING night_id
        """)
        night = {"dataset_id": dataset_id, "crawl_date": crawl_date, "rater_id": rater_id}
        night_id: int = connection.execute(opened, {**night, "state": state}).scalar_one()
        for uri, scores in shards.items():
            _add_shard(connection, f"{crawl_date}/{uri}", scores, captions, night_id=night_id, night=night)
    return night_id


def _add_shard(
    connection: Connection,
    uri: str,
    scores: Sequence[float],
    captions: Sequence[str],
    *,
    night_id: int,
    night: Mapping[str, object],
) -> None:
    parameters = {
        **night, "night_id": night_id, "uri": uri, "n": len(scores), "sha256": sha256(uri), "scores": list(scores),
        "captions": [captions[i % len(captions)] for i in range(len(scores))],
    }  # fmt: skip
    statement = text("""
        WITH shard AS (
            INSERT INTO alchemist.shards (dataset_id, uri, sha256, size_bytes, n_samples, crawl_date, state)
            VALUES (:dataset_id, :uri, :sha256, 1, :n, :crawl_date, 'verified') RETURNING shard_id
        ), given AS (
            SELECT * FROM unnest(CAST(:scores AS real[]), CAST(:captions AS text[])) WITH ORDINALITY AS g (score, caption, i)
        ), pairs AS (
            INSERT INTO alchemist.samples (image_hash, caption_hash, pair_hash, caption, width, height, format)
            SELECT sha256(CAST(h AS bytea)), sha256(CAST(caption AS bytea)), sha256(CAST(h AS bytea)), caption, 64, 64, 'JPEG'
            FROM (SELECT *, :dataset_id || :uri || i AS h FROM given) AS named ORDER BY i RETURNING sample_id, pair_hash
        ), placed AS (
            INSERT INTO alchemist.sample_locations (shard_id, ordinal, sample_id, key, file_exts, file_offsets, file_sizes)
            SELECT shard_id, i - 1, sample_id, lpad(CAST(i - 1 AS text), 6, '0'), '{jpg,txt}', '{512,1536}', '{9,9}'
            FROM shard, given INNER JOIN pairs ON pair_hash = sha256(CAST(:dataset_id || :uri || i AS bytea))
        ), marked AS (
            INSERT INTO alchemist.shard_scores (
                rater_id, shard_id, night_id, n_samples, n_scored, n_reused, n_quarantined, code_version, device, dtype, run_id
            ) SELECT :rater_id, shard_id, :night_id, :n, :n, 0, 0, '1', 'cpu', 'float32', 1 FROM shard
        )
        INSERT INTO alchemist.scores (rater_id, sample_id, score)
        SELECT :rater_id, sample_id, score
        FROM given INNER JOIN pairs ON pair_hash = sha256(CAST(:dataset_id || :uri || i AS bytea))
    """)
    connection.execute(statement, parameters)
