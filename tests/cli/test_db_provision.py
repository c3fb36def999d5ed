"""`db provision` refuses to start without a password, and on the embedded server, which sets its own."""

import pytest

from alchemist_core.__main__ import main
from alchemist_core.settings import load_settings

pytestmark = [pytest.mark.db]


def test_a_missing_password_is_named(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_READER_PASSWORD", "x")
    assert main(["db", "provision"]) == 2
    assert "STORE_WRITER_PASSWORD is not set" in capsys.readouterr().err


def test_the_embedded_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    load_settings.cache_clear()
    assert main(["db", "provision"]) == 2
    assert "ALCHEMIST_DATABASE_URL" in capsys.readouterr().err
