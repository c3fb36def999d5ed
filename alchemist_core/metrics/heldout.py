"""Held-out loss: what a trained generator has learnt of pairs that nothing trained on.

Letters: N pairs.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from alchemist_core.models.tokenizer import ENCODE_BATCH
from alchemist_core.training.encoding import encode_samples
from alchemist_core.training.generators import load_generator, read_config
from alchemist_core.training.launching import own_device
from alchemist_core.training.samples import SampleSource


@torch.inference_mode()
def heldout_losses(model_path: Path, pairs: SampleSource) -> Float32[np.ndarray, " N"]:
    """Give each pair's loss under the model in a folder that `train_downstream` made.

    STAR's is the cross-entropy in nats a token, FLUX's the squared error of the velocity.
    """
    if not len(pairs):
        return np.empty(0, np.float32)
    config = read_config(model_path)
    if config.flux is not None:
        from alchemist_core.training.flux import heldout_flow_losses  # noqa: PLC0415  diffusers takes seconds

        return heldout_flow_losses(model_path, config, pairs)
    device = own_device()
    star, tokenizer, encoder = load_generator(model_path, device)
    data = encode_samples(pairs, tokenizer, encoder)
    parts = [star(*data.rows(index_B).to(device)) for index_B in torch.split(torch.arange(len(data)), ENCODE_BATCH)]
    return torch.cat(parts).numpy(force=True)
