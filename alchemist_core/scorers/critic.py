"""How well an image matches its caption, by a critic that was trained on the validation dataset alone.

Letters: B samples in a batch · E features of the shared space.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray
from pydantic import Field

from alchemist_core.config import Config, Located
from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path, file_sha256
from alchemist_core.scorers.scorer import NOT_IDENTITY, Batch, Scorer

ARTIFACT = "artifact:"
"""Prefix of an address relative to the artifacts of the home, so that a home can be moved."""


class CriticOptions(Config):
    """Which critic, and the encoders that it was trained on."""

    head: Annotated[str, Located()] = Field(
        description="File that alchemist scorer train wrote; its hash is part of the identity",
        json_schema_extra=NOT_IDENTITY,
    )
    encoders: Annotated[str, Located(is_or_name=True)] = Field(
        "offline",
        description="Frozen encoders on which it was trained: offline, or a folder or hub name of a CLIP or SigLIP; their hash is part "
        "of the identity",
        json_schema_extra=NOT_IDENTITY,
    )


class CriticScore(Scorer):
    """How much better an image matches its own caption than other captions do, by a critic trained on the validation dataset, in nats.

    The other captions are some of the validation dataset's and are stored in the critic's file, so a score depends on its sample alone.
    At 0, the own caption matches no better than another one. Its embedding is the critic's projection of the image.
    """

    Options: ClassVar[type[Config]] = CriticOptions
    uses_device = True

    def __init__(self, options: Config, device: str = "cpu") -> None:
        assert isinstance(options, CriticOptions)
        from alchemist_core.models.critic import load_critic, load_encoders  # noqa: PLC0415  imports torch

        path = trained_file(options.head)
        self._critic, record = load_critic(path)
        self._encoders = load_encoders(options.encoders, record.resolution, device)
        if self._encoders.sha256s != record.encoder_sha256s:
            raise ConfigError(
                f"The critic {path} was trained on other encoders than {options.encoders}. Give the encoders of its training, or train "
                "it again with alchemist scorer train."
            )
        super().__init__(options.model_copy(update={"encoders": self._encoders.source}), device)
        self._head_sha256 = file_sha256(path).hex()
        self.image_side, self.dtype = self._encoders.side, self._encoders.dtype

    def identity(self) -> dict[str, Any]:
        """Return the hashes of the critic's file and of its encoders."""
        return {"head_sha256": self._head_sha256, "encoder_sha256s": list(self._encoders.sha256s)}

    def memory_bytes(self) -> int:
        """Return the bytes of the encoders' weights and of the pixels of one batch."""
        assert self.image_side is not None
        return int(self._encoders.n_bytes + self.batch_size * self.image_side**2 * 3 * 4)

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


def trained_file(address: str) -> Path:
    """Return the path of a file that `alchemist scorer train` wrote.

    Raises:
        ConfigError: There is no such file.
    """
    path = artifact_path(address.removeprefix(ARTIFACT)) if address.startswith(ARTIFACT) else Path(address)
    if not path.is_file():
        raise ConfigError(f"There is no file {path}. Train the scorer with alchemist scorer train, or give its file.")
    return path
