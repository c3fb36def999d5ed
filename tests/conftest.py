"""Fixtures of all tests: a clean environment for each test and, on request, an empty migrated database.

One Postgres server per test run, shared by xdist's workers: the embedded one in a temporary home, or ALCHEMIST_DATABASE_URL.
Each `database_url` is a copy of a template that was migrated once.
"""

import fcntl
import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import Connection, Engine, make_url, text
from sqlalchemy.exc import ProgrammingError
from xdist.scheduler import LoadFileScheduling

from alchemist_core import notifications
from alchemist_core.compute_defaults import set_compute_defaults
from alchemist_core.project import load_project
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import close_stores, make_engine, migrate
from alchemist_core.store.postgres import (
    DATA_ROOT,
    OWNER_FILE,
    SHARED_ROOT,
    is_running,
    start_postgres,
    stop_postgres,
)
from alchemist_core.telemetry import configure_logging

# Tests compute as the command line does; torch reads these when a test first loads it.
set_compute_defaults()

ROLE_PASSWORD = "for-this-test-server-only"
LEFT_BY = "alchemist-tests-of-"
# The machine may be busy, so the duration of an example is no property of the code.
settings.register_profile("alchemist", deadline=None)
# `make test` tries a fifth as many examples of each property; `make test-slow` tries them all.
settings.register_profile("quick", deadline=None, max_examples=20)
settings.load_profile("alchemist")

GIVEN_SERVER, SERVER_HOME = "ALCHEMIST_TEST_SERVER_URL", "ALCHEMIST_TEST_SERVER_HOME"
# The name of a migrated database on a given server, which is then copied instead of migrating one in every test run.
GIVEN_TEMPLATE = "ALCHEMIST_TEST_TEMPLATE"
FOLDER_OF_RUN = "ALCHEMIST_TEST_FOLDER"
# A test database need not survive a power cut. A running vacuum, whose worker the owner cannot end, would prevent dropping it.
FASTER_SERVER = """
    ALTER SYSTEM SET fsync = off;
    ALTER SYSTEM SET autovacuum = off;
    ALTER SYSTEM SET max_wal_size = '256MB';
    SELECT pg_reload_conf()
"""
# A copy of the template is some 700 small files, which cost a third of the time in memory. Late in a run, 744 MB were seen.
IN_MEMORY, LEAST_FREE_BYTES = Path("/dev/shm"), 6 << 30


# Thousands of modules and tests are made once and stay: the collector of garbage need not visit them again and again.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    # What tests load later, torch among it, is visited a hundred times less often.
    gc.set_threshold(100_000, 20, 100)
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    # pytest-alembic's own collector fails under pytest 9: test_schema.py imports its checks instead.
    config.option.pytest_alembic_tests_path = "not-collected"
    if hasattr(config, "workerinput"):
        return  # A worker of xdist inherits the controller's environment.
    _remove_leftovers()
    for variable, place in ((SERVER_HOME, place_of_server()), (FOLDER_OF_RUN, None)):
        folder = Path(tempfile.mkdtemp(prefix=f"{LEFT_BY}{os.getpid()}-", dir=place))
        folder.chmod(0o755)  # So that the account that runs the server for root can reach it.
        os.environ[variable] = str(folder)
    if given := os.environ.get("ALCHEMIST_DATABASE_URL"):
        os.environ[GIVEN_SERVER] = given


class _ByLibrary(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives a file to one worker, and all files that import Airflow to the same one, because the import takes many seconds."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/dags" if nodeid.startswith("tests/dags/") else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByLibrary:
    return _ByLibrary(config, log)


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or SERVER_HOME not in os.environ:
        return
    for variable in (SERVER_HOME, FOLDER_OF_RUN):
        _remove(Path(os.environ.pop(variable)))


def place_of_server() -> Path | None:
    try:
        free = shutil.disk_usage(IN_MEMORY).free
    except OSError:
        return None
    return IN_MEMORY if free >= LEAST_FREE_BYTES and os.access(IN_MEMORY, os.W_OK) else None


def _remove_leftovers() -> None:
    """Stop the servers of test runs that were killed."""
    for home in [home for place in (Path(tempfile.gettempdir()), IN_MEMORY) for home in place.glob(f"{LEFT_BY}*")]:
        pid = int(home.name.removeprefix(LEFT_BY).split("-")[0])
        # Another test run may remove the folder at the same moment.
        with suppress(FileNotFoundError):
            if home.stat().st_uid == os.geteuid() and not Path(f"/proc/{pid}").exists():
                _remove(home)


def once(name: str, make: Callable[[], str]) -> str:
    """Return what `make` returned in the first worker of xdist that asked for this name; the others wait for it.

    On a given server each worker makes its own, because each drops its databases at its end.
    """
    if GIVEN_SERVER in os.environ:
        return make()
    made = Path(os.environ[SERVER_HOME]) / f"made-{name}"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if not made.exists():
                made.write_text(make())
        finally:
            # Closing the file is not enough: a process that was forked meanwhile has it open too.
            fcntl.flock(lock, fcntl.LOCK_UN)
    return made.read_text()


def folder_of_run(name: str) -> Path:
    """Return a new folder of this name, which is removed at the end of the test run, after the last worker."""
    return Path(tempfile.mkdtemp(dir=os.environ[FOLDER_OF_RUN])) / name


def _remove(home: Path) -> None:
    if is_running(home):
        stop_postgres(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [
        name for name in os.environ if name.startswith("ALCHEMIST_") and not name.startswith("ALCHEMIST_TEST_")
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path / "alchemist-home"))
    _forget_settings()
    # What an earlier test announced belongs to its store.
    notifications._senders.clear()
    yield
    _forget_settings()


@pytest.fixture(scope="session", autouse=True)
def _no_data_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the data of homes in pytest's folder: root's server cannot enter it, so they are in /var/lib."""
    yield
    for owner in chain(*(root.glob(f"alchemist-*/{OWNER_FILE}") for root in (DATA_ROOT, SHARED_ROOT))):
        # Another test run may remove its own at the same moment.
        with suppress(FileNotFoundError):
            if (home := Path(owner.read_text().partition("\n")[0]).parent).is_relative_to(
                tmp_path_factory.getbasetemp()
            ):
                stop_postgres(home)
                shutil.rmtree(owner.parent)


@pytest.fixture(scope="module", autouse=True)
def _own_connections() -> Iterator[None]:
    """Close a module's connections after it: the databases of all modules stay until the end, and one server holds 200."""
    yield
    close_stores()


def _forget_settings() -> None:
    load_settings.cache_clear()
    load_project.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def _logging() -> None:
    # Stages that tests call without the command line print their lines all the same.
    configure_logging()


@pytest.fixture(scope="session")
def server_url() -> str:
    """The URL of a database on the server of this test run, whose user may create databases."""
    if given := os.environ.get(GIVEN_SERVER):
        return given
    server = start_postgres(Path(os.environ[SERVER_HOME]))
    server.run_sql(FASTER_SERVER)
    return server.url()


@pytest.fixture(scope="session")
def server(server_url: str) -> Iterator[Connection]:
    """A connection to the server of this test run, which makes and drops databases."""
    engine = make_engine(server_url).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture(scope="session")
def make_database(server: Connection, server_url: str) -> Iterator[Callable[..., str]]:
    """Make databases that live until the end of the run: make_database() is migrated, make_database(template=None) is empty."""

    def make_template() -> str:
        name = _create(server, None)
        migrate(_address(server_url, name))
        return name

    given_template = os.environ.get(GIVEN_TEMPLATE)
    template = given_template or once("template", make_template)
    names = [] if given_template else [template]

    def make(*, template: str | None = template) -> str:
        names.append(_create(server, template))
        return _address(server_url, names[-1])

    yield make
    # The server of this test run is removed with all its databases.
    for name in reversed(names) if GIVEN_SERVER in os.environ else ():
        drop_database(server, name)


@pytest.fixture
def database_url(
    make_database: Callable[..., str], server: Connection, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A fresh migrated database, which settings of this test and commands that it starts use; dropped afterwards."""
    url = make_database()
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", url)
    load_settings.cache_clear()
    yield url
    drop_database(server, str(make_url(url).database))


@pytest.fixture
def log_in_at(server_url: str) -> Callable[[str, str], str]:
    """log_in_at(url, role): the URL of the same database for another role of this test run's server."""

    def give_password(url: str, role: str) -> str:
        owner = make_engine(server_url)
        with owner.begin() as connection:
            # Roles belong to the whole server, so another worker of xdist may run this at the same time.
            connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
            connection.execute(text(f"ALTER ROLE {role} PASSWORD '{ROLE_PASSWORD}'"))
        owner.dispose()
        return make_url(url).set(username=role, password=ROLE_PASSWORD).render_as_string(hide_password=False)

    return give_password


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on this test's database."""
    yield from dispose_after(database_url)


def dispose_after(url: str) -> Iterator[Engine]:
    made = make_engine(url)
    yield made
    made.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A connection to this test's database, rolled back afterwards."""
    yield from roll_back_after(engine)


def roll_back_after(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as made:
        yield made
        made.rollback()


def drop_database(connection: Connection, name: str) -> None:
    ends_at = time.monotonic() + 30
    while True:
        try:
            connection.exec_driver_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        except ProgrammingError as error:
            # A reader's session, which only a superuser may end, was closed and is about to end.
            if not isinstance(error.orig, InsufficientPrivilege) or time.monotonic() > ends_at:
                raise
            time.sleep(0.1)
        else:
            return


def _create(connection: Connection, template: str | None) -> str:
    name = f"alchemist_test_{uuid4().hex[:12]}"
    source = f'TEMPLATE "{template}"' if template else "TEMPLATE template0"
    # Copying files takes less than writing each page to the log.
    connection.exec_driver_sql(f'CREATE DATABASE "{name}" {source} STRATEGY FILE_COPY')
    return name


def _address(server_url: str, database: str) -> str:
    url = make_url(server_url).set(drivername="postgresql", database=database)
    return url.render_as_string(hide_password=False)
