"""Evaluation contracts by name, and the values measured under them."""

from typing import Any, NamedTuple

from sqlalchemy import Engine, insert, select

from alchemist_core.config import fingerprint
from alchemist_core.evaluation.contract import refuse_differences
from alchemist_core.store.locks import take_lock
from alchemist_core.store.tables import Evaluation, EvaluationContract


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
