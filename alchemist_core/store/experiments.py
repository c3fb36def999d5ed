"""Experiments by name: what was asked, what was said before the first result, and the result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from alchemist_core.errors import ConfigError
from alchemist_core.store.tables import Experiment


@dataclass(frozen=True, slots=True)
class ExperimentRow:
    """A stored experiment."""

    name: str
    config: dict[str, Any]
    result: dict[str, Any] | None
    finished_at: datetime | None


COLUMNS = tuple(getattr(Experiment, name) for name in ExperimentRow.__slots__)


def begin_experiment(
    engine: Engine, name: str, config: dict[str, Any], present: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> ExperimentRow:
    """Store what is asked, or find it: a killed experiment goes on.

    Args:
        engine: The store.
        name: The experiment's name.
        config: What is asked, under the present names of its fields.
        present: Gives the fields of a stored config their present names.

    Raises:
        ConfigError: The name stands for something else already.
    """
    with engine.begin() as connection:
        statement = upsert(Experiment).values(name=name, config=config)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["name"]))
    known = find_experiment(engine, name)
    if (stored := present(known.config)) != config:
        differing = sorted(key for key in stored.keys() | config.keys() if stored.get(key) != config.get(key))
        raise ConfigError(
            f"Experiment {name!r} exists with another {', '.join(differing)}: give this one a name of its own (--name)."
        )
    return known


def find_experiment(engine: Engine, name: str) -> ExperimentRow:
    """Return an experiment.

    Raises:
        ConfigError: There is none of that name; the text lists those that there are.
    """
    with engine.connect() as connection:
        row = connection.execute(select(*COLUMNS).where(Experiment.name == name)).one_or_none()
        if row is None:
            names = ", ".join(connection.execute(select(Experiment.name).order_by(Experiment.name)).scalars()) or "none"
            raise ConfigError(f"There is no experiment {name!r} (experiments: {names}).")
    return ExperimentRow(*row)


def list_experiments(engine: Engine) -> Sequence[ExperimentRow]:
    """Return every experiment, the newest first."""
    statement = select(*COLUMNS).order_by(Experiment.experiment_id.desc())
    with engine.connect() as connection:
        return [ExperimentRow(*row) for row in connection.execute(statement)]


def state_beforehand(engine: Engine, name: str, before: dict[str, Any]) -> dict[str, Any]:
    """Store what was expected before any result was seen; what was stated first stays."""
    with engine.begin() as connection:
        statement = update(Experiment).where(Experiment.name == name, Experiment.result.is_(None))
        connection.execute(statement.values(result={"before": before}))
        result: dict[str, Any] = connection.execute(
            select(Experiment.result).where(Experiment.name == name)
        ).scalar_one()
    stated: dict[str, Any] = result["before"]
    return stated


def finish_experiment(engine: Engine, name: str, result: dict[str, Any]) -> None:
    """Store the result; a repeated one keeps the time of the first."""
    with engine.begin() as connection:
        statement = update(Experiment).where(Experiment.name == name)
        connection.execute(statement.values(result=result))
        connection.execute(statement.where(Experiment.finished_at.is_(None)).values(finished_at=func.clock_timestamp()))
