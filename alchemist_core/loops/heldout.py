"""Held-out loss: what a trained generator has learnt of pairs that nothing trained on.

Letters: N pairs.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from safetensors.torch import load_file

from alchemist_core.loops.checkpoints import read_json
from alchemist_core.loops.config import DownstreamConfig
from alchemist_core.loops.encoding import encode_pairs
from alchemist_core.loops.pairs import Pairs
from alchemist_core.models.star import Star
from alchemist_core.models.text import load_text_encoder
from alchemist_core.models.tokenizer import ENCODE_BATCH, Tokenizer


@torch.inference_mode()
def heldout_losses(model_path: Path, pairs: Pairs) -> Float32[np.ndarray, " N"]:
    """Give the cross-entropy of each pair in nats a token, under the model in a folder that `train_downstream` made."""
    if not len(pairs):
        return np.empty(0, np.float32)
    config = DownstreamConfig.model_validate(read_json(model_path / "config.json"))
    tokenizer, encoder = Tokenizer.load(model_path / "tokenizer.safetensors"), load_text_encoder(config.text_encoder)
    model = Star(config.star(tokenizer.config, encoder.dim)).eval()
    model.load_state_dict(load_file(model_path / "model.safetensors"))
    data = encode_pairs(pairs, tokenizer, encoder)
    parts = [model(*data.rows(index_B)) for index_B in torch.split(torch.arange(len(pairs)), ENCODE_BATCH)]
    return torch.cat(parts).numpy(force=True)
