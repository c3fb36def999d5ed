"""Scoring rules, objectives and features of raters, and the constants of the objective. No torch."""

from enum import StrEnum
from typing import Literal


class ScoringRule(StrEnum):
    """What a sample is scored by; the cost functions are in `rules`.

    Attributes:
        strategy: The selection strategy that fits where the rule ranks its useful samples; what `auto` means.
        trains_rater: Whether a rater network is trained. Otherwise two proxies are the rater.
        ranks_plain_first: Whether plain samples rank first by design, so that acceptance checks do not reject that.
    """

    strategy: str
    trains_rater: bool
    ranks_plain_first: bool

    def __new__(
        cls, name: str, strategy: str = "head_gsample", *flags: Literal["trains no rater", "ranks plain first"]
    ) -> "ScoringRule":
        """Declare a rule: its name, its strategy, and what is unusual about it."""
        rule = str.__new__(cls, name)
        rule._value_ = name
        rule.strategy = strategy
        rule.trains_rater = "trains no rater" not in flags
        rule.ranks_plain_first = "ranks plain first" in flags
        return rule

    ALIGNMENT = "alignment"
    """Eq. 6: how much lower the loss is under the model that also trained on validation data than under the one that did not."""
    LOSS = "loss", "shift_gsample", "ranks plain first"
    """Eq. 9: how low the loss is under the model that also trained on validation data."""
    LEARNABILITY = "learnability", "head_gsample", "trains no rater"
    """RHO-LOSS, JEST: how much further training on validation data alone lowers a proxy's loss."""


class Objective(StrEnum):
    """Training loss of the rater."""

    REGULARISED = "regularised"
    """Weighted cost plus the KL penalty: the logit converges to the expected advantage in units of the penalty's weight."""
    PAPER_EXACT = "paper_exact"
    """The paper's objective over the product of both heads, without a penalty: weights sharpen without end, and W_batch collapses."""


class RaterFeatures(StrEnum):
    """Input of the rater's heads."""

    MATCH = "match"
    """The predicted vector of each token times the vector of its code: how well the image matches the caption, token by token."""
    HIDDEN = "hidden"
    """The mean over the output of the last block, as in the paper."""


class PenaltySchedule(StrEnum):
    """Weights of training and validation data in a step of the proxy."""

    CONSTANT = "constant"
    """Eq. 5: validation loss + γ × re-weighted training loss."""
    SEAL = "seal"
    """u × validation loss + (1 − u) × re-weighted training loss; u decreases by 0.03 with each validation epoch."""


PRICE_FLOOR = 1e-3
"""Lower bound of the KL weight, in nats."""
EMA_FACTOR = 0.98
"""Weight of the previous value in a running mean."""
DRIFT_PRICE = 1e-3
"""Weight of the squared mean logit; 0.1 already reduces the slope of the score on the cost by 13%."""
