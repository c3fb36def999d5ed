"""The image-text head: a critic that measures how well an image matches a caption, trained on validation data.

Two small networks project the features of two frozen encoders (EfficientNet-lite0 and all-MiniLM-L6-v2, from packages) into one
space; the cosine of image and caption measures the match. The small networks are trained on the user's samples and stored in one file.
Its cosines are comparable only with those of the same file, and not with CLIP-Score.

Letters: N samples · D features of an encoder · E of the shared space.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from alchemist_core.errors import ConfigError
from alchemist_core.models.extractors import find_weights, minilm_folder, weights_sha256
from alchemist_core.models.features import EfficientNetLite0, Features
from alchemist_core.models.image_text_config import HeadRecord, refuse_weak
from alchemist_core.models.images import ImageArray
from alchemist_core.models.text import MiniLm

IMAGE_DIM, TEXT_DIM = 1280, MiniLm.dim
_CAPTIONS = 1024


class Encoders:
    """The two frozen encoders, from their packages."""

    def __init__(self, device: str = "cpu") -> None:
        weights, folder = find_weights("efficientnet_lite0", None), minilm_folder()
        assert weights is not None
        self.sha256s = weights_sha256(weights), weights_sha256(Path(folder))
        self._image, self._text = EfficientNetLite0(weights, device), MiniLm(device, MiniLm.n_first_tokens)

    def encode_images(self, image_NHWC: ImageArray) -> Features:
        """Return each image's 1280 features."""
        return self._image.features(image_NHWC)

    def encode_texts(self, texts: Sequence[str]) -> Features:
        """Return each text's 384 features: the mean over its first 32 tokens."""
        parts = [
            self._text.encode(texts[start : start + _CAPTIONS]).pooled_BD.numpy()
            for start in range(0, len(texts), _CAPTIONS)
        ]
        return np.concatenate(parts)


class Head(nn.Module):
    """Projects both encoders' features into one space, in which an image is near its caption."""

    def __init__(
        self, hidden: int, dim: int, dropout: float = 0.0, dims: tuple[int, int] = (IMAGE_DIM, TEXT_DIM)
    ) -> None:
        super().__init__()
        self.image = _projection(dims[0], hidden, dim, dropout)
        self.text = _projection(dims[1], hidden, dim, dropout)

    def forward(
        self, image_ND: Float[Tensor, "N D"], text_NC: Float[Tensor, "N C"]
    ) -> tuple[Float[Tensor, "N E"], Float[Tensor, "N E"]]:
        """Return both projections, normalised to length 1."""
        return nn.functional.normalize(self.image(image_ND)), nn.functional.normalize(self.text(text_NC))


class ImageText:
    """A trained head with the encoders that it was trained on.

    Raises:
        ConfigError: The file does not hold a head, its encoders are not those installed, or its AUC is too low.
    """

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        self._head, record = load_head(weights)
        refuse_weak(record, str(weights))
        self._encoders = Encoders(device)
        wanted = record.image_encoder_sha256, record.text_encoder_sha256
        if self._encoders.sha256s != wanted:
            raise ConfigError(
                f"{weights} was trained on encoders {wanted}, but {self._encoders.sha256s} are installed. Train it again with "
                "alchemist image-text-head, or install the versions of the training."
            )
        self.side = record.resolution

    @torch.inference_mode()
    def features(self, image_NHWC: ImageArray) -> Features:
        """Return each image's projection; images must have the head's side."""
        image_NE: Tensor = self._head.image(torch.from_numpy(self._encoders.encode_images(image_NHWC)))
        return image_NE.numpy()

    @torch.inference_mode()
    def text_features(self, prompts: Sequence[str]) -> Features:
        """Return each prompt's projection."""
        text_NE: Tensor = self._head.text(torch.from_numpy(self._encoders.encode_texts(prompts)))
        return text_NE.numpy()


def pack_head(head: Head, record: HeadRecord) -> bytes:
    """Return the file of a head and its record; equal heads give equal bytes."""
    # Use one metadata entry, because safetensors does not keep the order of several entries.
    return save(dict(head.state_dict()), {"record": json.dumps(record.hashed_json(), sort_keys=True)})


def load_head(path: Path) -> tuple[Head, HeadRecord]:
    """Read a head in eval mode, and its record.

    Raises:
        ConfigError: The file does not hold a head.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = HeadRecord.from_stored(json.loads((file.metadata() or {})["record"]))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        head = Head(record.training.hidden, record.training.dim)
        head.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValidationError, RuntimeError) as error:
        raise ConfigError(
            f"{path} is not a head that alchemist image-text-head wrote: {error}. Train one with that command."
        ) from error
    return head.eval().requires_grad_(requires_grad=False), record


def _projection(n_features: int, hidden: int, dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(n_features), nn.Linear(n_features, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
    )
