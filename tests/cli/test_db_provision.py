"""`db provision` lets the roles of a server of your own log in, and creates Airflow's database."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from alchemist_core.__main__ import main
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import make_engine
from tests.conftest import ROLE_PASSWORD, drop_database

pytestmark = [pytest.mark.db]
VARIABLES = ("STORE_READER_PASSWORD", "STORE_WRITER_PASSWORD", "AIRFLOW_DATABASE_PASSWORD")


@pytest.fixture
def own_server(database_url: str, server_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A migrated store on a server of the user's own. The roles are those of the whole test server, so are their passwords."""
    for name in VARIABLES:
        monkeypatch.setenv(name, ROLE_PASSWORD)
    yield database_url
    engine = make_engine(server_url).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        drop_database(connection, "airflow")
    engine.dispose()


def user_of(url: str, login: str, database: str | None = None) -> str:
    address = make_url(url).set(username=login, password=ROLE_PASSWORD)
    engine = make_engine(
        (address.set(database=database) if database else address).render_as_string(hide_password=False)
    )
    with engine.connect() as connection:
        found = str(connection.execute(text("SELECT current_user")).scalar_one())
    engine.dispose()
    return found


def test_each_role_logs_in_afterwards_and_a_second_run_changes_nothing(
    own_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["db", "provision"]) == 0
    assert "Airflow's database was created" in capsys.readouterr().err
    assert main(["db", "provision"]) == 0
    assert "Airflow's database exists" in capsys.readouterr().err
    assert user_of(own_server, "alchemist_reader") == "alchemist_reader"
    assert user_of(own_server, "alchemist_writer") == "alchemist_writer"
    assert user_of(own_server, "alchemist_airflow", "airflow") == "alchemist_airflow"


def test_a_password_is_read_from_the_file_that_a_variable_names(
    own_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(f"{ROLE_PASSWORD}\n")
    monkeypatch.delenv("STORE_READER_PASSWORD")
    monkeypatch.setenv("STORE_READER_PASSWORD_FILE", str(tmp_path / "password"))
    assert main(["db", "provision"]) == 0
    assert user_of(own_server, "alchemist_reader") == "alchemist_reader"


def test_a_missing_password_is_named(
    own_server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORE_WRITER_PASSWORD")
    assert main(["db", "provision"]) == 2
    assert "STORE_WRITER_PASSWORD is not set" in capsys.readouterr().err


def test_the_embedded_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    load_settings.cache_clear()
    assert main(["db", "provision"]) == 2
    assert "ALCHEMIST_DATABASE_URL" in capsys.readouterr().err
