"""Scoring pairs with a trained rater: one number a pair, the same in any company.

Letters: N pairs · B pairs in a batch.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from safetensors.torch import load_file

from alchemist_core.loops.checkpoints import read_json
from alchemist_core.loops.config import RaterTrainingConfig
from alchemist_core.loops.pairs import Pairs
from alchemist_core.models.images import ImageArray
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextEncoder, load_text_encoder
from alchemist_core.models.tokenizer import ENCODE_BATCH, Tokenizer
from alchemist_core.rating.rater import Rater


class Scorer:
    """A rater with its frozen encoders, in eval mode and fp32."""

    batch = ENCODE_BATCH
    """Pairs of every forward, padded where there are fewer: kernels depend on the shape, scores must not."""

    def __init__(self, rater: Rater, tokenizer: Tokenizer, encoder: TextEncoder) -> None:
        self._rater, self._tokenizer, self._encoder = rater.eval(), tokenizer, encoder

    @classmethod
    def load(cls, path: Path) -> "Scorer":
        """Read the folder that `train_rater` made."""
        config = RaterTrainingConfig.model_validate(read_json(path / "config.json"))
        tokenizer = Tokenizer.load(path / "tokenizer.safetensors")
        encoder = load_text_encoder(config.text_encoder)
        size = config.rater(tokenizer.config, encoder.dim)
        rater = Rater(Star(size), size.width)
        rater.load_state_dict(load_file(path / "rater.safetensors"))
        return cls(rater, tokenizer, encoder)

    @property
    def image_side(self) -> int:
        """Side in pixels to which images may be decoded without loss."""
        return self._tokenizer.config.resolution

    @property
    def device(self) -> str:
        """Where the forward runs; part of a score's provenance."""
        return next(self._rater.parameters()).device.type

    @property
    def dtype(self) -> str:
        """Number format of the forward; part of a score's provenance."""
        return str(next(self._rater.parameters()).dtype).removeprefix("torch.")

    @torch.inference_mode()
    def score(self, image_NHWC: ImageArray, captions: list[str]) -> Float32[np.ndarray, " N"]:
        """Score pairs: the instance logit of each; higher is worth more."""
        pairs = Pairs(image_NHWC, captions)
        parts = [self._score_batch(pairs, start) for start in range(0, len(pairs), self.batch)]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _score_batch(self, pairs: Pairs, start: int) -> Float32[np.ndarray, " B"]:
        image_BHWC, captions = pairs.image_NHWC[start : start + self.batch], pairs.captions[start : start + self.batch]
        n_missing = self.batch - len(captions)
        padded_BHWC = np.pad(image_BHWC, ((0, n_missing), (0, 0), (0, 0), (0, 0)))
        tokens = self._tokenizer.tokens(self._tokenizer.encode(padded_BHWC))
        score_B = self._rater.score(tokens, self._encoder.encode([*captions, *[""] * n_missing]))
        return score_B[: len(captions)].float().numpy(force=True)
