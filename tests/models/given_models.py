"""Inputs of the model tests: captions, and small models with weights large enough to have a visible effect."""

import torch

from alchemist_core.models.config import StarConfig, TokenizerConfig, tokenizer_tiny
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextFeatures, WordVectors
from alchemist_core.models.tokenizer import Tokenizer

CAPTIONS = ["a red circle", "a blue square at the top", "many shapes", "a plain green picture"]
TINY = StarConfig(width=32, n_codes=32)


def text_of(captions: list[str]) -> TextFeatures:
    return WordVectors().encode(captions)


def lively_star(config: StarConfig = TINY, seed: int = 0) -> Star:
    """A generator in which every weight has an effect: in a new one the head is nearly 0 and all biases are 0."""
    torch.manual_seed(seed)
    star = Star(config).eval()
    with torch.no_grad():
        for weight in star.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return star


def lively_tokenizer(config: TokenizerConfig | None = None, seed: int = 0) -> Tokenizer:
    """A convolutional tokenizer of random weights: nothing fitted, nothing zero."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer(config or tokenizer_tiny(n_codes=32))
    for weight in tokenizer.parameters():
        weight.copy_(0.3 * torch.randn_like(weight))
    return tokenizer


def some_codes(config: StarConfig = TINY, n_images: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.n_codes, (n_images, config.n_tokens), generator=generator)
