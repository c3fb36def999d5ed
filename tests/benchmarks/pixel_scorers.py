"""Three scorers of one image side, for benchmarks; `copy_number` makes another scorer of the same scores."""

import numpy as np

from alchemist_core.config import Config
from alchemist_core.scorers import Batch, Scorer


class Options(Config):
    """Nothing but a number."""

    copy_number: int = 0


class Redness(Scorer):
    """How red an image is."""

    Options = Options
    image_side = 64

    def score(self, batch: Batch) -> np.ndarray:
        mean_B3 = batch.image_BHWC.mean((1, 2), dtype=np.float32)
        return mean_B3[:, 0] - mean_B3[:, 1:].mean(1)


class Brightness(Redness):
    """Mean of all channels."""

    def score(self, batch: Batch) -> np.ndarray:
        return batch.image_BHWC.mean((1, 2, 3), dtype=np.float32)


class Contrast(Redness):
    """Standard deviation of all channels."""

    def score(self, batch: Batch) -> np.ndarray:
        return batch.image_BHWC.std((1, 2, 3), dtype=np.float32)
