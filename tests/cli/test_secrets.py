"""A password of the store appears in no output, file, row, error or process list."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from sqlalchemy import make_url

from alchemist_core.store.engine import require_postgres
from alchemist_core.store.postgres import client_program
from tests.trained_store import TrainedStore

SECRET = "hunter2secret"
CHAIN = (
    ("score", "--dataset", "scenes", "--json"),
    ("night", "publish", "--dataset", "scenes"),
    ("select", "--dataset", "scenes", "--retention", "0.5"),
    ("subset", "publish", "scenes-auto-r50"),
    ("materialize", "scenes-auto-r50"),
    ("plan", "score", "--dataset", "scenes"),
    ("report", "--dataset", "scenes"),
    REFUSED := ("subset", "show", "no-such-subset"),
    ("db", "checksum"),
    ("db", "backup", "BACKUP"),
)


def run(words: tuple[str, ...], given: dict[str, str]) -> tuple[int, str, set[str]]:
    """The exit code and the output of a command, and every command line in the process list while it ran."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ALCHEMIST_")} | given
    seen: set[str] = set()
    with tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, "-m", "alchemist_core", *words]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            seen |= {
                line for folder in Path("/proc").iterdir() if folder.name.isdigit() and (line := read_line(folder))
            }
            time.sleep(0.02)
        output.seek(0)
        return process.returncode, output.read(), seen


def read_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@pytest.mark.slow
@pytest.mark.db
@pytest.mark.e2e
def test_a_planted_password_appears_nowhere(trained_store: TrainedStore, tmp_path: Path) -> None:
    password = make_url(trained_store.url).password
    assert password
    assert len(password) >= 8
    given = {"ALCHEMIST_DATABASE_URL": trained_store.url, "ALCHEMIST_HOME": str(trained_store.home)}
    for words in CHAIN:
        command = tuple(str(tmp_path / "backup") if word == "BACKUP" else word for word in words)
        code, said, seen = run(command, given)
        assert code == (2 if words == REFUSED else 0), (words, said)
        assert said
        assert "Traceback" not in said
        assert password not in said, words
        assert not [line for line in seen if password in line], words
    dumped = subprocess.run(
        [client_program("pg_dump"), "--schema=alchemist", trained_store.url], capture_output=True, text=True, check=True
    )
    assert "runs" in dumped.stdout
    assert password not in dumped.stdout
    folders = (trained_store.home, tmp_path / "backup")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert tmp_path / "backup" / "backup.json" in files
    assert trained_store.home / "artifacts" / "reports" / "scenes.html" in files
    assert not [path for path in files if password.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@127.0.0.1:1/x",
        pytest.param(f"postgresql://u:{SECRET}@127.0.0.1:port/x", marks=pytest.mark.slow),
        pytest.param(f"mysql://u:{SECRET}@127.0.0.1/x", marks=pytest.mark.slow),
        pytest.param(f"postgresql://u:{SECRET}@127.0.0.1:1/x?sslmode=nonsense", marks=pytest.mark.slow),
        pytest.param(SECRET, marks=pytest.mark.slow),
        f"postgresql://u:hunter@{SECRET}@127.0.0.1:1/x",
        f"postgresql://u:hunter@{SECRET}?x@127.0.0.1/x",
        pytest.param(f"postgresql://u:@{SECRET}/hunter@127.0.0.1:1/x", marks=pytest.mark.slow),
    ],
)
def test_a_url_that_cannot_be_used_is_an_error_that_keeps_the_password(url: str, tmp_path: Path) -> None:
    given = {"ALCHEMIST_DATABASE_URL": url, "ALCHEMIST_HOME": str(tmp_path)}
    code, said, _ = run(("plan", "score", "--dataset", "x"), given)
    assert code in (2, 3)
    assert said.startswith("error: ")
    assert "ALCHEMIST_DATABASE_URL" in said
    assert "Traceback" not in said
    assert SECRET not in said


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user@server:p@h/db",
        "postgresql://u:p?q@h/db?sslmode=require",
        "postgresql://u:p@h/db?application_name=me@corp&",
        "postgresql://h/db@2?user=me@corp&password=a@b",
    ],
)
def test_a_url_whose_password_has_no_at_is_accepted(url: str) -> None:
    assert require_postgres(url, "X") == url


def test_a_password_is_kept_out_of_what_doctor_reports_of_airflows_database(tmp_path: Path) -> None:
    for place in ("127.0.0.1/airflow", "127.0.0.1:1/airflow"):
        url = f"postgresql://u:p@x:{SECRET}@{place}"
        given = {"ALCHEMIST_AIRFLOW_DATABASE_URL": url, "ALCHEMIST_HOME": str(tmp_path)}
        code, said, _ = run(("doctor", "--parts", "pool"), given)
        assert code == 5
        assert "ALCHEMIST_AIRFLOW_DATABASE_URL is not a valid Postgres URL" in said
        assert SECRET not in said
