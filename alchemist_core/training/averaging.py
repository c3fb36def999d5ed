"""A model's weights averaged over its recent past: they settle sooner than those of any single step."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def average_of(model: nn.Module, longest: float) -> AveragedModel:
    """Begin an average of a model's weights.

    Args:
        model: What is averaged; its weights now are the first.
        longest: Share of its past that the average keeps at each update, 0-1.
    """
    return AveragedModel(model, avg_fn=partial(average_weights, longest))


def average_weights(longest: float, mean: Tensor, now: Tensor, n_averaged: Tensor | int) -> Tensor:
    """Move the average of some weights one step."""
    # A shorter memory at first, so that the weights before the first step are soon forgotten.
    kept = min(longest, (1 + int(n_averaged)) / (4 + int(n_averaged)))
    return torch.lerp(now, mean, kept)
