"""Trained models, evaluation contracts and metric values: each stored once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Engine, insert, or_, select
from sqlalchemy.dialects.postgresql import insert as upsert

from alchemist_core.config import fingerprint
from alchemist_core.protocols.protocol import refuse_differences
from alchemist_core.store.leases import take_lock
from alchemist_core.store.tables import AnyRow, Evaluation, EvaluationContract, Model


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


def store_model(engine: Engine, **fields: Any) -> None:
    """Store a trained model."""
    with engine.begin() as connection:
        connection.execute(insert(Model).values(**fields))


def models_to_compare(engine: Engine, subset_id: int, rater_name: str, *, is_flux: bool = False) -> list[ModelRow]:
    """Return the models of a subset's arms, and those of the full eligible set under the same rater, all of one family."""
    is_full = (Model.arm == "full") & (Model.config["rater"].astext == rater_name)
    has_flux = Model.config["model"]["flux"].astext.is_not(None)
    family = has_flux if is_flux else ~has_flux
    statement = select(*COLUMNS).where(or_(Model.subset_id == subset_id, is_full), family).order_by(Model.model_id)
    with engine.connect() as connection:
        return [ModelRow(*row) for row in connection.execute(statement)]


def store_contract(engine: Engine, contract: dict[str, Any]) -> int:
    """Return the contract's id, stored on first use."""
    contract_hash = fingerprint(contract)
    with engine.begin() as connection:
        statement = upsert(EvaluationContract).values(contract_hash=contract_hash, contract=contract)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["contract_hash"]))
        find = select(EvaluationContract.contract_id).where(EvaluationContract.contract_hash == contract_hash)
        return connection.execute(find).scalar_one()


def find_contract(engine: Engine, contract: dict[str, Any]) -> int | None:
    """Return the contract's id, if anything was measured under it."""
    statement = select(EvaluationContract.contract_id).where(EvaluationContract.contract_hash == fingerprint(contract))
    with engine.connect() as connection:
        return connection.execute(statement).scalar()


def evaluated_models(engine: Engine, contract_id: int, metric: str) -> set[int]:
    """Return the models that have this metric under this contract."""
    statement = select(Evaluation.model_id).where(Evaluation.contract_id == contract_id, Evaluation.metric == metric)
    with engine.connect() as connection:
        return set(connection.execute(statement).scalars())


def store_evaluation(engine: Engine, **fields: Any) -> None:
    """Store a metric value; a second one of the same model, contract and metric is refused by the table."""
    with engine.begin() as connection:
        connection.execute(insert(Evaluation).values(**fields))


def read_evaluations(engine: Engine, model_ids: Sequence[int], contract_id: int) -> Sequence[AnyRow]:
    """Return arm, retention, seed, n_samples, n_steps, metric, value and n of models under a contract."""
    columns = (Model.model_id, Model.arm, Model.retention, Model.seed, Model.n_samples, Model.n_steps)
    statement = (
        select(*columns, Evaluation.metric, Evaluation.value, Evaluation.n)
        .join(Evaluation, Evaluation.model_id == Model.model_id)
        .where(Model.model_id.in_(model_ids), Evaluation.contract_id == contract_id)
        # Of several models of one arm and seed the newest comes last: who keeps one value a seed keeps that one, as the views do.
        .order_by(Model.arm, Model.seed, Model.model_id)
    )
    with engine.connect() as connection:
        return connection.execute(statement).all()


def newest_contract(engine: Engine, model_ids: Sequence[int], *, metric: str) -> int | None:
    """Return the contract under which any of the models last got this metric."""
    statement = (
        select(Evaluation.contract_id)
        .where(Evaluation.model_id.in_(model_ids), Evaluation.metric == metric)
        .order_by(Evaluation.evaluation_id.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        return connection.execute(statement).scalar()


class NamedContract(NamedTuple):
    """A contract that something was measured under, its name among its fields."""

    contract_id: int
    contract: dict[str, Any]


def find_named(engine: Engine, name: str) -> NamedContract | None:
    """Return the contract of a name, if anything was measured under it."""
    statement = select(EvaluationContract.contract_id, EvaluationContract.contract)
    with engine.connect() as connection:
        found = connection.execute(statement.where(EvaluationContract.contract["name"].astext == name)).one_or_none()
    return None if found is None else NamedContract(*found)


def agree_on_contract(engine: Engine, name: str, contract: dict[str, Any]) -> int:
    """Return the id of a named contract: stored on first use, the same ever after.

    Raises:
        ConfigError: Something was measured under this name before, and a field of the contract was another one then.
    """
    named = {"name": name} | contract
    statement = select(EvaluationContract.contract_id, EvaluationContract.contract)
    with engine.begin() as connection:
        # Of two first evaluations at once, the later one meets the earlier one's contract.
        take_lock(connection, f"contract {name}")
        found = connection.execute(statement.where(EvaluationContract.contract["name"].astext == name)).one_or_none()
        if found is None:
            values = {"contract_hash": fingerprint(named), "contract": named}
            made = insert(EvaluationContract).values(values).returning(EvaluationContract.contract_id)
            return connection.execute(made).scalar_one()
    refuse_differences(found.contract, named, whose=f"contract {name}, as first used,")
    return int(found.contract_id)


def store_values(
    engine: Engine, values: dict[str, float], *, model_id: int, contract_id: int, n: int, run_id: int | None = None
) -> None:
    """Store all values of one model under one contract, or none of them."""
    shared = {"model_id": model_id, "contract_id": contract_id, "n": n, "run_id": run_id}
    with engine.begin() as connection:
        rows = [{"metric": metric, "value": value} | shared for metric, value in values.items()]
        connection.execute(insert(Evaluation), rows)
