"""`sample flag` and `sample flags`: samples named in every way, the person of the operating system, and exports of flagged samples."""

import getpass
import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from alchemist_core.__main__ import main
from tests.selectable_store import fill

pytestmark = pytest.mark.db


@pytest.fixture
def store(engine: Engine) -> Engine:
    fill(engine)
    return engine


@pytest.mark.slow
def test_samples_are_flagged_listed_exported_and_unflagged(
    store: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", "flag", "10", "12", "--as", "good", "--comment", "sharp"]) == 0
    assert "Flagged 2 samples as good. Select without them: --where 'not flagged_good'" in capsys.readouterr().out
    assert main(["sample", "flags", "--as", "good", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.splitlines()[-1])["flags"]
    assert [(one["sample_id"], one["comment"], one["flagged_by"]) for one in listed] == [
        (12, "sharp", getpass.getuser()),
        (10, "sharp", getpass.getuser()),
    ]
    out = tmp_path / "good.jsonl"
    assert main(["export", "samples", "--where", "flagged_good", "--out", str(out)]) == 0
    assert [json.loads(line)["sample_id"] for line in out.read_text().splitlines()] == [10, 12]
    assert main(["sample", "flag", "12", "13", "--as", "good", "--undo"]) == 0
    assert "Undid 1 flag: good (1 had not been flagged so before)" in capsys.readouterr().out
    assert main(["sample", "flags"]) == 0
    assert capsys.readouterr().out.count(" good ") == 1


def test_nothing_is_flagged_if_one_sample_is_unknown(store: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "flag", "10", "99999", "--as", "bad"]) == 2
    assert "There is no sample 99999" in capsys.readouterr().err
    assert main(["sample", "flags"]) == 0
    assert "No flags." in capsys.readouterr().out
