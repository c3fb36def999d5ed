"""Reading a trained generator back from the folder that training left."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from alchemist_core.models.config import SamplingConfig
from alchemist_core.models.flux_config import FlowSamplingConfig
from alchemist_core.models.images import ImageArray
from alchemist_core.models.sampling import sample_codes
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextEncoder, load_text_encoder
from alchemist_core.models.tokenizer import Tokenizer
from alchemist_core.training.checkpoints import read_json
from alchemist_core.training.config import DownstreamConfig

Sampling = SamplingConfig | FlowSamplingConfig
Drawer = Callable[[list[str], list[int], Any], ImageArray]
"""Draws an image a prompt and seed, under the sampling config of its family."""


class Generator(NamedTuple):
    """A generator with the frozen encoders that it was trained between."""

    star: Star
    tokenizer: Tokenizer
    encoder: TextEncoder

    def draw(self, prompts: list[str], seeds: list[int], sampling: SamplingConfig) -> ImageArray:
        """Draw one image a prompt."""
        text, empty = self.encoder.encode(prompts), self.encoder.encode([""])
        code_BS = sample_codes(self.star, self.tokenizer, text, empty=empty, seeds=seeds, config=sampling)
        return self.tokenizer.decode(code_BS.to(self.star.head.weight.device))


def read_config(model_path: Path) -> DownstreamConfig:
    """Read how the model in a folder that `train_downstream` made was trained."""
    return DownstreamConfig.from_stored(read_json(model_path / "config.json"))


def load_drawer(model_path: Path, device: torch.device) -> Drawer:
    """Load whatever draws images in a folder that `train_downstream` made."""
    if read_config(model_path).flux is None:
        return load_generator(model_path, device).draw
    from alchemist_core.training.flux_generation import FluxGenerator  # noqa: PLC0415  diffusers takes seconds that STAR need not pay

    return FluxGenerator(model_path, device).draw


def load_generator(model_path: Path, device: torch.device) -> Generator:
    """Load STAR from a folder that `train_downstream` made, in eval mode."""
    config = read_config(model_path)
    tokenizer = Tokenizer.load(model_path / "tokenizer.safetensors")
    encoder = load_text_encoder(config.text_encoder, str(device))
    star = Star(config.star(tokenizer.config, encoder.dim))
    star.load_state_dict(load_file(model_path / "model.safetensors"))
    return Generator(star.eval().to(device), tokenizer.to(device), encoder)
