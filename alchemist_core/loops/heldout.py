"""Held-out loss: what a trained generator has learnt of pairs that nothing trained on.

Letters: N pairs.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from alchemist_core.loops.encoding import encode_pairs
from alchemist_core.loops.generators import load_generator
from alchemist_core.loops.pairs import Pairs
from alchemist_core.models.tokenizer import ENCODE_BATCH


@torch.inference_mode()
def heldout_losses(model_path: Path, pairs: Pairs) -> Float32[np.ndarray, " N"]:
    """Give the cross-entropy of each pair in nats a token, under the model in a folder that `train_downstream` made."""
    if not len(pairs):
        return np.empty(0, np.float32)
    star, tokenizer, encoder = load_generator(model_path, torch.device("cpu"))
    data = encode_pairs(pairs, tokenizer, encoder)
    parts = [star(*data.rows(index_B)) for index_B in torch.split(torch.arange(len(pairs)), ENCODE_BATCH)]
    return torch.cat(parts).numpy(force=True)
