"""The rater's side of a step: what each sample costs, how it is weighed in its group, what the heads descend.

Groups are local: a softmax never crosses a part of the batch or a process, so neither number changes what is computed.

Letters: A samples of the validation batch · B samples of the training batch · G softmax groups.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from alchemist_core.loops.config import RaterTrainingConfig
from alchemist_core.rating import objective
from alchemist_core.rating.config import DRIFT_PRICE, EMA_FACTOR, PRICE_FLOOR, Objective
from alchemist_core.rating.rater import Rating
from alchemist_core.rating.rules import sample_cost
from alchemist_core.rating.weights import batch_weights, effective_sample_size, entropy, product_weights

# Healthy runs stay above .3 of their group; a bare objective goes to one sample, or to a few with equal scores.
_WINDOW, _LEAST_SHARE = 100, 0.1
# Of so small a group that a tenth of it is less than one sample, one alone tells a collapse.
_ONE_ALONE = 1.01


@dataclass(slots=True)
class Averages:
    """The running means that the objectives are scaled by."""

    cost_spread: float = 0.0
    batch_cost: float = 0.0
    batch_cost_spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What one part of a batch showed, without gradient."""

    loss_A: Float[Tensor, " A"]
    loss_B: Float[Tensor, " B"]
    reference_loss_B: Float[Tensor, " B"]
    cost_B: Float[Tensor, " B"]
    used_weight_B: Float[Tensor, " B"]
    batch_cost_G: Float[Tensor, " G"]
    effective_size_G: Float[Tensor, " G"]
    entropy_G: Float[Tensor, " G"]
    group_weight_G: Float[Tensor, " G"]

    def figure(self, name: str) -> Float[Tensor, ""]:
        """Average one field."""
        mean: Tensor = getattr(self, name).detach().mean()
        return mean


class RaterObjective:
    """Weighs, prices and remembers: its running means are the same in every process."""

    def __init__(self, config: RaterTrainingConfig, accelerator: Accelerator) -> None:
        self.config, self._accelerator, self.averages = config, accelerator, Averages()

    def load(self, averages: dict[str, float]) -> None:
        """Go on with the running means of a checkpoint."""
        self.averages = Averages(**averages)

    @property
    def price(self) -> float:
        """Price of sharpness now, from the steps before this one."""
        return objective.sharpness_price(
            self.averages.cost_spread, price_ratio=self.config.price_ratio, price_floor=PRICE_FLOOR
        )

    def measure(self, loss_A: Tensor, loss_B: Tensor, reference_loss_B: Tensor, rating: Rating) -> Measured:
        """Value each sample by the run's rule and weigh it within its group."""
        cost_B = sample_cost(self.config.rule, loss_B, reference_loss_B)
        group_weight_G = torch.sigmoid(rating.group_logit_G.detach())
        weights = [batch_weights(score_g) for score_g in self._groups(rating.score_B.detach())]
        used = weights
        if self.config.has_group_weight or self.config.objective is Objective.PAPER_EXACT:
            used = [product_weights(weight_g, group) for weight_g, group in zip(weights, group_weight_G, strict=True)]
        costs = [(weight_g * cost_g).sum() for weight_g, cost_g in zip(weights, self._groups(cost_B), strict=True)]
        return Measured(
            loss_A.detach(), loss_B.detach(), reference_loss_B.detach(), cost_B,
            torch.cat(used) / len(used), torch.stack(costs),
            torch.stack([effective_sample_size(weight_g) for weight_g in weights]),
            torch.stack([entropy(weight_g) for weight_g in weights]), group_weight_G,
        )  # fmt: skip

    def value(self, rating: Rating, measured: Measured) -> Float[Tensor, ""]:
        """Give what the rater descends on this part: the mean over its groups."""
        score_groups, cost_groups = self._groups(rating.score_B), self._groups(measured.cost_B)
        values = [
            self._group_value(score_g, rating.group_logit_G[group], cost_g, measured.batch_cost_G[group])
            for group, (score_g, cost_g) in enumerate(zip(score_groups, cost_groups, strict=True))
        ]
        return torch.stack(values).mean()

    def move_averages(self, parts: Sequence[Measured]) -> tuple[float, float]:
        """Move the running means by one whole step; return its spread of c and the price that it was weighed by."""
        price, averages = self.price, self.averages
        cost_B, batch_cost_G = (
            self._accelerator.gather(torch.cat([getattr(part, name) for part in parts]))
            for name in ("cost_B", "batch_cost_G")
        )
        spread, batch_cost = cost_B.std().item(), batch_cost_G.mean().item()
        gap = (batch_cost_G - averages.batch_cost).abs().mean().item()
        averages.cost_spread = objective.running_mean(averages.cost_spread, spread, EMA_FACTOR)
        averages.batch_cost_spread = objective.running_mean(averages.batch_cost_spread, gap, EMA_FACTOR)
        averages.batch_cost = objective.running_mean(averages.batch_cost, batch_cost, EMA_FACTOR)
        return spread, price

    def _group_value(self, score_g: Tensor, group_logit: Tensor, cost_g: Tensor, batch_cost: Tensor) -> Tensor:
        if self.config.objective is Objective.PAPER_EXACT:
            return objective.paper_objective(score_g, group_logit, cost_g)
        instance = objective.instance_objective(score_g, cost_g, price=self.price, drift_price=DRIFT_PRICE)
        group_price = max(self.averages.batch_cost_spread, PRICE_FLOOR)
        group = objective.group_objective(group_logit, batch_cost, baseline=self.averages.batch_cost, price=group_price)
        return instance + group

    def _groups(self, value_B: Tensor) -> tuple[Tensor, ...]:
        return torch.split(value_B, self.config.group_size)


def collapse_reason(history: Sequence[dict[str, Any]], group_size: int) -> str | None:
    """Say why a run cannot go on, judged by its last steps; None while it can.

    Args:
        history: The steps' figures, oldest first.
        group_size: Samples of a softmax group.
    """
    last = history[-1]
    broken = [name for name in ("validation_loss", "train_loss", "reference_loss") if not math.isfinite(last[name])]
    if broken:
        return f"{', '.join(broken)} is not finite at step {last['step']:.0f}; lower the proxies' learning rate"
    # Rule learnability weighs nothing.
    recent = [step["effective_sample_size"] for step in history[-_WINDOW:] if "effective_sample_size" in step]
    least = max(_LEAST_SHARE * group_size, _ONE_ALONE)
    if len(recent) == _WINDOW and sum(recent) / _WINDOW < least:
        return (
            f"over {_WINDOW} steps the weights went to {sum(recent) / _WINDOW:.3g} of {group_size} samples (at least "
            f"{least:.3g} are needed): the rater has collapsed; raise price_ratio or take the regularised objective"
        )
    return None
