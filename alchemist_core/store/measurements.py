"""What the exporter tells about the store: one query file, one row a series."""

from sqlalchemy import Engine

from alchemist_core.store.queries import load_query


def read_measurements(engine: Engine) -> dict[str, list[tuple[tuple[str, ...], float]]]:
    """Return every series' labels and value, by metric name."""
    found: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    with engine.connect() as connection:
        for row in connection.execute(load_query("measurements")):
            found.setdefault(row.metric, []).append((tuple(row.labels), float(row.value)))
    return found
