"""Which rule values a sample, and how sharply the rater's objective may weigh a batch. No torch here."""

from enum import StrEnum


class RatingRule(StrEnum):
    """What a sample is valued by."""

    ALIGNMENT = "alignment"
    """Eq. 6: how much less it costs the model that also saw validation data than the one that saw none."""
    LOSS = "loss"
    """Eq. 9: how little it costs the former; plain samples come first."""
    LEARNABILITY = "learnability"
    """RHO-LOSS, JEST: how much less it costs a proxy once that went on with validation data alone; two proxies are the rater."""


class Objective(StrEnum):
    """What the rater descends."""

    REGULARISED = "regularised"
    """Weighted value with an entropy price: the logit converges to the expected value in units of the price."""
    PAPER_EXACT = "paper_exact"
    """The paper's bare objective over the product of both heads; it sharpens for ever, and W_batch collapses."""


class RaterFeatures(StrEnum):
    """What of its backbone the rater's heads read."""

    MATCH = "match"
    """What is expected of each token times the vector of its code: how image meets caption, token by token."""
    HIDDEN = "hidden"
    """The mean of the last block, as the paper's rater does."""


class PenaltySchedule(StrEnum):
    """How the proxy's step weighs training data against validation data."""

    CONSTANT = "constant"
    """Eq. 5: validation loss + γ × re-weighted training loss."""
    SEAL = "seal"
    """u × validation loss + (1 − u) × re-weighted training loss, u falling by .03 with each validation epoch."""


PRICE_FLOOR = 1e-3
"""Least price of sharpness, in nats."""
EMA_FACTOR = 0.98
"""Share of its past that a running mean keeps each step."""
DRIFT_PRICE = 1e-3
"""Price of the mean logit's square; .1 already costs 13 % of the slope that a score has on its cost."""
