"""The rater's network as a run is told to build it."""

from alchemist_core.loops.config import RaterTrainingConfig
from alchemist_core.models.config import StarConfig
from alchemist_core.models.star import Star, Trunk
from alchemist_core.rating.config import RaterReading, RatingRule
from alchemist_core.rating.learnability import LearnabilityRater
from alchemist_core.rating.rater import PairRater, Rater


def make_rater(config: RaterTrainingConfig, size: StarConfig) -> Rater:
    """Build an untrained rater: matches need the generator's code vectors, hidden states its trunk alone."""
    backbone = Trunk(size) if config.rater_reading is RaterReading.HIDDEN else Star(size)
    return Rater(backbone, size.width, reading=config.rater_reading)


def make_scoring_rater(config: RaterTrainingConfig, size: StarConfig) -> PairRater:
    """Build what a run of this config leaves to score with, its weights not loaded yet."""
    if config.rule is RatingRule.LEARNABILITY:
        return LearnabilityRater(Star(size), Star(size))
    return make_rater(config, size)
