"""Trained models, evaluation protocols and metric values: each stored once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Engine, Text, and_, cast, func, insert, or_, select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from alchemist_core.config import fingerprint
from alchemist_core.protocols.protocol import refuse_differences
from alchemist_core.store.leases import take_lock
from alchemist_core.store.tables import Evaluation, EvaluationProtocol, Model, RankSnapshot, Subset


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A trained model."""

    model_id: int
    identity_hash: str
    arm: str
    subset_id: int | None
    retention: float
    seed: int
    n_samples: int
    n_steps: int
    checkpoint_uri: str
    checkpoint_sha256: bytes


COLUMNS = tuple(getattr(Model, name) for name in ModelRow.__slots__)


def find_model(engine: Engine, identity_hash: str) -> ModelRow | None:
    """Return the model of this config, data and seed, if it was trained before."""
    with engine.connect() as connection:
        row = connection.execute(select(*COLUMNS).where(Model.identity_hash == identity_hash)).one_or_none()
    return None if row is None else ModelRow(*row)


def stored_configs(engine: Engine, arm: str, *, subset_id: int, rater: str) -> list[dict[str, Any]]:
    """Return the training options of the models of an arm of a subset, as they are stored."""
    is_of = _is_full_of(subset_id, rater) if arm == "full" else (Model.subset_id == subset_id)
    statement = select(Model.config["model"]).where(Model.arm == arm, is_of)
    with engine.connect() as connection:
        return list(connection.execute(statement).scalars())


def _is_full_of(subset_id: int, rater_name: str) -> ColumnElement[bool]:
    """Return the condition of arm `full` of a subset: under its rater, and of as many samples as the subset was selected from.

    The view `alike_models` has the same condition.
    """
    snapshot = select(RankSnapshot.n_eligible).join(Subset, Subset.snapshot_id == RankSnapshot.snapshot_id)
    n_eligible = snapshot.where(Subset.subset_id == subset_id).scalar_subquery()
    is_of_rater = Model.config["rater"].astext == rater_name
    return and_(Model.arm == "full", is_of_rater, Model.n_samples == n_eligible)


def store_model(engine: Engine, **fields: Any) -> None:
    """Store a trained model."""
    with engine.begin() as connection:
        connection.execute(insert(Model).values(**fields))


_HAS_FLUX = Model.config["model"]["flux"].astext.is_not(None)


def is_flux_model(engine: Engine, model_id: int) -> bool:
    """Return whether a model is of family FLUX-mini."""
    with engine.connect() as connection:
        return bool(connection.execute(select(_HAS_FLUX).where(Model.model_id == model_id)).scalar_one())


def models_to_compare(engine: Engine, subset_id: int, rater_name: str, *, is_flux: bool = False) -> list[ModelRow]:
    """Return the models of a subset's arms, and those of all samples that it was selected from, all of one family."""
    is_full = _is_full_of(subset_id, rater_name)
    family = _HAS_FLUX if is_flux else ~_HAS_FLUX
    statement = select(*COLUMNS).where(or_(Model.subset_id == subset_id, is_full), family).order_by(Model.model_id)
    with engine.connect() as connection:
        return [ModelRow(*row) for row in connection.execute(statement)]


def store_protocol(engine: Engine, protocol: dict[str, Any]) -> int:
    """Return the id of an evaluation protocol; it is stored on first use."""
    protocol_hash = fingerprint(protocol)
    with engine.begin() as connection:
        statement = upsert(EvaluationProtocol).values(protocol_hash=protocol_hash, protocol=protocol)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["protocol_hash"]))
        find = select(EvaluationProtocol.protocol_id).where(EvaluationProtocol.protocol_hash == protocol_hash)
        return connection.execute(find).scalar_one()


def find_protocol(engine: Engine, protocol: dict[str, Any]) -> int | None:
    """Return the id of an evaluation protocol, or None if no value was measured under it."""
    statement = select(EvaluationProtocol.protocol_id).where(EvaluationProtocol.protocol_hash == fingerprint(protocol))
    with engine.connect() as connection:
        return connection.execute(statement).scalar()


def evaluated_models(engine: Engine, protocol_id: int, metric: str) -> set[int]:
    """Return the models that have this metric under this protocol."""
    statement = select(Evaluation.model_id).where(Evaluation.protocol_id == protocol_id, Evaluation.metric == metric)
    with engine.connect() as connection:
        return set(connection.execute(statement).scalars())


class EvaluationRow(NamedTuple):
    """A value of a model under a protocol; `n` is the number of samples or images that it was measured on."""

    model_id: int
    arm: str
    retention: float
    seed: int
    n_samples: int
    n_steps: int
    metric: str
    value: float
    n: int


# As the view `alike_models` compares them, with the length of the training.
_TRAINING = cast(func.alchemist.training_recipe(Model.config), Text)


def read_evaluations(engine: Engine, model_ids: Sequence[int], protocol_id: int) -> list[EvaluationRow]:
    """Return the values of models under a protocol, by arm and seed."""
    columns = (Model.model_id, Model.arm, Model.retention, Model.seed, Model.n_samples, Model.n_steps)
    statement = (
        select(*columns, Evaluation.metric, Evaluation.value, Evaluation.n)
        .join(Evaluation, Evaluation.model_id == Model.model_id)
        .where(Model.model_id.in_(model_ids), Evaluation.protocol_id == protocol_id)
        # Of several models of one arm and seed the newest comes last, so a dict by seed keeps the same one as the views.
        .order_by(Model.arm, Model.seed, Model.model_id)
    )
    with engine.connect() as connection:
        return [EvaluationRow._make(row) for row in connection.execute(statement)]


class VersionLoss(NamedTuple):
    """A value of a model that was trained on a version of a subset; `training` is its configuration without the seed, as text."""

    version: int
    metric: str
    protocol_id: int
    training: str
    seed: int
    value: float
    n_samples: int
    n_steps: int


def read_version_losses(engine: Engine, name: str, metrics: Sequence[str]) -> list[VersionLoss]:
    """Return the values of these metrics of all models that were trained on the versions of a subset, the newest model last."""
    statement = (
        select(
            Subset.version,
            Evaluation.metric,
            Evaluation.protocol_id,
            _TRAINING,
            Model.seed,
            Evaluation.value,
            Model.n_samples,
            Model.n_steps,
        )
        .join(Model, Model.subset_id == Subset.subset_id)
        .join(Evaluation, Evaluation.model_id == Model.model_id)
        .where(Subset.name == name, Model.arm == "subset", Evaluation.metric.in_(metrics))
        .order_by(Model.model_id)
    )
    with engine.connect() as connection:
        return [VersionLoss._make(row) for row in connection.execute(statement)]


class ComparedModel(NamedTuple):
    """A model by which a subset version is compared with its controls: a row of the view `compared_models`."""

    model_id: int
    arm: str
    seed: int
    n_samples: int
    n_steps: int
    metric: str
    value: float


def read_compared_models(engine: Engine, subset_id: int) -> list[ComparedModel]:
    """Return the models by which a version is compared, for every metric, by metric, arm and seed."""
    statement = text("""
        SELECT model_id, arm, seed, n_samples, n_steps, metric, value
        FROM alchemist.compared_models
        WHERE subset_id = :subset_id ORDER BY metric, arm, seed
    """)
    with engine.connect() as connection:
        return [ComparedModel._make(row) for row in connection.execute(statement, {"subset_id": subset_id})]


def find_alike(engine: Engine, subset_id: int, protocol_id: int, metric: str) -> set[int]:
    """Return the models of a version and its controls that were trained alike and have this metric under this protocol."""
    statement = text("""
        SELECT model_id FROM alchemist.alike_models
        WHERE subset_id = :subset_id AND protocol_id = :protocol_id AND metric = :metric
    """)
    which = {"subset_id": subset_id, "protocol_id": protocol_id, "metric": metric}
    with engine.connect() as connection:
        return {*connection.scalars(statement, which)}


class NamedProtocol(NamedTuple):
    """Evaluation protocol that has a name among its fields."""

    protocol_id: int
    protocol: dict[str, Any]


def find_named(engine: Engine, name: str) -> NamedProtocol | None:
    """Return the protocol of a name, or None if no evaluation has used it yet."""
    statement = select(EvaluationProtocol.protocol_id, EvaluationProtocol.protocol)
    with engine.connect() as connection:
        found = connection.execute(statement.where(EvaluationProtocol.protocol["name"].astext == name)).one_or_none()
    return None if found is None else NamedProtocol(*found)


def agree_on_protocol(engine: Engine, name: str, protocol: dict[str, Any]) -> int:
    """Return the id of a named protocol; it is stored on first use and never changes.

    Raises:
        ConfigError: A protocol of this name was stored before, with another value in a field.
    """
    named = {"name": name} | protocol
    statement = select(EvaluationProtocol.protocol_id, EvaluationProtocol.protocol)
    with engine.begin() as connection:
        # Of two first evaluations at the same time, the second one finds the protocol of the first.
        take_lock(connection, f"protocol {name}")
        found = connection.execute(statement.where(EvaluationProtocol.protocol["name"].astext == name)).one_or_none()
        if found is None:
            values = {"protocol_hash": fingerprint(named), "protocol": named}
            made = insert(EvaluationProtocol).values(values).returning(EvaluationProtocol.protocol_id)
            return connection.execute(made).scalar_one()
    refuse_differences(found.protocol, named, whose=f"protocol {name}, as first used,")
    return int(found.protocol_id)


def store_values(
    engine: Engine, values: dict[str, float], *, model_id: int, protocol_id: int, n: int, run_id: int | None = None
) -> None:
    """Store all values of one model under one protocol, or none of them."""
    shared = {"model_id": model_id, "protocol_id": protocol_id, "n": n, "run_id": run_id}
    with engine.begin() as connection:
        rows = [{"metric": metric, "value": value} | shared for metric, value in values.items()]
        connection.execute(insert(Evaluation), rows)
