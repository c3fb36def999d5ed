"""Experiments by name: their config, the expectations stated before the first result, and the result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from alchemist_core.errors import ConfigError
from alchemist_core.store.audit import current_actor, record_event
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
    """Store an experiment, or return the stored one, so that a killed experiment resumes.

    Args:
        engine: The store.
        name: The experiment's name.
        config: Its config, with the current names of fields.
        present: Converts a stored config to the current names of fields.

    Raises:
        ConfigError: An experiment of this name has another config.
    """
    with engine.begin() as connection:
        statement = upsert(Experiment).values(name=name, config=config)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["name"]))
    known = find_experiment(engine, name)
    _require_equal(known, config, present)
    return known


def require_equal_options(
    engine: Engine, name: str, config: dict[str, Any], present: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> None:
    """Refuse the name of an experiment with another config, as `begin_experiment` does, and store nothing.

    Raises:
        ConfigError: An experiment of this name has another config.
    """
    with engine.connect() as connection:
        row = connection.execute(select(*COLUMNS).where(Experiment.name == name)).one_or_none()
    if row is not None:
        _require_equal(ExperimentRow(*row), config, present)


def _require_equal(
    known: ExperimentRow, config: dict[str, Any], present: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    if (stored := present(known.config)) != config:
        differing = sorted(key for key in stored.keys() | config.keys() if stored.get(key) != config.get(key))
        values = "; ".join(
            f"{key} {_words(stored.get(key))} there, {_words(config.get(key))} here" for key in differing
        )
        raise ConfigError(
            f"Experiment {known.name!r} exists with other options: {values}. Its options are fixed, so seeds or arms cannot be added to "
            f"it. Give this run another name, --name NAME: it reuses the models that exist{_or_delete(known)}."
        )


def _or_delete(known: ExperimentRow) -> str:
    return "" if known.finished_at else f"; or delete the unfinished one: alchemist experiment delete {known.name}"


def _words(value: Any) -> str:
    """Return a value of a config as it is given to an option.

    >>> _words([4, 5]), _words(None), _words(0.5)
    ('4,5', 'not set', '0.5')
    """
    if isinstance(value, list):
        return ",".join(map(str, value)) or "not set"
    return "not set" if value is None else str(value)


def find_experiment(engine: Engine, name: str) -> ExperimentRow:
    """Return an experiment.

    Raises:
        ConfigError: There is no such experiment; the message lists the stored ones.
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
    """Store what is expected before any result is known, and return it. The first statement is kept.

    Raises:
        ConfigError: The experiment was deleted while it ran.
    """
    with engine.begin() as connection:
        statement = update(Experiment).where(Experiment.name == name, Experiment.result.is_(None))
        connection.execute(statement.values(result={"before": before}))
        result = connection.execute(select(Experiment.result).where(Experiment.name == name)).scalar_one_or_none()
    if result is None:
        raise _deleted(name)
    stated: dict[str, Any] = result["before"]
    return stated


def store_so_far(engine: Engine, name: str, so_far: dict[str, Any]) -> None:
    """Add to an unfinished experiment what is measured so far, so that it can be shown while it runs; it replaces what was added before."""
    with engine.begin() as connection:
        statement = update(Experiment).where(Experiment.name == name, Experiment.finished_at.is_(None))
        connection.execute(statement.values(result=Experiment.result.concat(so_far)))


def finish_experiment(engine: Engine, name: str, result: dict[str, Any]) -> None:
    """Store the result; if it is stored again, the first time is kept.

    Raises:
        ConfigError: The experiment was deleted while it ran.
    """
    with engine.begin() as connection:
        statement = update(Experiment).where(Experiment.name == name)
        if connection.execute(statement.values(result=result)).rowcount == 0:
            raise _deleted(name)
        connection.execute(statement.where(Experiment.finished_at.is_(None)).values(finished_at=func.clock_timestamp()))


def _deleted(name: str) -> ConfigError:
    return ConfigError(
        f"Experiment {name!r} was deleted while it ran. Run the command again: it reuses the models that exist."
    )


def delete_unfinished(engine: Engine, name: str) -> None:
    """Delete an experiment that has no result yet, and record who did. Its models and raters are kept.

    Raises:
        ConfigError: There is no such experiment, or it is finished: what was measured is never deleted.
    """
    known = find_experiment(engine, name)
    with engine.begin() as connection:
        statement = delete(Experiment).where(Experiment.name == name, Experiment.finished_at.is_(None))
        if connection.execute(statement).rowcount == 0:
            raise ConfigError(
                f"Experiment {name!r} is finished. Results are kept: only unfinished experiments can be deleted."
            )
        record_event(connection, current_actor(), "delete", f"experiment {name}", before={"config": known.config})
