"""How much more frequent images like this one are among the validation samples than in the corpus, on frozen embeddings.

Letters: B samples in a batch.
"""

from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from alchemist_core.config import Config, Located
from alchemist_core.models.density import DensityRecord, load_density
from alchemist_core.scorers.scorer import NOT_IDENTITY, Batch
from alchemist_core.scorers.trained import FILE_HELP, EncoderOptions, TrainedScorer


class DensityOptions(EncoderOptions):
    """Which density ratio, and the encoders that it was fitted on."""

    file: Annotated[str, Located()] = Field(description=FILE_HELP, json_schema_extra=NOT_IDENTITY)


class DensityScore(TrainedScorer):
    """The logarithm of an image's density among validation samples relative to the corpus, in nats; captions are not read.

    Above 0, images like it are more frequent among the validation samples. Damaged images score low, and so do topics that the validation
    dataset does not show.
    """

    Options: ClassVar[type[Config]] = DensityOptions
    file_option = "file"
    noun = "density ratio"

    def read(self, path: Path) -> DensityRecord:
        """Read the file."""
        self._density, record = load_density(path)
        return record

    def score(self, batch: Batch) -> Float32[np.ndarray, " B"]:
        """Return the score of each image."""
        return self._density.score(unit(self._encoders.encode_images(batch.image_BHWC))).astype(np.float32)


def unit(image_BD: Float32[np.ndarray, "B D"]) -> Float32[np.ndarray, "B D"]:
    """Return embeddings of length 1, so that no image outweighs others."""
    length_B1 = np.linalg.norm(image_BD, axis=1, keepdims=True)
    return np.asarray(image_BD / np.maximum(length_B1, 1e-12), np.float32)
