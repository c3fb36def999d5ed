"""What came in: datasets, shards, pairs, where their bytes lie, and what had to be set aside."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import REAL
from sqlalchemy.orm import Mapped, mapped_column

from alchemist_core.store.tables.schema import BigKey, Created, Key, Table


class Dataset(Table):
    """A source of shards; only role `train` is ever selectable."""

    __tablename__ = "datasets"
    __table_args__ = (
        CheckConstraint("role IN ('train', 'validation', 'evaluation')", name="role"),
        CheckConstraint(
            "NOT is_default OR role = 'evaluation' AND removed_at IS NULL", name="default_is_for_evaluation"
        ),
        CheckConstraint("(removed_at IS NULL) = (removed_reason IS NULL)", name="removed_has_reason"),
        Index("uq_datasets_is_default", "is_default", unique=True, postgresql_where=text("is_default")),
    )

    dataset_id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    root_uri: Mapped[str]
    role: Mapped[str]
    created_at: Mapped[Created]
    # The evaluation dataset that was chosen as the default; without one it is the first registered.
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))
    removed_at: Mapped[datetime | None]
    removed_reason: Mapped[str | None]


class Shard(Table):
    """One tar. `n_samples` counts the locations found in it, good and bad, `n_repaired` those that were repaired.

    Only a verified shard is read. growing: an upload under way, nothing of it is registered. missing, changed: its file is gone, or holds
    other bytes than were registered. rejected: not a readable tar. retired: a person decided. superseded: a later revision lies there.
    """

    __tablename__ = "shards"
    __table_args__ = (
        Index(
            "uq_shards_dataset_id_uri", "dataset_id", "uri", unique=True, postgresql_where=text("state <> 'superseded'")
        ),
        Index(
            "uq_shards_retirement_id", "retirement_id", unique=True, postgresql_where=text("retirement_id IS NOT NULL")
        ),
        CheckConstraint(
            "state IN ('registered', 'growing', 'verified', 'missing', 'changed', 'rejected', 'retired', 'superseded')",
            name="state",
        ),
        CheckConstraint("octet_length(sha256) = 32", name="sha256_bytes"),
        CheckConstraint("size_bytes >= 0 AND n_samples >= 0", name="counts"),
        CheckConstraint("(state = 'rejected') = (rejected_reason IS NOT NULL)", name="rejected_has_reason"),
        Index(None, "dataset_id", "crawl_date"),
    )

    shard_id: Mapped[BigKey]
    dataset_id: Mapped[int] = mapped_column(ForeignKey("alchemist.datasets.dataset_id"))
    uri: Mapped[str]
    sha256: Mapped[bytes]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    n_samples: Mapped[int] = mapped_column(server_default="0")
    n_repaired: Mapped[int] = mapped_column(server_default="0")
    crawl_date: Mapped[date]
    state: Mapped[str] = mapped_column(server_default="registered")
    rejected_reason: Mapped[str | None]
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[Created]
    verified_at: Mapped[datetime | None]
    # Why the shard is not read, and since when.
    state_reason: Mapped[str | None]
    state_changed_at: Mapped[datetime | None]
    # The order in which shards left for good: a snapshot counts those up to its own.
    retirement_id: Mapped[int | None]


class Sample(Table):
    """One distinct image-text pair, whatever the number of places where its bytes lie."""

    __tablename__ = "samples"
    __table_args__ = (
        CheckConstraint(
            "octet_length(image_hash) = 32 AND octet_length(caption_hash) = 32 AND octet_length(pair_hash) = 32",
            name="hash_bytes",
        ),
        CheckConstraint("width > 0 AND height > 0", name="size"),
    )

    sample_id: Mapped[BigKey]
    image_hash: Mapped[bytes] = mapped_column(index=True)
    caption_hash: Mapped[bytes]
    pair_hash: Mapped[bytes] = mapped_column(unique=True)
    # The first 64 bits of pair_hash, signed, big-endian: what the selection's mixing function reads, in Python and in SQL.
    pair_hash64: Mapped[int] = mapped_column(
        BigInteger,
        Computed("('x' || encode(substring(pair_hash FROM 1 FOR 8), 'hex'))::bit(64)::bigint", persisted=True),
    )
    caption: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    format: Mapped[str]
    perceptual_hash: Mapped[int | None] = mapped_column(BigInteger)
    source_url: Mapped[str | None]
    licence: Mapped[str | None]
    # "metadata" is a reserved attribute of the declarative root.
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default="{}")
    created_at: Mapped[Created]


class SampleLocation(Table):
    """Where a pair's bytes lie: the ordinal-th record of a shard, with the byte range of each member."""

    __tablename__ = "sample_locations"
    __table_args__ = (
        UniqueConstraint("shard_id", "key"),
        Index(None, "sample_id"),
        CheckConstraint(
            "cardinality(member_exts) = cardinality(member_offsets) AND cardinality(member_exts) = cardinality(member_sizes)",
            name="members",
        ),
        CheckConstraint("octet_length(content_hash) = 32", name="content_hash"),
    )

    shard_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("alchemist.shards.shard_id"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    sample_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("alchemist.samples.sample_id"))
    key: Mapped[str]
    member_exts: Mapped[list[str]] = mapped_column(ARRAY(String))
    member_offsets: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    member_sizes: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    # Over every member's bytes, so that a copy can be checked; none where it was ingested before this was kept.
    content_hash: Mapped[bytes | None]
    # What was repaired instead of quarantining the location; none where nothing was.
    repair: Mapped[str | None]


class QuarantinedSample(Table):
    """One bad location: set aside at ingest (no rater), or by one rater's scoring."""

    __tablename__ = "quarantined_samples"
    __table_args__ = (
        UniqueConstraint("shard_id", "ordinal", "rater_id", postgresql_nulls_not_distinct=True),
        CheckConstraint("stage IN ('ingest', 'score')", name="stage"),
        CheckConstraint("(stage = 'score') = (rater_id IS NOT NULL)", name="rater_of_score"),
    )

    quarantine_id: Mapped[BigKey]
    shard_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("alchemist.shards.shard_id"))
    ordinal: Mapped[int]
    key: Mapped[str]
    reason: Mapped[str]
    detail: Mapped[str]
    stage: Mapped[str]
    is_transient: Mapped[bool] = mapped_column(server_default="false")
    rater_id: Mapped[int | None] = mapped_column(ForeignKey("alchemist.raters.rater_id"))
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[Created]


class HeuristicScore(Table):
    """Scores of one pair that need no rater, and those that its crawl brought along."""

    __tablename__ = "heuristic_scores"

    sample_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("alchemist.samples.sample_id"), primary_key=True)
    aesthetic: Mapped[float | None] = mapped_column(REAL)
    clarity: Mapped[float | None] = mapped_column(REAL)
    frequency: Mapped[float | None] = mapped_column(REAL)
    edge_density: Mapped[float | None] = mapped_column(REAL)
    imported: Mapped[dict[str, Any]] = mapped_column(server_default="{}")


def _band(bits: str) -> Any:
    return mapped_column(Integer, Computed(bits, persisted=True), nullable=True)


class DistinctImage(Table):
    """The first pair of a group of pictures that look alike (most groups have one member), by the bands of its perceptual hash."""

    __tablename__ = "distinct_images"
    __table_args__ = tuple(Index(None, f"band_{number}", "perceptual_hash") for number in range(3))

    sample_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("alchemist.samples.sample_id"), primary_key=True)
    perceptual_hash: Mapped[int | None] = mapped_column(BigInteger)
    band_0: Mapped[int | None] = _band("((perceptual_hash >> 42) & 4194303)")
    band_1: Mapped[int | None] = _band("((perceptual_hash >> 21) & 2097151)")
    band_2: Mapped[int | None] = _band("(perceptual_hash & 2097151)")


class DuplicateSample(Table):
    """A pair whose picture looks like an earlier one: the same bytes, or a perceptual hash within 2 bits."""

    __tablename__ = "duplicate_samples"
    __table_args__ = (
        CheckConstraint("sample_id <> first_sample_id", name="other"),
        CheckConstraint("distance BETWEEN 0 AND 2 OR is_same_image", name="distance"),
    )

    sample_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("alchemist.samples.sample_id"), primary_key=True)
    first_sample_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("alchemist.distinct_images.sample_id"), index=True
    )
    distance: Mapped[int | None] = mapped_column(SmallInteger)
    is_same_image: Mapped[bool]


class Takedown(Table):
    """An image that must go: every caption, location and later re-crawl of it."""

    __tablename__ = "takedowns"
    __table_args__ = (CheckConstraint("octet_length(image_hash) = 32", name="hash_bytes"),)

    takedown_id: Mapped[Key]
    image_hash: Mapped[bytes] = mapped_column(unique=True)
    reason: Mapped[str]
    requested_by: Mapped[str]
    requested_at: Mapped[Created]
    bytes_removed_at: Mapped[datetime | None]
