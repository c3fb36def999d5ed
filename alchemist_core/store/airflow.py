"""Airflow's own database, read only: what decides whether Airflow starts tasks. The tables are those of Airflow 3.3."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, text

from alchemist_core.errors import StoreError
from alchemist_core.store.engine import DatabaseError, make_engine

_POOLS = text("SELECT pool, slots, include_deferred FROM slot_pool")
_DAGS = text("""
    SELECT dag_id, is_paused, next_dagrun_create_after IS NOT NULL OR asset_expression IS NOT NULL AS is_scheduled
    FROM dag
    WHERE dag_id IN :names AND NOT is_stale
""").bindparams(bindparam("names", expanding=True))
_IMPORT_ERRORS = text("SELECT filename, stacktrace FROM import_error ORDER BY filename")
_CONNECTIONS = text("SELECT conn_id FROM connection")


@dataclass(frozen=True, slots=True)
class KnownDag:
    """A DAG that Airflow has loaded."""

    dag_id: str
    is_paused: bool
    is_scheduled: bool
    """Whether a schedule or an asset starts it."""


class Pool(NamedTuple):
    """A pool of Airflow."""

    n_slots: int
    counts_deferred: bool
    """Whether a deferred task holds its slot. The task of a pod is deferred while its pod runs."""


@dataclass(frozen=True, slots=True)
class AirflowTables:
    """What Airflow has stored about pools, DAGs and connections."""

    pools: dict[str, Pool]
    """Pools by name."""
    dags: tuple[KnownDag, ...]
    import_errors: tuple[str, ...]
    """A line for each DAG file that Airflow cannot import."""
    connections: frozenset[str]


def read_airflow(url: str, dag_ids: Sequence[str]) -> AirflowTables:
    """Read Airflow's database.

    Args:
        url: Its address; a driver in it is ignored.
        dag_ids: The DAGs to look up.

    Raises:
        StoreError: The server does not respond, refuses the login, or the database is not Airflow's.
    """
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            return _read(connection, dag_ids)
    except DatabaseError as refused:
        raise StoreError(f"Airflow's database does not answer: {str(refused.orig).strip().splitlines()[0]}") from None
    finally:
        engine.dispose()


def _read(connection: Connection, dag_ids: Sequence[str]) -> AirflowTables:
    errors = connection.execute(_IMPORT_ERRORS)
    return AirflowTables(
        pools={row.pool: Pool(row.slots, row.include_deferred) for row in connection.execute(_POOLS)},
        dags=tuple(KnownDag(*row) for row in connection.execute(_DAGS, {"names": list(dag_ids)})),
        import_errors=tuple(f"{row.filename}: {_last_line(row.stacktrace)}" for row in errors),
        connections=frozenset(connection.execute(_CONNECTIONS).scalars()),
    )


def _last_line(trace: str | None) -> str:
    return ["no reason recorded", *(trace or "").strip().splitlines()][-1]
