"""The rater's network as a run is told to build it."""

from alchemist_core.loops.config import RaterTrainingConfig
from alchemist_core.models.config import StarConfig
from alchemist_core.models.star import Star, Trunk
from alchemist_core.rating.config import RaterReading
from alchemist_core.rating.rater import Rater


def make_rater(config: RaterTrainingConfig, size: StarConfig) -> Rater:
    """Build an untrained rater: matches need the generator's code vectors, hidden states its trunk alone."""
    backbone = Trunk(size) if config.rater_reading is RaterReading.HIDDEN else Star(size)
    return Rater(backbone, size.width, reading=config.rater_reading)
