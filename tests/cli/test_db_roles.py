"""`db url` and `db psql` log in as the reader unless another role is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from alchemist_core.__main__ import main
from alchemist_core.settings import load_settings
from alchemist_core.store.postgres import start_postgres, stop_postgres

pytestmark = [pytest.mark.db]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory):
    made = tmp_path_factory.mktemp("roles") / "home"
    start_postgres(made)
    yield made
    stop_postgres(made)


def alchemist(*words: str, **given: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ALCHEMIST_", "PG"))
    } | given
    command = [sys.executable, "-m", "alchemist_core", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "login"),
    [
        ((), "alchemist_reader"),
        pytest.param(("--role", "reader"), "alchemist_reader", marks=pytest.mark.slow),
        pytest.param(("--role", "writer"), "alchemist_writer", marks=pytest.mark.slow),
        pytest.param(("--role", "owner"), "alchemist", marks=pytest.mark.slow),
    ],
)
def test_url_and_psql_are_the_readers_unless_another_role_is_named(
    home: Path, words: tuple[str, ...], login: str
) -> None:
    printed = alchemist("db", "url", *words, ALCHEMIST_HOME=str(home)).stdout.strip()
    assert make_url(printed).username == login
    said = alchemist("db", "psql", *words, "-AXtc", "SELECT current_user", ALCHEMIST_HOME=str(home))
    assert said.stdout.strip() == login, said.stderr


@pytest.mark.slow
def test_starting_prints_the_readers_url(home: Path) -> None:
    assert make_url(alchemist("db", "start", ALCHEMIST_HOME=str(home)).stdout.strip()).username == "alchemist_reader"


@pytest.mark.parametrize(
    ("user", "words", "printed_login"),
    [
        ("carol", ("--role", "owner"), ("carol", "hidden")),
        ("carol", (), ("alchemist_reader", None)),
        ("alchemist_writer", ("--role", "writer"), ("alchemist_writer", "hidden")),
        ("alchemist_reader", (), ("alchemist_reader", "hidden")),
        ("alchemist_writer", ("--role", "owner"), ("alchemist", None)),
    ],
)
@pytest.mark.parametrize(
    "given",
    [
        "postgresql+psycopg2://{}:hidden@host:5000/store?",
        # libpq accepts the login in the query, too.
        "postgresql:///store?host=/sockets&user={}&password=hidden&",
    ],
)
def test_the_url_of_a_given_server_has_the_secrets_of_its_own_user_only(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: str,
    user: str,
    words: tuple[str, ...],
    printed_login: tuple[str, str | None],
) -> None:
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", f"{given.format(user)}sslpassword=hidden&sslmode=require")
    load_settings.cache_clear()
    assert main(["db", "url", *words]) == 0
    printed = capsys.readouterr()
    url = make_url(printed.out.strip())
    assert (url.username, url.password) == printed_login
    is_in_query = "host=" in given
    place = (None, None) if is_in_query else ("host", 5000)
    assert (url.host, url.port, url.database) == (*place, "store")
    wanted = {"host": "/sockets"} if is_in_query else {}
    wanted |= {"sslpassword": "hidden"} if url.password else {}
    assert dict(url.query) == wanted | {"sslmode": "require"}
    assert url.drivername == "postgresql"
    assert ("PGPASSWORD" in printed.err) == (url.password is None)
    assert "hidden" not in printed.err


@pytest.mark.slow
def test_psql_on_a_given_server_is_its_own_user_and_reads_only_unless_a_role_is_named(home: Path) -> None:
    given = {"ALCHEMIST_DATABASE_URL": start_postgres(home).url()}
    write = ("-AXqtc", "CREATE TEMPORARY TABLE t AS SELECT current_user AS login; TABLE t")
    refused = alchemist("db", "psql", "-AXtc", "CREATE TABLE never (n int)", **given)
    assert "read-only transaction" in refused.stderr
    assert alchemist("db", "psql", "--role", "owner", *write, **given).stdout.strip() == "alchemist"


def test_psql_accepts_a_url_of_sqlalchemy_whose_password_is_in_a_variable(home: Path) -> None:
    own = make_url(start_postgres(home).url())
    url = f"postgresql+psycopg2://{own.username}@{own.host}:{own.port}/{own.database}?options=-c%20statement_timeout%3D7654"
    given = {"ALCHEMIST_DATABASE_URL": url, "PGPASSWORD": str(own.password)}
    said = alchemist("db", "psql", "-AXtc", "SHOW statement_timeout", "-c", "SHOW transaction_read_only", **given)
    assert said.stdout.split() == ["7654ms", "on"], said.stderr
