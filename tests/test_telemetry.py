"""Text from outside cannot control the terminal that it is printed on."""

import io
import json
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from alchemist_core.__main__ import main
from alchemist_core.settings import load_settings
from alchemist_core.telemetry import ProgressLine, configure_logging, named_run, say, warn

HOSTILE = "a\x1b]0;owned\x07\x9b2J\rb\u202egnp"
ESCAPED = r"a\x1b]0;owned\x07\x9b2J\rb\u202egnp"


def test_control_signs_are_printed_as_their_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{HOSTILE}\nd")
    with ProgressLine("ingest") as line:
        line.show(1, 1, HOSTILE)
    said = capsys.readouterr().err
    assert said.startswith(f"{ESCAPED}\nd\n")
    assert not {"\x1b", "\x07", "\x9b", "\r", "\u202e"} & set(said)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_beside_a_progress_bar_text_is_neither_an_emoji_nor_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with ProgressLine("score day:x: [/x]") as line:
        line.show(1, 2, "a note:x: [/x]")
        say("alchemist shard retire 's3://b/day:x:/[/x].tar'")
    said = terminal.getvalue()
    assert all(text in said for text in ("score day:x: [/x]", "a note:x: [/x]", "'s3://b/day:x:/[/x].tar'"))


@pytest.mark.db
def test_a_shards_name_reaches_no_terminal_unescaped(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x\x1b[2J.tar").write_bytes(b"no tar" * 200)
    (tmp_path / "y\x1b[2J.tar.gz").touch()
    assert main(["ingest", "--dataset", "web", "--root", str(tmp_path)]) == 6
    assert main(["shard", "list"]) == 0
    said = capsys.readouterr()
    assert "y\\x1b[2J.tar.gz" in said.err
    assert "x\\x1b[2J.tar" in said.out
    assert "\x1b" not in said.err + said.out


def test_collectors_get_an_object_a_line_with_time_level_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json")
    try:
        with named_run("score", 7):
            say(f"read\nb.tar {HOSTILE}")
        warn("the disk is nearly full")
    finally:
        configure_logging()
    lines = capsys.readouterr().err.splitlines()
    first, second = map(json.loads, lines)
    assert first | {"time": None} == {
        "time": None, "level": "info", "message": f"read\nb.tar {ESCAPED}", "stage": "score", "run_id": 7
    }  # fmt: skip
    assert datetime.fromisoformat(first["time"]).utcoffset() == timedelta(0)
    assert (second["level"], set(second)) == ("warning", {"time", "level", "message"})
    assert all(line.isascii() and line.isprintable() for line in lines)


@pytest.mark.db
def test_a_command_s_lines_are_json_if_the_setting_asks_for_it(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_LOG_FORMAT", "json")
    load_settings.cache_clear()
    try:
        assert main(["ingest", "--dataset", "web", "--root", str(tmp_path), "--json"]) == 0
        assert main(["subset", "show", "nothing"]) == 2
    finally:
        configure_logging()
    captured = capsys.readouterr()
    records = [json.loads(line) for line in captured.err.splitlines()]
    assert {"info", "error"} <= {record["level"] for record in records}
    assert any(record.get("stage") == "ingest" and record["run_id"] > 0 for record in records)
    assert json.loads(captured.out.splitlines()[-1])["n_shards"] == 0
