"""The mutated files exist, and every mutant that is judged equivalent still names a line of its file."""

import shutil
from pathlib import Path

import pytest

from tests.mutation.__main__ import ROOT, idle_places, name_mutant, read_equivalents, read_rooms, sample_mutants

ROOMS = {room.name: room for room in read_rooms(ROOT)}


def test_every_room_that_holds_a_promise_is_mutated() -> None:
    assert {
        "rating", "selection", "metrics", "ledger", "leases", "subsets", "snapshots", "quality", "shards",
    } <= ROOMS.keys()  # fmt: skip


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_has_sources_and_its_tests_exist(name: str) -> None:
    assert ROOMS[name].sources
    assert ROOMS[name].tests
    assert [path for path in ROOMS[name].tests if not (ROOT / path).exists()] == []


def test_an_equivalent_mutant_has_a_reason_and_its_line_is_in_its_file() -> None:
    for name, reason in read_equivalents().items():
        path, _, change = name.partition(": ")
        was = change.partition(" -> ")[0]
        source = " ".join(line.strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines())
        assert was in source, f"{name}: the line is gone, so the judgement goes too"
        assert reason.endswith(".")


@pytest.mark.slow
def test_a_sample_is_a_function_of_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alchemist_core").mkdir()
    shutil.copytree(ROOT / "alchemist_core" / "heuristics", tmp_path / "alchemist_core" / "heuristics")
    monkeypatch.chdir(tmp_path)
    room = ROOMS["heuristics"]
    first, again, other = (sample_mutants(room, 9, seed) for seed in (1, 1, 2))
    assert [(spec.module_path, spec.start_pos, spec.operator_name) for spec in first] == [
        (spec.module_path, spec.start_pos, spec.operator_name) for spec in again
    ]
    assert len({(spec.module_path, spec.start_pos) for spec in first}) == 9
    assert [spec.start_pos for spec in first] != [spec.start_pos for spec in other]


def test_type_hints_and_guards_against_mistakes_of_the_code_are_left_out() -> None:
    hints = idle_places("def f(a: int | None) -> str | None:\n    b: int | str = 1 | 2\n")
    assert sorted(hints) == [((1, 9), (1, 19)), ((1, 24), (1, 34)), ((2, 7), (2, 16))]
    guards = idle_places(
        "@dataclass(frozen=True, kw_only=True)\nclass A: ...\nzip(a, b, strict=True)\nread(strict=True)"
    )
    assert guards == [((1, 18), (1, 22)), ((3, 17), (3, 21))]
    assert idle_places("def f(a, *, b): ...\ndef g(*a): ...") == [((1, 9), (1, 10))]


def test_a_mutant_is_named_by_its_file_and_line() -> None:
    diff = "--- mutation diff ---\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n if y:\n-    x = 1 -  2\n+    x = 1 +  2"
    assert name_mutant(Path("a.py"), diff) == "a.py: x = 1 -  2 -> x = 1 +  2"
