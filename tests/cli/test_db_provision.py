"""`db provision` lets the roles of a server of your own log in and creates Airflow's database; it refuses what it cannot do."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from alchemist_core.__main__ import main
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import make_engine
from alchemist_core.store.logins import set_passwords
from alchemist_core.store.postgres import SUPERUSER, start_postgres
from tests.conftest import GIVEN_SERVER, ROLE_PASSWORD, SERVER_HOME

pytestmark = [pytest.mark.db]


@pytest.fixture
def own_server(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A migrated store whose owner may alter all roles and create databases."""
    if GIVEN_SERVER in os.environ:
        pytest.skip("the user of a given server may not be allowed to alter its roles")
    # On the embedded server only the superuser may alter the role of Airflow, which it created.
    password = start_postgres(Path(os.environ[SERVER_HOME])).passwords[SUPERUSER]
    owner = make_url(database_url).set(username=SUPERUSER, password=password).render_as_string(hide_password=False)
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", owner)
    load_settings.cache_clear()
    engine = make_engine(owner).execution_options(isolation_level="AUTOCOMMIT")
    yield owner
    with engine.connect() as connection:
        connection.exec_driver_sql('DROP DATABASE IF EXISTS "airflow" WITH (FORCE)')
    engine.dispose()


@pytest.fixture
def role_lock(server_url: str) -> Iterator[None]:
    """Keep other workers of xdist from altering the roles: they belong to the whole server (`log_in_at`)."""
    engine = make_engine(server_url)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
        yield
    engine.dispose()


def user_of(url: str, login: str, database: str | None = None) -> str:
    """Return who a session is that logs in as a role."""
    address = make_url(url).set(username=login, password=ROLE_PASSWORD)
    address = address if database is None else address.set(database=database)
    engine = make_engine(address.render_as_string(hide_password=False))
    with engine.connect() as connection:
        found = str(connection.execute(text("SELECT current_user")).scalar_one())
    engine.dispose()
    return found


@pytest.mark.usefixtures("role_lock")
def test_each_role_logs_in_with_its_password_and_a_second_run_changes_nothing(
    own_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(f"{ROLE_PASSWORD}\n")
    monkeypatch.setenv("STORE_READER_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("STORE_WRITER_PASSWORD", ROLE_PASSWORD)
    monkeypatch.setenv("AIRFLOW_DATABASE_PASSWORD", ROLE_PASSWORD)
    for outcome in ("was created", "exists"):
        assert main(["db", "provision"]) == 0
        assert f"Airflow's database {outcome}" in capsys.readouterr().err
        assert user_of(own_server, "alchemist_reader") == "alchemist_reader"
        assert user_of(own_server, "alchemist_writer") == "alchemist_writer"
        assert user_of(own_server, "alchemist_airflow", "airflow") == "alchemist_airflow"


@pytest.mark.usefixtures("role_lock")
def test_no_password_reaches_the_servers_log_whatever_it_logs(own_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = start_postgres(Path(os.environ[SERVER_HOME])).data_dir.parent / "log"
    n_before = log.stat().st_size
    logged = make_url(own_server).update_query_dict({"options": "-c log_statement=ddl"})
    set_passwords(logged.render_as_string(hide_password=False), {"reader": ROLE_PASSWORD})
    said = log.read_bytes()[n_before:].decode()
    assert 'ALTER ROLE "alchemist_reader" LOGIN PASSWORD' in said
    assert ROLE_PASSWORD not in said
    assert user_of(own_server, "alchemist_reader") == "alchemist_reader"


def test_a_missing_password_is_named(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_READER_PASSWORD", "x")
    assert main(["db", "provision"]) == 2
    assert "STORE_WRITER_PASSWORD is not set" in capsys.readouterr().err


def test_the_embedded_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    load_settings.cache_clear()
    assert main(["db", "provision"]) == 2
    assert "ALCHEMIST_DATABASE_URL" in capsys.readouterr().err
