"""Tables of results: subset versions, trained models, evaluations and experiments."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, DOUBLE_PRECISION

from alchemist_core.store.tables.schema import Table, Typed, big_identity, column, created, identity


class Subset(Table):
    """One version of a subset. Its specification determines its members. At most one version of a name is published."""

    __tablename__ = "subsets"
    __table_args__ = (
        UniqueConstraint("name", "version"),
        UniqueConstraint("name", "spec_hash"),
        CheckConstraint("state IN ('selected', 'published', 'superseded', 'withdrawn')", name="state"),
        CheckConstraint("retention > 0 AND retention <= 1", name="retention"),
        CheckConstraint("n_samples >= 0", name="n_samples"),
        CheckConstraint("epoch_size >= n_samples", name="epoch_size"),
        CheckConstraint("state = 'withdrawn' OR (state = 'selected') = (published_at IS NULL)", name="published"),
        CheckConstraint(
            "(state = 'withdrawn') = (withdrawn_at IS NOT NULL) AND (state = 'withdrawn') = (withdrawn_by IS NOT NULL) "
            "AND (state = 'withdrawn') = (withdrawn_reason IS NOT NULL)",
            name="withdrawn",
        ),
        Index("uq_subsets_one_published", "name", unique=True, postgresql_where=text("state = 'published'")),
    )

    subset_id: Typed[int] = identity(comment="Key of the version")
    name: Typed[str] = column(comment="Name of the subset")
    version: Typed[int] = column(comment="Number of the version, from 1")
    snapshot_id: Typed[int] = column(
        ForeignKey("alchemist.rank_snapshots.snapshot_id"),
        comment="Snapshot of the eligible samples that it was selected from",
    )
    strategy: Typed[str] = column(comment="Selection strategy, such as shift_gsample")
    retention: Typed[float] = column(comment="Share of the eligible samples that was selected, above 0 to 1")
    seed: Typed[int] = column(BigInteger, comment="Seed of the selection")
    spec: Typed[dict[str, Any]] = column(comment="Everything that determines the members, as JSON")
    spec_hash: Typed[str] = column(comment="sha256 of the specification: equal specifications give equal members")
    n_samples: Typed[int] = column(BigInteger, comment="Number of members")
    epoch_size: Typed[int | None] = column(
        BigInteger,
        comment="Number of samples that an epoch reads if members are repeated or weighted; null: each member once",
    )
    manifest_sha256: Typed[str] = column(
        comment="sha256 over the members' pair hashes in order, and their weights if any: equal hashes mean equal members"
    )
    manifest_uri: Typed[str] = column(comment="Manifest (Parquet file), relative to the Alchemist home")
    state: Typed[str] = column(
        server_default="selected",
        comment="selected, published (at most one version of a name), superseded or withdrawn",
    )
    created_by: Typed[str] = column(comment="Person or service account that selected")
    run_id: Typed[int | None] = column(BigInteger, comment="Run that selected")
    created_at: Typed[datetime] = created(comment="When it was selected")
    published_at: Typed[datetime | None] = column(comment="When it was published")
    materialized_at: Typed[datetime | None] = column(comment="When a materialized dataset of it was last complete")
    materialized_uri: Typed[str | None] = column(comment="Folder of its first complete materialized dataset")
    all_materialized_uris: Typed[list[str]] = column(
        ARRAY(String),
        server_default=text("'{}'"),
        comment="Folders of all its materialized datasets, unfinished ones included, that were not garbage-collected",
    )
    curves: Typed[dict[str, Any] | None] = column(comment="Retention over ranks, requested and achieved, as JSON")
    predecessor_id: Typed[int | None] = column(
        ForeignKey("alchemist.subsets.subset_id"),
        comment="Version that was published when this one was published: a rollback returns to it",
    )
    withdrawn_at: Typed[datetime | None] = column(comment="When it was withdrawn; null in every other state")
    withdrawn_by: Typed[str | None] = column(comment="Person who withdrew it")
    withdrawn_reason: Typed[str | None] = column(comment="Why it was withdrawn")


class SubsetSample(Table, postgresql_partition_by="LIST (subset_id)"):
    """Members of versions that were published, trained on, materialized, or copied in the explorer; others are manifests only."""

    __tablename__ = "subset_samples"

    subset_id: Typed[int] = column(Integer, primary_key=True, comment="Subset version; the partition key")
    sample_id: Typed[int] = column(BigInteger, primary_key=True, comment="Member of the version")
    rank: Typed[float] = column(
        DOUBLE_PRECISION, comment="Rank of the member when it was selected, 0 (highest score) to 1"
    )
    weight: Typed[float | None] = column(
        DOUBLE_PRECISION, comment="How often an epoch reads the member on average; null: once"
    )


class BlindJudgement(Table):
    """What a person preferred of two grids of samples without names. Append-only: a trigger refuses changes."""

    __tablename__ = "blind_judgements"
    __table_args__ = (
        CheckConstraint("preferred IN ('subset', 'other', 'neither')", name="preferred"),
        CheckConstraint("other_subset_id <> subset_id", name="other"),
        UniqueConstraint("subset_id", "judged_by", "seed"),
    )

    judgement_id: Typed[int] = big_identity(comment="Key of the answer")
    subset_id: Typed[int] = column(ForeignKey("alchemist.subsets.subset_id"), comment="Version that was compared")
    other_subset_id: Typed[int | None] = column(
        ForeignKey("alchemist.subsets.subset_id"), comment="Version beside it; null: random samples of the same corpus"
    )
    seed: Typed[int] = column(BigInteger, comment="Seed of the samples that were shown")
    sample_ids: Typed[list[int]] = column(ARRAY(BigInteger), comment="Samples of the version that were shown")
    other_sample_ids: Typed[list[int]] = column(ARRAY(BigInteger), comment="Samples beside them")
    preferred: Typed[str] = column(comment="subset, other, or neither")
    judged_by: Typed[str] = column(comment="Person who judged")
    judged_at: Typed[datetime] = created(comment="When the person judged")


class Model(Table):
    """One trained text-to-image model and exactly what it was trained on."""

    __tablename__ = "models"

    model_id: Typed[int] = identity(comment="Key of the model")
    identity_hash: Typed[str] = column(
        unique=True, comment="sha256 over configuration and training data: the same model is never trained twice"
    )
    arm: Typed[str] = column(
        comment="What it was trained on: subset, random, planted (the arm oracle), full, minus_loss, validation or subset+validation"
    )
    subset_id: Typed[int | None] = column(
        ForeignKey("alchemist.subsets.subset_id"),
        index=True,
        comment="Subset version that it was trained on or compared with; null for the full corpus",
    )
    retention: Typed[float] = column(comment="Share of the eligible samples that it was trained on")
    seed: Typed[int] = column(comment="Seed of the training")
    config: Typed[dict[str, Any]] = column(comment="Training configuration, as JSON")
    n_samples: Typed[int] = column(BigInteger, comment="Number of training samples")
    n_steps: Typed[int] = column(comment="Number of optimizer steps")
    members_sha256: Typed[str] = column(comment="sha256 over the training samples in order")
    checkpoint_uri: Typed[str] = column(comment="Checkpoint, relative to the Alchemist home")
    checkpoint_sha256: Typed[bytes] = column(comment="sha256 of the checkpoint (32 bytes)")
    run_id: Typed[int | None] = column(BigInteger, comment="Run that trained the model")
    created_at: Typed[datetime] = created(comment="When the model was registered")


class EvaluationProtocol(Table):
    """Evaluation protocol: everything that must be equal for two metric values to be comparable."""

    __tablename__ = "evaluation_protocols"

    protocol_id: Typed[int] = identity(comment="Key of the evaluation protocol")
    protocol_hash: Typed[str] = column(unique=True, comment="sha256 of the protocol")
    protocol: Typed[dict[str, Any]] = column(
        comment="Everything that must be equal for two values to be comparable, as JSON"
    )
    created_at: Typed[datetime] = created(comment="When the protocol was first used")


class Evaluation(Table):
    """Value of one metric of one model under one evaluation protocol."""

    __tablename__ = "evaluations"
    __table_args__ = (
        UniqueConstraint("model_id", "protocol_id", "metric"),
        CheckConstraint("value > '-Infinity'::float8 AND value < 'Infinity'::float8", name="finite"),
        CheckConstraint("n > 0", name="n"),
    )

    evaluation_id: Typed[int] = big_identity(comment="Key of the value")
    model_id: Typed[int] = column(ForeignKey("alchemist.models.model_id"), comment="Model that was evaluated")
    protocol_id: Typed[int] = column(
        ForeignKey("alchemist.evaluation_protocols.protocol_id"),
        comment="Evaluation protocol that it was evaluated under",
    )
    metric: Typed[str] = column(comment="Name of the metric, such as heldout_loss")
    value: Typed[float] = column(comment="Value of the metric, in the metric's own unit")
    n: Typed[int] = column(
        comment="Number of samples or images of the whole set, also for the value of a category or task"
    )
    run_id: Typed[int | None] = column(BigInteger, comment="Run that evaluated")
    created_at: Typed[datetime] = created(comment="When the value was stored")


class Experiment(Table):
    """Arms and seeds that answer one question."""

    __tablename__ = "experiments"

    experiment_id: Typed[int] = identity(comment="Key of the experiment")
    name: Typed[str] = column(unique=True, comment="Unique name of the experiment")
    config: Typed[dict[str, Any]] = column(comment="Arms, seeds and training options, as JSON")
    result: Typed[dict[str, Any] | None] = column(
        comment="Results by arm, as JSON; while it runs, those measured so far"
    )
    created_at: Typed[datetime] = created(comment="When the experiment began")
    finished_at: Typed[datetime | None] = column(comment="When it ended")
