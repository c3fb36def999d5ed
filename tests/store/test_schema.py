"""The migrations make exactly the tables that the code declares, and the constraints refuse wrong states."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from pytest_alembic.tests import (  # noqa: F401  the four checks are collected from here
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from alchemist_core.errors import StoreError
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import (
    MIGRATIONS,
    check_schema,
    code_hash,
    current_revision,
    head_revision,
    make_engine,
    migrate,
    open_store,
)
from alchemist_core.store.tables import Sample, Table

pytestmark = pytest.mark.db
OTHER_CODE = "0" * 64

CONSTRAINTS = """
SELECT conrelid::regclass::text AS owner, conname AS name, pg_get_constraintdef(oid) AS definition
FROM pg_constraint WHERE connamespace = 'alchemist'::regnamespace
UNION ALL
SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'alchemist'
UNION ALL
SELECT columns.table_name, columns.column_name, concat_ws(' ', data_type, udt_name, is_nullable, column_default, identity_generation,
    generation_expression)
FROM information_schema.columns INNER JOIN information_schema.tables USING (table_schema, table_name)
WHERE table_schema = 'alchemist' AND table_type = 'BASE TABLE'
"""


@pytest.fixture
def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


@pytest.fixture
def alembic_engine(make_database: Callable[..., str]) -> Iterator[Engine]:
    engine = make_engine(make_database(template=None))
    yield engine
    engine.dispose()


def definitions(engine: Engine) -> set[tuple[Any, ...]]:
    with engine.connect() as connection:
        return {
            tuple(row) for row in connection.execute(text(CONSTRAINTS)) if row.owner.split(".")[-1] != "alembic_version"
        }


def test_migrations_make_the_declared_tables_to_the_last_constraint(
    engine: Engine, make_database: Callable[..., str]
) -> None:
    declared = make_engine(make_database(template=None))
    with declared.begin() as connection:
        connection.execute(text("CREATE SCHEMA alchemist"))
        Table.metadata.create_all(connection)
    assert definitions(engine) == definitions(declared)
    declared.dispose()
    assert len(Table.metadata.tables) == 37


UNCOMMENTED = """
SELECT pg_class.relname AS name FROM pg_class
WHERE relnamespace = 'alchemist'::regnamespace AND relkind IN ('r', 'p', 'v') AND obj_description(oid, 'pg_class') IS NULL
UNION ALL
SELECT pg_class.relname || '.' || attname FROM pg_attribute INNER JOIN pg_class ON attrelid = pg_class.oid
WHERE relnamespace = 'alchemist'::regnamespace AND relkind IN ('r', 'p', 'v') AND attnum > 0 AND NOT attisdropped
    AND col_description(attrelid, attnum) IS NULL
UNION ALL
SELECT oid::regprocedure::text FROM pg_proc
WHERE pronamespace = 'alchemist'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL
"""


def test_every_table_view_column_and_function_has_a_comment(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("SELECT alchemist.add_partition('scores', 3), alchemist.add_partition('subset_samples', 4)")
        )
        missing = set(connection.execute(text(UNCOMMENTED)).scalars())
        partition = connection.execute(text("SELECT obj_description('alchemist.scores_3'::regclass)")).scalar_one()
    assert missing == set()
    assert partition == "Partition of scores: rater_id 3."


def test_a_changed_comment_is_written_again_by_migrate_alone(engine: Engine, database_url: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("COMMENT ON COLUMN alchemist.samples.caption IS 'older'"))
    write_applied(engine, OTHER_CODE)
    assert migrate(database_url)
    with engine.connect() as connection:
        query = text(
            "SELECT col_description('alchemist.samples'::regclass, attnum) FROM pg_attribute"
            " WHERE attrelid = 'alchemist.samples'::regclass AND attname = 'caption'"
        )
        assert connection.execute(query).scalar_one() == Sample.__table__.c.caption.comment


def test_migrating_again_changes_nothing(database_url: str) -> None:
    assert not migrate(database_url)
    assert current_revision(database_url) == head_revision()


@pytest.mark.slow
def test_processes_that_migrate_at_once_do_it_once(make_database: Callable[..., str]) -> None:
    url = make_database(template=None)
    code = "import sys; from alchemist_core.store.engine import migrate; print(migrate(sys.argv[1]))"
    started = [subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() in {"True", "False"} for process in started] == [True] * 3
    assert current_revision(url) == head_revision()


@pytest.mark.slow
def test_threads_that_migrate_at_once_do_it_once(make_database: Callable[..., str]) -> None:
    url = make_database(template=None)
    with ThreadPoolExecutor(3) as threads:
        assert set(threads.map(migrate, [url] * 3)) <= {True, False}
    assert current_revision(url) == head_revision()


def test_a_command_that_finds_the_schema_at_head_never_imports_alembic(database_url: str) -> None:
    code = "import sys; from alchemist_core.store.engine import check_schema; check_schema(sys.argv[1]); print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, database_url], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_empty_database_has_no_revision(make_database: Callable[..., str]) -> None:
    assert current_revision(make_database(template=None)) is None


def test_a_database_of_newer_code_is_refused(engine: Engine, database_url: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"9999.*Update the code"):
        migrate(database_url)


def applied(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        comment = connection.execute(text("SELECT obj_description('alchemist'::regnamespace)")).scalar_one()
    return str(comment).split()


def write_applied(engine: Engine, *hashes: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"COMMENT ON SCHEMA alchemist IS '{' '.join(hashes)}'"))


def is_view_there(engine: Engine) -> bool:
    with engine.connect() as connection:
        return bool(connection.execute(text("SELECT to_regclass('alchemist.lineage') IS NOT NULL")).scalar_one())


def test_only_migrate_applies_a_changed_view_again(engine: Engine, database_url: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP VIEW alchemist.lineage"))
    write_applied(engine, OTHER_CODE)
    with pytest.raises(StoreError, match=r"not those of this code\. Run `alchemist db migrate`"):
        open_store()
    assert not is_view_there(engine)
    assert migrate(database_url)
    open_store()
    assert is_view_there(engine)
    assert applied(engine) == [code_hash(), OTHER_CODE]


def test_older_code_that_opens_the_store_leaves_newer_views_and_is_asked_to_update(engine: Engine) -> None:
    write_applied(engine, OTHER_CODE, code_hash())
    with pytest.raises(StoreError, match=r"Newer code has replaced the store's views.*Update the code"):
        open_store()
    assert applied(engine) == [OTHER_CODE, code_hash()]


def test_a_store_of_an_older_revision_is_refused_with_the_command_that_helps(
    make_database: Callable[..., str], alembic_config: Config
) -> None:
    url = make_database(template=None)
    older = make_engine(url)
    with older.connect() as connection:
        alembic_config.attributes["connection"] = connection
        command.upgrade(alembic_config, "0024")
    write_applied(older, OTHER_CODE)
    with pytest.raises(
        StoreError, match=rf"revision 0024, this code needs {head_revision()}\. Run `alchemist db migrate`"
    ):
        check_schema(url)
    # The embedded server's store has rows of its user: it is not an empty one.
    with pytest.raises(StoreError, match="db migrate"):
        check_schema(url, may_create=True)
    assert current_revision(url) == "0024"
    assert migrate(url)
    check_schema(url)
    older.dispose()


def test_an_empty_database_of_a_given_server_is_left_empty(
    make_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_database(template=None)
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", url)
    load_settings.cache_clear()
    with pytest.raises(StoreError, match=r"no complete schema yet\. Run `alchemist db migrate`"):
        open_store()
    assert current_revision(url) is None


@pytest.mark.parametrize("interrupted_at", ["0007", "head"])
def test_the_creation_of_the_embedded_store_goes_on_after_an_interruption(
    make_database: Callable[..., str], alembic_config: Config, interrupted_at: str
) -> None:
    url = make_database(template=None)
    half = make_engine(url)
    with half.connect() as connection:
        alembic_config.attributes["connection"] = connection
        command.upgrade(alembic_config, interrupted_at)
    half.dispose()
    check_schema(url, may_create=True)
    check_schema(url)


def test_a_server_that_is_not_there_is_named_with_a_remedy() -> None:
    with pytest.raises(StoreError, match="alchemist db start"):
        migrate("postgresql://nobody@127.0.0.1:1/none")


@pytest.mark.parametrize("held", [
    pytest.param("SELECT count(*) FROM alchemist.lineage", marks=pytest.mark.slow),
    # Views are dropped without it, and made again with it.
    "LOCK TABLE alchemist.samples IN ACCESS EXCLUSIVE MODE",
])  # fmt: skip
def test_who_holds_what_a_new_view_needs_is_not_taken_for_a_server_that_is_away(
    engine: Engine, database_url: str, held: str
) -> None:
    with engine.begin() as connection:
        connection.execute(text("COMMENT ON SCHEMA alchemist IS 'older'"))
    with engine.connect() as other:
        other.execute(text(held))
        with pytest.raises(StoreError, match=r"lock timeout.*Run the command again") as refused:
            migrate(database_url)
        other.rollback()
    assert "db start" not in str(refused.value)
    assert migrate(database_url)


def test_every_migration_stays_on_one_screen() -> None:
    for path in sorted((MIGRATIONS / "versions").glob("*.py")):
        assert len(path.read_text().splitlines()) <= 100, path


@pytest.mark.parametrize("statement", [
    "UPDATE alchemist.audit_events SET actor = 'nobody'",
    "DELETE FROM alchemist.audit_events",
    "TRUNCATE alchemist.audit_events",
])  # fmt: skip
def test_audit_events_are_append_only(connection: Connection, statement: str) -> None:
    connection.execute(
        text("INSERT INTO alchemist.audit_events (actor, action, subject) VALUES ('ann', 'promote', 'rater 1')")
    )
    with pytest.raises(DBAPIError, match="append-only"):
        connection.execute(text(statement))


@pytest.mark.parametrize("score", ["NaN", "Infinity", "-Infinity"])
def test_a_score_that_is_not_finite_is_refused(connection: Connection, score: str) -> None:
    connection.execute(text("SELECT alchemist.add_partition('scores', 1)"))
    with pytest.raises(IntegrityError, match="ck_scores_finite"):
        connection.execute(text(f"INSERT INTO alchemist.scores (rater_id, score, sample_id) VALUES (1, '{score}', 1)"))


def test_a_second_production_rater_is_refused(connection: Connection) -> None:
    insert = text("""
        INSERT INTO alchemist.raters (name, rule, config, identity_hash, checkpoint_uri, checkpoint_sha256, state)
        VALUES (:name, 'loss', '{}', :name, 'rater', sha256('x'), 'production')
    """)
    connection.execute(insert, {"name": "first"})
    with pytest.raises(IntegrityError, match="one_production"):
        connection.execute(insert, {"name": "second"})
