"""The multi-scale tokenizer `vae_ch160v4096z32` as published: 324 keys, one of which is an unused counter of codes."""

import re
from pathlib import Path

import torch
from torch import Tensor

from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.published.recognition import Shape
from alchemist_core.models.published.weights import Layout, export_weights, load_weights, read_weights
from alchemist_core.models.tokenizer import Tokenizer

# Ours → published; other names are equal.
_RULES = (
    (r"^coder\.(encoder\.down\.\d+\.)resample\.", r"\1downsample."),
    (r"^coder\.(decoder\.up\.\d+\.)resample\.", r"\1upsample."),
    (r"^coder\.", ""),
    (r"^quantiser\.codebook\.", "quantize.embedding."),
    (r"^quantiser\.smoothers\.", "quantize.quant_resi.qresi_ls."),
)


def tokenizer_layout(config: TokenizerConfig) -> Layout:
    """Return the layout of a published tokenizer."""
    with torch.device("meta"):
        ours = list(Tokenizer(config).state_dict())
    spare: dict[str, Shape] = {"quantize.ema_vocab_hit_SV": (len(config.scales), config.n_codes)}
    return Layout({_published_name(name): name for name in ours}, spare=spare)


def load_tokenizer(source: str | Path, config: TokenizerConfig) -> Tokenizer:
    """Load a published tokenizer, frozen; the same weights serve every resolution.

    Args:
        source: A file, a folder that holds one, or `hf:ORG/NAME/FILE@REVISION`.
        config: Its shape, such as `published_tokenizer(256)`.
    """
    tokenizer = Tokenizer(config)
    load_weights(tokenizer, read_weights(source), tokenizer_layout(config), source=str(source))
    return tokenizer


def export_tokenizer(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Return a tokenizer's weights in the published layout."""
    return export_weights(tokenizer, tokenizer_layout(tokenizer.config))


def _published_name(name: str) -> str:
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name
