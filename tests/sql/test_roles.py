"""The writer changes rows but not the schema; the reader only reads."""

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, make_url, text
from sqlalchemy.exc import DBAPIError

import alchemist_core
from alchemist_core.cli.maintain import MaintainConfig, leases
from alchemist_core.errors import StoreError
from alchemist_core.stages.execution import Heartbeat
from alchemist_core.store.engine import SQL, check_schema, current_revision, head_revision, make_engine, migrate
from alchemist_core.store.leases import take_lock, try_lock
from alchemist_core.store.maintenance import MANY_ROWS, MOST_READ_S, end_long_reads, refresh_statistics
from alchemist_core.store.samples import find_duplicates
from alchemist_core.store.subsets import lock_name
from tests.conftest import GIVEN_SERVER
from tests.given import insert_rows
from tests.scored_nights import add_rater

pytestmark = pytest.mark.db

TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'alchemist'"


def refused(connection: Connection, statement: str, reason: str, **values: Any) -> None:
    with pytest.raises(DBAPIError, match=reason):
        connection.execute(text(statement), values)
    connection.rollback()


@pytest.mark.parametrize(
    ("role", "reason"), [("alchemist_writer", "must be owner"), ("alchemist_reader", "read-only transaction")]
)
def test_roles_that_may_not_migrate_open_a_current_store(
    log_in: Callable[[str], Connection], role: str, reason: str
) -> None:
    with log_in(role) as connection:
        url = connection.engine.url.render_as_string(hide_password=False)
    check_schema(url)
    assert not migrate(url), "a current store needs no migration"
    with pytest.raises(StoreError, match=reason):
        migrate(url, should_reapply=True)


def test_the_writer_can_neither_drop_nor_alter_nor_create(log_in: Callable[[str], Connection]) -> None:
    with log_in("alchemist_writer") as writer:
        for (table,) in writer.execute(text(TABLES)).all():
            refused(writer, f"DROP TABLE alchemist.{table}", "must be owner")
            refused(writer, f"ALTER TABLE alchemist.{table} ADD COLUMN extra integer", "must be owner")
            refused(writer, f"TRUNCATE alchemist.{table}", "permission denied")
        refused(writer, "CREATE TABLE alchemist.extra (n integer)", "permission denied")
        refused(writer, "DROP VIEW alchemist.current_scores", "must be owner")
        refused(writer, "DELETE FROM alchemist.audit_events", "permission denied")


def test_the_writer_works_with_rows_and_gets_partitions_only_by_function(log_in: Callable[[str], Connection]) -> None:
    with log_in("alchemist_writer") as writer:
        writer.execute(text("INSERT INTO alchemist.datasets (name, root_uri, role) VALUES ('web', '/data', 'train')"))
        writer.execute(text("SELECT nextval('alchemist.fencing_tokens')"))
        writer.execute(text("SELECT alchemist.add_partition('scores', 1)"))
        writer.execute(text("INSERT INTO alchemist.scores_1 (rater_id, sample_id, score) VALUES (1, 1, 0.5)"))
        assert writer.execute(text("SELECT score FROM alchemist.scores")).scalar_one() == 0.5
        assert writer.execute(text("SELECT alchemist.order_highest_scores(1, 0, 10)")).scalar_one()
        writer.commit()
        refused(writer, "DROP TABLE alchemist.scores_1", "must be owner")
        refused(writer, "SELECT alchemist.add_partition('datasets', 1)", "the table must be scores or subset_samples")


def test_the_writer_refreshes_statistics_of_tables_that_it_does_not_own(
    log_in: Callable[[str], Connection], connection: Connection
) -> None:
    with log_in("alchemist_writer") as writer:
        writer.execute(
            text("SELECT alchemist.add_partition('scores', 1), alchemist.add_partition('subset_samples', 1)")
        )
        writer.commit()
        assert refresh_statistics(writer.engine) == len(MANY_ROWS)
        refused(writer, "SELECT alchemist.analyze_table('scores; DROP TABLE scores')", "does not exist")
    looked_at = "SELECT relname FROM pg_class WHERE relnamespace = 'alchemist'::regnamespace AND reltuples >= 0 AND relkind IN ('r', 'p')"
    assert {*MANY_ROWS, "scores_1"} <= set(connection.execute(text(looked_at)).scalars())


def test_the_reader_reads_everything_and_writes_nothing(log_in: Callable[[str], Connection]) -> None:
    with log_in("alchemist_reader") as reader:
        assert reader.execute(text("SHOW default_transaction_read_only")).scalar_one() == "on"
        assert reader.execute(text("SHOW statement_timeout")).scalar_one() == "1min"
        for name in (
            "current_scores",
            "score_bands",
            "nightly_overview",
            "subset_overview",
            "sample_history",
            "lineage",
        ):
            assert reader.execute(text(f"SELECT count(*) FROM alchemist.{name}")).scalar_one() == 0
        reader.execute(text("SELECT alchemist.rank_of(1, 1)"))
        reader.rollback()
        # Even a reader that disables its own read-only setting has no right to write.
        reader.execute(text("SET default_transaction_read_only = off"))
        reader.commit()
        for (table,) in reader.execute(text(TABLES)).all():
            refused(reader, f"DELETE FROM alchemist.{table}", "permission denied")
        refused(reader, "SELECT alchemist.add_partition('scores', 1)", "permission denied")
        refused(reader, "SELECT alchemist.analyze_table('scores')", "permission denied")
        refused(reader, "SELECT alchemist.order_highest_scores(1, 0, 10)", "permission denied")
        refused(reader, "SELECT nextval('alchemist.fencing_tokens')", "permission denied")


DEFAULTS = {
    "default_transaction_read_only": "on",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
}


@pytest.mark.parametrize("value", ["1", "0", None])
@pytest.mark.parametrize("scope", ["", "IN DATABASE {}"])
def test_defaults_that_a_reader_changed_for_all_readers_are_restored(
    engine: Engine, scope: str, value: str | None
) -> None:
    """In one transaction, which is rolled back: the role belongs to the whole server of this test run."""
    with engine.connect() as owner:
        database = owner.execute(text("SELECT current_database()")).scalar_one()
        altered = f"ALTER ROLE alchemist_reader {scope.format(database)}"
        owner.execute(text("SET LOCAL ROLE alchemist_reader"))
        for name in DEFAULTS:
            wanted = f"SET {name} = {value}" if value else f"RESET {name}"
            owner.execute(text(f"{altered} {wanted}"))
        owner.execute(text("RESET ROLE"))
        owner.exec_driver_sql((SQL / "roles.sql").read_text(), execution_options={"no_parameters": True})
        settings = text(
            "SELECT setdatabase, setting FROM pg_db_role_setting, unnest(setconfig) AS setting "
            "WHERE setrole = to_regrole('alchemist_reader') AND setting NOT LIKE 'temp\\_file\\_limit=%'"
            " AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))"
        )
        found = owner.execute(settings).all()
        owner.rollback()
    assert {tuple(row) for row in found} == {(0, f"{name}={wanted}") for name, wanted in DEFAULTS.items()}


def test_only_owner_and_writer_make_temporary_tables(
    log_in: Callable[[str], Connection], database_url: str, engine: Engine
) -> None:
    """A reader could fill the disk with them: it can lift its own read-only setting."""
    # Rights of a database are not copied with it, and this one is a copy.
    migrate(database_url, should_reapply=True)
    with log_in("alchemist_reader") as reader:
        reader.execute(text("SET default_transaction_read_only = off"))
        reader.commit()
        refused(
            reader, "CREATE TEMPORARY TABLE hoard AS SELECT generate_series(1, 9)", "permission denied to create temp"
        )
    with log_in("alchemist_writer") as writer, engine.connect() as owner:
        for connection in (writer, owner):
            connection.execute(text("CREATE TEMPORARY TABLE wanted (number integer) ON COMMIT DROP"))


def test_the_role_for_dbt_of_the_page_reads_and_makes_tables_and_its_views_on_ours_are_named_before_a_migration(
    database_url: str, engine: Engine
) -> None:
    page = (Path(alchemist_core.__file__).parents[1] / "docs" / "how-to" / "connect.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if "create role analytics" in line)
    statements = re.findall(r'-c "([^"]*)"', line)
    assert len(statements) == 4
    migrate(database_url, should_reapply=True)
    url = make_url(database_url)
    # A role belongs to the whole server: this one must not meet that of another test run.
    role = f"analytics_{url.database}"
    made = make_engine(url.set(username=role, password="change-me").render_as_string(hide_password=False))
    try:
        with engine.begin() as owner:
            for statement in statements:
                named = statement.replace("database alchemist", f'database "{url.database}"')
                owner.execute(text(re.sub(r"\banalytics\b", f'"{role}"', named)))
        with made.begin() as dbt:
            dbt.execute(text(f'CREATE TABLE "{role}".best AS SELECT * FROM alchemist.current_scores'))
        with made.begin() as dbt:
            dbt.execute(text("CREATE TEMPORARY TABLE newer AS SELECT * FROM alchemist.current_scores"))
            dbt.execute(text(f'INSERT INTO "{role}".best SELECT * FROM newer'))
        with made.connect() as dbt:
            refused(dbt, "DELETE FROM alchemist.scores", "permission denied")
        with made.begin() as dbt:
            dbt.execute(text(f'CREATE VIEW "{role}".mine AS SELECT * FROM alchemist.nightly_overview'))
        with pytest.raises(StoreError, match=rf"depend on them: {role}\.mine\. Drop"):
            migrate(database_url, should_reapply=True)
        with made.begin() as dbt:
            dbt.execute(text(f'DROP VIEW "{role}".mine'))
        assert migrate(database_url, should_reapply=True)
    finally:
        made.dispose()
        with engine.begin() as owner:
            owner.execute(text(f'GRANT "{role}" TO CURRENT_USER; DROP OWNED BY "{role}" CASCADE; DROP ROLE "{role}"'))


def test_a_view_of_the_users_in_the_schema_of_the_store_is_named_before_a_migration(
    make_database: Callable[..., str],
) -> None:
    """A suite of checks can read it only there."""
    url = make_database()
    owner, earlier = make_engine(url), f"{int(head_revision()) - 1:04}"
    try:
        with owner.begin() as connection:
            connection.execute(text("CREATE VIEW alchemist.mine AS SELECT dataset FROM alchemist.crawled_samples"))
            # As in a store of the version before; the migration itself is not run.
            connection.execute(
                text("UPDATE alchemist.alembic_version SET version_num = :earlier"), {"earlier": earlier}
            )
        with pytest.raises(StoreError, match=r"depend on them: alchemist\.mine\. Drop"):
            migrate(url)
        assert current_revision(url) == earlier
        with owner.begin() as connection:
            connection.execute(text("DROP VIEW alchemist.mine"))
            connection.execute(
                text("UPDATE alchemist.alembic_version SET version_num = :head"), {"head": head_revision()}
            )
        assert migrate(url, should_reapply=True)
    finally:
        owner.dispose()


def test_a_view_of_the_users_that_reads_no_view_of_the_store_survives_a_migration(
    make_database: Callable[..., str],
) -> None:
    url = make_database()
    owner = make_engine(url)
    try:
        with owner.begin() as connection:
            connection.execute(text("CREATE VIEW alchemist.mine AS SELECT sample_id FROM alchemist.samples"))
            connection.execute(text("CREATE VIEW alchemist.of_mine AS SELECT sample_id FROM alchemist.mine"))
        assert migrate(url, should_reapply=True)
        with owner.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM alchemist.of_mine")).scalar_one() == 0
    finally:
        owner.dispose()


def test_the_owner_of_an_existing_schema_migrates_it_without_the_right_to_create_one(
    make_database: Callable[..., str],
) -> None:
    """As on a managed server, where an administrator makes the schema."""
    url = make_url(make_database(template=None))
    role = f"owner_{url.database}"
    theirs = url.set(username=role, password="change-me").render_as_string(hide_password=False)
    admin = make_engine(url.render_as_string(hide_password=False))
    try:
        with admin.begin() as connection:
            connection.execute(
                text(f"""
                CREATE ROLE "{role}" LOGIN PASSWORD 'change-me';
                GRANT "{role}" TO CURRENT_USER;
                CREATE SCHEMA alchemist AUTHORIZATION "{role}"
            """)
            )
        assert migrate(theirs)
        check_schema(theirs)
    finally:
        with admin.begin() as connection:
            connection.execute(text(f'DROP OWNED BY "{role}" CASCADE; DROP ROLE "{role}"'))
        admin.dispose()


HOARDING = {
    "lo_from_bytea": "SELECT lo_from_bytea(0, repeat('x', 1000)::bytea)",
    "lo_create": "SELECT lo_create(0)",
    "lo_creat": "SELECT lo_creat(-1)",
    "lo_import": "SELECT lo_import('/etc/hostname')",
    "pg_logical_emit_message": "SELECT pg_logical_emit_message(true, 'x', repeat('x', 1000))",
}


@pytest.mark.skipif(GIVEN_SERVER in os.environ, reason="only a superuser limits a server; the embedded one has one")
@pytest.mark.parametrize("database", ["alchemist", "postgres", "template1"])
def test_a_reader_cannot_fill_the_disk_of_the_embedded_server(
    server_url: str, log_in_at: Callable[[str, str], str], database: str
) -> None:
    """Every role may connect to each of these databases."""
    url = make_url(server_url).set(database=database).render_as_string(hide_password=False)
    engine = make_engine(log_in_at(url, "alchemist_reader"))
    with engine.connect() as reader:
        reader.execute(text("SET default_transaction_read_only = off"))
        reader.commit()
        for name, statement in HOARDING.items():
            refused(reader, statement, f"permission denied for function {name}")
        refused(reader, "CREATE TEMPORARY TABLE hoard (n integer)", "permission denied to create temp")
        assert reader.execute(text("SHOW temp_file_limit")).scalar_one() == "10GB"
        reader.rollback()
        refused(reader, "SET temp_file_limit = -1", "permission denied to set parameter")
    engine.dispose()


def test_the_writer_drops_no_partition_that_a_reader_may_use(
    log_in: Callable[[str], Connection], engine: Engine
) -> None:
    with engine.begin() as connection:
        for rater_id, state in ((1, "production"), (2, "candidate"), (3, "retired")):
            add_rater(connection, rater_id=rater_id, name=f"r{rater_id}", state=state)
        insert_rows(connection, {
            "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [0.1, 0.9], "knot_ranks": [1, 0]}],
            "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
            "subsets": [{"subset_id": i, "name": "s", "version": i, "snapshot_id": 1} for i in (1, 2, 3)],
            "subset_samples": [{"subset_id": i, "sample_id": 1, "rank": 0.5} for i in (1, 2, 3)],
            "models": [{"model_id": 1, "arm": "subset", "subset_id": 2}],
        })  # fmt: skip
        connection.execute(
            text("UPDATE alchemist.subsets SET state = 'published', published_at = now() WHERE subset_id = 1")
        )
    with log_in("alchemist_writer") as writer:
        for arguments in ("'scores', 1", "'scores', 2", "'subset_samples', 1", "'subset_samples', 2"):
            refused(writer, f"SELECT alchemist.drop_partition({arguments})", "in use")
        for arguments in ("'scores', 3", "'subset_samples', 3"):
            writer.execute(text(f"SELECT alchemist.drop_partition({arguments})"))
        writer.commit()
    with engine.connect() as connection:
        left = "SELECT relname FROM pg_inherits JOIN pg_class ON inhrelid = pg_class.oid WHERE relkind = 'r' ORDER BY 1"
        assert list(connection.execute(text(left)).scalars()) == [
            "scores_1",
            "scores_2",
            "subset_samples_1",
            "subset_samples_2",
        ]


def test_a_reader_cannot_take_a_lock_of_ours(log_in: Callable[[str], Connection]) -> None:
    with log_in("alchemist_reader") as reader:
        reader.execute(text("SET default_transaction_read_only = off"))
        reader.commit()
        refused(reader, "SELECT * FROM alchemist.locks FOR UPDATE", "permission denied")
        refused(reader, "SELECT * FROM alchemist.locks FOR KEY SHARE", "permission denied")
        refused(reader, "SELECT alchemist.take_lock('duplicates')", "permission denied")
        refused(reader, "SELECT alchemist.try_lock('duplicates')", "permission denied")
        refused(reader, "LOCK TABLE alchemist.locks IN ROW SHARE MODE", "permission denied")
        refused(reader, "INSERT INTO alchemist.locks VALUES ('mine')", "permission denied")


# What the code before the table of locks waited for.
OLD_KEYS = "hashtext('alchemist.duplicates')", "hashtext('alchemist.rank_scales')", "hashtext('alchemist.subsets:half')"


def test_stages_do_not_wait_for_a_readers_advisory_locks(
    log_in: Callable[[str], Connection], database_url: str
) -> None:
    working = make_engine(f"{database_url}?options=-c%20lock_timeout%3D2s")
    with log_in("alchemist_reader") as reader:
        for key in OLD_KEYS:
            reader.execute(text(f"SELECT pg_advisory_lock({key})"))
        assert find_duplicates(working) is None
        with working.begin() as connection:
            lock_name(connection, "half")  # Makes the row of this lock.
        with working.begin() as connection:
            take_lock(connection, "rank_scales")
            lock_name(connection, "half")
            with working.connect() as other:
                assert not try_lock(other, "rank_scales"), "the stage holds the lock"
                assert not try_lock(other, "subset half")
    working.dispose()


@pytest.mark.parametrize("held", [
    "SELECT pg_sleep(600)",
    "SELECT count(*) FROM alchemist.samples",
    "SELECT pg_advisory_lock(1)",
])  # fmt: skip
def test_a_reader_that_lifts_its_timeouts_is_ended_all_the_same(
    log_in: Callable[[str], Connection], engine: Engine, held: str
) -> None:
    ended: list[DBAPIError] = []
    reader = log_in("alchemist_reader")
    reader.execute(text("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"))
    reader.commit()

    def read() -> None:
        try:
            while True:
                reader.execute(text(held))
        except DBAPIError as refused:
            ended.append(refused)

    # Statements that return at once leave a transaction idle between them, or run one after the other in it.
    thread = threading.Thread(target=read)
    thread.start()
    while thread.is_alive():
        with engine.begin() as connection:
            end_long_reads(connection, most_s=0.05)
        thread.join(timeout=0.1)
    assert "terminating connection" in str(ended[0]) or "closed" in str(ended[0])
    reader.invalidate()
    reader.close()


@pytest.mark.parametrize("sweep", ["maintain", "heartbeat"])
def test_maintenance_and_every_running_stage_end_long_reads(
    engine: Engine, log_in: Callable[[str], Connection], monkeypatch: pytest.MonkeyPatch, sweep: str
) -> None:
    monkeypatch.setattr(end_long_reads, "__kwdefaults__", {"most_s": 0.0})  # 90 s are too long for a test
    with log_in("alchemist_reader") as reader:
        reader.execute(text("SELECT 1"))
        if sweep == "maintain":
            assert "ended 1 session of readers" in str(leases(MaintainConfig()).note)
        else:
            Heartbeat(SimpleNamespace(engine=engine), ttl_s=30)._end_long_reads()  # type: ignore[arg-type]
        with pytest.raises(DBAPIError):
            reader.execute(text("SELECT 1"))
        reader.invalidate()


def test_a_read_may_take_longer_than_the_readers_own_timeout() -> None:
    assert MOST_READ_S == 90


def test_the_sweep_leaves_writers_and_quick_readers_alone(
    log_in: Callable[[str], Connection], connection: Connection
) -> None:
    with log_in("alchemist_writer") as writer, log_in("alchemist_reader") as reader:
        writer.execute(text("SELECT pg_advisory_lock(1)"))
        reader.execute(text("SELECT 1"))
        assert end_long_reads(writer, most_s=600) == 0
        assert end_long_reads(connection, most_s=0) == 1, "the reader in its transaction, not the writer in its own"
        writer.execute(text("SELECT 1"))
        reader.invalidate()


def test_no_stage_relies_on_an_advisory_lock_that_a_reader_may_take() -> None:
    package, word = Path(alchemist_core.__file__).parent, re.compile(r"pg_(try_)?advisory_")
    found = {path.name for path in package.rglob("*.py") if word.search(path.read_text())}
    assert found == {"engine.py", "postgres.py"}, "their waits are bounded, or their server has no readers yet"
    files = [path for folder in ("functions", "queries", "views") for path in (SQL / folder).glob("*.sql")]
    assert [path.name for path in files if word.search(path.read_text())] == []
