"""A secret is read from its variable, else from the file that its `_FILE` variable names, and is printed from neither."""

import os
from pathlib import Path

import pytest

from alchemist_core.cli.settings import HIDDEN, SettingsConfig, show
from alchemist_core.errors import ConfigError
from alchemist_core.settings import FILE_VARIABLES, Settings, load_settings

URL = "postgresql://writer:hunter2@store/alchemist"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ALCHEMIST_")]:
        monkeypatch.delenv(name)
    load_settings.cache_clear()


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "url"
    path.write_text(f"{URL}\n")
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL_FILE", str(path))
    return path


def url_of(settings: Settings) -> str | None:
    return None if settings.database_url is None else settings.database_url.get_secret_value()


def test_every_secret_can_be_in_a_file_and_nothing_else() -> None:
    secrets = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert FILE_VARIABLES.keys() == {f"ALCHEMIST_{name.upper()}_FILE" for name in secrets}
    assert {"database_url", "airflow_database_url", "notify_url"} <= secrets


@pytest.mark.usefixtures("secret")
def test_a_secret_is_read_from_the_file_without_its_last_line_break() -> None:
    assert url_of(load_settings()) == URL


@pytest.mark.usefixtures("secret")
def test_the_variable_itself_has_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", "postgresql://other")
    assert url_of(load_settings()) == "postgresql://other"


def test_a_setting_that_is_no_secret_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("/elsewhere")
    monkeypatch.setenv("ALCHEMIST_HOME_FILE", str(tmp_path / "home"))
    assert load_settings().home == Path(".alchemist")


def test_an_empty_variable_or_file_means_no_value(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret.write_text("\n")
    assert url_of(load_settings()) is None
    load_settings.cache_clear()
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL_FILE", "")
    assert url_of(load_settings()) is None


def test_a_file_that_cannot_be_read_is_named_with_its_variable(secret: Path) -> None:
    secret.unlink()
    with pytest.raises(
        ConfigError, match=r"ALCHEMIST_DATABASE_URL_FILE is '.*url', which cannot be read: No such file"
    ):
        load_settings()
    secret.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is not text"):
        load_settings()


def test_the_list_of_settings_shows_that_a_secret_is_set_but_not_its_value(secret: Path) -> None:
    shown = show(SettingsConfig()).variables
    assert (shown["ALCHEMIST_DATABASE_URL"].is_set, shown["ALCHEMIST_DATABASE_URL"].value) == (True, HIDDEN)
    assert shown["ALCHEMIST_DATABASE_URL_FILE"].value == str(secret)
    assert "hunter2" not in str(shown)
