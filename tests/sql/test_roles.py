"""The writer writes rows and never structure; the reader reads."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from alchemist_core.store.maintenance import MANY_ROWS, refresh_statistics
from alchemist_core.store.migrate import check_schema

pytestmark = pytest.mark.db

TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'alchemist'"


def refused(connection: Connection, statement: str, reason: str, **values: Any) -> None:
    with pytest.raises(DBAPIError, match=reason):
        connection.execute(text(statement), values)
    connection.rollback()


@pytest.mark.parametrize("role", ["alchemist_writer", "alchemist_reader"])
def test_roles_that_may_not_migrate_open_a_current_store(log_in: Callable[[str], Connection], role: str) -> None:
    with log_in(role) as connection:
        check_schema(connection.engine.url.render_as_string(hide_password=False))


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
        writer.commit()
        refused(writer, "DROP TABLE alchemist.scores_1", "must be owner")
        refused(writer, "SELECT alchemist.add_partition('datasets', 1)", "parents are scores and subset_samples")


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
        # Even a reader that lifts its own read-only setting has no right to write.
        reader.execute(text("SET default_transaction_read_only = off"))
        reader.commit()
        for (table,) in reader.execute(text(TABLES)).all():
            refused(reader, f"DELETE FROM alchemist.{table}", "permission denied")
        refused(reader, "SELECT alchemist.add_partition('scores', 1)", "permission denied")
        refused(reader, "SELECT alchemist.analyze_table('scores')", "permission denied")
        refused(reader, "SELECT nextval('alchemist.fencing_tokens')", "permission denied")
