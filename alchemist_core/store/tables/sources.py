"""Tables of sources: datasets, shards, samples, their locations, and quarantined records."""

from datetime import date, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    Index,
    SmallInteger,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import REAL

from alchemist_core.shards.crawl_attributes import CRAWL_ATTRIBUTES
from alchemist_core.store.tables.schema import Table, Typed, big_identity, column, created, identity


class Dataset(Table):
    """Source of shards. Samples are selected only from datasets of role train."""

    __tablename__ = "datasets"
    __table_args__ = (
        CheckConstraint("role IN ('train', 'validation', 'evaluation')", name="role"),
        CheckConstraint(
            "NOT is_default OR role = 'evaluation' AND removed_at IS NULL", name="default_is_for_evaluation"
        ),
        CheckConstraint("(removed_at IS NULL) = (removed_reason IS NULL)", name="removed_has_reason"),
        Index("uq_datasets_is_default", "is_default", unique=True, postgresql_where=text("is_default")),
    )

    dataset_id: Typed[int] = identity(comment="Key of the dataset")
    name: Typed[str] = column(unique=True, comment="Unique name of the dataset")
    root_uri: Typed[str] = column(comment="Folder or object-store prefix that shard addresses are relative to")
    role: Typed[str] = column(comment="train (selectable), validation, or evaluation")
    created_at: Typed[datetime] = created(comment="When the dataset was registered")
    is_default: Typed[bool] = column(
        server_default=text("false"),
        comment="Whether this is the default evaluation dataset; without one the first registered is used",
    )
    removed_at: Typed[datetime | None] = column(comment="When the dataset was removed; null while it is in use")
    removed_reason: Typed[str | None] = column(comment="Why the dataset was removed")


class Shard(Table):
    """One tar file of records.

    Only verified shards are read. growing: still being uploaded, its samples are not registered. missing: its file does not exist.
    changed: its bytes differ from those registered. rejected: not a readable tar. retired: by a person. superseded: replaced by a revision.
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

    shard_id: Typed[int] = big_identity(comment="Key of the shard")
    dataset_id: Typed[int] = column(ForeignKey("alchemist.datasets.dataset_id"), comment="Dataset of the shard")
    uri: Typed[str] = column(comment="Address of the tar, relative to the root of its dataset")
    sha256: Typed[bytes] = column(comment="sha256 of the file (32 bytes)")
    size_bytes: Typed[int] = column(BigInteger, comment="Size of the file in bytes")
    n_samples: Typed[int] = column(
        server_default="0", comment="Number of records found in the tar, readable and quarantined"
    )
    n_repaired: Typed[int] = column(server_default="0", comment="Number of records that were repaired at ingest")
    crawl_date: Typed[date] = column(comment="Date of the crawl that brought the shard")
    state: Typed[str] = column(
        server_default="registered",
        comment="registered, growing (upload in progress), verified (readable), missing, changed, rejected, retired or superseded",
    )
    rejected_reason: Typed[str | None] = column(comment="Why the tar was rejected")
    run_id: Typed[int | None] = column(BigInteger, comment="Run that read the shard")
    created_at: Typed[datetime] = created(comment="When the shard was registered")
    verified_at: Typed[datetime | None] = column(comment="When the run that verified the shard began to read it")
    state_reason: Typed[str | None] = column(comment="Why the shard is not read")
    state_changed_at: Typed[datetime | None] = column(
        comment="When the state last changed: of a verified shard, when its missing or changed file was restored"
    )
    retirement_id: Typed[int | None] = column(
        comment="Number of the retirement, ascending; a snapshot excludes shards retired up to its own number"
    )


class Sample(Table):
    """One distinct image-text sample, wherever its bytes are stored. The first crawl that gives one of its attributes decides it."""

    __tablename__ = "samples"
    __table_args__ = (
        CheckConstraint(
            "octet_length(image_hash) = 32 AND octet_length(caption_hash) = 32 AND octet_length(pair_hash) = 32",
            name="hash_bytes",
        ),
        CheckConstraint("width > 0 AND height > 0", name="size"),
    )

    sample_id: Typed[int] = big_identity(comment="Key of the sample; ascending in the order of arrival")
    image_hash: Typed[bytes] = column(index=True, comment="sha256 of the image file (32 bytes)")
    caption_hash: Typed[bytes] = column(comment="sha256 of the caption in UTF-8 (32 bytes)")
    pair_hash: Typed[bytes] = column(
        unique=True,
        comment="sha256 over image hash and caption hash (32 bytes): the identity of the sample in every store",
    )
    pair_hash64: Typed[int] = column(
        BigInteger,
        Computed("('x' || encode(substring(pair_hash FROM 1 FOR 8), 'hex'))::bit(64)::bigint", persisted=True),
        comment="First 64 bits of pair_hash, signed, big-endian: seeds the sample's random number in selections",
    )
    caption: Typed[str] = column(comment="Caption")
    width: Typed[int] = column(comment="Width of the image in pixels")
    height: Typed[int] = column(comment="Height of the image in pixels")
    format: Typed[str] = column(comment="Format of the image file, such as JPEG")
    perceptual_hash: Typed[int | None] = column(
        BigInteger, comment="64-bit perceptual hash; near-duplicates differ in at most 2 bits"
    )
    # "metadata" is an attribute of all tables.
    metadata_: Typed[dict[str, Any]] = column(
        name="metadata", server_default="{}", comment="All other attributes that the crawl gives, as JSON"
    )
    created_at: Typed[datetime] = created(comment="When the sample was first ingested")


for _attribute in CRAWL_ATTRIBUTES:
    Sample.add_column(Column(_attribute.name, String, comment=_attribute.comment))


class SampleColumn(NamedTuple):
    """A column of `samples` that ingest fills, exports give and conditions may name."""

    name: str
    sql_type: str
    kind: type[Any]
    """Its type in conditions and exports."""


SAMPLE_COLUMNS = (
    SampleColumn("pair_hash", "bytea", bytes),
    SampleColumn("image_hash", "bytea", bytes),
    SampleColumn("caption_hash", "bytea", bytes),
    SampleColumn("perceptual_hash", "bigint", int),
    SampleColumn("caption", "text", str),
    SampleColumn("width", "integer", int),
    SampleColumn("height", "integer", int),
    SampleColumn("format", "text", str),
    *(SampleColumn(attribute.name, "text", str) for attribute in CRAWL_ATTRIBUTES),
    SampleColumn("metadata", "jsonb", str),
)


class SampleUrl(Table):
    """Further URLs where crawls found a sample: those that differ from its `source_url`."""

    __tablename__ = "sample_urls"
    __table_args__ = (CheckConstraint("octet_length(url_hash) = 32", name="url_hash"),)

    sample_id: Typed[int] = column(
        BigInteger, ForeignKey("alchemist.samples.sample_id"), primary_key=True, comment="Sample that was found there"
    )
    # A URL can be longer than an entry of an index.
    url_hash: Typed[bytes] = column(primary_key=True, comment="sha256 of the URL in UTF-8 (32 bytes)")
    source_url: Typed[str] = column(comment="URL of the image, as the crawl gives it")


class SampleLocation(Table):
    """Where the bytes of a sample are: one record of a shard, with the byte range of each of its files."""

    __tablename__ = "sample_locations"
    __table_args__ = (
        UniqueConstraint("shard_id", "key"),
        Index(None, "sample_id"),
        CheckConstraint(
            "cardinality(file_exts) = cardinality(file_offsets) AND cardinality(file_exts) = cardinality(file_sizes)",
            name="files",
        ),
        CheckConstraint("octet_length(content_hash) = 32", name="content_hash"),
        CheckConstraint("octet_length(content_checksum) = 16", name="content_checksum"),
    )

    shard_id: Typed[int] = column(
        BigInteger, ForeignKey("alchemist.shards.shard_id"), primary_key=True, comment="Shard that holds the record"
    )
    ordinal: Typed[int] = column(primary_key=True, comment="Position of the record in its shard, from 0")
    sample_id: Typed[int] = column(
        BigInteger, ForeignKey("alchemist.samples.sample_id"), comment="Sample that the record holds"
    )
    key: Typed[str] = column(comment="Name of the record: the file names in the tar without their extensions")
    file_exts: Typed[list[str]] = column(
        ARRAY(String), comment="Extensions of the record's files, such as jpg, txt and json"
    )
    file_offsets: Typed[list[int]] = column(ARRAY(BigInteger), comment="Offset of each file in the tar, in bytes")
    file_sizes: Typed[list[int]] = column(ARRAY(BigInteger), comment="Size of each file in bytes")
    content_hash: Typed[bytes | None] = column(
        comment="sha256 over all files of the record (32 bytes); null for records ingested by older versions"
    )
    repair: Typed[str | None] = column(comment="What was repaired at ingest; null where nothing was")
    content_checksum: Typed[bytes | None] = column(
        comment="XXH3-128 over all files of the record (16 bytes); null for records of older versions until they are copied"
    )


class QuarantinedSample(Table):
    """One record that was quarantined, by ingest or by scoring with one rater, with the reason."""

    __tablename__ = "quarantined_samples"
    __table_args__ = (
        UniqueConstraint("shard_id", "ordinal", "rater_id", postgresql_nulls_not_distinct=True),
        CheckConstraint("stage IN ('ingest', 'score')", name="stage"),
        CheckConstraint("(stage = 'score') = (rater_id IS NOT NULL)", name="rater_of_score"),
    )

    quarantine_id: Typed[int] = big_identity(comment="Key of the row")
    shard_id: Typed[int] = column(BigInteger, ForeignKey("alchemist.shards.shard_id"), comment="Shard of the record")
    ordinal: Typed[int] = column(comment="Position of the record in its shard, from 0")
    key: Typed[str] = column(comment="Name of the record")
    reason: Typed[str] = column(comment="Code of the fault")
    detail: Typed[str] = column(comment="Fault in words")
    stage: Typed[str] = column(comment="Stage that quarantined it: ingest or score")
    is_transient: Typed[bool] = column(
        server_default="false", comment="Whether a retry can succeed, for example after a network fault"
    )
    rater_id: Typed[int | None] = column(
        ForeignKey("alchemist.raters.rater_id"), comment="Rater that could not score it; null for ingest"
    )
    run_id: Typed[int | None] = column(BigInteger, comment="Run that quarantined it")
    created_at: Typed[datetime] = created(comment="When it was quarantined")


class HeuristicScore(Table):
    """Scores of a sample that need no rater, and those that its crawl gives."""

    __tablename__ = "heuristic_scores"

    sample_id: Typed[int] = column(
        BigInteger, ForeignKey("alchemist.samples.sample_id"), primary_key=True, comment="Sample that was measured"
    )
    aesthetic: Typed[float | None] = column(REAL, comment="Aesthetic score, about 1 to 10: higher is better")
    clarity: Typed[float | None] = column(
        REAL, comment="Variance of the Laplacian of the luma (0 to 255): higher is sharper"
    )
    frequency: Typed[float | None] = column(
        REAL, comment="Share of spectral energy at high spatial frequencies, 0 to 1: higher is more detail"
    )
    edge_density: Typed[float | None] = column(REAL, comment="Share of pixels that lie on an edge, 0 to 1")
    imported: Typed[dict[str, Any]] = column(
        server_default="{}", comment="Scores that the crawl gives, as JSON: name and number"
    )


def _band(bits: str, comment: str) -> Any:
    return column(Computed(bits, persisted=True), comment=comment)


class DistinctImage(Table):
    """First sample of each group of near-duplicate images (most groups have one member), by bands of its perceptual hash."""

    __tablename__ = "distinct_images"
    __table_args__ = tuple(Index(None, f"band_{number}", "perceptual_hash") for number in range(3))

    sample_id: Typed[int] = column(
        BigInteger, ForeignKey("alchemist.samples.sample_id"), primary_key=True, comment="First sample of the group"
    )
    perceptual_hash: Typed[int | None] = column(BigInteger, comment="64-bit perceptual hash of its image")
    band_0: Typed[int | None] = _band("((perceptual_hash >> 42) & 4194303)", "Highest 22 bits of the hash")
    band_1: Typed[int | None] = _band("((perceptual_hash >> 21) & 2097151)", "Middle 21 bits of the hash")
    band_2: Typed[int | None] = _band("(perceptual_hash & 2097151)", "Lowest 21 bits of the hash")


class DuplicateSample(Table):
    """Samples whose image duplicates an earlier one: the same bytes, or perceptual hashes within 2 bits."""

    __tablename__ = "duplicate_samples"
    __table_args__ = (
        CheckConstraint("sample_id <> first_sample_id", name="other"),
        CheckConstraint("distance BETWEEN 0 AND 2 OR is_same_image", name="distance"),
    )

    sample_id: Typed[int] = column(
        BigInteger,
        ForeignKey("alchemist.samples.sample_id"),
        primary_key=True,
        comment="Later sample, which is the duplicate",
    )
    first_sample_id: Typed[int] = column(
        BigInteger,
        ForeignKey("alchemist.distinct_images.sample_id"),
        index=True,
        comment="First sample of the group that it belongs to",
    )
    distance: Typed[int | None] = column(SmallInteger, comment="Number of differing bits of the two perceptual hashes")
    is_same_image: Typed[bool] = column(comment="Whether both have the same image bytes")


class Takedown(Table):
    """Images that were taken down: no sample with such an image is selected again, from any crawl."""

    __tablename__ = "takedowns"
    __table_args__ = (CheckConstraint("octet_length(image_hash) = 32", name="hash_bytes"),)

    takedown_id: Typed[int] = identity(comment="Key of the takedown, ascending")
    image_hash: Typed[bytes] = column(unique=True, comment="sha256 of the image file (32 bytes)")
    reason: Typed[str] = column(comment="Why the image was taken down")
    requested_by: Typed[str] = column(comment="Person who recorded the takedown")
    requested_at: Typed[datetime] = created(comment="When it was recorded")
    bytes_removed_at: Typed[datetime | None] = column(
        comment="When the image was removed from the last materialized dataset"
    )


class SampleFlag(Table):
    """What people say of samples: good, bad, wrong_caption, unsafe, or a label of their own. Append-only: a trigger refuses changes.

    The newest row of a sample and a label decides whether the flag is set.
    """

    __tablename__ = "sample_flags"
    __table_args__ = (
        CheckConstraint("label ~ '^[a-z][a-z0-9_]{0,39}$'", name="label"),
        CheckConstraint("length(comment) <= 2000", name="comment"),
        Index(None, "label", "sample_id", "flag_id"),
    )

    flag_id: Typed[int] = big_identity(comment="Key of the row, ascending; a snapshot reads flags up to its own number")
    sample_id: Typed[int] = column(
        BigInteger, ForeignKey("alchemist.samples.sample_id"), index=True, comment="Sample that was flagged"
    )
    label: Typed[str] = column(comment="good, bad, wrong_caption, unsafe, or a word that people chose")
    is_set: Typed[bool] = column(comment="true: the flag was set; false: it was undone")
    comment: Typed[str | None] = column(comment="Comment of the person, up to 2,000 characters")
    flagged_by: Typed[str] = column(comment="Person who set or undid the flag")
    flagged_at: Typed[datetime] = created(comment="When the flag was set or undone")
