"""Every part of `make gpu` is listed, limited and answered for."""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.gpu import __main__ as gpu
from tests.gpu.parts import PARTS, Part

OPTIONS = argparse.Namespace(device="cuda", smallest=True, corpus=None)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_has_a_module_a_limit_of_at_most_8_minutes_and_a_line_in_the_help(part: Part) -> None:
    assert find_spec(f"tests.gpu.{part.name}") is not None
    assert 0 < part.limit_s <= 480
    assert f"  {part.name} " in gpu.parser().format_help()


def test_every_module_with_a_measurement_is_a_part() -> None:
    folder = Path(gpu.__file__).parent
    measuring = {path.stem for path in folder.glob("*.py") if "\ndef measure(" in path.read_text(encoding="utf-8")}
    assert measuring == {part.name for part in PARTS}


def test_an_unknown_part_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["scoring", "paint"])
    assert "unknown part paint; choose from scoring, presets, " in capsys.readouterr().err


def test_a_part_that_reaches_its_limit_keeps_its_rows_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_command(given: gpu.Given) -> list[str]:
        row = {"part": given.part, "machine": "M", "name": "first", "ok": True}
        (given.place / "rows").write_text(json.dumps(row) + "\n")
        return ["sleep", "60"]

    monkeypatch.setattr(gpu, "command_of", slow_command)
    first, cut = gpu.run_part(Part("scoring", 1, "slow"), OPTIONS)
    assert (first["name"], first["ok"]) == ("first", True)
    assert (cut["ok"], cut["detail"]) == (False, "stopped at its limit of 1 s")


def test_a_part_whose_process_dies_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "command_of", lambda _: ["sh", "-c", "exit 3"])
    (row,) = gpu.run_part(Part("scoring", 60, "dies"), OPTIONS)
    assert (row["ok"], row["detail"]) == (False, "its process ended with 3")


def test_rows_of_other_parts_on_the_same_machine_stay_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"

    def run(part: str, machine: str, ok: bool) -> int:
        row = {
            "part": part,
            "machine": machine,
            "name": part,
            "value": 1.0,
            "unit": "",
            "target": None,
            "ok": ok,
            "detail": "",
        }
        monkeypatch.setattr(gpu, "run_part", lambda *_: [row])
        return gpu.main([part, "--out", str(out)])

    assert (run("lease", "A", True), run("scoring", "A", True), run("arms", "A", False)) == (0, 0, 1)
    assert [row["part"] for row in json.loads(out.read_text())] == ["scoring", "lease", "arms"]
    run("arms", "B", True)
    assert [row["part"] for row in json.loads(out.read_text())] == ["arms"]
    assert "MISS" in capsys.readouterr().out
