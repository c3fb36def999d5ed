"""Run the migrations with Alembic: under a lock on the database, each in its own transaction, with timeouts."""

import re

from alembic import context
from sqlalchemy import Connection, text

from alchemist_core.store.engine import make_engine
from alchemist_core.store.tables import SCHEMA, Table

PARTITION = re.compile(r"^(scores|subset_samples)_\d+$")


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    if kind == "schema":
        return name == SCHEMA
    return not (kind == "table" and PARTITION.match(name or ""))


def run(connection: Connection) -> None:
    # A second process waits, then finds nothing to do. With a timeout, because any session can hold this lock.
    connection.execute(text("SET lock_timeout = '60s'"))
    connection.execute(text("SELECT pg_advisory_lock(hashtext('alchemist.migrations'))"))
    # Postgres refuses CREATE SCHEMA IF NOT EXISTS to a user who may not create schemas, even if the schema exists.
    if connection.execute(text(f"SELECT to_regnamespace('{SCHEMA}') IS NULL")).scalar_one():
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
    connection.execute(text("SET lock_timeout = '4s'"))
    connection.execute(text("SET statement_timeout = '5s'"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        version_table_schema=SCHEMA,
        include_schemas=True,
        include_name=is_ours,
        transaction_per_migration=True,
        compare_type=True,
        compare_server_default=True,
        # Comments are applied with the views when their text changes, so migrations do not compare them.
        autogenerate_plugins=["alembic.autogenerate.*", "~alembic.autogenerate.comments"],
    )
    try:
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(hashtext('alchemist.migrations'))"))
        connection.execute(text("RESET lock_timeout"))
        connection.execute(text("RESET statement_timeout"))
        connection.commit()


given = context.config.attributes.get("connection")
if isinstance(given, Connection):
    run(given)
else:
    engine = given if given is not None else make_engine(context.config.get_main_option("sqlalchemy.url"))
    with engine.connect() as own:
        run(own)
