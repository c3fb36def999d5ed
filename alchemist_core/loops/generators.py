"""Reading a trained generator back from the folder that training left."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from alchemist_core.loops.checkpoints import read_json
from alchemist_core.loops.config import DownstreamConfig
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextEncoder, load_text_encoder
from alchemist_core.models.tokenizer import Tokenizer


class Generator(NamedTuple):
    """A generator with the frozen encoders that it was trained between."""

    star: Star
    tokenizer: Tokenizer
    encoder: TextEncoder


def load_generator(model_path: Path, device: torch.device) -> Generator:
    """Load the model in a folder that `train_downstream` made, in eval mode."""
    config = DownstreamConfig.model_validate(read_json(model_path / "config.json"))
    tokenizer = Tokenizer.load(model_path / "tokenizer.safetensors")
    encoder = load_text_encoder(config.text_encoder, str(device))
    star = Star(config.star(tokenizer.config, encoder.dim))
    star.load_state_dict(load_file(model_path / "model.safetensors"))
    return Generator(star.eval().to(device), tokenizer.to(device), encoder)
