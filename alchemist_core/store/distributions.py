"""Score distributions: what drift reads of a night and of the accepted ones, and the row that it leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, or_, select
from sqlalchemy.dialects.postgresql import insert

from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import AnyRow, Dataset, Night, RankScale, ScoreDistribution, Shard

ROWS_A_FETCH = 50_000
NIGHT_ROW = np.dtype([("shard_id", "i8"), ("caption_length", "i4"), ("score", "f8")])


@dataclass(frozen=True, slots=True)
class ScoreBand:
    """A group of a night's pairs and a range of their scores: where to look for examples."""

    shard_id: int | None
    caption_length: tuple[int, int]
    scores: tuple[float, float]


def read_night_scores(engine: Engine, rater_id: int, night_ids: Sequence[int]) -> NDArray[Any]:
    """Return shard_id, caption_length and score of the nights' distinct pairs; streamed, so memory holds 16 bytes a pair."""
    parameters = {"rater_id": rater_id, "night_ids": list(night_ids)}
    with engine.connect().execution_options(yield_per=ROWS_A_FETCH) as connection:
        rows = connection.execute(load_query("night_scores"), parameters)
        return np.fromiter((tuple(row) for row in rows), dtype=NIGHT_ROW)


def read_accepted(
    engine: Engine, dataset_id: int, rater_id: int, *, without: Sequence[int]
) -> list[tuple[int, int | None, list[float] | None]]:
    """Return the accepted nights but those under test: night_id, n and quantiles (none where they were never stored)."""
    parameters = {"dataset_id": dataset_id, "rater_id": rater_id, "without_ids": list(without)}
    with engine.connect() as connection:
        rows = connection.execute(load_query("accepted_distributions"), parameters)
        return [(row.night_id, row.n, row.quantiles) for row in rows]


def read_pooled(engine: Engine, night: AnyRow, rater_id: int) -> list[int]:
    """Return the nights just before this one that were too small to be judged and wait for the next."""
    statement = (
        select(Night.night_id, ScoreDistribution.verdict)
        .join(ScoreDistribution, ScoreDistribution.night_id == Night.night_id)
        .where(Night.dataset_id == night.dataset_id, Night.rater_id == rater_id, Night.night_id < night.night_id)
        .order_by(Night.night_id.desc())
    )
    with engine.connect() as connection:
        rows = connection.execute(statement).all()
    return [row.night_id for row in takewhile(lambda row: row.verdict == "pooled", rows)]


def newest_scale(engine: Engine, rater_id: int) -> AnyRow | None:
    """Return the rater's newest rank scale: knot_scores, knot_ranks, n_reference."""
    statement = (
        select(RankScale.knot_scores, RankScale.knot_ranks, RankScale.n_reference)
        .where(RankScale.rater_id == rater_id, RankScale.score == "rater")
        .order_by(RankScale.rank_scale_id.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        return connection.execute(statement).one_or_none()


def store_distribution(connection: Connection, night_id: int, **fields: Any) -> None:
    """Store what was measured of a night; measured again with the same outcome, no row changes."""
    statement = insert(ScoreDistribution).values(night_id=night_id, **fields)
    changed = [getattr(ScoreDistribution, name).is_distinct_from(statement.excluded[name]) for name in fields]
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["night_id"],
            set_={name: statement.excluded[name] for name in fields},
            where=or_(*changed),
        )
    )


def find_examples(
    engine: Engine, rater_id: int, night_ids: Sequence[int], *, band: ScoreBand, n_examples: int
) -> list[str]:
    """Return samples of a band as DATASET/SHARD/KEY."""
    parameters = {
        "rater_id": rater_id, "night_ids": list(night_ids), "shard_id": band.shard_id,
        "shortest": band.caption_length[0], "longest": band.caption_length[1],
        "lowest": band.scores[0], "highest": band.scores[1], "n_examples": n_examples,
    }  # fmt: skip
    with engine.connect() as connection:
        rows = connection.execute(load_query("night_examples"), parameters)
        return [f"{row.dataset}/{row.uri}/{row.key}" for row in rows]


def shard_uris(engine: Engine, shard_ids: Sequence[int]) -> dict[int, str]:
    """Return shards as DATASET/SHARD."""
    statement = (
        select(Shard.shard_id, Dataset.name, Shard.uri)
        .join(Dataset, Dataset.dataset_id == Shard.dataset_id)
        .where(Shard.shard_id.in_(shard_ids))
    )
    with engine.connect() as connection:
        return {shard_id: f"{name}/{uri}" for shard_id, name, uri in connection.execute(statement)}
