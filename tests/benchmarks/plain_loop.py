"""The rater's step written directly from the paper: one forward pass for each loss in the equations.

θ reads the validation batch and the training batch, θ̂ the training batch, the rater reads twice: for the weights, and for its own
objective. It is the baseline for the speed of a step and shares only models and equations with the product.
"""

import copy

import torch

from alchemist_core.models.star import Star
from alchemist_core.rating.objective import instance_objective
from alchemist_core.rating.proxies import proxy_objective, reference_objective
from alchemist_core.rating.rater import Rater
from alchemist_core.rating.rules import alignment_cost
from alchemist_core.rating.weights import batch_weights
from alchemist_core.training.samples import Batch


class PlainLoop:
    """Three models, three optimisers, no tricks."""

    def __init__(self, proxy: Star, rater: Rater) -> None:
        self.proxy, self.reference, self.rater = proxy, copy.deepcopy(proxy), rater
        self.optimizers = [
            torch.optim.AdamW(model.parameters(), 1e-3) for model in (self.proxy, self.reference, self.rater)
        ]

    def step(self, validation: Batch, train: Batch) -> None:
        """Take one step of all three."""
        with torch.no_grad():
            weight_B = batch_weights(self.rater.score(*train))
        validation_loss_A, loss_B, reference_loss_B = (
            self.proxy(*validation), self.proxy(*train), self.reference(*train)
        )  # fmt: skip
        cost_B = alignment_cost(loss_B, reference_loss_B)
        objectives = (
            proxy_objective(validation_loss_A, loss_B, weight_B),
            reference_objective(reference_loss_B, weight_B),
            instance_objective(self.rater.score(*train), cost_B, price=0.1, drift_price=1e-3),
        )
        for objective, optimizer in zip(objectives, self.optimizers, strict=True):
            objective.backward()
            optimizer.step()
            optimizer.zero_grad()
