"""`infra/install.py` installs from where pip would."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "infra" / "install.py"


@pytest.fixture
def install() -> ModuleType:
    found = importlib.util.spec_from_file_location("install", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_settings_of_the_environment_win_over_those_of_a_file(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nfind-links = /from/the/file\nindex-url = https://mirror.example/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_FIND_LINKS", "/from/the/environment")
    settings = install.pip_settings()
    assert settings["find-links"] == "/from/the/environment"
    assert settings["index-url"] == "https://mirror.example/simple"
