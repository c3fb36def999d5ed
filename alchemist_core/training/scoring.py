"""Scoring pairs with a trained rater: one number a pair, the same in any company.

Letters: N pairs · B pairs in a batch · P pairs of a batch that count.
"""

import os
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from safetensors.torch import load_file

from alchemist_core.models.images import ImageArray
from alchemist_core.models.text import TextEncoder, load_text_encoder
from alchemist_core.models.tokenizer import ENCODE_BATCH, Tokenizer
from alchemist_core.rating.rater import PairRater
from alchemist_core.shards.workers import n_own_cores
from alchemist_core.training.bilevel import make_scoring_rater
from alchemist_core.training.checkpoints import read_json
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.samples import Pairs

BF16_TOLERANCE = 0.02
"""Largest difference, in spreads of the scores, between a bf16 score of a GPU and the fp32 score of the same pair."""
_MAX_THREADS = 16


class Scorer:
    """A rater with its frozen encoders, in eval mode: fp32 on a CPU, bf16 for the rater alone on a GPU.

    Args:
        rater: The trained rater.
        tokenizer: Its image tokenizer, always in fp32: a flipped code would be another picture.
        encoder: Its text encoder.
        device: Where the forward runs.
        batch: Pairs of every forward, padded where there are fewer: kernels depend on the shape, scores must not.
    """

    def __init__(
        self,
        rater: PairRater,
        tokenizer: Tokenizer,
        encoder: TextEncoder,
        *,
        device: torch.device | None = None,
        batch: int = ENCODE_BATCH,
    ) -> None:
        self._device = device or torch.device("cpu")
        self._rater, self._tokenizer = rater.eval().to(self._device), tokenizer.to(self._device)
        self._encoder, self.batch = encoder, batch
        self._local = threading.local()

    @classmethod
    def load(cls, path: Path, device: torch.device | None = None) -> "Scorer":
        """Read the folder that `train_rater` made."""
        config = RaterTrainingConfig.from_stored(read_json(path / "config.json"))
        tokenizer = Tokenizer.load(path / "tokenizer.safetensors")
        device = device or torch.device("cpu")
        encoder = load_text_encoder(config.text_encoder, str(device))
        size = config.rater(tokenizer.config, encoder.dim)
        rater = make_scoring_rater(config, size)
        rater.load_state_dict(load_file(path / "rater.safetensors"))
        return cls(rater, tokenizer, encoder, device=device)

    @property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokenizer."""
        return self._tokenizer

    @property
    def image_side(self) -> int:
        """Side in pixels to which images may be decoded without loss."""
        return self._tokenizer.config.resolution

    @property
    def device(self) -> str:
        """Where the forward runs; part of a score's provenance."""
        return self._device.type

    @property
    def dtype(self) -> str:
        """Number format of the rater's forward; part of a score's provenance."""
        return "bfloat16" if self.device == "cuda" else "float32"

    @property
    def n_threads(self) -> int:
        """How many batches may be rated at a time: one a core, or two on a GPU, where one is copied while one is computed."""
        return 2 if self.device == "cuda" else min(n_own_cores(), _MAX_THREADS)

    def make_buffer(self) -> ImageArray:
        """Return pixels of a batch; page-locked where they are to be copied to a GPU."""
        shape = (self.batch, self.image_side, self.image_side, 3)
        return torch.zeros(shape, dtype=torch.uint8, pin_memory=self.device == "cuda").numpy()

    @torch.inference_mode()
    def score(self, image_NHWC: ImageArray, captions: list[str]) -> Float32[np.ndarray, " N"]:
        """Score pairs: the instance logit of each; higher is worth more."""
        pairs = Pairs(image_NHWC, captions)
        parts = []
        for start in range(0, len(pairs), self.batch):
            image_BHWC = pairs.image_NHWC[start : start + self.batch]
            padding = ((0, self.batch - len(image_BHWC)), (0, 0), (0, 0), (0, 0))
            parts.append(self.score_batch(np.pad(image_BHWC, padding), pairs.captions[start : start + self.batch]))
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    @torch.inference_mode()
    def score_batch(self, image_BHWC: ImageArray, captions: list[str]) -> Float32[np.ndarray, " P"]:
        """Score one batch of the fixed shape, of which as many pairs count as there are captions.

        Threads may call it at a time; on a GPU each has a stream of its own.
        """
        with self._own_stream():
            text = self._encoder.encode([*captions, *[""] * (self.batch - len(captions))]).to(self._device)
            tokens = self._tokenizer.tokens(self._tokenizer.encode(image_BHWC))
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                score_B = self._rater.score(tokens, text)
            return score_B[: len(captions)].float().numpy(force=True)

    def _own_stream(self) -> AbstractContextManager[object]:
        if self.device != "cuda":
            return nullcontext()
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._local.stream)


def own_device() -> torch.device:
    """Return the GPU of this process: the launcher's number for it on its machine, or the only one; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
