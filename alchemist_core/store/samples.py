"""Samples: reading their locations, finding them by name, their near-duplicates, heuristics and takedowns.

Near-duplicates are found incrementally, in blocks of one transaction. `distinct_images` holds the first sample of each group, by three
bands of its perceptual hash. New samples are compared only with first samples, so many copies of one image cost one row.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, BigInteger, Connection, Engine, Executable, any_, cast, func, select, text
from sqlalchemy.dialects.postgresql import insert

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.lazy import NDArray, np
from alchemist_core.selection.duplicates import MAX_DISTANCE, assign_firsts
from alchemist_core.store.audit import record_event
from alchemist_core.store.copy import copy_columns, copy_out
from alchemist_core.store.export import MEMBER_COLUMNS, Kinds, filter_rows
from alchemist_core.store.leases import take_lock
from alchemist_core.store.manifests import HASH_BYTES
from alchemist_core.store.queries import load_query
from alchemist_core.store.sample_table import SampleTable, spool_samples
from alchemist_core.store.tables import AnyRow, RankScale, RankSnapshot, Sample, Takedown

_ROWS_A_COPY, _ROWS_A_BATCH = 250_000, 20_000


def read_training_samples(engine: Engine, dataset_id: int, *, max_samples: int | None = None) -> SampleTable:
    """Return a dataset's distinct samples in the order of pair_hash, each with its first live location."""
    given = {"dataset_id": dataset_id, "max_samples": max_samples}
    with engine.connect().execution_options(yield_per=_ROWS_A_BATCH) as connection:
        return spool_samples(connection.execute(load_query("training_samples"), given).partitions())


def median_image_side(engine: Engine, dataset_id: int) -> int | None:
    """Return the median of the shorter side of a dataset's images in pixels, from some of its shards; None without samples."""
    with engine.connect() as connection:
        side: int | None = connection.execute(load_query("median_image_side"), {"dataset_id": dataset_id}).scalar_one()
    return side


def read_first_locations(engine: Engine, pair_hash_K32: NDArray[np.uint8]) -> SampleTable:
    """Return the first live location of each sample, in the order of pair_hash.

    Samples without one are absent: their image was taken down, or their shard retired.
    """
    return spool_samples(_stream(engine, load_query("first_locations"), pair_hash_K32))


def read_sizes(engine: Engine, pair_hash_K32: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return width and height in pixels of each sample's image, also of those that were taken down.

    Raises:
        DataError: The store does not have a sample.
    """
    size_K2 = np.zeros((len(pair_hash_K32), 2), np.int32)
    with engine.begin() as connection:
        list_wanted(connection, pair_hash_K32)
        found = copy_out(connection, load_query("member_sizes"), {}, {"number": ">i4", "width": ">i4", "height": ">i4"})
    size_K2[found["number"]] = np.stack([found["width"], found["height"]], axis=1)
    if (n_missing := int(np.count_nonzero(size_K2[:, 0] == 0))) > 0:
        raise DataError(
            f"The store does not have {n_missing:,} of {len(size_K2):,} samples. Restore it from a backup, or select again."
        )
    return size_K2


def stream_members(engine: Engine, pair_hash_K32: NDArray[np.uint8]) -> Iterator[Sequence[AnyRow]]:
    """Yield attributes and locations of samples in batches of thousands (query `export_members`); taken-down ones are absent."""
    kinds: Kinds = {"number": int, **MEMBER_COLUMNS}
    return _stream(engine, filter_rows("export_members", kinds, None, {}, names=tuple(kinds)), pair_hash_K32)


def read_categories(engine: Engine, sample_ids: Sequence[int]) -> dict[int, str]:
    """Return the category that the crawl gives, by sample id; samples without one are absent."""
    category = Sample.metadata_["category"].astext
    statement = select(Sample.sample_id, category.label("category")).where(
        Sample.sample_id == any_(cast(list(sample_ids), ARRAY(BigInteger))), category.is_not(None)
    )
    with engine.connect() as connection:
        return {row.sample_id: row.category for row in connection.execute(statement)}


def read_taken_down(engine: Engine) -> list[bytes]:
    """Return the samples whose image was taken down."""
    statement = select(Sample.pair_hash).join(Takedown, Takedown.image_hash == Sample.image_hash)
    with engine.connect() as connection:
        return [bytes(pair_hash) for pair_hash in connection.execute(statement).scalars()]


def _stream(engine: Engine, statement: Executable, pair_hash_K32: NDArray[np.uint8]) -> Iterator[Sequence[AnyRow]]:
    with engine.begin() as connection:
        list_wanted(connection, pair_hash_K32)
        streamed = connection.execution_options(yield_per=_ROWS_A_BATCH)
        yield from streamed.execute(statement).partitions()


def list_wanted(connection: Connection, pair_hash_K32: NDArray[np.uint8]) -> None:
    """Create the temporary table wanted (number integer, pair_hash bytea) with a row per sample, until the transaction ends."""
    connection.execute(text("CREATE TEMPORARY TABLE wanted (number integer, pair_hash bytea) ON COMMIT DROP"))
    # numpy sees 32 bytes as one value, like a column of bytea.
    pair_hash_K = np.ascontiguousarray(pair_hash_K32).view("V32").ravel()
    number_K = np.arange(len(pair_hash_K), dtype=np.int32)
    for start in range(0, len(pair_hash_K), _ROWS_A_COPY):
        rows = slice(start, start + _ROWS_A_COPY)
        copy_columns(connection, "wanted", {"number": number_K[rows], "pair_hash": pair_hash_K[rows]})
    # Without statistics the planner expects few rows and looks up millions of them one by one.
    connection.execute(text("ANALYZE wanted"))


_RANGE = 4096
_KEEP = """
    INSERT INTO alchemist.heuristic_scores (sample_id, aesthetic) SELECT sample_id, aesthetic FROM judged ORDER BY sample_id
    ON CONFLICT (sample_id) DO UPDATE SET aesthetic = excluded.aesthetic WHERE heuristic_scores.aesthetic IS NULL
"""


def samples_without_aesthetic(engine: Engine, dataset_id: int) -> Iterator[tuple[SampleTable, int]]:
    """Yield the samples without an aesthetic score in batches of thousands, with the number of ids left to check."""
    with engine.connect() as connection:
        last = connection.execute(text("SELECT coalesce(max(sample_id), 0) FROM alchemist.samples")).scalar_one()
    for start in range(0, last, _RANGE):
        given = {"dataset_id": dataset_id, "after_id": start, "last_id": start + _RANGE}
        with engine.connect() as connection:
            rows = spool_samples([connection.execute(load_query("samples_without_aesthetic"), given)])
        yield rows, max(0, last - start - _RANGE)


def store_aesthetic(engine: Engine, sample_id_N: NDArray[np.int64], value_N: NDArray[np.float32]) -> int:
    """Store aesthetic scores of samples that have none; returns their number. Stored values stay."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE judged (sample_id bigint, aesthetic real) ON COMMIT DROP"))
        copy_columns(connection, "judged", {"sample_id": sample_id_N, "aesthetic": value_N})
        return connection.execute(text(_KEEP)).rowcount


BLOCK_PAIRS = 50_000
LAST_COMPARED = """
    SELECT greatest(
        (SELECT coalesce(max(sample_id), 0) FROM alchemist.distinct_images),
        (SELECT coalesce(max(sample_id), 0) FROM alchemist.duplicate_samples)
    )
"""


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """Counts of one block of compared samples."""

    n_pairs: int
    n_duplicates: int


def find_duplicates(engine: Engine, *, block_pairs: int = BLOCK_PAIRS) -> BlockCounts | None:
    """Compare the next block of new samples; returns None if there are none. One caller at a time; others wait."""
    with engine.begin() as connection:
        take_lock(connection, "duplicates")
        block = _next_block(connection, block_pairs)
        if block is None:
            return None
        insert = text("""
            INSERT INTO alchemist.distinct_images (sample_id, perceptual_hash)
            SELECT sample_id, perceptual_hash FROM alchemist.samples WHERE sample_id > :after_id AND sample_id <= :last_id
        """)
        n_pairs = connection.execute(insert, block).rowcount
        same_as = {row.sample_id: row.earlier_id for row in connection.execute(load_query("find_same_images"), block)}
        near = connection.execute(load_query("find_near_images"), block | {"max_distance": MAX_DISTANCE})
        first_of = assign_firsts(same_as, ((row.sample_id, row.first_sample_id) for row in near))
        if first_of:
            moved = {"sample_ids": list(first_of), "first_ids": list(first_of.values())}
            connection.execute(load_query("move_duplicates"), moved)
        return BlockCounts(n_pairs, len(first_of))


def count_uncompared(engine: Engine) -> int:
    """Return the number of samples that were not compared yet; an estimate where ids have gaps."""
    statement = text(f"""
        SELECT greatest(0, coalesce((SELECT max(sample_id) FROM alchemist.samples), 0) - ({LAST_COMPARED}))
    """)  # noqa: S608  a constant
    with engine.connect() as connection:
        return int(connection.execute(statement).scalar_one())


def _next_block(connection: Connection, block_pairs: int) -> dict[str, int] | None:
    # Ids are assigned before their transactions commit. This lock waits for open ones, so no lower id can appear later.
    connection.execute(text("SET LOCAL lock_timeout = '10s'"))
    connection.execute(text("LOCK TABLE alchemist.samples IN SHARE MODE"))
    after_id = int(connection.execute(text(LAST_COMPARED)).scalar_one())
    statement = text("""
        SELECT max(sample_id) FROM (
            SELECT sample_id FROM alchemist.samples WHERE sample_id > :after_id ORDER BY sample_id LIMIT :n
        ) AS block
    """)
    last_id = connection.execute(statement, {"after_id": after_id, "n": block_pairs}).scalar()
    return None if last_id is None else {"after_id": after_id, "last_id": int(last_id)}


class NearDuplicate(NamedTuple):
    """An image that is a near-duplicate of another one, with the first caption and URL of its samples."""

    image_hash: bytes
    distance: int
    n_pairs: int
    caption: str
    source_url: str | None


def find_near_duplicates(engine: Engine, image_hash: bytes) -> list[NearDuplicate]:
    """Return the near-duplicates of an image, nearest first."""
    parameters = {"image_hash": image_hash, "max_distance": MAX_DISTANCE}
    with engine.connect() as connection:
        return [NearDuplicate._make(row) for row in connection.execute(load_query("find_near_duplicates"), parameters)]


def list_groups(engine: Engine, *, n_groups: int) -> list[dict[str, Any]]:
    """Return the largest groups of duplicates, with the caption of the first sample."""
    statement = text("""
        SELECT first_sample_id, n_samples, n_same_image, max_distance, samples.caption
        FROM alchemist.duplicate_groups INNER JOIN alchemist.samples ON first_sample_id = sample_id
        ORDER BY n_samples DESC, first_sample_id LIMIT :n
    """)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(statement, {"n": n_groups}).mappings()]


def find_images(engine: Engine, *, url: str | None = None, sample: str | None = None) -> list[bytes]:
    """Return the images (sha256 of their bytes) from a URL, or of the sample DATASET/SHARD/KEY."""
    dataset, _, place = (sample or "").partition("/")
    parameters = {"url": url, "dataset": dataset or None, "place": place or None}
    with engine.connect() as connection:
        return [bytes(image_hash) for image_hash in connection.execute(load_query("find_images"), parameters).scalars()]


def take_down(engine: Engine, image_hashes: Sequence[bytes], reason: str, *, actor: str) -> tuple[int, int]:
    """Record takedowns, all or none; returns how many are new, and how many samples have these images."""
    with engine.begin() as connection:
        # Ids then ascend in the order of the commits, so that a snapshot's last id says which takedowns it has seen.
        take_lock(connection, "takedowns")
        n_new = 0
        for image_hash in image_hashes:
            statement = insert(Takedown).values(image_hash=image_hash, reason=reason, requested_by=actor)
            if connection.execute(statement.on_conflict_do_nothing()).rowcount == 1:
                n_new += 1
                record_event(connection, actor, "takedown", f"image {image_hash.hex()}", after={"reason": reason})
        pairs = select(func.count()).select_from(Sample).where(Sample.image_hash.in_(image_hashes))
        return n_new, connection.execute(pairs).scalar_one()


def reason_of_takedown(engine: Engine, sample_id: int) -> str | None:
    """Return the reason why a sample's image was taken down, or None."""
    statement = select(Takedown.reason).join(Sample, Sample.image_hash == Takedown.image_hash)
    with engine.connect() as connection:
        return connection.execute(statement.where(Sample.sample_id == sample_id)).scalar_one_or_none()


class TakedownReach(NamedTuple):
    """A subset version that contains images, and the models trained on it."""

    name: str
    version: int
    state: str
    n_members: int
    all_materialized_uris: list[str]
    models: list[str]


def find_reach(engine: Engine, image_hashes: Sequence[bytes]) -> list[TakedownReach]:
    """Return the stored subset versions that contain images, with their models and materialized datasets."""
    with engine.connect() as connection:
        rows = connection.execute(load_query("find_takedown_reach"), {"image_hashes": list(image_hashes)})
        return [TakedownReach._make(row) for row in rows]


def find_validation_models(engine: Engine, image_hashes: Sequence[bytes]) -> list[str]:
    """Return the checkpoints of models that were trained on validation datasets with images."""
    given = {"image_hashes": list(image_hashes)}
    with engine.connect() as connection:
        return list(connection.execute(load_query("find_validation_models"), given).scalars())


class PossibleModels(NamedTuple):
    """Checkpoints of models, and names of raters, that may have been trained on images."""

    models: list[str]
    raters: list[str]


def find_possible_models(engine: Engine, image_hashes: Sequence[bytes]) -> PossibleModels:
    """Return the models and raters whose training samples were drawn from samples with images: controls, arm full, raters."""
    found = PossibleModels([], [])
    with engine.connect() as connection:
        for row in connection.execute(load_query("find_possible_models"), {"image_hashes": list(image_hashes)}):
            (found.models if row.kind == "model" else found.raters).append(row.name)
    return found


MIN_DIGITS = 8
CHUNK_ROWS = 250_000


class FoundSample(NamedTuple):
    """A sample that a user named."""

    sample_id: int
    pair_hash: bytes
    caption: str


def find_sample(engine: Engine, named: str) -> FoundSample:
    """Return the sample that a user names: as DATASET/SHARD/KEY, by the first digits of its hash, or by its sample id, also as id:N.

    Raises:
        ConfigError: No sample, or more than one, matches; the message says if the record there was quarantined.
    """
    with engine.connect() as connection:
        rows = [FoundSample._make(row) for row in connection.execute(load_query("find_samples"), _parameters(named))]
    if len(rows) > 1:
        raise ConfigError(
            f"{named} matches more than one sample, for example that with the hash {rows[0].pair_hash.hex()}. Give more digits of the hash"
            + (f", or id:{named} for the sample with this id." if named.isdecimal() else ".")
        )
    if not rows:
        raise ConfigError(f"There is no sample {named} in the store.{_describe_quarantine(engine, named)}")
    return rows[0]


class Ineligible(NamedTuple):
    """The reason why a sample is not in an eligible set. `places` are nights, or datasets if the sample is in no night."""

    pair_hash: bytes
    sample_id: int
    reason: str
    detail: str | None
    places: list[str]


def why_not_eligible(engine: Engine, snapshot_id: int, pair_hash_M32: NDArray[np.uint8]) -> list[Ineligible]:
    """Return why samples are not in a snapshot's eligible set (query `why_not_eligible`); unknown samples are absent."""
    last_retirement_id = func.coalesce(RankSnapshot.options["last_retirement_id"].as_integer(), 0)
    columns = (
        RankScale.rater_id, RankScale.score, RankSnapshot.dataset_names, RankSnapshot.night_ids, RankSnapshot.last_takedown_id,
        last_retirement_id.label("last_retirement_id"),
    )  # fmt: skip
    taken = select(*columns).join(RankScale).where(RankSnapshot.snapshot_id == snapshot_id)
    word_M = np.ascontiguousarray(pair_hash_M32).view(f"V{HASH_BYTES}").ravel()
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE wanted (pair_hash bytea) ON COMMIT DROP"))
        for start in range(0, len(word_M), CHUNK_ROWS):
            copy_columns(connection, "wanted", {"pair_hash": word_M[start : start + CHUNK_ROWS]})
        connection.execute(text("ANALYZE wanted"))
        parameters = dict(connection.execute(taken).mappings().one())
        return [Ineligible._make(row) for row in connection.execute(load_query("why_not_eligible"), parameters)]


def _parameters(named: str) -> dict[str, object]:
    nothing = dict.fromkeys(("dataset", "place", "low", "high", "sample_id"))
    dataset, _, place = named.partition("/")
    if place:
        return nothing | {"dataset": dataset, "place": place}
    if named.startswith("id:") and named[3:].isdecimal() and len(named) < 2 * MIN_DIGITS + 3:
        return nothing | {"sample_id": int(named[3:])}
    digits = named.lower()
    is_id = digits.isdecimal() and len(digits) < 2 * MIN_DIGITS
    by_id = nothing | {"sample_id": int(digits)} if is_id else nothing
    if is_id and len(digits) < MIN_DIGITS:
        return by_id
    # Longer ones may be the id of one sample and begin the hash of another.
    if len(digits) < MIN_DIGITS or len(digits) > 2 * HASH_BYTES or not set(digits) <= set("0123456789abcdef"):
        raise ConfigError(
            f"{named!r} is not a valid sample. Give DATASET/SHARD/KEY, a sample id, or at least {MIN_DIGITS} hex digits of its pair hash."
        )
    low, high = (bytes.fromhex(digits.ljust(2 * HASH_BYTES, end)) for end in "0f")
    return by_id | {"low": low, "high": high}


def _describe_quarantine(engine: Engine, named: str) -> str:
    dataset, _, place = named.partition("/")
    with engine.connect() as connection:
        row = connection.execute(load_query("find_quarantined"), {"dataset": dataset, "place": place}).first()
    if row is None:
        return " Samples are named DATASET/SHARD/KEY, the shard with its folder; alchemist dataset list shows the datasets."
    detail = f" ({row.detail})" if row.detail else ""
    shard = shlex.quote(f"{dataset}/{row.uri}")
    return (
        f" The record there was quarantined by {row.stage}: {row.reason}{detail}. Once its cause is removed (runbook, "
        f"QuarantineRateHigh), read the shard again: alchemist shard reread {shard} --reason WHY."
    )


def read_metadata(engine: Engine, sample_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return what the crawl says about samples, by sample_id."""
    with engine.connect() as connection:
        rows = connection.execute(load_query("sample_metadata"), {"sample_ids": list(sample_ids)})
        return {row.sample_id: row.metadata for row in rows}
