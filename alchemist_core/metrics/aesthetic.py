"""The aesthetic score of images: a linear head on CLIP's features.

Letters: B, N images · D features.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from alchemist_core.errors import ConfigError
from alchemist_core.models.features import Clip
from alchemist_core.models.images import ImageArray
from alchemist_core.training.launching import own_device


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
    if not path.is_file():
        raise ConfigError(f"ALCHEMIST_AESTHETIC_HEAD {path} is not a file. Give the safetensors file of the head.")
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"ALCHEMIST_AESTHETIC_HEAD {path} is not a whole safetensors file: {error}.") from error
    if not {"weight", "bias"} <= stored.keys():
        raise ConfigError(
            f"ALCHEMIST_AESTHETIC_HEAD {path} holds {', '.join(sorted(stored))}; it must hold weight and bias."
        )
    return stored["weight"].reshape(-1), float(stored["bias"].reshape(-1)[0])


class AestheticJudge:
    """Scores images of one size.

    Args:
        clip: Folder of a CLIP model.
        head: safetensors file with `weight`, one number per feature, and `bias`.

    Raises:
        ConfigError: A file is missing, or the head belongs to another model.
    """

    def __init__(self, clip: Path, head: Path) -> None:
        self._weight_D, self._bias = read_head(head)
        self._clip = Clip(clip, str(own_device()))
        if len(self._weight_D) != self._clip.dim:
            raise ConfigError(
                f"ALCHEMIST_AESTHETIC_HEAD {head} is for {len(self._weight_D)} features, but CLIP in {clip} gives {self._clip.dim}. "
                "Give the head that was trained on this CLIP."
            )

    @property
    def side(self) -> int:
        """Side in pixels of the images that it scores."""
        return self._clip.side

    def judge(self, image_NHWC: ImageArray) -> Float32[np.ndarray, " N"]:
        """Return the aesthetic score of each image, 1 to 10."""
        return aesthetic(self._clip.features(image_NHWC), self._weight_D, self._bias)
