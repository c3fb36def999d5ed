"""Bounds of the built-in data checks, as settings of the project file: `[checks]`, or `[datasets.NAME.checks]` for one dataset."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, model_validator

from alchemist_core.config import Section


class CheckLimits(Section):
    """When a check of a night warns or fails, and which of the user's own suites run."""

    max_quarantined_ratio: float = Field(
        0.2, ge=0, le=1, description="Share of a night's locations that may be quarantined before the check fails"
    )
    warn_quarantined_ratio: float = Field(
        0.05, ge=0, le=1, description="Share of a night's locations that may be quarantined before the check warns"
    )
    max_rejected_ratio: float = Field(
        0.05, ge=0, le=1, description="Share of a night's shards that may be rejected before the check warns"
    )
    max_empty_caption_ratio: float = Field(
        0, ge=0, le=1, description="Share of samples whose caption may be blank before the check fails"
    )
    max_odd_caption_ratio: float = Field(
        0.01, ge=0, le=1, description="Share of samples with an unusually short or long caption before the check warns"
    )
    min_caption_characters: int = Field(
        3, ge=0, le=100_000, description="Characters below which a caption is unusually short"
    )
    max_caption_characters: int = Field(
        2000, ge=1, le=1_000_000, description="Characters above which a caption is unusually long"
    )
    max_garbage_ratio: float = Field(
        0.1, ge=0, le=1, description="Share of samples whose caption is garbage before the check warns"
    )
    min_repeated_characters: int = Field(
        10, ge=2, le=255, description="How often one character must repeat in a row for a caption to be garbage"
    )
    max_small_image_ratio: float = Field(
        0, ge=0, le=1, description="Share of samples with a too small image before the check warns"
    )
    min_image_side: int = Field(8, ge=1, le=65_535, description="Pixels below which the shorter side is too small")
    max_odd_shape_ratio: float = Field(
        0.01, ge=0, le=1, description="Share of samples with an unusual aspect ratio before the check warns"
    )
    max_aspect_ratio: float = Field(
        5, ge=1, le=1000, description="Longer side over shorter side, above which an image's shape is unusual"
    )
    max_duplicate_ratio: float = Field(
        0.5, ge=0, le=1, description="Share of a night's samples that came twice before the check warns"
    )
    min_night_spread: float = Field(
        0, ge=0, le=1e30, description="Standard deviation of a night's scores; the check fails unless it is above this"
    )
    min_night_scores: int = Field(
        500, ge=2, le=10**9, description="Scores below which a night's standard deviation is not tested"
    )
    min_shard_scores: int = Field(
        100, ge=2, le=10**9, description="Scores from which a shard whose scores are all equal fails the check"
    )
    min_expected_gain: float = Field(
        0,
        ge=-10,
        le=10,
        description="Gain of a subset over a random one of its size (log of random's loss over its loss) that the rater's probe must "
        "leave possible, else the check fails; below 0 also subsets pass that the probe expects to be worse than random",
    )
    suites: str = Field(
        "suites", min_length=1, description="Folder of your own suites, relative to the project file, or absolute"
    )
    suite_timeout_s: float = Field(
        600, ge=1, le=86_400, description="Seconds that one query of your own suites may take"
    )
    max_examples: int = Field(
        5, ge=0, le=100, description="Unexpected rows that a failing expectation of your own names"
    )

    @model_validator(mode="after")
    def _captions_can_be_usual(self) -> "CheckLimits":
        if self.min_caption_characters > self.max_caption_characters:
            raise ValueError(
                f"min_caption_characters = {self.min_caption_characters} is above "
                f"max_caption_characters = {self.max_caption_characters}: every caption would be unusual"
            )
        return self


@dataclass(frozen=True, slots=True)
class AppliedLimits:
    """The limits of one dataset; `origin` says of a key where its value came from, `folder` is that of the user's own suites."""

    limits: CheckLimits = field(default_factory=CheckLimits)
    origin: Callable[[str], str] = "default of [checks] {}".format
    folder: Path | None = None
