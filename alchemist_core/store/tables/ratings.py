"""What a rater said: rater versions, the ledger of scored shards, scores, nights, rank scales and snapshots."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, JSONB, REAL
from sqlalchemy.orm import Mapped, mapped_column

from alchemist_core.store.tables.schema import Created, Key, Table


class Rater(Table):
    """One rater version. At most one is in production."""

    __tablename__ = "raters"
    __table_args__ = (
        CheckConstraint("state IN ('candidate', 'production', 'retired')", name="state"),
        CheckConstraint("rule IN ('alignment', 'loss', 'learnability')", name="rule"),
        CheckConstraint("octet_length(checkpoint_sha256) = 32", name="sha256_bytes"),
        Index("uq_raters_one_production", "state", unique=True, postgresql_where=text("state = 'production'")),
    )

    rater_id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    rule: Mapped[str]
    config: Mapped[dict[str, Any]]
    # Config and training data together: the same rater is never trained twice.
    identity_hash: Mapped[str] = mapped_column(unique=True)
    checkpoint_uri: Mapped[str]
    checkpoint_sha256: Mapped[bytes]
    certificate: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    state: Mapped[str] = mapped_column(server_default="candidate")
    is_shadow: Mapped[bool] = mapped_column(server_default="false")
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[Created]
    promoted_at: Mapped[datetime | None]
    retired_at: Mapped[datetime | None]


class Night(Table):
    """One revision of a crawl date of a dataset under one rater; closed to new shards once it is decided."""

    __tablename__ = "nights"
    __table_args__ = (
        UniqueConstraint("dataset_id", "crawl_date", "rater_id", "revision"),
        Index(
            "uq_nights_one_open",
            "dataset_id",
            "crawl_date",
            "rater_id",
            unique=True,
            postgresql_where=text("state = 'scored'"),
        ),
        CheckConstraint("state IN ('scored', 'selectable', 'held', 'released')", name="state"),
        CheckConstraint("(state = 'scored') = (decided_at IS NULL)", name="decided"),
        CheckConstraint("state <> 'held' OR reason IS NOT NULL", name="held_has_reason"),
    )

    night_id: Mapped[Key]
    dataset_id: Mapped[int] = mapped_column(ForeignKey("alchemist.datasets.dataset_id"))
    crawl_date: Mapped[date]
    rater_id: Mapped[int] = mapped_column(ForeignKey("alchemist.raters.rater_id"))
    revision: Mapped[int]
    state: Mapped[str] = mapped_column(server_default="scored")
    reason: Mapped[str | None]
    decided_by: Mapped[str | None]
    decided_at: Mapped[datetime | None]
    created_at: Mapped[Created]


class ShardScore(Table):
    """The ledger: one shard under one rater. Written in the transaction that stores the shard's scores."""

    __tablename__ = "shard_scores"
    __table_args__ = (
        CheckConstraint("n_samples = n_scored + n_quarantined", name="accounting"),
        CheckConstraint("n_reused BETWEEN 0 AND n_scored AND n_quarantined >= 0", name="counts"),
    )

    rater_id: Mapped[int] = mapped_column(ForeignKey("alchemist.raters.rater_id"), primary_key=True)
    shard_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("alchemist.shards.shard_id"), primary_key=True)
    night_id: Mapped[int] = mapped_column(ForeignKey("alchemist.nights.night_id"), index=True)
    n_samples: Mapped[int]
    n_scored: Mapped[int]
    n_reused: Mapped[int]
    n_quarantined: Mapped[int]
    code_version: Mapped[str]
    device: Mapped[str]
    dtype: Mapped[str]
    run_id: Mapped[int] = mapped_column(BigInteger)
    scored_at: Mapped[Created]


class RetriedSample(Table):
    """A location that was set aside, then scored after its night was decided: it may be drawn once this later night is."""

    __tablename__ = "retried_samples"
    __table_args__ = (
        ForeignKeyConstraint(
            ["shard_id", "ordinal"], ["alchemist.sample_locations.shard_id", "alchemist.sample_locations.ordinal"]
        ),
        ForeignKeyConstraint(
            ["rater_id", "shard_id"], ["alchemist.shard_scores.rater_id", "alchemist.shard_scores.shard_id"]
        ),
    )

    rater_id: Mapped[int] = mapped_column(primary_key=True)
    shard_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    night_id: Mapped[int] = mapped_column(ForeignKey("alchemist.nights.night_id"), index=True)


class Score(Table):
    """One pair under one rater: the instance logit. No foreign keys: the ledger's transaction checks its rows by one join."""

    __tablename__ = "scores"
    __table_args__ = (
        CheckConstraint("score > '-Infinity'::real AND score < 'Infinity'::real", name="finite"),
        {"postgresql_partition_by": "LIST (rater_id)"},
    )

    rater_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    score: Mapped[float] = mapped_column(REAL)
    sample_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)


class ScoreDistribution(Table):
    """The shape of one night's scores, its distance from the accepted nights before, and what moved it."""

    __tablename__ = "score_distributions"
    __table_args__ = (CheckConstraint("verdict IN ('recorded', 'pooled', 'steady', 'warned', 'held')", name="verdict"),)

    night_id: Mapped[int] = mapped_column(ForeignKey("alchemist.nights.night_id"), primary_key=True)
    # The night's own scores; at most 1,024 points in the middle of equal shares of them.
    n: Mapped[int]
    quantiles: Mapped[list[float]] = mapped_column(ARRAY(DOUBLE_PRECISION))
    histogram: Mapped[dict[str, Any]]
    psi: Mapped[float | None]
    ks_distance: Mapped[float | None]
    created_at: Mapped[Created]
    verdict: Mapped[str] = mapped_column(server_default="recorded")
    # With the small nights before it that were pooled.
    n_tested: Mapped[int] = mapped_column(server_default="0")
    reference: Mapped[str | None]
    n_reference: Mapped[int | None] = mapped_column(BigInteger)
    explanation: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default="[]")


class RankScale(Table):
    """A frozen reference distribution of one rater's scores: knots of (score, rank), scores ascending, ranks descending."""

    __tablename__ = "rank_scales"
    __table_args__ = (
        CheckConstraint("cardinality(knot_scores) = cardinality(knot_ranks)", name="knots"),
        CheckConstraint("cardinality(knot_scores) BETWEEN 1 AND 65536", name="knot_count"),
    )

    rank_scale_id: Mapped[Key]
    rater_id: Mapped[int] = mapped_column(ForeignKey("alchemist.raters.rater_id"), index=True)
    knot_scores: Mapped[list[float]] = mapped_column(ARRAY(DOUBLE_PRECISION))
    knot_ranks: Mapped[list[float]] = mapped_column(ARRAY(DOUBLE_PRECISION))
    n_reference: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[Created]
    # `rater`, or the heuristic whose scores it ranks, as they were under this rater's nights.
    score: Mapped[str] = mapped_column(server_default="rater")


class RankSnapshot(Table):
    """What may be drawn at a moment: a rank scale, the decided nights, takedowns and options of then, and the hash of the eligible set."""

    __tablename__ = "rank_snapshots"
    __table_args__ = (UniqueConstraint("rank_scale_id", "dataset_names", "eligible_hash"),)

    snapshot_id: Mapped[Key]
    rank_scale_id: Mapped[int] = mapped_column(ForeignKey("alchemist.rank_scales.rank_scale_id"))
    dataset_names: Mapped[list[str]] = mapped_column(ARRAY(String))
    night_ids: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    last_takedown_id: Mapped[int] = mapped_column(server_default="0")
    n_eligible: Mapped[int] = mapped_column(BigInteger)
    # sha256 over the pairs' hashes in order, with their scores and with what excludes them.
    eligible_hash: Mapped[str]
    taken_at: Mapped[Created]
    # What else decides the set: store/eligible.py's Moment.
    options: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")


class RegionProbe(Table):
    """A region of the ranking fitted to measured band values of one rater."""

    __tablename__ = "region_probes"

    region_probe_id: Mapped[Key]
    rater_id: Mapped[int] = mapped_column(ForeignKey("alchemist.raters.rater_id"), index=True)
    drop_top_ratio: Mapped[float]
    mean_rank: Mapped[float]
    std_rank: Mapped[float]
    gain: Mapped[float]
    gain_low: Mapped[float]
    gain_high: Mapped[float]
    measurements: Mapped[dict[str, Any]]
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[Created]
