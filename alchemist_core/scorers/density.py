"""How much more frequent images like this one are among the validation samples than in the corpus, on frozen embeddings.

Letters: B samples in a batch.
"""

from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from alchemist_core.config import Config, Located
from alchemist_core.errors import ConfigError
from alchemist_core.files import file_sha256
from alchemist_core.models.density import load_density
from alchemist_core.scorers.critic import trained_file
from alchemist_core.scorers.scorer import NOT_IDENTITY, Batch, Scorer


class DensityOptions(Config):
    """Which density ratio, and the encoders that it was fitted on."""

    file: Annotated[str, Located()] = Field(
        description="File that alchemist scorer train wrote; its hash is part of the identity",
        json_schema_extra=NOT_IDENTITY,
    )
    encoders: Annotated[str, Located(is_or_name=True)] = Field(
        "offline",
        description="Frozen encoders on which it was fitted: offline, or a folder or hub name of a CLIP or SigLIP; their hash is part "
        "of the identity",
        json_schema_extra=NOT_IDENTITY,
    )


class DensityScore(Scorer):
    """The logarithm of an image's density among validation samples relative to the corpus, in nats; captions are not read.

    Above 0, images like it are more frequent among the validation samples. Damaged images score low, and so do topics that the validation
    dataset does not show.
    """

    Options: ClassVar[type[Config]] = DensityOptions
    uses_device = True

    def __init__(self, options: Config, device: str = "cpu") -> None:
        assert isinstance(options, DensityOptions)
        from alchemist_core.models.critic import load_encoders  # noqa: PLC0415  imports torch

        path = trained_file(options.file)
        self._density, record = load_density(path)
        self._encoders = load_encoders(options.encoders, record.resolution, device)
        if self._encoders.sha256s != record.encoder_sha256s:
            raise ConfigError(
                f"The density ratio {path} was fitted on other encoders than {options.encoders}. Give the encoders of its training, or "
                "train it again with alchemist scorer train."
            )
        super().__init__(options.model_copy(update={"encoders": self._encoders.source}), device)
        self._sha256 = file_sha256(path).hex()
        self.image_side, self.dtype = self._encoders.side, self._encoders.dtype

    def identity(self) -> dict[str, Any]:
        """Return the hashes of the file and of the encoders."""
        return {"file_sha256": self._sha256, "encoder_sha256s": list(self._encoders.sha256s)}

    def memory_bytes(self) -> int:
        """Return the bytes of the encoders' weights and of the pixels of one batch."""
        assert self.image_side is not None
        return int(self._encoders.n_bytes + self.batch_size * self.image_side**2 * 3 * 4)

    def score(self, batch: Batch) -> Float32[np.ndarray, " B"]:
        """Return the score of each image."""
        return self._density.score(unit(self._encoders.encode_images(batch.image_BHWC))).astype(np.float32)


def unit(image_BD: Float32[np.ndarray, "B D"]) -> Float32[np.ndarray, "B D"]:
    """Return embeddings of length 1, so that no image outweighs others."""
    length_B1 = np.linalg.norm(image_BD, axis=1, keepdims=True)
    return np.asarray(image_BD / np.maximum(length_B1, 1e-12), np.float32)
