"""How much people like an image: a linear head on CLIP's features, which was trained on ratings of people.

Letters: B samples in a batch · D features.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray
from pydantic import Field

from alchemist_core.config import Config, Located
from alchemist_core.errors import ConfigError
from alchemist_core.files import file_sha256
from alchemist_core.models.published.sources import locate_file
from alchemist_core.scorers.clip import ClipScore, ImageTextOptions, unit_length
from alchemist_core.scorers.scorer import NOT_IDENTITY, Batch


class AestheticOptions(ImageTextOptions):
    """Which CLIP, and which head on it."""

    head: Annotated[str, Located()] = Field(
        description="safetensors file with weight (one number per feature) and bias, or hf:ORG/NAME/FILE@REVISION; its hash is part of "
        "the identity",
        json_schema_extra=NOT_IDENTITY,
    )


class AestheticScore(ClipScore):
    """LAION's aesthetic score, about 1 to 10: a linear head on CLIP's image features; captions are not read.

    Its embedding is the image's features, normalised to length 1.

    Raises:
        ConfigError: A file is missing, or the head belongs to another CLIP.
    """

    Options = AestheticOptions

    def __init__(self, options: Config, device: str = "cpu") -> None:
        assert isinstance(options, AestheticOptions)
        super().__init__(options, device)
        located = locate_file(options.head)
        self.options = self.options.model_copy(update={"head": located.source})
        self._head_sha256 = file_sha256(located.path).hex()
        self._weight_D, self._bias = read_head(located.path)
        if len(self._weight_D) != self._network.dim:
            raise ConfigError(
                f"The head {options.head} is for {len(self._weight_D)} features, but CLIP {options.model} gives {self._network.dim}. "
                "Give the head that was trained on this CLIP."
            )

    def identity(self) -> dict[str, Any]:
        """Return the hashes of the model's files and of the head."""
        return super().identity() | {"head_sha256": self._head_sha256}

    def score_and_embed(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return both from one forward."""
        image_BD = self._network.features(batch.image_BHWC)
        return aesthetic(image_BD, self._weight_D, self._bias), unit_length(image_BD)


def aesthetic(embedding_BD: NDArray[np.float32], weight_D: NDArray[np.float32], bias: float) -> NDArray[np.float32]:
    """Return the head's value of each embedding after normalising it to length one: 1 to 10, higher is better.

    Source: LAION-AI/aesthetic-predictor, `sa_0_4_vit_l_14_linear`: Linear(768, 1) on normalised CLIP ViT-L/14 embeddings.

    >>> round(float(aesthetic(np.array([[3, 4]], np.float32), np.array([1, 0], np.float32), 2.0)[0]), 3)
    2.6
    """
    length_B1 = np.linalg.norm(embedding_BD.astype(np.float64), axis=1, keepdims=True)
    unit_BD = embedding_BD / np.where(length_B1 > 0, length_B1, 1)
    return (unit_BD @ weight_D.astype(np.float64) + bias).astype(np.float32)


def read_head(path: Path) -> tuple[Float32[np.ndarray, " D"], float]:
    """Read the weight of each feature and the bias of a head.

    Raises:
        ConfigError: There is no such file, or it holds something else.
    """
    from safetensors import SafetensorError  # noqa: PLC0415  an extra of its own
    from safetensors.numpy import load_file  # noqa: PLC0415  as above

    if not path.is_file():
        raise ConfigError(f"The aesthetic head {path} is not a file. Give the safetensors file of the head.")
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"The aesthetic head {path} is not a whole safetensors file: {error}.") from error
    if not {"weight", "bias"} <= stored.keys():
        raise ConfigError(f"The aesthetic head {path} holds {', '.join(sorted(stored))}; it must hold weight and bias.")
    return stored["weight"].reshape(-1), float(stored["bias"].reshape(-1)[0])
