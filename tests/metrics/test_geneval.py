"""GenEval's rules agree with its own evaluator on every recorded case."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.metrics.geneval import TAGS, Detection, Rules, judge, keep_detections, relations, summarize

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
    assert len(kept) == min(most, sum(np.float32(score) > np.float32(threshold) for score in scores))


@given(st.permutations([Detection((k, k, k + 9.0, k + 9.0), 0.4 + k / 20) for k in map(float, range(6))]))
def test_the_order_of_detections_is_of_no_account(detections: list[Detection]) -> None:
    kept = keep_detections({"cat": detections}, "colors", Rules(max_overlap=0.5))
    assert kept == keep_detections({"cat": sorted(detections)}, "colors", Rules(max_overlap=0.5))


def test_the_overall_score_weighs_tasks_not_images() -> None:
    assert summarize({"colors": [True] * 99, "counting": [False]})["overall"] == 0.5


FAR = (0.0, 0.0, 9.0, 9.0)


def scores_kept(scores: list[float], tag: str = "colors", rules: Rules | None = None) -> list[float]:
    found = {"cat": [Detection(FAR, score) for score in scores]}
    return [one.score for one in keep_detections(found, tag, rules or Rules()).get("cat", [])]


def boxes_kept(*boxes: tuple[float, ...], max_overlap: float) -> list[int]:
    """Which boxes of one class are kept; the first has the highest score."""
    found = {"cat": [Detection(box, 0.9 - place / 100) for place, box in enumerate(boxes)]}
    kept = keep_detections(found, "colors", Rules(max_overlap=max_overlap))["cat"]
    return [boxes.index(tuple(one.box)) for one in kept]


def test_a_score_on_the_threshold_does_not_count() -> None:
    assert scores_kept([0.3, 0.31, 0.29]) == [0.31]
    assert scores_kept([0.9, 0.91, 0.5], "counting") == [0.91]
    assert scores_kept([0.9, 0.91, 0.5], "two_object") == [0.91, 0.9, 0.5]


def test_scores_are_compared_in_float32() -> None:
    assert 0.3 + 1e-9 > 0.3
    assert scores_kept([0.3 + 1e-9]) == []


def test_of_seventeen_boxes_the_sixteen_best_count() -> None:
    scores = [0.4 + place / 100 for place in range(17)]
    assert scores_kept(scores) == sorted(scores, reverse=True)[:16]


def test_boxes_are_cut_to_the_most_before_overlaps_are_dropped() -> None:
    twice_and_apart = {"cat": [Detection(FAR, 0.9), Detection(FAR, 0.8), Detection((50.0, 50.0, 59.0, 59.0), 0.7)]}
    kept = keep_detections(twice_and_apart, "colors", Rules(max_objects=2, max_overlap=0.5))
    assert [one.score for one in kept["cat"]] == [0.9]


def test_boxes_of_two_classes_never_drop_each_other_and_a_class_without_a_box_is_left_out() -> None:
    found = {"cat": [Detection(FAR, 0.9)], "dog": [Detection(FAR, 0.8)], "cup": [Detection(FAR, 0.1)], "bus": []}
    assert keep_detections(found, "colors", Rules(max_overlap=0.1)).keys() == {"cat", "dog"}


# The halves share 50 of 100 pixels with the whole box: ends belong to the box.
@pytest.mark.parametrize(("max_overlap", "kept"), [(0.49, [0]), (0.5, [0]), (0.51, [0, 1]), (1.0, [0, 1])])
def test_a_box_that_overlaps_as_much_as_is_allowed_is_dropped(max_overlap: float, kept: list[int]) -> None:
    assert boxes_kept(FAR, (0.0, 0.0, 9.0, 4.0), max_overlap=max_overlap) == kept


def test_at_an_overlap_of_one_even_the_same_box_counts_twice() -> None:
    assert scores_kept([0.9, 0.8]) == [0.9, 0.8]
    assert scores_kept([0.9, 0.8], rules=Rules(max_overlap=0.99)) == [0.9]


@pytest.mark.parametrize("apart", [(10.0, 0.0, 19.0, 9.0), (0.0, 10.0, 9.0, 19.0), (20.0, 20.0, 29.0, 29.0)])
def test_boxes_apart_do_not_overlap(apart: tuple[float, ...]) -> None:
    assert boxes_kept(FAR, apart, max_overlap=0.01) == [0, 1]


def test_a_dropped_box_drops_no_other() -> None:
    chain = (FAR, (5.0, 0.0, 14.0, 9.0), (10.0, 0.0, 19.0, 9.0))
    assert boxes_kept(*chain, max_overlap=0.3) == [0, 2]


def cats(*colours: str | None) -> dict[str, list[Detection]]:
    return {"cat": [Detection(FAR, 0.9, colour) for colour in colours]}


CAT = {"class": "cat", "count": 1}
DOG = {"class": "dog", "count": 1}


@pytest.mark.parametrize(
    ("asked", "kept", "reason"),
    [
        ({"include": [CAT]}, cats(None), ""),
        ({"include": [CAT]}, {}, "expected cat>=1, found 0"),
        ({"include": [CAT | {"count": 2}]}, cats(None, None), ""),
        ({"include": [CAT | {"count": 2}]}, cats(None), "expected cat>=2, found 1"),
        ({"include": [CAT | {"count": 2}]}, cats(None, None, None), ""),
        ({"exclude": [CAT | {"count": 3}]}, cats(None, None), ""),
        ({"exclude": [CAT | {"count": 3}]}, cats(*[None] * 3), "expected cat<3, found 3"),
        ({"exclude": [CAT | {"count": 3}]}, cats(*[None] * 5), "expected cat<3, found 5"),
        ({"exclude": [CAT]}, {}, ""),
        ({"include": [CAT | {"color": "red"}]}, cats("red"), ""),
        # Only the requested number of best boxes is considered, so a red second one does not help.
        ({"include": [CAT | {"color": "red"}]}, cats("blue", "red"), "expected red cat>=1, found 0 red; and 1 blue"),
        (
            {"include": [CAT | {"count": 3, "color": "blue"}]},
            cats("white", "blue", "red"),
            "expected blue cat>=3, found 1 blue; and 1 red, 1 blue, 1 white",
        ),
        ({"include": [CAT | {"count": 2, "color": "red"}]}, cats("red", "red"), ""),
        # A missing object is named before its colour; a colour without a name is not listed.
        ({"include": [CAT | {"count": 2, "color": "red"}]}, cats("blue"), "expected cat>=2, found 1"),
        ({"include": [CAT | {"color": "red"}]}, cats(None), "expected red cat>=1, found 0 red; and "),
        ({"include": [CAT, DOG]}, {}, "expected cat>=1, found 0\nexpected dog>=1, found 0"),
        (
            {"include": [DOG], "exclude": [CAT]},
            cats(None),
            "expected dog>=1, found 0\nexpected cat<1, found 1",
        ),
    ],
)  # fmt: skip
def test_counts_and_colours_by_hand(asked: dict[str, Any], kept: dict[str, list[Detection]], reason: str) -> None:
    assert judge(asked, kept) == (not reason, reason)


def placed(**centres: list[tuple[float, float]]) -> dict[str, list[Detection]]:
    """Boxes of 10 by 10 pixels round their centres."""
    return {
        name: [Detection((x - 5.0, y - 5.0, x + 5.0, y + 5.0), 0.9) for x, y in points]
        for name, points in centres.items()
    }


LEFT_OF_FIRST = DOG | {"position": ["left of", 0]}


@pytest.mark.parametrize(
    ("include", "kept", "reason"),
    [
        ([CAT, LEFT_OF_FIRST], placed(cat=[(90, 50)], dog=[(10, 50)]), ""),
        (
            [CAT, LEFT_OF_FIRST],
            placed(cat=[(10, 50)], dog=[(90, 50)]),
            "expected dog left of target, found right of target",
        ),
        (
            [CAT, LEFT_OF_FIRST],
            placed(cat=[(10, 10)], dog=[(90, 90)]),
            "expected dog left of target, found right of and below target",
        ),
        ([CAT, LEFT_OF_FIRST], placed(cat=[(50, 50)], dog=[(50, 50)]), "expected dog left of target, found  target"),
        ([CAT, LEFT_OF_FIRST], placed(cat=[(50, 50)]), "expected dog>=1, found 0"),
        (
            [CAT, LEFT_OF_FIRST],
            placed(dog=[(50, 50)]),
            "expected cat>=1, found 0\nno target for dog to be left of",
        ),
        # The position is checked for the requested objects; a fault of another object does not change this target.
        (
            [CAT, {"class": "cup", "count": 1}, DOG | {"position": ["above", 1]}],
            placed(cat=[(50, 90)], cup=[(50, 10)], dog=[(50, 50)]),
            "expected dog above target, found below target",
        ),
        # Every box must have this relation to every box of the target.
        (
            [CAT | {"count": 2}, LEFT_OF_FIRST],
            placed(cat=[(90, 50), (10, 50)], dog=[(50, 50)]),
            "expected dog left of target, found right of target",
        ),
        (
            [CAT, DOG | {"count": 2, "position": ["left of", 0]}],
            placed(cat=[(50, 50)], dog=[(10, 50), (90, 50)]),
            "expected dog left of target, found right of target",
        ),
        # What is found beyond the count is not looked at.
        ([CAT, LEFT_OF_FIRST], placed(cat=[(90, 50), (10, 50)], dog=[(50, 50), (99, 50)]), ""),
    ],
)  # fmt: skip
def test_positions_by_hand(include: list[dict[str, Any]], kept: dict[str, list[Detection]], reason: str) -> None:
    assert judge({"include": include}, kept) == (not reason, reason)


def test_an_object_of_the_wrong_colour_is_not_a_target() -> None:
    include = [CAT | {"color": "red"}, DOG | {"position": ["left of", 0]}]
    kept = cats("blue") | placed(dog=[(50, 50)])
    assert judge({"include": include}, kept).reason.splitlines()[1] == "no target for dog to be left of"


def test_the_margin_of_a_position_is_the_rules_own() -> None:
    kept, asked = placed(cat=[(60, 50)], dog=[(50, 50)]), {"include": [CAT, LEFT_OF_FIRST]}
    assert judge(asked, kept, Rules(position_threshold=0.2)).is_correct
    assert not judge(asked, kept, Rules(position_threshold=0.3)).is_correct


def relation(offset: tuple[float, float], *, size: tuple[float, float] = (8, 8), margin: float = 0.25) -> list[str]:
    """The relation of a box to one of 8 by 8 pixels whose centre is at 0."""
    (x, y), (wide, high) = offset, (size[0] / 2, size[1] / 2)
    box = np.float32([x - wide, y - high, x + wide, y + high])
    return relations(box, np.float32([-4, -4, 4, 4]), margin)


# Two sides of 8 pixels with a margin of a quarter give 4 pixels: along one axis the shift has to exceed 8.
@pytest.mark.parametrize(
    ("offset", "held"),
    [
        ((-8.5, 0), ["left of"]), ((-8, 0), []), ((8, 0), []), ((8.5, 0), ["right of"]),
        ((0, -8.5), ["above"]), ((0, -8), []), ((0, 8), []), ((0, 8.5), ["below"]),
        ((-40, -40), ["left of", "above"]), ((40, -40), ["right of", "above"]), ((40, 40), ["right of", "below"]),
        ((40, 10), ["right of"]), ((10, 40), ["below"]), ((0, 0), []), ((4, 4), []),
    ],
)  # fmt: skip
def test_a_shift_along_one_axis_has_to_exceed_twice_the_margin(offset: tuple[float, float], held: list[str]) -> None:
    assert relation(offset) == held


def test_the_margin_grows_with_both_boxes_along_each_axis_by_itself() -> None:
    assert relation((12, 0), size=(24, 8)) == []
    assert relation((12, 0), size=(8, 24)) == ["right of"]
    assert relation((0, 12), size=(8, 24)) == []


def test_a_shift_of_less_than_a_thousandth_is_none() -> None:
    point = np.zeros(4, np.float32)
    assert relations(np.float32([9e-4, 0, 9e-4, 0]), point, 0.0) == []
    assert relations(np.float32([1e-3, 0, 1e-3, 0]), point, 0.0) == ["right of"]


def test_tasks_are_in_genevals_order_and_one_without_images_is_omitted() -> None:
    summary = summarize({"position": [True, False], "single_object": [True], "counting": []})
    assert list(summary.items()) == [("overall", 0.75), ("single_object", 1.0), ("position", 0.5)]
