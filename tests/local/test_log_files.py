"""Logs stay within limits while their writers keep them open."""

import os
import time
from pathlib import Path

import pytest

from alchemist_core.__main__ import main
from alchemist_core.local.supervisor import rotate_all
from alchemist_core.log_files import remove_old, rotate
from alchemist_core.settings import load_settings

DAY_S = 86_400


def test_a_log_that_grows_stays_below_twice_its_limit_and_keeps_its_end(tmp_path: Path) -> None:
    path, limit = tmp_path / "scheduler.log", 10_000
    with path.open("ab") as log:
        for number in range(20_000):
            log.write(b"line %d\n" % number)
            log.flush()
            if number % 100 == 0:
                rotate(path, max_bytes=limit)
                assert sum(one.stat().st_size for one in tmp_path.iterdir()) <= 2 * limit
        log.write(b"the end\n")
    lines = (tmp_path / "scheduler.log.1").read_bytes().splitlines() + path.read_bytes().splitlines()
    assert lines[-1] == b"the end"
    numbers = [int(line.split()[1]) for line in lines[:-1]]
    assert numbers == list(range(numbers[0], 20_000)), "whole lines, none twice, none missing"


def test_a_log_below_its_limit_is_left_alone(tmp_path: Path) -> None:
    for name in ("logs/metrics.log", "postgres/server/log"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("few\n")
    assert rotate_all(tmp_path, max_bytes=100) == 0
    (tmp_path / "postgres/server/log").write_text("many lines\n" * 100)
    assert rotate_all(tmp_path, max_bytes=100) == 1
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["log", "log.1", "metrics.log"]


def task_log(folder: Path, name: str, *, days: float, n_bytes: int = 10) -> Path:
    path = folder / name / "attempt=1.log"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * n_bytes)
    os.utime(path, (time.time() - days * DAY_S,) * 2)
    return path


def test_old_task_logs_go_with_their_empty_folders(tmp_path: Path) -> None:
    old, new = (task_log(tmp_path, name, days=days) for name, days in (("a/b", 31), ("a/c", 29)))
    (tmp_path / "outside").write_text("kept")
    os.utime(tmp_path / "outside", (0, 0))
    (tmp_path / "logs").mkdir()
    (tmp_path / "a").rename(tmp_path / "logs" / "a")
    (tmp_path / "logs" / "link").symlink_to(tmp_path / "outside")
    assert remove_old(tmp_path / "logs", keep_days=30, max_bytes=1_000) == (1, 1)
    assert [path.name for path in (tmp_path / "logs" / "a").iterdir()] == [new.parent.name]
    assert not (tmp_path / "logs" / "a" / old.parent.name).exists()
    assert (tmp_path / "outside").read_text() == "kept"


def test_above_the_total_size_the_oldest_go_first_and_those_under_way_stay(tmp_path: Path) -> None:
    paths = [task_log(tmp_path, str(days), days=days, n_bytes=100) for days in (0, 1, 2, 3)]
    assert remove_old(tmp_path, keep_days=30, max_bytes=250) == (2, 2)
    assert [path.exists() for path in paths] == [True, True, False, False]
    assert remove_old(tmp_path, keep_days=30, max_bytes=50) == (1, 1)
    assert paths[0].exists(), "it may still grow"


def test_maintain_logs_follows_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    monkeypatch.setenv("ALCHEMIST_LOG_MAX_MIB", "1")
    monkeypatch.setenv("ALCHEMIST_TASK_LOG_KEEP_DAYS", "2")
    load_settings.cache_clear()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "scheduler.log").write_bytes(b"line\n" * 300_000)
    old, new = (task_log(tmp_path / "airflow" / "logs", f"dag_id={days}", days=days) for days in (3, 1))
    assert main(["maintain", "logs"]) == 0
    assert (tmp_path / "logs" / "scheduler.log").stat().st_size == 0
    assert (tmp_path / "logs" / "scheduler.log.1").stat().st_size <= 1 << 20
    assert (old.exists(), new.exists()) == (False, True)
