"""Each built-in check at its bound, just within it and just beyond it, on frames with the columns of the queries, without a store."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from alchemist_core.quality import suites
from alchemist_core.quality.gate import _n_rows, failures
from alchemist_core.quality.limits import AppliedLimits, CheckLimits
from alchemist_core.quality.suites import FAIL, WARN, Check
from alchemist_core.quality.validation import CheckOutcome, validate

LIMITS = CheckLimits()


def fails(checks: Sequence[Check], name: str, columns: Mapping[str, Sequence[Any]]) -> bool:
    """Whether the named check fails on the columns."""
    (outcome,) = validate(columns, [check for check in checks if check.name == name])
    return not outcome.is_success


# Of each share: the check, its severity, its column, and the largest share that passes.
SHARES = [
    ("captions_are_not_empty", FAIL, "empty_ratio", 0.0),
    ("captions_have_usual_lengths", WARN, "odd_length_ratio", 0.01),
    ("few_captions_are_garbage", WARN, "garbage_ratio", 0.1),
    ("images_have_enough_pixels", WARN, "small_ratio", 0.0),
    ("images_have_usual_shapes", WARN, "odd_shape_ratio", 0.01),
    ("few_samples_are_repeated", WARN, "duplicate_ratio", 0.5),
    ("most_locations_are_usable", FAIL, "quarantined_ratio", 0.2),
    ("few_locations_are_quarantined", WARN, "quarantined_ratio", 0.05),
]


def test_the_shares_of_a_night_are_all_here() -> None:
    assert [(check.name, check.severity) for check in suites.samples(LIMITS)] == [row[:2] for row in SHARES]


@pytest.mark.parametrize(("name", "severity", "column", "most"), SHARES, ids=[row[0] for row in SHARES])
def test_a_share_may_reach_its_bound_and_not_exceed_it(name: str, severity: str, column: str, most: float) -> None:
    checks = suites.samples(LIMITS)
    shares = [most / 2, most, most + 1e-6]
    assert [fails(checks, name, {column: [share]}) for share in shares] == [False, False, True]


def test_two_checks_with_the_same_limit_have_an_outcome_each() -> None:
    checks = suites.samples(CheckLimits(max_quarantined_ratio=0.05, warn_quarantined_ratio=0.05))
    outcomes = validate({column: [0.0] for _, _, column, _ in SHARES} | {"quarantined_ratio": [0.1]}, checks)
    assert [outcome.expectation for outcome in outcomes] == [row[0] for row in SHARES]
    assert [(outcome.expectation, outcome.severity) for outcome in outcomes if not outcome.is_success] == [
        ("most_locations_are_usable", FAIL),
        ("few_locations_are_quarantined", WARN),
    ]


def test_a_twentieth_of_the_shards_may_be_rejected() -> None:
    checks, name = suites.shards(LIMITS), "few_shards_are_rejected"
    assert not fails(checks, name, {"is_rejected": [1] + [0] * 19})
    assert fails(checks, name, {"is_rejected": [1] + [0] * 18})


@pytest.mark.parametrize(
    ("suite", "name", "columns", "is_failed"),
    [
        ("shards", "shards_are_verified_or_rejected", {"state": ["verified", "rejected"]}, False),
        ("shards", "shards_are_verified_or_rejected", {"state": ["verified", "registered"]}, True),
        ("shards", "records_are_registered_or_quarantined", {"n_samples": [3, 2], "n_accounted": [3, 2]}, False),
        ("shards", "records_are_registered_or_quarantined", {"n_samples": [3, 2], "n_accounted": [3, 1]}, True),
        ("scores", "every_shard_is_scored", {"is_scored": [True, True]}, False),
        ("scores", "every_shard_is_scored", {"is_scored": [True, False]}, True),
        ("scores", "locations_are_scored_or_quarantined", {"n_samples": [3], "n_accounted": [3]}, False),
        ("scores", "locations_are_scored_or_quarantined", {"n_samples": [3], "n_accounted": [4]}, True),
        ("scores", "scores_are_finite", {"n_scores": [3], "n_finite": [3]}, False),
        ("scores", "scores_are_finite", {"n_scores": [3], "n_finite": [2]}, True),
        ("scores", "no_shard_is_constant", {"is_constant": [0, 0]}, False),
        ("scores", "no_shard_is_constant", {"is_constant": [0, 1]}, True),
        ("scores", "scores_differ", {"night_spread": [1e-9]}, False),
        ("scores", "scores_differ", {"night_spread": [0.0]}, True),
        ("evaluation", "values_are_finite", {"is_finite": [True]}, False),
        ("evaluation", "values_are_finite", {"is_finite": [True, False]}, True),
        ("evaluation", "values_are_measured_on_samples", {"n_measured": [1]}, False),
        ("evaluation", "values_are_measured_on_samples", {"n_measured": [0]}, True),
        ("evaluation", "values_have_a_control_under_their_protocol", {"is_pinned": [True]}, False),
        ("evaluation", "values_have_a_control_under_their_protocol", {"is_pinned": [True, False]}, True),
    ],
)  # fmt: skip
def test_what_must_hold_of_every_row(suite: str, name: str, columns: dict[str, list[Any]], is_failed: bool) -> None:
    checks = suites.evaluation() if suite == "evaluation" else getattr(suites, suite)(LIMITS)
    assert {check.severity for check in checks if check.name == name} == {FAIL}
    assert fails(checks, name, columns) is is_failed


@pytest.mark.parametrize(
    ("name", "severity", "column", "passes", "failing"),
    [
        ("subset_has_its_recorded_size", FAIL, "n_members", [7], [6, 8]),
        ("no_member_is_taken_down", FAIL, "n_taken_down", [0], [1]),
        ("members_are_training_data", FAIL, "n_not_of_training_data", [0], [1]),
        ("no_member_is_of_evaluation_data", FAIL, "n_of_evaluation_data", [0], [1]),
        ("members_are_stored", FAIL, "n_not_stored", [0], [1]),
        ("no_member_is_in_the_dropped_ranks", FAIL, "rank", [0.25, 0.9], [0.2499]),
        ("dropped_share_matches_drop_top_ratio", WARN, "dropped_share", [0.23, 0.25, 0.27], [0.2299, 0.2701]),
        ("strategy_fits_the_scoring_rule", WARN, "is_mixed", [False], [True]),
        ("not_expected_to_be_worse_than_random", FAIL, "expected_gain_high", [0.0, 0.1], [-1e-6]),
    ],
)  # fmt: skip
def test_what_must_hold_of_a_subset(
    name: str, severity: str, column: str, passes: list[Any], failing: list[Any]
) -> None:
    checks = suites.subset(7, LIMITS, drop_top_ratio=0.25)
    assert {check.severity for check in checks if check.name == name} == {severity}
    assert [fails(checks, name, {column: [value]}) for value in passes + failing] == [False] * len(passes) + [
        True
    ] * len(failing)


@pytest.mark.parametrize(("share", "is_failed"), [(0.4, False), (0.42, False), (0.4201, True), (0.25, True)])
def test_a_dropped_share_is_compared_with_the_one_when_the_scale_was_fitted(share: float, is_failed: bool) -> None:
    checks = suites.subset(7, LIMITS, drop_top_ratio=0.25, usual_share=0.4)
    assert fails(checks, "dropped_share_matches_drop_top_ratio", {"dropped_share": [share]}) is is_failed


def test_a_subset_without_a_drop_top_ratio_may_hold_the_highest_rank() -> None:
    assert not fails(suites.subset(7, LIMITS), "no_member_is_in_the_dropped_ranks", {"rank": [0.0]})


def test_each_limit_moves_the_check_that_names_it() -> None:
    moved = CheckLimits(
        max_empty_caption_ratio=0.11, max_odd_caption_ratio=0.12, max_garbage_ratio=0.13, max_small_image_ratio=0.14,
        max_odd_shape_ratio=0.15, max_duplicate_ratio=0.16, max_quarantined_ratio=0.17, warn_quarantined_ratio=0.18,
        max_rejected_ratio=0.19, min_night_spread=0.2, min_expected_gain=-0.3,
    )  # fmt: skip
    bounds = {check.name: check.arguments["max_value"] for check in suites.samples(moved)}
    assert list(bounds.values()) == [0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 0.17, 0.18]
    assert not fails(suites.shards(moved), "few_shards_are_rejected", {"is_rejected": [1] * 19 + [0] * 81})
    assert fails(suites.shards(moved), "few_shards_are_rejected", {"is_rejected": [1] * 20 + [0] * 80})
    assert [fails(suites.scores(moved), "scores_differ", {"night_spread": [it]}) for it in (0.2, 0.21)] == [True, False]
    gains = [fails(suites.subset(1, moved), "not_expected_to_be_worse_than_random", {"expected_gain_high": [it]})
             for it in (-0.3, -0.31)]  # fmt: skip
    assert gains == [False, True]


def test_a_bound_names_the_settings_that_it_comes_from() -> None:
    every = [*suites.shards(LIMITS), *suites.samples(LIMITS), *suites.scores(LIMITS), *suites.subset(1, LIMITS)]
    assert {check.name: check.settings for check in every if check.settings} == {
        "few_shards_are_rejected": ("max_rejected_ratio",),
        "captions_are_not_empty": ("max_empty_caption_ratio",),
        "captions_have_usual_lengths": ("max_odd_caption_ratio", "min_caption_characters", "max_caption_characters"),
        "few_captions_are_garbage": ("max_garbage_ratio", "min_repeated_characters"),
        "images_have_enough_pixels": ("max_small_image_ratio", "min_image_side"),
        "images_have_usual_shapes": ("max_odd_shape_ratio", "max_aspect_ratio"),
        "few_samples_are_repeated": ("max_duplicate_ratio",),
        "most_locations_are_usable": ("max_quarantined_ratio",),
        "few_locations_are_quarantined": ("warn_quarantined_ratio",),
        "no_shard_is_constant": ("min_shard_scores",),
        "scores_differ": ("min_night_spread", "min_night_scores"),
        "not_expected_to_be_worse_than_random": ("min_expected_gain",),
    }


def test_every_check_says_in_words_what_it_expected_and_found() -> None:
    every = [
        *suites.shards(LIMITS),
        *suites.samples(LIMITS),
        *suites.scores(LIMITS),
        *suites.subset(7, LIMITS),
        *suites.evaluation(),
    ]
    assert {check.name for check in every} == {*suites.WORDS}
    for check in every:
        bounds = {name: value for name, value in check.arguments.items() if not name.startswith("column")}
        said = check.describe({"expected": bounds, "examples": [1], "unexpected_count": 1, "element_count": 3})
        value, rows = suites.WORDS[check.name]
        assert said.startswith(f"expected {value}")
        assert said.endswith(f" in 1 of 3 {rows}")
        assert "_" not in said, "neither a column nor an argument of the library"


# For each setting: default, minimum, maximum, and the smallest values out of bounds.
BOUNDS = {
    "max_quarantined_ratio": (0.2, 0, 1), "warn_quarantined_ratio": (0.05, 0, 1), "max_rejected_ratio": (0.05, 0, 1),
    "max_empty_caption_ratio": (0, 0, 1), "max_odd_caption_ratio": (0.01, 0, 1), "max_garbage_ratio": (0.1, 0, 1),
    "min_caption_characters": (3, 0, 100_000), "max_caption_characters": (2000, 1, 1_000_000),
    "min_repeated_characters": (10, 2, 255), "max_small_image_ratio": (0, 0, 1), "min_image_side": (8, 1, 65_535),
    "max_odd_shape_ratio": (0.01, 0, 1), "max_aspect_ratio": (5, 1, 1000), "max_duplicate_ratio": (0.5, 0, 1),
    "min_night_spread": (0, 0, 1e30), "min_night_scores": (500, 2, 10**9), "min_shard_scores": (100, 2, 10**9),
    "min_expected_gain": (0, -10, 10), "suite_timeout_s": (600, 1, 86_400), "max_examples": (5, 0, 100),
}  # fmt: skip


def test_every_number_among_the_limits_is_tried() -> None:
    assert {*BOUNDS, "suites"} == {*CheckLimits.model_fields}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_limit_has_its_default_and_may_be_as_small_or_large_as_its_bounds(name: str) -> None:
    default, least, most = BOUNDS[name]
    assert getattr(LIMITS, name) == default
    # Both limits of a caption's length together, so that neither contradicts the other.
    other = {"min_caption_characters": {"max_caption_characters": 1_000_000},
             "max_caption_characters": {"min_caption_characters": 0}}.get(name, {})  # fmt: skip
    for allowed in (least, most):
        assert getattr(CheckLimits(**other, **{name: allowed}), name) == allowed
    for refused in (least - 1, most + max(1, most / 1000)):
        with pytest.raises(ValidationError, match=name):
            CheckLimits(**other, **{name: refused})


def test_a_caption_has_room_between_its_two_limits() -> None:
    assert CheckLimits(min_caption_characters=9, max_caption_characters=9).suites == "suites"
    with pytest.raises(ValidationError, match="min_caption_characters = 10 is above max_caption_characters = 9"):
        CheckLimits(min_caption_characters=10, max_caption_characters=9)
    with pytest.raises(ValidationError, match="suites"):
        CheckLimits(suites="")


def test_a_limit_that_was_not_set_is_reported_as_the_default() -> None:
    assert AppliedLimits().origin("min_image_side") == "default of [checks] min_image_side"


def test_only_a_failed_fail_stops_the_pipeline() -> None:
    outcomes = [CheckOutcome(f"{severity} {is_success}", severity, is_success=is_success, observed={})
                for severity in (FAIL, WARN) for is_success in (True, False)]  # fmt: skip
    assert failures(outcomes) == [outcomes[1]]


def test_outcomes_are_in_the_order_of_the_checks_with_five_examples_and_their_bounds() -> None:
    checks = [check for check in suites.scores(LIMITS) if check.frame == "check_scores"]
    columns = {"is_constant": [1] * 9, "night_spread": [0.0] * 9, "n_scores": [1] * 9, "n_finite": [0] * 9}
    outcomes = validate(columns, checks)
    assert [outcome.expectation for outcome in outcomes] == [check.name for check in checks]
    assert {len(outcome.observed["examples"]) for outcome in outcomes} == {5}
    constant = outcomes[1].observed
    assert (constant["element_count"], constant["unexpected_count"]) == (9, 9)
    assert constant["expected"] == {"value_set": [0]}
    assert constant["in_words"] == "expected all scores of a shard are the same: no; found yes in 9 of 9 shards"
    assert outcomes[2].observed["expected"] == {"min_value": 0, "strict_min": True}


def test_the_rows_of_a_frame_are_those_of_its_columns() -> None:
    assert _n_rows({"a": [1, 2], "b": [3, 4]}) == 2
    assert _n_rows({"a": []}) == 0
