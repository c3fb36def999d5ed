"""What must hold of a night, a subset and its evaluation. A failed `fail` stops the pipeline, a failed `warn` is counted.

Only names and bounds: how an expectation is tested is `validation.py`, what stands in a column is the query of its frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FAIL, WARN = "fail", "warn"
MAX_REJECTED_RATIO = 0.05
MAX_QUARANTINED_RATIO, USUAL_QUARANTINED_RATIO = 0.2, 0.05
# A web crawl always has a few odd ones, which training survives.
MAX_ODD_RATIO = 0.01
MAX_GARBAGE_RATIO = 0.1
MAX_DUPLICATE_RATIO = 0.5


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation: its name here, what it is called in Great Expectations, and the frame that it reads."""

    name: str
    severity: str
    frame: str
    expectation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def shards() -> list[Check]:
    """Every shard is decided, and accounts for every location that was found in it."""
    frame = "check_shards"
    few = {"column": "is_rejected", "max_value": MAX_REJECTED_RATIO}
    return [
        _in_set("shards_are_verified_or_rejected", FAIL, frame, "state", ["verified", "rejected"]),
        _equal("locations_are_kept_or_quarantined", frame, "n_samples", "n_accounted"),
        Check("few_shards_are_rejected", WARN, frame, "ExpectColumnMeanToBeBetween", few),
    ]


def samples() -> list[Check]:
    """Pairs are what training can use, and few locations had to be set aside."""
    return [
        _at_most("captions_are_not_empty", FAIL, "empty_ratio", 0),
        _at_most("captions_have_usual_lengths", WARN, "odd_length_ratio", MAX_ODD_RATIO),
        _at_most("captions_are_no_garbage", WARN, "garbage_ratio", MAX_GARBAGE_RATIO),
        _at_most("images_have_enough_pixels", WARN, "small_ratio", 0),
        _at_most("images_have_usual_shapes", WARN, "odd_shape_ratio", MAX_ODD_RATIO),
        _at_most("few_pairs_came_twice", WARN, "duplicate_ratio", MAX_DUPLICATE_RATIO),
        _at_most("most_locations_are_usable", FAIL, "quarantined_ratio", MAX_QUARANTINED_RATIO),
        _at_most("few_locations_are_quarantined", WARN, "quarantined_ratio", USUAL_QUARANTINED_RATIO),
    ]


def scores() -> list[Check]:
    """The production rater's ledger is complete and adds up; its scores are numbers that differ."""
    frame = "check_scores"
    return [
        _in_set("every_shard_is_scored", FAIL, "check_ledger", "is_scored", [True]),
        _equal("locations_are_scored_or_quarantined", "check_ledger", "n_samples", "n_accounted"),
        _equal("scores_are_finite", frame, "n_scores", "n_finite"),
        _in_set("no_shard_is_constant", FAIL, frame, "is_constant", [0]),
        _above("scores_differ", FAIL, frame, "night_spread", 0),
    ]


def subset(n_samples: int, *, drop_top_ratio: float = 0.0) -> list[Check]:
    """A subset version has exactly its members: training data, none taken down, none of the head where it must be cut."""
    frame = "check_subset"
    head = {"column": "rank", "min_value": drop_top_ratio}
    return [
        _in_set("subset_has_its_size", FAIL, frame, "n_members", [n_samples]),
        _in_set("no_member_is_taken_down", FAIL, frame, "n_taken_down", [0]),
        _in_set("members_are_training_data", FAIL, frame, "n_not_of_training_data", [0]),
        _in_set("no_member_is_of_evaluation_data", FAIL, frame, "n_of_evaluation_data", [0]),
        _in_set("membership_is_stored", FAIL, frame, "n_not_stored", [0]),
        Check("the_head_is_cut", FAIL, "manifest", "ExpectColumnValuesToBeBetween", head),
    ]


def evaluation() -> list[Check]:
    """Every value of a subset is a number, measured on something, with a control under the same contract."""
    frame = "check_evaluation"
    return [
        _in_set("values_are_finite", FAIL, frame, "is_finite", [True]),
        _above("values_are_measured_on_something", FAIL, frame, "n_measured", 0),
        _in_set("values_have_a_control_under_their_contract", FAIL, frame, "is_pinned", [True]),
    ]


def _in_set(name: str, severity: str, frame: str, column: str, values: list[Any]) -> Check:
    return Check(name, severity, frame, "ExpectColumnValuesToBeInSet", {"column": column, "value_set": values})


def _equal(name: str, frame: str, column: str, other: str) -> Check:
    return Check(name, FAIL, frame, "ExpectColumnPairValuesToBeEqual", {"column_A": column, "column_B": other})


def _at_most(name: str, severity: str, column: str, most: float) -> Check:
    arguments = {"column": column, "max_value": most}
    return Check(name, severity, "check_samples", "ExpectColumnValuesToBeBetween", arguments)


def _above(name: str, severity: str, frame: str, column: str, bound: float) -> Check:
    arguments = {"column": column, "min_value": bound, "strict_min": True}
    return Check(name, severity, frame, "ExpectColumnValuesToBeBetween", arguments)
