"""Migrations of millions of scores under concurrent reads: from an earlier revision to the newest, back, and up again.

`python -m tests.benchmarks.migrations [--pairs 10000000]` starts its own embedded Postgres and removes it afterwards; ten minutes and
12 GB at full size. It writes `.alchemist/bench/migrations.json`.
"""

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

from alchemist_core.store.engine import MIGRATIONS, SQL, head_revision, migrate
from tests.benchmarks.picture_store import own_store
from tests.benchmarks.rows import Row, write_rows
from tests.store.test_migration_under_load import EARLIER, FILLED

MOST_LOCKED_S = 1.0
LOOK = "SELECT score FROM alchemist.scores WHERE rater_id = 1 AND sample_id = 777"
LOCKS = """
SELECT count(*) FROM pg_locks INNER JOIN pg_class ON pg_locks.relation = pg_class.oid
WHERE pg_class.relname IN ('scores', 'scores_1') AND pg_locks.granted AND pg_locks.mode = 'AccessExclusiveLock'
"""


def main() -> None:
    """Fill a store of an earlier revision, take it forth, back and forth, and write what readers noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    n_pairs = parser.parse_args().pairs
    with own_store() as engine:
        downgrade(engine)
        fill(engine, n_pairs)
        before, rows = count(engine), []
        for name, step in (("forth", upgrade), ("back", downgrade), ("forth again", upgrade)):
            rows += measure(engine, f"{EARLIER} and {head_revision()}, {name}", step, f"{n_pairs:,} scores")
        rows.append(Row("rows lost", before - count(engine), "rows", "0", before == count(engine)))
    write_rows("migrations", rows)


def measure(engine: Engine, name: str, step: Callable[[Engine], None], detail: str) -> list[Row]:
    """Take one step while a reader looks up a score all the time, and another session looks at the locks."""
    began = time.perf_counter()
    with watched(engine) as (waits, locked):
        step(engine)
    seconds = time.perf_counter() - began
    return [
        Row(f"{name}: whole", round(seconds, 1), "s", None, None, detail),
        Row(f"{name}: scores locked, longest", round(max(locked), 3), "s", f"< {MOST_LOCKED_S:g} s", max(locked) < MOST_LOCKED_S),
        Row(f"{name}: look at a score, longest", round(max(waits), 3), "s", f"< {MOST_LOCKED_S:g} s", max(waits) < MOST_LOCKED_S,
            f"{len(waits):,} looks"),
    ]  # fmt: skip


@contextmanager
def watched(engine: Engine) -> Iterator[tuple[list[float], list[float]]]:
    """How long each look took, and for how long each time scores were locked against readers, in seconds."""
    stop, waits, locked = threading.Event(), [0.0], [0.0]
    threads = [threading.Thread(target=watch, args=(engine, stop, waits, locked)) for watch in (_look, _see_locks)]
    for thread in threads:
        thread.start()
    try:
        yield waits, locked
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _look(engine: Engine, stop: threading.Event, waits: list[float], _locked: list[float]) -> None:
    while not stop.wait(0.005):
        began = time.perf_counter()
        with engine.connect() as connection:
            connection.execute(text(LOOK)).one()
        waits.append(time.perf_counter() - began)


def _see_locks(engine: Engine, stop: threading.Event, _waits: list[float], locked: list[float]) -> None:
    since: float | None = None
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not stop.wait(0.005):
            is_locked, now = bool(connection.execute(text(LOCKS)).scalar_one()), time.perf_counter()
            if since is not None:
                locked.append(now - since)
            since = (since or now) if is_locked else None


def upgrade(engine: Engine) -> None:
    """Bring the store to this code, views and roles included."""
    migrate(engine.url.render_as_string(hide_password=False))


def downgrade(engine: Engine) -> None:
    """Downgrade the store; views and functions depend on its columns, so they are dropped first."""
    with engine.begin() as connection:
        for path in sorted((SQL / "views").glob("*.sql"), reverse=True):
            connection.execute(text(f"DROP VIEW IF EXISTS alchemist.{path.stem}"))
        connection.execute(text("COMMENT ON SCHEMA alchemist IS NULL"))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, EARLIER)


def fill(engine: Engine, n_pairs: int) -> None:
    """Shards, samples, locations and scores in the schema of an earlier revision."""
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = 'replica'"))
        connection.exec_driver_sql(FILLED.replace("N_SAMPLES", str(n_pairs)))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def count(engine: Engine) -> int:
    """Count samples, locations and scores."""
    tables = ("samples", "sample_locations", "scores")
    with engine.connect() as connection:
        return sum(
            int(connection.execute(text(f"SELECT count(*) FROM alchemist.{name}")).scalar_one()) for name in tables
        )


if __name__ == "__main__":
    main()
