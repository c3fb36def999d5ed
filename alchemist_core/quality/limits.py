"""Limits of the drift of a night and of the built-in data checks: `[drift]` and `[checks]` of the project file, or of one dataset."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, model_validator

from alchemist_core.config import Section


class DriftLimits(Section):
    """Limits of the score drift of a night: `[drift]` of the project file, or `[datasets.NAME.drift]` for one dataset."""

    warn_psi: float = Field(0.1, ge=0, le=100, description="Corrected PSI at which a night gets a warning")
    hold_psi: float = Field(0.25, ge=0, le=100, description="Corrected PSI at which a night is held")
    # In a smaller night, the share of a bin (10% of the scores) varies too much by chance.
    min_scores: int = Field(
        500,
        ge=50,
        le=10**9,
        description="A night with fewer scores is never held; it is tested together with the next nights",
    )

    @model_validator(mode="after")
    def _warns_before_it_holds(self) -> "DriftLimits":
        if self.warn_psi > self.hold_psi:
            raise ValueError(
                f"warn_psi = {self.warn_psi} is above hold_psi = {self.hold_psi}: it must be at most hold_psi"
            )
        return self


class CheckLimits(Section):
    """Limits at which checks warn or fail, and settings of the user's own suites."""

    max_quarantined_ratio: float = Field(
        0.2, ge=0, le=1, description="Largest share of quarantined records of a night; the check fails above it"
    )
    warn_quarantined_ratio: float = Field(
        0.05, ge=0, le=1, description="Share of quarantined records of a night above which the check warns"
    )
    max_rejected_ratio: float = Field(
        0.05, ge=0, le=1, description="Share of rejected shards of a night above which the check warns"
    )
    max_empty_caption_ratio: float = Field(
        0, ge=0, le=1, description="Largest share of samples with a blank caption; the check fails above it"
    )
    max_odd_caption_ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of samples with an unusually short or long caption above which the check warns",
    )
    min_caption_characters: int = Field(
        3, ge=0, le=100_000, description="A caption with fewer characters is unusually short"
    )
    max_caption_characters: int = Field(
        2000, ge=1, le=1_000_000, description="A caption with more characters is unusually long"
    )
    max_garbage_ratio: float = Field(
        0.1, ge=0, le=1, description="Share of samples with a garbage caption above which the check warns"
    )
    min_repeated_characters: int = Field(
        10, ge=2, le=255, description="A caption that repeats one character this many times in a row is garbage"
    )
    max_small_image_ratio: float = Field(
        0, ge=0, le=1, description="Share of samples with a small image above which the check warns"
    )
    min_image_side: int = Field(8, ge=1, le=65_535, description="An image whose shorter side has fewer pixels is small")
    max_odd_shape_ratio: float = Field(
        0.01, ge=0, le=1, description="Share of samples with an unusual aspect ratio above which the check warns"
    )
    max_aspect_ratio: float = Field(
        5, ge=1, le=1000, description="An aspect ratio (longer side / shorter side) above this is unusual"
    )
    max_duplicate_ratio: float = Field(
        0.5, ge=0, le=1, description="Share of repeated samples of a night above which the check warns"
    )
    min_night_spread: float = Field(
        0,
        ge=0,
        le=1e30,
        description="The standard deviation of a night's scores must be above this, else the check fails",
    )
    min_night_scores: int = Field(
        500, ge=2, le=10**9, description="The standard deviation of a night with fewer scores is not checked"
    )
    min_shard_scores: int = Field(
        100, ge=2, le=10**9, description="A shard with at least this many scores that are all equal fails the check"
    )
    min_expected_gain: float = Field(
        0,
        ge=-10,
        le=10,
        description="The check fails if the upper end of a subset's predicted gain, log(loss of a random subset / loss of the subset), "
        "is below this. A value below 0 accepts subsets that are predicted to be worse than random",
    )
    suites: str = Field(
        "suites", min_length=1, description="Folder of your own suites, absolute or relative to the project file"
    )
    suite_timeout_s: float = Field(
        600, ge=1, le=86_400, description="Time limit of one query of your own suites, in seconds"
    )
    max_examples: int = Field(
        5, ge=0, le=100, description="Number of unexpected rows that a failed expectation of your own suites reports"
    )

    @model_validator(mode="after")
    def _captions_can_be_usual(self) -> "CheckLimits":
        if self.min_caption_characters > self.max_caption_characters:
            raise ValueError(
                f"min_caption_characters = {self.min_caption_characters} is above "
                f"max_caption_characters = {self.max_caption_characters}: it must be at most max_caption_characters"
            )
        return self


@dataclass(frozen=True, slots=True)
class AppliedLimits:
    """Limits of one dataset. `origin` returns where the value of a key is set; `folder` contains the user's own suites."""

    limits: CheckLimits = field(default_factory=CheckLimits)
    origin: Callable[[str], str] = "default of [checks] {}".format
    folder: Path | None = None
