"""What the exporter tells about the store: a query file a subject, one row a series."""

from sqlalchemy import Engine, text

from alchemist_core.settings import Settings
from alchemist_core.store.queries import load_query

QUERIES = (
    "measure_stages", "measure_samples", "measure_nights", "measure_freshness", "measure_operations", "measure_subsets",
)  # fmt: skip
TIMEOUT_MS = 10_000
"""Longer than any of them should ever take: a scrape that hangs would pile up behind the next one."""


def read_measurements(
    engine: Engine, settings: Settings, *, n_cores: int
) -> dict[str, list[tuple[tuple[str, ...], float]]]:
    """Return every series' labels and value, by metric name, all of one moment.

    Args:
        engine: The store.
        settings: For the prices, and the budget of a day.
        n_cores: What a run on the CPU is charged for.
    """
    prices = {
        "price_per_gpu_hour": settings.price_per_gpu_hour,
        "price_per_core_hour": settings.price_per_core_hour,
        "n_cores": n_cores,
    }
    found: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    if settings.budget_per_day is not None:
        found["alchemist_budget_per_day"] = [((), settings.budget_per_day)]
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text(f"SET LOCAL statement_timeout = {TIMEOUT_MS}"))
        size_bytes = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        found["alchemist_store_size_bytes"] = [((), float(size_bytes))]
        for name in QUERIES:
            for row in connection.execute(load_query(name), prices if name == "measure_stages" else {}):
                found.setdefault(row.metric, []).append((tuple(row.labels), float(row.value)))
    return found
