"""`alchemist stack status` lists the devices in use and starts nothing."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from alchemist_core.__main__ import main
from alchemist_core.cli.stack import _describe_nights
from alchemist_core.project import load_project
from alchemist_core.settings import load_settings
from alchemist_core.store.leases import claim_together
from alchemist_core.store.postgres import is_running
from alchemist_core.store.runs import RunKey, claim_run


@pytest.mark.db
def test_the_status_shows_which_run_holds_which_device(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stack", "status"]) == 0
    assert "Device" not in capsys.readouterr().err
    claim = claim_run(engine, RunKey("score", {}, "0" * 16), ttl_s=30.0, code_version="test")
    assert claim is not None
    assert claim_together(engine, ["device:GPU-1:0", "device:GPU-2:0"], run_id=claim.run_id, ttl_s=30.0)
    assert main(["stack", "status"]) == 0
    said = capsys.readouterr().err
    for name in ("GPU-1", "GPU-2"):
        assert f"Device {name} is held by run {claim.run_id} (score, host " in said


def test_the_status_of_a_home_without_a_server_starts_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stack", "status"]) == 0
    printed = capsys.readouterr()
    assert "The stack of" in printed.err
    assert printed.out == ""
    assert not is_running(load_settings().home)


def test_the_status_as_json_is_one_object_on_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stack", "status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["is_running"], found["is_postgres_running"], found["airflow_url"]) == (False, False, None)
    assert found["processes"]["scheduler"] is None


def test_the_status_of_a_server_that_does_not_answer_is_shown_without_devices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    load_settings.cache_clear()
    assert main(["stack", "status"]) == 0
    assert "The stack of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        (
            "",
            "nightly_rescore starts by itself (0 2 * * *, UTC) for the crawl date of the day before; it does not start now.",
        ),
        (
            '[schedule]\nnightly = "none"\n',
            "No night starts by itself ([schedule] nightly of the project file is none).",
        ),
    ],
)
def test_it_is_told_when_nights_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str, told: str
) -> None:
    (tmp_path / "alchemist.toml").write_text(schedule)
    monkeypatch.chdir(tmp_path)
    load_project.cache_clear()
    said = _describe_nights("http://127.0.0.1:8080")
    assert told in said
    assert """alchemist stack airflow dags trigger nightly_rescore --conf '{"crawl_date": "YYYY-MM-DD"}'""" in said
