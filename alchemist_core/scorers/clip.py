"""How well an image matches its caption: the cosine of CLIP, and the probability of SigLIP.

Letters: B samples in a batch · D features.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import expit

from alchemist_core.config import Config, Located
from alchemist_core.models.published.sources import locate_model, model_sha256
from alchemist_core.scorers.scorer import NOT_IDENTITY, Batch, Scorer

MODEL_HELP = "a folder of a model of transformers, or hf:ORG/NAME@REVISION on the Hugging Face hub; its weights are part of the identity"
HALF_HELP = "Run the network in fp16 on a GPU: faster, and scores change by about 0.001; a CPU computes in fp32"


class ImageTextOptions(Config):
    """Which model, and in which precision."""

    model: Annotated[str, Located(is_or_name=True)] = Field(
        description=f"Model: {MODEL_HELP}", json_schema_extra=NOT_IDENTITY
    )
    half: bool = Field(True, description=HALF_HELP)


class ClipScore(Scorer):
    """Cosine of CLIP's features of image and caption, from -1 to 1, without a factor and without a cut at 0.

    A caption is cut at the model's 77 tokens. Its embedding is the image's features, normalised to length 1.

    Source: Hessel et al. 2021, Eq. 1, without its factor 2.5.
    """

    Options: ClassVar[type[Config]] = ImageTextOptions
    uses_device = True
    network: ClassVar[str] = "Clip"

    def __init__(self, options: Config, device: str = "cpu") -> None:
        assert isinstance(options, ImageTextOptions)
        from alchemist_core.models import features  # noqa: PLC0415  imports torch

        located = locate_model(options.model)
        super().__init__(options.model_copy(update={"model": located.source}), device)
        self._sha256 = model_sha256(located.path)
        self._network: Any = getattr(features, self.network)(located.path, device, half=options.half)
        self.image_side = self._network.side
        self.dtype = self._network.dtype

    def identity(self) -> dict[str, Any]:
        """Return the hash of the model's files."""
        return {"model_sha256": self._sha256}

    def score(self, batch: Batch) -> Float32[np.ndarray, " B"]:
        """Return the scores alone."""
        return self.score_and_embed(batch)[0]

    def embed(self, batch: Batch) -> Float32[np.ndarray, "B D"]:
        """Return the image features alone, normalised to length 1; captions are not read."""
        return unit_length(self._network.features(batch.image_BHWC))

    def embed_text(self, captions: Sequence[str]) -> Float32[np.ndarray, "B D"]:
        """Return the text features, normalised to length 1."""
        return unit_length(self._network.text_features(captions))

    def score_and_embed(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return both from one forward."""
        image_BD, text_BD = self.embed(batch), unit_length(self._network.text_features(batch.captions))
        return self._compare(np.einsum("bd,bd->b", image_BD, text_BD)), image_BD

    def _compare(self, cosine_B: Float32[np.ndarray, " B"]) -> Float32[np.ndarray, " B"]:
        return cosine_B


class SiglipScore(ClipScore):
    """SigLIP's probability that image and caption belong together, from 0 to 1.

    The probability, because that is what SigLIP was trained to give and what its publishers and transformers print; it can be read
    without knowing the model's scale. Its order is that of the cosine, of which it is an increasing function.

    A caption is cut at the model's 64 tokens. Its embedding is the image's features, normalised to length 1.

    Source: Zhai et al. 2023, Algorithm 1: the sigmoid of scale times cosine plus bias.
    Departs: the published image processor squeezes the whole image into a square; here the largest centred square is scored.
    """

    network = "Siglip"

    def _compare(self, cosine_B: Float32[np.ndarray, " B"]) -> Float32[np.ndarray, " B"]:
        scale, bias = self._network.scale_and_bias
        probability_B: NDArray[np.float32] = expit(scale * cosine_B + bias).astype(np.float32)
        return probability_B


def unit_length(feature_BD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the features normalised to length 1."""
    unit_BD: NDArray[np.float32] = feature_BD / np.linalg.norm(feature_BD, axis=1, keepdims=True)
    return unit_BD
