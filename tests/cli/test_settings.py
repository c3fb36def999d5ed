"""`alchemist settings` lists every environment variable; values of secrets are hidden."""

import json

import pytest

from alchemist_core.__main__ import main
from alchemist_core.settings import Settings, load_settings


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    load_settings.cache_clear()
    capsys.readouterr()
    assert main(["settings", "--json"]) == 0
    found: dict[str, dict[str, object]] = json.loads(capsys.readouterr().out)["variables"]
    return found


def test_every_variable_is_listed_with_its_value_and_meaning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_SCORE_SLOTS", "3")
    monkeypatch.setenv("ALCHEMIST_JOB_RUNNER", "kubernetes")
    found = listed(capsys)
    assert {f"ALCHEMIST_{name.upper()}" for name in Settings.model_fields} <= found.keys()
    assert (found["ALCHEMIST_SCORE_SLOTS"]["value"], found["ALCHEMIST_SCORE_SLOTS"]["is_set"]) == ("3", True)
    assert (found["ALCHEMIST_LEASE_TTL_S"]["value"], found["ALCHEMIST_LEASE_TTL_S"]["is_set"]) == ("30.0", False)
    assert found["ALCHEMIST_JOB_RUNNER"]["value"] == "kubernetes"
    assert all(variable["meaning"] for variable in found.values())


def test_a_secret_is_hidden_and_a_missing_one_is_not_pretended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_NOTIFY_URL", "slack://token-7531")
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", "postgresql://u:pass-7531@h/d")
    found = listed(capsys)
    assert found["ALCHEMIST_NOTIFY_URL"]["value"] == found["ALCHEMIST_DATABASE_URL"]["value"] == "(hidden)"
    assert found["ALCHEMIST_AIRFLOW_DATABASE_URL"]["value"] is None
    assert main(["settings"]) == 0
    text = capsys.readouterr().out
    assert "ALCHEMIST_NOTIFY_URL = (hidden) (set)" in text
    assert "7531" not in text
