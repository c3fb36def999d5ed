"""Tables of ratings: rater versions, the ledger of scored shards, scores, nights, rank scales and snapshots."""

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

from alchemist_core.store.tables.schema import Table, Typed, column, created, identity


class Rater(Table):
    """One version of a rater: a trained network, a scorer (a class) or imported scores. At most one is in production."""

    __tablename__ = "raters"
    __table_args__ = (
        CheckConstraint("state IN ('candidate', 'production', 'retired')", name="state"),
        CheckConstraint("rule ~ '^[a-z][a-z0-9_]*$'", name="rule"),
        CheckConstraint("kind IN ('trained', 'scorer', 'imported')", name="kind"),
        CheckConstraint("octet_length(checkpoint_sha256) = 32", name="sha256_bytes"),
        Index("uq_raters_one_production", "state", unique=True, postgresql_where=text("state = 'production'")),
    )

    rater_id: Typed[int] = identity(comment="Key of the rater version")
    name: Typed[str] = column(unique=True, comment="Unique name of the rater version")
    rule: Typed[str] = column(comment="Scoring rule, such as alignment; else the kind")
    config: Typed[dict[str, Any]] = column(comment="Training configuration, or what identifies a scorer, as JSON")
    identity_hash: Typed[str] = column(
        unique=True, comment="sha256 over configuration and training data: the same rater is never trained twice"
    )
    checkpoint_uri: Typed[str] = column(comment="Checkpoint, relative to the Alchemist home")
    checkpoint_sha256: Typed[bytes] = column(comment="sha256 of the checkpoint (32 bytes)")
    acceptance_report: Typed[dict[str, Any]] = column(
        server_default="{}", comment="Acceptance report: results of the acceptance tests, as JSON"
    )
    state: Typed[str] = column(
        server_default="candidate", comment="candidate, production (at most one rater), or retired"
    )
    is_shadow: Typed[bool] = column(
        server_default="false",
        comment="Whether the rater scores each night beside the production rater",
    )
    run_id: Typed[int | None] = column(BigInteger, comment="Run that trained or registered the rater")
    created_at: Typed[datetime] = created(comment="When the rater was registered")
    promoted_at: Typed[datetime | None] = column(comment="When the rater became the production rater")
    retired_at: Typed[datetime | None] = column(comment="When the rater was retired")
    kind: Typed[str] = column(
        server_default="trained",
        comment="trained (a network trained here), scorer (a class that scores), or imported (scores computed elsewhere)",
    )


class Night(Table):
    """One revision of a crawl date of a dataset under one rater. After the decision (selectable or held) no shard is added."""

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
        CheckConstraint("state IN ('scored', 'selectable', 'held', 'released', 'rejected')", name="state"),
        CheckConstraint("(state = 'scored') = (decided_at IS NULL)", name="decided"),
        CheckConstraint("state NOT IN ('held', 'rejected') OR reason IS NOT NULL", name="held_has_reason"),
    )

    night_id: Typed[int] = identity(comment="Key of the night")
    dataset_id: Typed[int] = column(ForeignKey("alchemist.datasets.dataset_id"), comment="Dataset of the night")
    crawl_date: Typed[date] = column(comment="Date of the crawl")
    rater_id: Typed[int] = column(ForeignKey("alchemist.raters.rater_id"), comment="Rater that scored the night")
    revision: Typed[int] = column(
        comment="Number of the revision, from 1; shards that arrive after a decision open the next one"
    )
    state: Typed[str] = column(
        server_default="scored",
        comment="scored (undecided), selectable, held, or by a person: released (selectable), rejected (never selected)",
    )
    reason: Typed[str | None] = column(comment="Why the night is held, or was released or rejected")
    decided_by: Typed[str | None] = column(comment="Person or stage that decided")
    decided_at: Typed[datetime | None] = column(comment="When it was decided; null while the night is open")
    created_at: Typed[datetime] = created(comment="When the first shard of the revision was scored")


class ShardScore(Table):
    """Ledger of scored shards: one row per shard and rater, written in the transaction that stores the scores."""

    __tablename__ = "shard_scores"
    __table_args__ = (
        CheckConstraint("n_samples = n_scored + n_quarantined", name="accounting"),
        CheckConstraint("n_reused BETWEEN 0 AND n_scored AND n_quarantined >= 0", name="counts"),
    )

    rater_id: Typed[int] = column(
        ForeignKey("alchemist.raters.rater_id"), primary_key=True, comment="Rater that scored"
    )
    shard_id: Typed[int] = column(
        BigInteger, ForeignKey("alchemist.shards.shard_id"), primary_key=True, comment="Shard that was scored"
    )
    night_id: Typed[int] = column(
        ForeignKey("alchemist.nights.night_id"), index=True, comment="Night that the shard's samples belong to"
    )
    n_samples: Typed[int] = column(comment="Records in the shard, readable and quarantined")
    n_scored: Typed[int] = column(comment="Records with a score")
    n_reused: Typed[int] = column(
        comment="Scored records whose score was already stored, because the same sample was scored before"
    )
    n_quarantined: Typed[int] = column(comment="Quarantined records")
    code_version: Typed[str] = column(comment="Version of Alchemist that scored")
    device: Typed[str] = column(comment="Device that scored")
    dtype: Typed[str] = column(comment="Floating-point type of the computation")
    run_id: Typed[int] = column(BigInteger, comment="Run that scored")
    scored_at: Typed[datetime] = created(
        comment="When the scores were stored; in an open night, when a retry last added some"
    )


class RetriedSample(Table):
    """Quarantined records that a retry scored after their night was decided: they become selectable with a later night."""

    __tablename__ = "retried_samples"
    __table_args__ = (
        ForeignKeyConstraint(
            ["shard_id", "ordinal"], ["alchemist.sample_locations.shard_id", "alchemist.sample_locations.ordinal"]
        ),
        ForeignKeyConstraint(
            ["rater_id", "shard_id"], ["alchemist.shard_scores.rater_id", "alchemist.shard_scores.shard_id"]
        ),
    )

    rater_id: Typed[int] = column(primary_key=True, comment="Rater that scored the record at the retry")
    shard_id: Typed[int] = column(BigInteger, primary_key=True, comment="Shard of the record")
    ordinal: Typed[int] = column(primary_key=True, comment="Position of the record in its shard, from 0")
    night_id: Typed[int] = column(
        ForeignKey("alchemist.nights.night_id"),
        index=True,
        comment="Later night through which the sample can be selected",
    )


class Score(Table, postgresql_partition_by="LIST (rater_id)"):
    """Score of one sample by one rater; partitioned by rater. No foreign keys, for speed: the ledger's transaction counts the rows."""

    __tablename__ = "scores"
    __table_args__ = (CheckConstraint("score > '-Infinity'::real AND score < 'Infinity'::real", name="finite"),)

    rater_id: Typed[int] = column(Integer, primary_key=True, comment="Rater that scored; the partition key")
    score: Typed[float] = column(
        REAL, comment="Score by the rater, for a trained one its instance logit: higher is better"
    )
    sample_id: Typed[int] = column(BigInteger, primary_key=True, comment="Sample that was scored")


class ScoreDistribution(Table):
    """Distribution of one night's scores, its drift from earlier accepted nights, and an explanation of the drift."""

    __tablename__ = "score_distributions"
    __table_args__ = (CheckConstraint("verdict IN ('recorded', 'pooled', 'steady', 'warned', 'held')", name="verdict"),)

    night_id: Typed[int] = column(
        ForeignKey("alchemist.nights.night_id"), primary_key=True, comment="Night that the distribution belongs to"
    )
    n: Typed[int] = column(comment="Number of scores of the night")
    quantiles: Typed[list[float]] = column(
        ARRAY(DOUBLE_PRECISION), comment="Up to 1,024 quantiles of the scores, ascending: midpoints of equal shares"
    )
    histogram: Typed[dict[str, Any]] = column(comment="Histogram of the scores, as JSON")
    psi: Typed[float | None] = column(comment="Population stability index against the reference nights")
    ks_distance: Typed[float | None] = column(comment="Kolmogorov-Smirnov distance to the reference nights, 0 to 1")
    created_at: Typed[datetime] = created(comment="When the scores were read")
    verdict: Typed[str] = column(
        server_default="recorded",
        comment="recorded (no reference yet), pooled (too small to test alone), steady, warned or held",
    )
    n_tested: Typed[int] = column(
        server_default="0",
        comment="Number of scores tested: the night's and those of earlier small nights pooled with it",
    )
    reference: Typed[str | None] = column(comment="Nights that it was compared with")
    n_reference: Typed[int | None] = column(BigInteger, comment="Number of scores in the reference")
    explanation: Typed[list[dict[str, Any]]] = column(
        JSONB, server_default="[]", comment="Groups of samples that moved the distribution most, as JSON"
    )


class RankScale(Table):
    """Frozen reference distribution of one rater's scores: knots that turn a score into a rank (0 = highest score, 1 = lowest)."""

    __tablename__ = "rank_scales"
    __table_args__ = (
        CheckConstraint("cardinality(knot_scores) = cardinality(knot_ranks)", name="knots"),
        CheckConstraint("cardinality(knot_scores) BETWEEN 1 AND 65536", name="knot_count"),
    )

    rank_scale_id: Typed[int] = identity(comment="Key of the scale; the newest of a rater and a score has the highest")
    rater_id: Typed[int] = column(
        ForeignKey("alchemist.raters.rater_id"), index=True, comment="Rater whose scores are ranked"
    )
    knot_scores: Typed[list[float]] = column(ARRAY(DOUBLE_PRECISION), comment="Scores of the knots, ascending")
    knot_ranks: Typed[list[float]] = column(
        ARRAY(DOUBLE_PRECISION),
        comment="Rank of each knot, descending from at most 1 (lowest score) to 0 (highest score)",
    )
    n_reference: Typed[int] = column(BigInteger, comment="Number of scores that the scale was made from")
    created_at: Typed[datetime] = created(comment="When the scale was made")
    score: Typed[str] = column(
        server_default="rater",
        comment="Score that it ranks: rater, or the name of a heuristic, a scorer or imported scores",
    )


class RankSnapshot(Table):
    """Eligible samples at one moment: rank scale, decided nights, takedowns and options, and a hash of the resulting set."""

    __tablename__ = "rank_snapshots"
    __table_args__ = (UniqueConstraint("rank_scale_id", "dataset_names", "eligible_hash"),)

    snapshot_id: Typed[int] = identity(comment="Key of the snapshot")
    rank_scale_id: Typed[int] = column(
        ForeignKey("alchemist.rank_scales.rank_scale_id"), comment="Rank scale that turns scores into ranks"
    )
    dataset_names: Typed[list[str]] = column(ARRAY(String), comment="Datasets that samples were selected from")
    night_ids: Typed[list[int]] = column(ARRAY(Integer), comment="Decided nights whose samples are eligible")
    last_takedown_id: Typed[int] = column(server_default="0", comment="Takedowns up to this one are excluded")
    n_eligible: Typed[int] = column(BigInteger, comment="Number of eligible samples")
    eligible_hash: Typed[str] = column(
        comment="sha256 over the eligible samples in order, with their scores and what excludes them"
    )
    taken_at: Typed[datetime] = created(comment="When the snapshot was taken")
    options: Typed[dict[str, Any]] = column(
        JSONB,
        server_default="{}",
        comment="Further options that decide what is eligible, such as the condition and deduplication, as JSON",
    )


class RankWindow(Table):
    """Rank window: the part of the ranking that a tuning run found best for selection under one rater."""

    __tablename__ = "rank_windows"

    rank_window_id: Typed[int] = identity(comment="Key of the rank window")
    rater_id: Typed[int] = column(
        ForeignKey("alchemist.raters.rater_id"), index=True, comment="Rater whose ranking it was fitted to"
    )
    drop_top_ratio: Typed[float] = column(comment="Share of the highest ranks that is never selected, 0 to 1")
    mean_rank: Typed[float] = column(comment="Rank at which selection is most likely, 0 to 1")
    std_rank: Typed[float] = column(comment="Standard deviation of the selection over ranks")
    gain: Typed[float] = column(comment="Predicted gain over random selection, in the unit of the held-out loss")
    gain_low: Typed[float] = column(comment="Lower end of the 95% confidence interval of the gain")
    gain_high: Typed[float] = column(comment="Upper end of the 95% confidence interval of the gain")
    measurements: Typed[dict[str, Any]] = column(
        comment="Measured bands of ranks that the window was fitted to, as JSON"
    )
    run_id: Typed[int | None] = column(BigInteger, comment="Run that measured")
    created_at: Typed[datetime] = created(comment="When the window was stored")
