"""GenEval's rules agree with its own evaluator on every recorded case."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.evaluation.geneval import TAGS, Detection, Rules, judge, keep_detections, summarize

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "geneval" / "cases.jsonl"
OWN = Path(__file__).parent / "geneval_cases.jsonl"


def cases_of(path: Path) -> list[Any]:
    if not path.exists():
        return [pytest.param(None, marks=pytest.mark.skip(f"the recorded cases {path.name} are not beside this clone"))]
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [pytest.param(case, id=case["case_id"]) for case in cases]


def words_of(reason: str) -> set[str]:
    """Two relations are printed in any order: GenEval keeps them in a set."""
    return set(reason.replace(" and ", " ").split())


@pytest.mark.parametrize("case", [*cases_of(RECORDED), *cases_of(OWN)])
def test_verdict_reason_and_kept_boxes_are_the_recorded_ones(case: dict[str, Any]) -> None:
    rules = Rules(**case["options"])
    found = {
        name: [Detection(one["box"], one["score"], one.get("color")) for one in boxes]
        for name, boxes in case["detections"].items()
    }
    kept = keep_detections(found, case["metadata"]["tag"], rules)
    boxes = {name: [[*one.box, one.score] for one in ones] for name, ones in kept.items()}
    assert boxes.keys() == case["kept"].keys()
    for name, expected in case["kept"].items():
        assert [pytest.approx(box, abs=2e-6) for box in expected] == boxes[name]
    verdict = judge(case["metadata"], kept, rules)
    assert verdict.is_correct == case["correct"]
    assert verdict.reason.count("\n") == case["reason"].count("\n")
    assert words_of(verdict.reason) == words_of(case["reason"])


def test_own_cases_show_every_task_and_both_verdicts() -> None:
    cases = [json.loads(line) for line in OWN.read_text(encoding="utf-8").splitlines()]
    assert {case["metadata"]["tag"] for case in cases} == set(TAGS)
    assert {case["correct"] for case in cases} == {True, False}


@given(st.lists(st.floats(0, 1, width=32), max_size=30), st.floats(0, 1), st.integers(1, 20))
def test_what_is_kept_is_confident_best_first_and_not_too_much(
    scores: list[float], threshold: float, most: int
) -> None:
    rules = Rules(threshold=threshold, max_objects=most)
    found = {"cat": [Detection((0.0, 0.0, 9.0, 9.0), score) for score in scores]}
    kept = [one.score for one in keep_detections(found, "colors", rules).get("cat", [])]
    assert kept == sorted(kept, reverse=True)
    assert all(score >= threshold - 1e-6 for score in kept)
    assert len(kept) == min(most, len(kept))


@given(st.permutations([Detection((k, k, k + 9.0, k + 9.0), 0.4 + k / 20) for k in map(float, range(6))]))
def test_the_order_of_detections_is_of_no_account(detections: list[Detection]) -> None:
    kept = keep_detections({"cat": detections}, "colors", Rules(max_overlap=0.5))
    assert kept == keep_detections({"cat": sorted(detections)}, "colors", Rules(max_overlap=0.5))


def test_the_overall_score_weighs_tasks_not_images() -> None:
    assert summarize({"colors": [True] * 99, "counting": [False]})["overall"] == 0.5
