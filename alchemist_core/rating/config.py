"""Which rule values a sample, and how sharply the rater's objective may weigh a batch. No torch here."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class RatingRule(StrEnum):
    """What a sample is valued by."""

    ALIGNMENT = "alignment"
    """Eq. 6: how much less it costs the model that also saw validation data than the one that saw none."""
    LOSS = "loss"
    """Eq. 9: how little it costs the former; plain samples come first."""


class Objective(StrEnum):
    """What the rater descends."""

    REGULARISED = "regularised"
    """Weighted value with an entropy price: the logit converges to the expected value in units of the price."""
    PAPER_EXACT = "paper_exact"
    """The paper's bare objective over the product of both heads; it sharpens for ever, and W_batch collapses."""


class RaterReading(StrEnum):
    """What of its backbone the rater's heads read."""

    MATCHES = "matches"
    """What is expected of each token times the vector of its code: how image meets caption, token by token."""
    HIDDEN = "hidden"
    """The mean of the last block, as the paper's rater does."""


class PenaltySchedule(StrEnum):
    """How the proxy's step weighs training data against validation data."""

    CONSTANT = "constant"
    """Eq. 5: validation loss + γ × re-weighted training loss."""
    SEAL = "seal"
    """u × validation loss + (1 − u) × re-weighted training loss, u falling by .03 with each validation epoch."""


class ObjectiveConfig(BaseModel):
    """The constants of the regularised objective."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    price_ratio: float = Field(0.5, gt=0, le=100, description="Price of sharpness in units of the running spread of c")
    price_floor: float = Field(1e-3, gt=0, le=10, description="Least price of sharpness, in nats")
    ema_factor: float = Field(0.98, ge=0, lt=1, description="Share of its past that a running mean keeps each step")
    drift_price: float = Field(1e-3, ge=0, le=1e-3, description="Price of the mean logit's square")
