"""What must hold of a night and of a subset. A failed `fail` stops the pipeline, a failed `warn` is counted.

Only names and bounds: how an expectation is tested is `validation.py`, what stands in a column is the query of its frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FAIL, WARN = "fail", "warn"
MAX_REJECTED_RATIO = 0.05
MAX_QUARANTINED_RATIO, USUAL_QUARANTINED_RATIO = 0.5, 0.05
CAPTION_LENGTH = (3, 2000)  # characters
ASPECT_RATIO = (0.2, 5.0)  # width / height
MIN_SIDE = 8  # pixels
# Nearly all: a web crawl always has a few odd ones, which training survives.
MOST = 0.99
# Fewer scores may all be equal by chance of a tiny crawl.
MIN_SCORES_TO_VARY = 500
MAX_REAL = 3.4028235e38


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
    return [
        _in_set("shards_are_verified_or_rejected", FAIL, "check_shards", "state", ["verified", "rejected"]),
        _equal("locations_are_kept_or_quarantined", "check_shards"),
        _mean_at_most("few_shards_are_rejected", WARN, "check_shards", "is_rejected", MAX_REJECTED_RATIO),
    ]


def samples() -> list[Check]:
    """Pairs are what training can use, and few locations had to be set aside."""
    frame = "check_samples"
    return [
        _between("captions_are_not_empty", FAIL, frame, "caption_length", (1, None)),
        _between("captions_have_usual_lengths", WARN, frame, "caption_length", CAPTION_LENGTH, mostly=MOST),
        _between("images_have_enough_pixels", WARN, frame, "short_side", (MIN_SIDE, None)),
        _between("images_have_usual_shapes", WARN, frame, "aspect_ratio", ASPECT_RATIO, mostly=MOST),
        _mean_at_most("most_locations_are_usable", FAIL, frame, "is_quarantined", MAX_QUARANTINED_RATIO),
        _mean_at_most("few_locations_are_quarantined", WARN, frame, "is_quarantined", USUAL_QUARANTINED_RATIO),
    ]


def scores(n_scores: int) -> list[Check]:
    """The production rater's ledger is complete and adds up; its scores are numbers that differ."""
    checks = [
        _in_set("every_shard_is_scored", FAIL, "check_ledger", "is_scored", [True]),
        _equal("locations_are_scored_or_quarantined", "check_ledger"),
        _between("scores_are_finite", FAIL, "check_scores", "score", (-MAX_REAL, MAX_REAL)),
    ]
    if n_scores < MIN_SCORES_TO_VARY:
        return checks
    varying = {"column": "score", "min_value": 0.0, "strict_min": True}
    return [*checks, Check("scores_differ", FAIL, "check_scores", "ExpectColumnStdevToBeBetween", varying)]


def subset(n_samples: int) -> list[Check]:
    """A subset version has exactly its members, all of them training data, none taken down."""
    frame = "check_subset"
    return [
        Check("subset_has_its_size", FAIL, frame, "ExpectTableRowCountToEqual", {"value": n_samples}),
        _in_set("no_member_is_taken_down", FAIL, frame, "is_taken_down", [False]),
        _in_set("members_are_training_data", FAIL, frame, "is_of_training_data", [True]),
        _in_set("membership_is_stored", FAIL, frame, "is_stored", [True]),
    ]


def _in_set(name: str, severity: str, frame: str, column: str, values: list[Any]) -> Check:
    return Check(name, severity, frame, "ExpectColumnValuesToBeInSet", {"column": column, "value_set": values})


def _equal(name: str, frame: str) -> Check:
    columns = {"column_A": "n_samples", "column_B": "n_accounted"}
    return Check(name, FAIL, frame, "ExpectColumnPairValuesToBeEqual", columns)


def _between(
    name: str, severity: str, frame: str, column: str, bounds: tuple[float, float | None], *, mostly: float = 1.0
) -> Check:
    arguments = {"column": column, "min_value": bounds[0], "max_value": bounds[1], "mostly": mostly}
    return Check(name, severity, frame, "ExpectColumnValuesToBeBetween", arguments)


def _mean_at_most(name: str, severity: str, frame: str, column: str, most: float) -> Check:
    return Check(name, severity, frame, "ExpectColumnMeanToBeBetween", {"column": column, "max_value": most})
