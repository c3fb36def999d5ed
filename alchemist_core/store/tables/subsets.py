"""What was chosen and what it was worth: subset versions, trained models, evaluations and experiments."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, DOUBLE_PRECISION
from sqlalchemy.orm import Mapped, mapped_column

from alchemist_core.store.tables.schema import BigKey, Created, Key, Table


class Subset(Table):
    """One subset version: a pure function of its spec. At most one version of a name is published."""

    __tablename__ = "subsets"
    __table_args__ = (
        UniqueConstraint("name", "version"),
        UniqueConstraint("name", "spec_hash"),
        CheckConstraint("state IN ('selected', 'published', 'superseded', 'withdrawn')", name="state"),
        CheckConstraint("retention > 0 AND retention <= 1", name="retention"),
        CheckConstraint("n_samples >= 0", name="n_samples"),
        CheckConstraint("state = 'withdrawn' OR (state = 'selected') = (published_at IS NULL)", name="published"),
        CheckConstraint(
            "(state = 'withdrawn') = (withdrawn_at IS NOT NULL) AND (state = 'withdrawn') = (withdrawn_by IS NOT NULL) "
            "AND (state = 'withdrawn') = (withdrawn_reason IS NOT NULL)",
            name="withdrawn",
        ),
        Index("uq_subsets_one_published", "name", unique=True, postgresql_where=text("state = 'published'")),
    )

    subset_id: Mapped[Key]
    name: Mapped[str]
    version: Mapped[int]
    snapshot_id: Mapped[int] = mapped_column(ForeignKey("alchemist.rank_snapshots.snapshot_id"))
    strategy: Mapped[str]
    retention: Mapped[float]
    seed: Mapped[int] = mapped_column(BigInteger)
    spec: Mapped[dict[str, Any]]
    spec_hash: Mapped[str]
    n_samples: Mapped[int] = mapped_column(BigInteger)
    # sha256 over the members' pair hashes in order: equality of subsets is equality of members.
    manifest_sha256: Mapped[str]
    manifest_uri: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="selected")
    created_by: Mapped[str]
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[Created]
    published_at: Mapped[datetime | None]
    materialized_at: Mapped[datetime | None]
    # The first finished copy; `copy_uris` are all that were ever begun and not collected since.
    materialized_uri: Mapped[str | None]
    copy_uris: Mapped[list[str]] = mapped_column(ARRAY(String), server_default=text("'{}'"))
    # The ranks that were kept beside those that were asked for, as selection/curves.py gives them.
    curves: Mapped[dict[str, Any] | None]
    # The version that was published when this one was: what a rollback goes back to.
    predecessor_id: Mapped[int | None] = mapped_column(ForeignKey("alchemist.subsets.subset_id"))
    # Set while the state is `withdrawn`; a version that is published again loses them, and the audit events keep them.
    withdrawn_at: Mapped[datetime | None]
    withdrawn_by: Mapped[str | None]
    withdrawn_reason: Mapped[str | None]


class SubsetSample(Table):
    """Membership of published subsets and of those under evaluation; every other version is its spec and its manifest."""

    __tablename__ = "subset_samples"
    __table_args__ = ({"postgresql_partition_by": "LIST (subset_id)"},)

    subset_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sample_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    rank: Mapped[float] = mapped_column(DOUBLE_PRECISION)


class Model(Table):
    """A trained text-to-image model, and exactly what it was trained on."""

    __tablename__ = "models"

    model_id: Mapped[Key]
    identity_hash: Mapped[str] = mapped_column(unique=True)
    arm: Mapped[str]
    subset_id: Mapped[int | None] = mapped_column(ForeignKey("alchemist.subsets.subset_id"), index=True)
    retention: Mapped[float]
    seed: Mapped[int]
    config: Mapped[dict[str, Any]]
    n_samples: Mapped[int] = mapped_column(BigInteger)
    n_steps: Mapped[int]
    members_sha256: Mapped[str]
    checkpoint_uri: Mapped[str]
    checkpoint_sha256: Mapped[bytes]
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[Created]


class EvaluationContract(Table):
    """Everything that must be equal for two metric values to be comparable."""

    __tablename__ = "evaluation_contracts"

    contract_id: Mapped[Key]
    contract_hash: Mapped[str] = mapped_column(unique=True)
    contract: Mapped[dict[str, Any]]
    created_at: Mapped[Created]


class Evaluation(Table):
    """One metric value of one model under one contract."""

    __tablename__ = "evaluations"
    __table_args__ = (
        UniqueConstraint("model_id", "contract_id", "metric"),
        CheckConstraint("value > '-Infinity'::float8 AND value < 'Infinity'::float8", name="finite"),
        CheckConstraint("n > 0", name="n"),
    )

    evaluation_id: Mapped[BigKey]
    model_id: Mapped[int] = mapped_column(ForeignKey("alchemist.models.model_id"))
    contract_id: Mapped[int] = mapped_column(ForeignKey("alchemist.evaluation_contracts.contract_id"))
    metric: Mapped[str]
    value: Mapped[float]
    n: Mapped[int]
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[Created]


class Experiment(Table):
    """Arms × seeds that answer one question."""

    __tablename__ = "experiments"

    experiment_id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    config: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None]
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]
