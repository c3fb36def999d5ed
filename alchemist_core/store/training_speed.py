"""How long training took lately, for an estimate of what a subset will cost."""

from sqlalchemy import Engine

from alchemist_core.store.queries import load_query


def seconds_per_member(engine: Engine) -> float | None:
    """Return the seconds that the newest downstream training took for each member, all epochs together; none before the first."""
    with engine.connect() as connection:
        row = connection.execute(load_query("measure_training_speed")).one_or_none()
    return None if row is None else float(row.seconds_per_member)
