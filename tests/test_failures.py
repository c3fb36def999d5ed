"""A command always ends with one line and an exit code; the traceback of a defect goes to a file."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alchemist_core.__main__ import main
from alchemist_core.cli import stack
from alchemist_core.cli.failures import explain
from alchemist_core.settings import load_settings


@pytest.mark.parametrize(("number", "code", "remedy"), [
    (errno.ENOENT, 2, "Check the path"),
    (errno.EACCES, 2, "Change its permissions"),
    (errno.EROFS, 2, "ALCHEMIST_HOME"),
    (errno.ENOSPC, 1, "Free space"),
    (errno.ENAMETOOLONG, 2, "shorter"),
    (errno.EIO, 1, "Check the path, the disk"),
])  # fmt: skip
def test_an_error_of_the_system_names_the_path_and_a_remedy(number: int, code: int, remedy: str) -> None:
    known = explain(OSError(number, os.strerror(number), "/data/shard.tar"))
    assert known is not None
    assert known.exit_code == code
    assert "/data/shard.tar" in str(known)
    assert remedy in str(known)


def test_a_full_disk_of_a_copy_is_that_of_its_target(tmp_path: Path) -> None:
    """As `shutil.copy2` reports it; a source that is missing is still the first name."""
    full = explain(OSError(errno.ENOSPC, "No space left", "/home/raters/a", None, "/backups/raters/a"))
    assert str(full).startswith("The disk is full at /backups/raters/a. ")
    gone = explain(OSError(errno.ENOENT, "No such file", "/home/raters/a", None, "/backups/raters/a"))
    assert str(gone).startswith("/home/raters/a does not exist")


@pytest.mark.parametrize(("error", "remedy"), [
    (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/1: file write failed"), "Free space"),
    (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "The disk is full"),
    (FileNotFoundError("No such file or directory: /data/model.safetensors"), "Check the path"),
    (MemoryError(), "smaller batches"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "not valid UTF-8"),
])  # fmt: skip
def test_log_lines_of_libraries_are_parsed(error: Exception, remedy: str) -> None:
    assert remedy in str(explain(error))


@pytest.fixture
def _defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def divide(_config: object) -> None:
        error = ZeroDivisionError("division of\nnothing")
        error.add_note("run 12")
        raise error

    monkeypatch.setitem(stack.COMMANDS, "logs", stack.COMMANDS["logs"]._replace(run=divide))


@pytest.mark.usefixtures("_defect")
def test_a_defect_is_one_line_with_its_run_and_the_file_of_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stack", "logs"]) == 1
    said = capsys.readouterr().err
    path = load_settings().home.resolve() / "logs" / "errors.log"
    assert said.startswith("error: This is a defect of Alchemist: ZeroDivisionError in run 12: division of")
    assert f"in {path}" in said
    assert len(said.splitlines()) == 1
    assert "Traceback" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("_defect")
def test_a_traceback_is_printed_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_TRACEBACK", "1")
    assert main(["stack", "logs"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.usefixtures("_defect")
def test_a_home_that_cannot_be_written_does_not_lose_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    load_settings.cache_clear()
    assert main(["stack", "logs"]) == 1
    (kept,) = tmp_path.glob("alchemist-error-*")
    assert f"in {kept}" in capsys.readouterr().err
    assert "ZeroDivisionError" in kept.read_text()


@pytest.mark.parametrize(("name", "value", "said"), [
    ("lease_ttl_s", "soon", "ALCHEMIST_LEASE_TTL_S (Seconds without a heartbeat"),
    ("score_slots", "0", "greater than or equal to 1, not '0'"),
    ("decode_workers", "-1", "ALCHEMIST_DECODE_WORKERS"),
    ("openlineage", "perhaps", "ALCHEMIST_OPENLINEAGE"),
    ("airflow_users", "ann:admin,bob:viewer", "must contain admin:admin, as whom `alchemist stack` logs in, not 'ann:admin,bob:viewer'"),
    ("airflow_users", "admin:viewer", "must contain admin:admin"),
    ("statsd_port", "80", "greater than or equal to 1024, not '80'"),
])  # fmt: skip
def test_a_bad_setting_is_refused_by_its_name(
    name: str, value: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ALCHEMIST_{name.upper()}", value)
    load_settings.cache_clear()
    assert main(["subset", "list"]) == 2
    assert said in capsys.readouterr().err


def test_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "alchemist_core", "maintain", "airflow"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "The disk is full" in done.stderr
    assert "Traceback" not in done.stderr
