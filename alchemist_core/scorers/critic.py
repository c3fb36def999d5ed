"""How well an image matches its caption, by a critic that was trained on the validation dataset alone.

Letters: B samples in a batch · E features of the shared space.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray
from pydantic import Field

from alchemist_core.config import Config, Located
from alchemist_core.models.critic_config import CriticRecord
from alchemist_core.scorers.scorer import NOT_IDENTITY, Batch
from alchemist_core.scorers.trained import FILE_HELP, EncoderOptions, TrainedScorer


class CriticOptions(EncoderOptions):
    """Which critic, and the encoders that it was trained on."""

    head: Annotated[str, Located()] = Field(description=FILE_HELP, json_schema_extra=NOT_IDENTITY)


class CriticScore(TrainedScorer):
    """How much better an image matches its own caption than other captions do, by a critic trained on the validation dataset, in nats.

    The other captions are some of the validation dataset's and are stored in the critic's file, so a score depends on its sample alone.
    At 0, the own caption matches no better than another one. Its embedding is the critic's projection of the image.
    """

    Options: ClassVar[type[Config]] = CriticOptions
    file_option = "head"
    noun = "critic"

    def read(self, path: Path) -> CriticRecord:
        """Read the file."""
        from alchemist_core.models.critic import load_critic  # noqa: PLC0415  imports torch

        self._critic, record = load_critic(path)
        return record

    def score(self, batch: Batch) -> Float32[np.ndarray, " B"]:
        """Return the scores alone."""
        return self.score_and_embed(batch)[0]

    def embed_text(self, captions: Sequence[str]) -> Float32[np.ndarray, "B E"]:
        """Return the projections of captions, of length 1."""
        text_BC = self._encoders.encode_texts(captions)
        image_BD = np.zeros((len(captions), self._encoders.dims[0]), np.float32)
        text_BE: NDArray[np.float32] = self._critic.project(image_BD, text_BC)[1].numpy()
        return text_BE

    def score_and_embed(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return both from one forward."""
        image_BE, text_BE = self._critic.project(
            self._encoders.encode_images(batch.image_BHWC), self._encoders.encode_texts(batch.captions)
        )
        return self._critic.score(image_BE, text_BE, batch.captions), image_BE.numpy()
