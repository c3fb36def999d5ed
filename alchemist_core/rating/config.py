"""Scoring rules, objectives and features of raters, and the constants of the objective. No torch."""

from enum import StrEnum

RATER_SCORE = "rater"
"""The name of the score by the rater itself, beside those of heuristics, scorers and imports."""


class ScoringRule(StrEnum):
    """What a sample is scored by; the cost functions are in `rules`."""

    ALIGNMENT = "alignment"
    """Eq. 6: how much lower the loss is under the model that also trained on validation data than under the one that did not."""
    LOSS = "loss"
    """Eq. 9: how low the loss is under the model that also trained on validation data."""
    LEARNABILITY = "learnability"
    """RHO-LOSS, JEST: how much further training on validation data alone lowers a proxy's loss."""
    PMI = "pmi"
    """Pointwise mutual information: how much better that proxy predicts an image from its own caption than from other captions."""

    @property
    def strategy(self) -> str:
        """Return the selection strategy that fits where the rule ranks its useful samples; what `auto` means."""
        return "shift_gsample" if self is ScoringRule.LOSS else "head_gsample"

    @property
    def trains_rater(self) -> bool:
        """Return whether a rater network is trained. Otherwise the proxies are the rater."""
        return self not in (ScoringRule.LEARNABILITY, ScoringRule.PMI)

    @property
    def ranks_plain_first(self) -> bool:
        """Return whether plain samples rank first by design, so that acceptance checks do not reject that."""
        return self is ScoringRule.LOSS


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
