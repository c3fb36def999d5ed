"""Logins on a Postgres server of your own: the password of each role, and the database of Airflow.

The embedded server does this itself (`store.postgres`). Migrations create the roles of the store and grant them their rights
(`sql/roles.sql`), but know no passwords.
"""

from psycopg2 import sql
from psycopg2.extensions import encrypt_password

from alchemist_core.store.engine import make_engine
from alchemist_core.store.postgres import LOGINS, Role

AIRFLOW_DATABASE = "airflow"


def set_passwords(url: str, passwords: dict[Role, str]) -> None:
    """Let each role log in with its password; create Airflow's role if it does not exist. Safe to repeat.

    Only the verifiers are sent, because the server may log the statement.

    Args:
        url: URL of the store for the owner of its schema, who may create roles.
        passwords: The password of each role.
    """
    engine = make_engine(url)
    with engine.begin() as connection:
        cursor, scope = connection.connection.cursor(), connection.connection.driver_connection
        for role, password in passwords.items():
            login = sql.Identifier(LOGINS[role])
            cursor.execute("SELECT to_regrole(%s) IS NULL", [LOGINS[role]])
            if cursor.fetchone() == (True,):
                cursor.execute(sql.SQL("CREATE ROLE {}").format(login))
            verifier = encrypt_password(password, LOGINS[role], scope, "scram-sha-256")
            cursor.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(login, sql.Literal(verifier)))
    engine.dispose()


def create_airflow_database(url: str) -> bool:
    """Create Airflow's own database, which its role owns; return whether it is new."""
    engine = make_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", [AIRFLOW_DATABASE])
        is_new = cursor.fetchone() is None
        if is_new:
            owner = sql.Identifier(LOGINS["airflow"])
            # An owner who is not a superuser may create a database only for a role that it is a member of.
            cursor.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(owner))
            name = sql.Identifier(AIRFLOW_DATABASE)
            cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, owner))
    engine.dispose()
    return is_new
