"""All commands share one embedded server, even if the command that started it is killed."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from alchemist_core.errors import MissingDependencyError, StoreError
from alchemist_core.store import postgres
from alchemist_core.store.engine import migrate
from alchemist_core.store.postgres import (
    LOGINS,
    PASSWORDS_SET,
    EmbeddedPostgres,
    is_running,
    psql_path,
    start_postgres,
    stop_postgres,
    unset,
    write_secret,
)

pytestmark = [pytest.mark.db]

START = """
import sys
from pathlib import Path
from alchemist_core.store.postgres import start_postgres
print(start_postgres(Path(sys.argv[1])).port, flush=True)
"""


@contextmanager
def temporary_home() -> Iterator[Path]:
    # Not tmp_path: pytest's is 0700, and only one test is about that.
    with tempfile.TemporaryDirectory(prefix="alchemist-postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = Path(folder) / "home"
        yield made
        stop_postgres(made)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home without a server."""
    with temporary_home() as made:
        yield made


@pytest.fixture(scope="module")
def used_home() -> Iterator[Path]:
    """A home whose server the tests share; each leaves it able to start."""
    with temporary_home() as made:
        yield made


@pytest.fixture
def closed_home(home: Path) -> Iterator[Path]:
    """A home in a folder that only root can enter, whose server is therefore elsewhere; it runs."""
    if os.geteuid() != 0:
        pytest.skip("only root's server may lie outside its home")
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)
    server = start_postgres(closed / "home")
    yield closed / "home"
    for folder in closed.iterdir():
        stop_postgres(folder)
    shutil.rmtree(server.data_dir.parent)


def postmaster(home: Path) -> int:
    return int((start_postgres(home).data_dir / "postmaster.pid").read_text().split()[0])


def ask(url: str, sql: str) -> str:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return str(cursor.fetchone()[0]) if cursor.description else ""
    finally:
        connection.close()


def test_a_second_start_finds_the_same_server_and_stop_ends_it(used_home: Path) -> None:
    server = start_postgres(used_home)
    assert start_postgres(used_home) == server
    assert server.port < 32768
    assert ask(server.url(), "SHOW timezone") == "UTC"
    assert stop_postgres(used_home)
    assert not is_running(used_home)
    assert not stop_postgres(used_home)
    if os.geteuid() == 0:
        owner = server.data_dir.stat()
        os.chown(server.data_dir, 0, 0)
        with pytest.raises(
            StoreError, match=rf"belongs to user 0, and the server runs as user {owner.st_uid}\..*cp -a"
        ):
            start_postgres(used_home)
        os.chown(server.data_dir, owner.st_uid, owner.st_gid)
    assert start_postgres(used_home) == server, "port and password are remembered"


@pytest.mark.slow
def test_processes_that_start_at_once_share_one_server(home: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", START, home], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    ports = {process.communicate()[0].strip() for process in started}
    assert ports == {str(start_postgres(home).port)}


@pytest.mark.slow
def test_the_server_outlives_a_killed_parent_and_its_process_group(home: Path) -> None:
    code = f"{START}\nimport time\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, home], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout
        parent.stdout.readline()
        os.killpg(parent.pid, signal.SIGKILL)
        # The pipe ends although the server lives: it holds no end of it.
        assert parent.stdout.read() == b""
    assert is_running(home)


@pytest.mark.slow
def test_a_killed_server_starts_again_with_its_data(used_home: Path) -> None:
    server = start_postgres(used_home)
    ask(server.url(), "CREATE TABLE kept AS SELECT 7 AS n")
    os.kill(postmaster(used_home), signal.SIGKILL)
    while is_running(used_home):
        time.sleep(0.05)
    assert ask(start_postgres(used_home).url(), "SELECT n FROM kept") == "7"


def test_a_pid_file_that_names_a_stranger_does_not_stop_the_start(used_home: Path) -> None:
    server = start_postgres(used_home)
    stop_postgres(used_home)
    (server.data_dir / "postmaster.pid").write_text(
        f"{os.getpid()}\n{server.data_dir}\n1\n{server.port}\n\n\n\nready\n"
    )
    assert not is_running(used_home)
    assert start_postgres(used_home).port == server.port


@pytest.mark.slow
def test_a_half_made_cluster_is_made_again(home: Path) -> None:
    server = start_postgres(home)
    stop_postgres(home)
    (home / "postgres" / "server.json").unlink()
    (server.data_dir / "PG_VERSION").unlink()
    (server.data_dir.parent / ".data.part").mkdir()
    assert ask(start_postgres(home).url(), "SELECT 1") == "1"


@pytest.mark.slow
def test_a_deleted_home_starts_empty(home: Path) -> None:
    ask(start_postgres(home).url(), "CREATE TABLE gone (n int)")
    stop_postgres(home)
    shutil.rmtree(home)
    assert ask(start_postgres(home).url(), "SELECT to_regclass('gone') IS NULL") == "True"


def test_a_complete_store_that_lost_a_file_is_refused_and_keeps_its_data(used_home: Path) -> None:
    """Before, the rest of its data was deleted, and an empty store was made without a word."""
    data = start_postgres(used_home).data_dir
    stop_postgres(used_home)
    kept = (data / "PG_VERSION").rename(used_home / "kept")
    with pytest.raises(
        StoreError, match=rf"PG_VERSION is missing.*alchemist db restore.*delete {used_home / 'postgres'}\."
    ):
        start_postgres(used_home)
    assert list((data / "base").iterdir())
    kept.rename(data / "PG_VERSION")
    assert ask(start_postgres(used_home).url(), "SELECT 1") == "1"


def test_a_store_that_lost_the_owners_password_gets_another_one_and_without_any_password_it_is_refused(
    used_home: Path,
) -> None:
    ask(start_postgres(used_home).url(), "CREATE TABLE IF NOT EXISTS here AS SELECT 7 AS n")
    stop_postgres(used_home)
    (used_home / "postgres" / "password").unlink()
    assert ask(start_postgres(used_home).url(), "SELECT n FROM here") == "7"
    stop_postgres(used_home)
    lost = [used_home / "postgres" / name for name in ("password", "password-postgres")]
    passwords = [path.read_text() for path in lost]
    (used_home / "postgres" / "password-postgres").unlink()
    with pytest.raises(StoreError, match="nobody can log in"):
        start_postgres(used_home)
    (used_home / "postgres" / "password").unlink()
    with pytest.raises(StoreError, match=r"Its data are there.*Put the password files of that folder back"):
        start_postgres(used_home)
    for path, password in zip(lost, passwords, strict=True):
        write_secret(path, password)
    assert ask(start_postgres(used_home).url(), "SELECT n FROM here") == "7"


def test_a_taken_port_is_left_alone(used_home: Path) -> None:
    port = start_postgres(used_home).port
    stop_postgres(used_home)
    with socket.create_server(("127.0.0.1", port)):
        assert start_postgres(used_home).port != port


def test_a_server_that_ends_right_after_its_start_is_an_error_of_the_store_and_the_next_start_works(
    used_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_postgres(used_home)
    launch = postgres._launch

    def launch_and_end(place: Path, account: Any, port: int) -> None:
        launch(place, account, port)
        postgres._stop(place, account, mode="fast")

    with monkeypatch.context() as patched:
        patched.setattr(postgres, "_launch", launch_and_end)
        # The supervisor tries again after an error of the store, and ended after any other.
        with pytest.raises(StoreError, match=r"ended right after it started(.|\n)*database system is shut down"):
            start_postgres(used_home)
    assert ask(start_postgres(used_home).url(), "SELECT 1") == "1"


def test_login_requires_the_password(used_home: Path) -> None:
    server = start_postgres(used_home)
    files = list((used_home / "postgres").glob("password*"))
    assert len(files) == len(set(server.passwords.values())) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert not [password for password in server.passwords.values() if password in repr(server)]
    for host in ("127.0.0.1", server.socket_dir):
        for user in server.passwords:
            with pytest.raises(psycopg2.OperationalError, match="password"):
                psycopg2.connect(host=str(host), port=server.port, user=user, dbname="alchemist", passfile="/nowhere")


def test_each_role_logs_in_with_its_own_password_and_no_other(used_home: Path) -> None:
    server = start_postgres(used_home)
    for role, login in LOGINS.items():
        assert ask(server.url(role=role), "SELECT current_user") == login
        for other in server.passwords.keys() - {login}:
            stranger = server.url(role=role).replace(server.passwords[login], server.passwords[other])
            with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
                psycopg2.connect(stranger)
    stored = server.run_sql("SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")
    assert all(line.startswith("SCRAM-SHA-256$") for line in stored.splitlines())


def make_old(home: Path) -> EmbeddedPostgres:
    """Turn a home into one of older code: one password for owner and superuser, no other roles, nothing noted of them."""
    server = start_postgres(home)
    record = home / "postgres" / "server.json"
    owner = server.passwords["alchemist"]
    server.run_sql(f"""
        DROP OWNED BY alchemist_writer, alchemist_reader; DROP ROLE alchemist_writer, alchemist_reader, alchemist_airflow;
        ALTER ROLE postgres PASSWORD '{owner}'; ALTER ROLE alchemist PASSWORD '{owner}'
    """)
    for name in ("postgres", "alchemist_writer", "alchemist_reader", "alchemist_airflow"):
        (home / "postgres" / f"password-{name}").unlink()
    record.write_text(
        json.dumps({key: value for key, value in json.loads(record.read_text()).items() if key != PASSWORDS_SET})
    )
    return server


@pytest.mark.slow
@pytest.mark.parametrize("is_up", [True, False])
def test_an_older_home_gets_a_password_for_each_role_and_keeps_its_data(home: Path, *, is_up: bool) -> None:
    old = make_old(home)
    migrate(old.url())
    ask(old.url(), "CREATE TABLE kept AS SELECT 7 AS n")
    if not is_up:
        stop_postgres(home)
    server = start_postgres(home)
    assert server.url() == old.url(), "what runs already goes on with the owner's password"
    assert ask(server.url(), "SELECT n FROM kept") == "7"
    assert ask(server.url(role="reader"), "SELECT count(*) FROM alchemist.datasets") == "0"
    ask(
        server.url(role="writer"),
        "INSERT INTO alchemist.datasets (name, root_uri, role) VALUES ('web', '/web', 'train')",
    )
    assert len(set(server.passwords.values())) == 5
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(server.url().replace("//alchemist:", "//postgres:"))


@pytest.mark.slow
def test_roles_that_exist_before_the_first_migration_get_their_rights_and_limits_from_it(home: Path) -> None:
    server = start_postgres(home)
    migrate(server.url())
    assert ask(server.url(role="reader"), "SHOW default_transaction_read_only") == "on"
    assert ask(server.url(role="reader"), "SHOW statement_timeout") == "1min"
    assert ask(server.url(role="writer"), "SHOW default_transaction_read_only") == "off"


@pytest.mark.slow
def test_an_owner_that_may_not_alter_the_reader_migrates_after_a_reader_changed_its_own_limits(home: Path) -> None:
    """As on a server where an administrator created the roles: ADMIN OPTION alone does not allow ALTER ROLE."""
    server = start_postgres(home)
    migrate(server.url())
    server.run_sql("ALTER ROLE alchemist NOCREATEROLE; ALTER ROLE alchemist_reader SET statement_timeout = 0")
    assert migrate(server.url(), should_reapply=True)
    assert ask(server.url(role="reader"), "SHOW statement_timeout") == "0"
    assert ask(server.url(role="reader"), "SELECT count(*) FROM alchemist.datasets") == "0"


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["password-postgres", "password-alchemist_reader"])
def test_a_start_that_was_killed_between_file_and_server_is_done_again(home: Path, lost: str) -> None:
    make_old(home)
    (home / "postgres" / lost).write_text("written, and then killed")
    server = start_postgres(home)
    assert (home / "postgres" / lost).read_text() == "written, and then killed"
    assert ask(server.url(role="reader"), "SELECT 1") == "1"
    assert server.run_sql("SELECT 1").strip() == "1"


@pytest.mark.slow
def test_a_start_that_was_killed_before_the_note_is_done_again(home: Path) -> None:
    before = start_postgres(home)
    unset(home / "postgres" / "server.json")
    server = start_postgres(home)
    assert server == before
    assert ask(server.url(role="reader"), "SELECT 1") == "1"
    assert server.run_sql("SELECT 1").strip() == "1"


@pytest.mark.slow
def test_no_password_is_in_the_servers_log_whatever_it_logs(home: Path) -> None:
    server = start_postgres(home)
    server.run_sql("ALTER SYSTEM SET log_statement = 'all'; SELECT pg_reload_conf()")
    unset(home / "postgres" / "server.json")
    (home / "postgres" / "password-alchemist_reader").unlink()
    server = start_postgres(home)
    log = (server.data_dir.parent / "log").read_text()
    assert "ALTER ROLE alchemist_reader LOGIN PASSWORD" in log
    assert not [password for password in server.passwords.values() if password in log]


def test_the_owner_is_no_superuser_and_gets_databases_on_demand(used_home: Path) -> None:
    server = start_postgres(used_home)
    url = server.create_database("airflow")
    assert server.create_database("airflow") == url
    assert ask(url, "SELECT current_database() || ' ' || current_setting('is_superuser')") == "airflow off"


def test_airflows_database_becomes_its_own_roles_and_that_role_reads_nothing_of_the_store(used_home: Path) -> None:
    server = start_postgres(used_home)
    older = server.create_database("history")
    ask(older, "CREATE TYPE mood AS ENUM ('well'); CREATE TABLE runs (run_id serial, mood mood); SELECT 'made'")
    ask(server.url(), "CREATE SCHEMA alchemist; CREATE TABLE alchemist.scores (); SELECT 'made'")
    url = server.create_database("history", role="airflow")
    assert (
        ask(url, "SELECT string_agg(DISTINCT tableowner, ',') FROM pg_tables WHERE tablename = 'runs'")
        == "alchemist_airflow"
    )
    assert (
        ask(url, "ALTER TYPE mood ADD VALUE 'better'; INSERT INTO runs (mood) VALUES ('well'); SELECT 'written'")
        == "written"
    )
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        ask(server.url(role="airflow"), "SELECT 'read' FROM alchemist.scores")


def test_psql_of_the_wheel_runs() -> None:
    assert "PostgreSQL" in subprocess.run([psql_path(), "--version"], capture_output=True, text=True, check=True).stdout


def test_without_the_extra_no_client_program_is_missed_for_want_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"\[local\]', or run the command where it is installed\.$"):
        psql_path()
    with pytest.raises(MissingDependencyError, match="or set ALCHEMIST_DATABASE_URL"):
        postgres._install()


@pytest.mark.slow
def test_a_very_long_home_works(home: Path) -> None:
    long = home / ("deep-" * 20) / ("folder-" * 10)
    try:
        assert ask(start_postgres(long).url(), "SELECT 1") == "1"
    finally:
        stop_postgres(long)


@pytest.mark.slow
def test_root_gets_a_server_even_where_others_cannot_walk(closed_home: Path) -> None:
    server = start_postgres(closed_home)
    assert not server.data_dir.is_relative_to(closed_home.parent)
    # systemd deletes from these what was not used for 30 days.
    assert not [folder for folder in ("/tmp", "/var/tmp") if server.data_dir.is_relative_to(folder)]
    assert server.data_dir.stat().st_uid != 0
    assert ask(server.url(), "SELECT 1") == "1"
    assert start_postgres(closed_home) == server


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server may lie outside its home")
def test_where_var_lib_is_read_only_data_are_in_var_tmp_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = tmp_path / "home" / "postgres" / "server"
    tmp_path.chmod(0o700)
    account = postgres.find_account()
    assert postgres.reachable_folder(wanted, account).parent == Path("/var/lib")
    monkeypatch.setattr(postgres, "DATA_ROOT", tmp_path / "absent")
    monkeypatch.setattr(postgres, "NOT_CLEANED", tmp_path / "alchemist.conf")
    place = postgres.reachable_folder(wanted, account)
    assert place.parent == Path("/var/tmp")
    postgres._warn_of_cleaning(place)
    assert f"write the line 'x /var/tmp/alchemist-*' into {tmp_path / 'alchemist.conf'}" in capsys.readouterr().err
    (tmp_path / "alchemist.conf").touch()
    postgres._warn_of_cleaning(place)
    assert not capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_folder_that_is_a_link_is_refused(home: Path) -> None:
    (home / "postgres").mkdir(parents=True)
    (home / "postgres" / "password").write_text("known")
    (home / "elsewhere").mkdir()
    (home / "postgres" / "server").symlink_to(home / "elsewhere")
    with pytest.raises(StoreError, match="another user"):
        start_postgres(home)


def copy_home(home: Path, to: Path) -> Path:
    subprocess.run(["cp", "-a", home, to], check=True)
    return to


def test_a_home_that_was_copied_while_its_server_runs_never_uses_the_originals(used_home: Path, tmp_path: Path) -> None:
    original = start_postgres(used_home)
    copied = copy_home(used_home, used_home.parent / f"copy-of-{used_home.name}")
    assert not is_running(copied)
    with pytest.raises(StoreError, match=f"is a copy of the home .* {original.data_dir}.*alchemist db backup"):
        start_postgres(copied)
    assert not stop_postgres(copied)
    assert is_running(used_home), "the original's server was not stopped"
    stop_postgres(used_home)
    with pytest.raises(StoreError, match="is a copy"):
        start_postgres(copied)
    shutil.rmtree(copied)


@pytest.mark.slow
def test_a_home_that_was_copied_while_its_server_was_down_has_a_server_of_its_own(used_home: Path) -> None:
    ask(start_postgres(used_home).url(), "CREATE TABLE apart AS SELECT 7 AS n")
    stop_postgres(used_home)
    copied = copy_home(used_home, used_home.parent / "calm-copy")
    original, own = start_postgres(used_home), start_postgres(copied)
    try:
        assert own.port != original.port
        ask(own.url(), "UPDATE apart SET n = 8")
        assert (ask(original.url(), "SELECT n FROM apart"), ask(own.url(), "SELECT n FROM apart")) == ("7", "8")
    finally:
        stop_postgres(copied)
        shutil.rmtree(copied)
    assert is_running(used_home)


@pytest.mark.slow
def test_a_home_that_was_moved_after_its_server_was_killed_starts(home: Path) -> None:
    ask(start_postgres(home).url(), "CREATE TABLE kept AS SELECT 7 AS n")
    os.kill(postmaster(home), signal.SIGKILL)
    while is_running(home):
        time.sleep(0.05)
    moved = home.rename(home.parent / "moved")
    try:
        assert ask(start_postgres(moved).url(), "SELECT n FROM kept") == "7"
    finally:
        stop_postgres(moved)


@pytest.mark.slow
def test_a_copy_of_a_home_whose_data_are_elsewhere_does_not_use_them(closed_home: Path) -> None:
    server = start_postgres(closed_home)
    copied = copy_home(closed_home, closed_home.with_name("copy"))
    assert not is_running(copied)
    assert not stop_postgres(copied)
    with pytest.raises(StoreError, match=f"is a copy of the home .* {server.data_dir.parent}"):
        start_postgres(copied)
    stop_postgres(closed_home)
    moved = closed_home.rename(closed_home.with_name("moved"))
    assert start_postgres(moved).data_dir == server.data_dir


@pytest.mark.slow
@pytest.mark.parametrize(("is_up", "is_older"), [(True, False), (False, False), (False, True)])
def test_a_new_home_where_one_was_moved_away_has_a_folder_of_its_own(
    closed_home: Path, capsys: pytest.CaptureFixture[str], *, is_up: bool, is_older: bool
) -> None:
    """Before, the data of the moved home were deleted."""
    server = start_postgres(closed_home)
    ask(server.url(), "CREATE TABLE kept AS SELECT 7 AS n")
    if not is_up:
        stop_postgres(closed_home)
    if is_older:
        (closed_home / "postgres" / "elsewhere").unlink()
        (server.data_dir.parent / "home").write_text(str(closed_home / "postgres"))
    moved = closed_home.rename(closed_home.with_name("moved"))
    new = start_postgres(closed_home)
    try:
        said = capsys.readouterr().err
        assert f"Homes that were at this path before left their data in {server.data_dir.parent}. Delete" in said
        assert ask(new.url(), "SELECT to_regclass('kept') IS NULL") == "True"
        assert ask(start_postgres(moved).url(), "SELECT n FROM kept") == "7"
        assert start_postgres(closed_home) == new
    finally:
        stop_postgres(closed_home)
        shutil.rmtree(new.data_dir.parent)


@pytest.mark.slow
def test_a_first_start_that_was_killed_where_a_home_was_moved_away_does_not_take_its_data(
    closed_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_postgres(closed_home)
    stop_postgres(closed_home)
    (server.data_dir.parent / "home").write_text(str(closed_home / "postgres"))
    closed_home.rename(closed_home.with_name("moved"))

    def stop_after_one(folder: Path) -> dict[str, str]:
        write_secret(folder / "password", "x")
        raise OSError

    with monkeypatch.context() as patched:
        patched.setattr(postgres, "make_passwords", stop_after_one)
        with pytest.raises(OSError, match=r"^$"):
            start_postgres(closed_home)
    new = start_postgres(closed_home)
    try:
        assert new.data_dir != server.data_dir
    finally:
        stop_postgres(closed_home)
        shutil.rmtree(new.data_dir.parent)


def test_a_copy_of_a_home_without_its_data_never_uses_the_originals(used_home: Path) -> None:
    start_postgres(used_home)
    copied = copy_home(used_home, used_home.parent / f"empty-copy-of-{used_home.name}")
    shutil.rmtree(copied / "postgres" / "server")
    assert not is_running(copied)
    with pytest.raises(StoreError, match="records a complete store"):
        start_postgres(copied)
    assert not stop_postgres(copied)
    assert is_running(used_home), "the original's server was not stopped"
    shutil.rmtree(copied)


def test_a_home_of_older_code_finds_its_data_in_var_tmp_without_its_record(
    closed_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stop_postgres(closed_home)
    data = postgres.server_dir(closed_home)
    for path in (closed_home / "postgres" / "server.json", closed_home / "postgres" / "elsewhere"):
        path.unlink()
    older = Path(shutil.move(data, Path("/var/tmp") / data.name))
    (older / "home").write_text(str(closed_home / "postgres"))
    try:
        assert postgres.server_dir(closed_home) == older
    finally:
        shutil.move(older, data)
