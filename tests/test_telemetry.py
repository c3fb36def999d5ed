"""What comes from outside never steers the terminal that it is printed on."""

from pathlib import Path

import pytest

from alchemist_core.__main__ import main
from alchemist_core.telemetry import ProgressLine, say

HOSTILE = "a\x1b]0;owned\x07\x9b2J\rb\u202egnp"


def test_control_signs_are_printed_as_their_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{HOSTILE}\nd")
    with ProgressLine("ingest") as line:
        line.show(1, 1, HOSTILE)
    said = capsys.readouterr().err
    assert said.startswith("a\\x1b]0;owned\\x07\\x9b2J\\rb\\u202egnp\nd\n")
    assert not {"\x1b", "\x07", "\x9b", "\r", "\u202e"} & set(said)


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
