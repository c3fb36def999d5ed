"""The exponential moving average (EMA) of a model's weights, which fluctuates less than the weights of a single step."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def average_of(model: nn.Module, longest: float) -> AveragedModel:
    """Start the EMA of a model's weights.

    Args:
        model: The model; its weights now are the first average.
        longest: Highest decay, 0-1: the share of the average that an update keeps.
    """
    return AveragedModel(model, avg_fn=partial(average_weights, longest))


def average_weights(longest: float, mean: Tensor, now: Tensor, n_averaged: Tensor | int) -> Tensor:
    """Update the average of one weight tensor."""
    # The decay is lower at first, so that the initial weights lose their influence soon.
    kept = min(longest, (1 + int(n_averaged)) / (4 + int(n_averaged)))
    return torch.lerp(now, mean, kept)
