"""Where a pair stands towards a snapshot: who it is, and why it may not be drawn. Letters: M pairs that are asked about."""

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select, text

from alchemist_core.data.manifests import HASH_BYTES
from alchemist_core.errors import ConfigError
from alchemist_core.store.copy_in import copy_columns
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import AnyRow, RankScale, RankSnapshot

MIN_DIGITS = 8
CHUNK_ROWS = 250_000


def find_pair(engine: Engine, named: str) -> AnyRow:
    """Return the pair that a person names: as DATASET/SHARD/KEY, by the first digits of its hash, or by its sample id.

    Raises:
        ConfigError: If no pair or more than one is meant; the text says whether its place holds something that was set aside.
    """
    with engine.connect() as connection:
        rows = connection.execute(load_query("find_pairs"), _parameters(named)).all()
    if len(rows) > 1:
        raise ConfigError(
            f"{named} begins the hash of more than one pair, {rows[0].pair_hash.hex()} is one: give more digits."
        )
    if not rows:
        raise ConfigError(f"No pair in the store is {named}.{_set_aside(engine, named)}")
    return rows[0]


def why_not_eligible(engine: Engine, snapshot_id: int, pair_hash_M32: NDArray[np.uint8]) -> list[AnyRow]:
    """Return for each pair that the store knows why it is not in a snapshot's eligible set; a row each of the query."""
    columns = (RankScale.rater_id, RankSnapshot.dataset_names, RankSnapshot.night_ids, RankSnapshot.last_takedown_id)
    taken = select(*columns).join(RankScale).where(RankSnapshot.snapshot_id == snapshot_id)
    word_M = np.ascontiguousarray(pair_hash_M32).view(f"V{HASH_BYTES}").ravel()
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE wanted (pair_hash bytea) ON COMMIT DROP"))
        for start in range(0, len(word_M), CHUNK_ROWS):
            copy_columns(connection, "wanted", {"pair_hash": word_M[start : start + CHUNK_ROWS]})
        connection.execute(text("ANALYZE wanted"))
        parameters = dict(connection.execute(taken).mappings().one())
        return list(connection.execute(load_query("why_not_eligible"), parameters))


def _parameters(named: str) -> dict[str, object]:
    nothing = dict.fromkeys(("dataset", "place", "low", "high", "sample_id"))
    dataset, _, place = named.partition("/")
    if place:
        return nothing | {"dataset": dataset, "place": place}
    digits = named.lower()
    if digits.isdecimal() and len(digits) < 2 * MIN_DIGITS:
        return nothing | {"sample_id": int(digits)}
    if len(digits) < MIN_DIGITS or len(digits) > 2 * HASH_BYTES or not set(digits) <= set("0123456789abcdef"):
        raise ConfigError(
            f"{named!r} names no pair: give DATASET/SHARD/KEY, a sample id, or at least {MIN_DIGITS} hex digits of its pair hash."
        )
    low, high = (bytes.fromhex(digits.ljust(2 * HASH_BYTES, end)) for end in "0f")
    return nothing | {"low": low, "high": high}


def _set_aside(engine: Engine, named: str) -> str:
    dataset, _, place = named.partition("/")
    with engine.connect() as connection:
        row = connection.execute(load_query("find_quarantined"), {"dataset": dataset, "place": place}).first()
    if row is None:
        return (
            " alchemist subset show NAME lists the datasets; a place is DATASET/SHARD/KEY, the shard with its folder."
        )
    detail = f" ({row.detail})" if row.detail else ""
    # What ingest quarantined no rater has seen: only reading the shard again can change it.
    again = "retry-quarantine" if row.stage == "score" else "shard reread"
    return f" What lies there was quarantined by {row.stage}: {row.reason}{detail}. alchemist {again} tries it again."
