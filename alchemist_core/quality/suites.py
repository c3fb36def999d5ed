"""The built-in checks of nights, subsets and evaluations. A failed check of severity `fail` stops the pipeline, `warn` is counted.

This module lists the checks. The limits are in `limits.py`, the tests of expectations in `validation.py`, and the columns come
from the query with the name of the frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from alchemist_core.quality.limits import CheckLimits
from alchemist_core.quality.wording import in_words
from alchemist_core.selection.ranks import MAX_CUT_DRIFT

FAIL, WARN = "fail", "warn"
SCORED = "every_shard_is_scored"
RECOUNTED = "locations_are_scored_or_quarantined"
# What each check looks at, and what a row of its frame is.
WORDS = {
    "shards_are_verified_or_rejected": ("state of a shard", "shards"),
    "records_are_registered_or_quarantined": (
        "as many records in a shard as registered and quarantined ones",
        "shards",
    ),
    "few_shards_are_rejected": ("share of rejected shards", "shards"),
    "captions_are_not_empty": ("share of empty captions", "nights"),
    "captions_have_usual_lengths": ("share of captions that are too short or too long", "nights"),
    "few_captions_are_garbage": ("share of captions that are no text", "nights"),
    "images_have_enough_pixels": ("share of images that are too small", "nights"),
    "images_have_usual_shapes": ("share of images that are too long or too high", "nights"),
    "few_samples_are_repeated": ("share of repeated samples", "nights"),
    "most_locations_are_usable": ("share of quarantined locations", "nights"),
    "few_locations_are_quarantined": ("share of quarantined locations", "nights"),
    "every_shard_is_scored": ("shard is scored", "shards"),
    "locations_are_scored_or_quarantined": ("as many locations in a shard as scored and quarantined ones", "shards"),
    "no_shard_is_constant": ("all scores of a shard are the same", "shards"),
    "scores_are_finite": ("as many scores of a shard as finite ones", "shards"),
    "scores_differ": ("standard deviation of the night's scores", "shards"),
    "subset_has_its_recorded_size": ("number of members", "versions"),
    "no_member_is_taken_down": ("members that were taken down", "versions"),
    "members_are_training_data": ("members that are not training data", "versions"),
    "no_member_is_of_evaluation_data": ("members that are evaluation data", "versions"),
    "members_are_stored": ("members that are not stored", "versions"),
    "no_member_is_in_the_dropped_ranks": ("lowest rank of a member", "versions"),
    "dropped_share_matches_drop_top_ratio": ("share of the scored samples in the dropped ranks", "versions"),
    "strategy_fits_the_scoring_rule": ("strategy is meant for another scoring rule", "versions"),
    "not_expected_to_be_worse_than_random": ("upper end of the predicted gain over random", "versions"),
    "values_are_finite": ("value is finite", "values"),
    "values_are_measured_on_samples": ("samples that a value was measured on", "values"),
    "values_have_a_control_under_their_protocol": ("random subset has a value under the same protocol", "values"),
}

REMEDIES = {
    "shards_are_verified_or_rejected": "Run `alchemist ingest` for the night again: it did not end. Then run the check again.",
    "records_are_registered_or_quarantined": "Rows were changed by hand, or lost. Read the shard again: `alchemist shard reread`.",
    "few_shards_are_rejected": "`alchemist night list` names the files that are not readable tars. Upload them again, or retire them.",
    "captions_are_not_empty": "Repair the captions in the crawl, replace the tars, and reread them.",
    "captions_have_usual_lengths": "Look at the samples. If such captions are usual here, change the limits.",
    "few_captions_are_garbage": "Look at the samples. The text of another field of the page may have become the caption.",
    "images_have_enough_pixels": "Look at the samples. The crawl may have stored thumbnails.",
    "images_have_usual_shapes": "Look at the samples. Banners and screenshots are long or high.",
    "few_samples_are_repeated": "The night has the same samples several times: look for shards that were uploaded twice. Each sample is "
    "scored and selected once.",
    "most_locations_are_usable": "`alchemist shard show` lists the damaged records with reasons. Upload the shards again, or release "
    "the night: damaged records are never selected.",
    "few_locations_are_quarantined": "Nothing must be done. The reasons show whether one shard or the whole crawl is damaged.",
    "every_shard_is_scored": "Run `alchemist score` for the night, then the check again. While another one stops the night, it only warns.",
    "locations_are_scored_or_quarantined": "Rows were changed by hand, or lost: see the alert LedgerMismatch in the runbook.",
    "no_shard_is_constant": "Look at the shard: its images may all be alike. Otherwise check the rater: `alchemist rater certify`.",
    "scores_are_finite": "The rater is broken. Promote another one, which scores the night anew.",
    "scores_differ": "The rater cannot tell the night's samples apart. Look at them, then at the rater: `alchemist rater certify`.",
    "subset_has_its_recorded_size": "Select the subset again.",
    "no_member_is_taken_down": "Select the subset again: the new version excludes images that were taken down.",
    "members_are_training_data": "Select the subset again: a dataset has another role now.",
    "no_member_is_of_evaluation_data": "Select the subset again with `--decontaminate`.",
    "members_are_stored": "The manifest names samples that the store does not have: restore the backup that belongs to it.",
    "no_member_is_in_the_dropped_ranks": "Select the subset again.",
    "dropped_share_matches_drop_top_ratio": "The scores have changed since the rank scale was fitted. Select with `--rescale`.",
    "strategy_fits_the_scoring_rule": "Select with strategy `auto`, or with a recipe.",
    "not_expected_to_be_worse_than_random": "Select with strategy `auto`; if you did, select fewer samples, or random ones.",
    "values_are_finite": "The training diverged. Train again with a lower learning rate.",
    "values_are_measured_on_samples": "Run `alchemist evaluate` again with an evaluation dataset that has samples.",
    "values_have_a_control_under_their_protocol": "Train and evaluate a random subset under the same protocol.",
}
"""What to do when a check fails, for the page of checks."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, its expectation in Great Expectations, and the frame that it reads."""

    name: str
    severity: str
    frame: str
    expectation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    """Keys of `[checks]` that the bound comes from."""

    def describe(self, observed: Mapping[str, Any]) -> str:
        """Return in words what was expected and what was found."""
        value, rows = WORDS.get(self.name, ("", "rows"))
        is_yes_or_no = str(self.arguments.get("column", "")).startswith("is_")
        return in_words(observed, value=value, rows=rows, is_yes_or_no=is_yes_or_no)


def shards(limits: CheckLimits) -> list[Check]:
    """Return the checks that every shard is verified or rejected, and that each of its records is registered or quarantined."""
    frame, key = "check_shards", "max_rejected_ratio"
    few = {"column": "is_rejected", "max_value": limits.max_rejected_ratio}
    return [
        _in_set("shards_are_verified_or_rejected", FAIL, frame, "state", ["verified", "rejected"]),
        _equal("records_are_registered_or_quarantined", frame, "n_samples", "n_accounted"),
        Check("few_shards_are_rejected", WARN, frame, "ExpectColumnMeanToBeBetween", few, (key,)),
    ]


def samples(limits: CheckLimits) -> list[Check]:
    """Return the checks of captions and images, and of the share of quarantined records."""
    lengths, repeats = ("min_caption_characters", "max_caption_characters"), ("min_repeated_characters",)
    side, shape = ("min_image_side",), ("max_aspect_ratio",)
    rows = (
        ("captions_are_not_empty", FAIL, "empty_ratio", "max_empty_caption_ratio", ()),
        ("captions_have_usual_lengths", WARN, "odd_length_ratio", "max_odd_caption_ratio", lengths),
        ("few_captions_are_garbage", WARN, "garbage_ratio", "max_garbage_ratio", repeats),
        ("images_have_enough_pixels", WARN, "small_ratio", "max_small_image_ratio", side),
        ("images_have_usual_shapes", WARN, "odd_shape_ratio", "max_odd_shape_ratio", shape),
        ("few_samples_are_repeated", WARN, "duplicate_ratio", "max_duplicate_ratio", ()),
        ("most_locations_are_usable", FAIL, "quarantined_ratio", "max_quarantined_ratio", ()),
        ("few_locations_are_quarantined", WARN, "quarantined_ratio", "warn_quarantined_ratio", ()),
    )
    return [
        Check(
            name, severity, "check_samples", "ExpectColumnValuesToBeBetween",
            {"column": column, "max_value": getattr(limits, key)}, (key, *more),
        )
        for name, severity, column, key, more in rows
    ]  # fmt: skip


def scores(limits: CheckLimits) -> list[Check]:
    """Return the checks that every shard is scored, every record accounted for, and that scores are finite and vary."""
    frame = "check_scores"
    constant = _in_set("no_shard_is_constant", FAIL, frame, "is_constant", [0])
    differ = _above("scores_differ", FAIL, frame, "night_spread", limits.min_night_spread)
    return [
        _in_set(SCORED, FAIL, "check_ledger", "is_scored", [True]),
        _equal(RECOUNTED, "check_ledger", "n_samples", "n_accounted"),
        _equal("scores_are_finite", frame, "n_scores", "n_finite"),
        replace(constant, settings=("min_shard_scores",)),
        replace(differ, settings=("min_night_spread", "min_night_scores")),
    ]


def subset(
    n_samples: int, limits: CheckLimits, *, drop_top_ratio: float = 0.0, usual_share: float | None = None
) -> list[Check]:
    """Return the checks of a subset version: its size, its members, its ranks, and its predicted gain over a random subset.

    Args:
        n_samples: The size that was recorded.
        limits: The limits of the checks.
        drop_top_ratio: Ratio of the highest ranks that may have no member, 0-1.
        usual_share: Share of the samples that the ratio dropped when the rank scale was fitted, 0-1; None: the ratio.
    """
    usual = drop_top_ratio if usual_share is None else usual_share
    frame = "check_subset"
    head = {"column": "rank", "min_value": drop_top_ratio}
    gain = {"column": "expected_gain_high", "min_value": limits.min_expected_gain}
    moved = {
        "column": "dropped_share",
        "min_value": usual - MAX_CUT_DRIFT,
        "max_value": usual + MAX_CUT_DRIFT,
    }
    return [
        _in_set("subset_has_its_recorded_size", FAIL, frame, "n_members", [n_samples]),
        _in_set("no_member_is_taken_down", FAIL, frame, "n_taken_down", [0]),
        _in_set("members_are_training_data", FAIL, frame, "n_not_of_training_data", [0]),
        _in_set("no_member_is_of_evaluation_data", FAIL, frame, "n_of_evaluation_data", [0]),
        _in_set("members_are_stored", FAIL, frame, "n_not_stored", [0]),
        Check("no_member_is_in_the_dropped_ranks", FAIL, "manifest", "ExpectColumnValuesToBeBetween", head),
        Check("dropped_share_matches_drop_top_ratio", WARN, "manifest", "ExpectColumnValuesToBeBetween", moved),
        _in_set("strategy_fits_the_scoring_rule", WARN, "manifest", "is_mixed", [False]),
        Check(
            "not_expected_to_be_worse_than_random",
            FAIL,
            "probe",
            "ExpectColumnValuesToBeBetween",
            gain,
            ("min_expected_gain",),
        ),
    ]


def evaluation() -> list[Check]:
    """Return the checks that every value is finite, has samples, and has a control under the same evaluation protocol."""
    frame = "check_evaluation"
    return [
        _in_set("values_are_finite", FAIL, frame, "is_finite", [True]),
        _above("values_are_measured_on_samples", FAIL, frame, "n_measured", 0),
        _in_set("values_have_a_control_under_their_protocol", FAIL, frame, "is_pinned", [True]),
    ]


def _in_set(name: str, severity: str, frame: str, column: str, values: list[Any]) -> Check:
    return Check(name, severity, frame, "ExpectColumnValuesToBeInSet", {"column": column, "value_set": values})


def _equal(name: str, frame: str, column: str, other: str) -> Check:
    return Check(name, FAIL, frame, "ExpectColumnPairValuesToBeEqual", {"column_A": column, "column_B": other})


def _above(name: str, severity: str, frame: str, column: str, bound: float) -> Check:
    arguments = {"column": column, "min_value": bound, "strict_min": True}
    return Check(name, severity, frame, "ExpectColumnValuesToBeBetween", arguments)
