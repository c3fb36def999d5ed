"""One step of the bilevel problem: two proxies, a rater, three optimisers. Where data comes from is not known here.

Letters: A samples of the validation batch · B samples of the training batch.
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from alchemist_core.loops.config import RaterTrainingConfig
from alchemist_core.loops.determinism import start_from_seed
from alchemist_core.loops.pairs import Batch
from alchemist_core.models.config import StarConfig
from alchemist_core.models.star import Star
from alchemist_core.rating import objective
from alchemist_core.rating.config import Objective
from alchemist_core.rating.proxies import proxy_objective, reference_objective, warmup_objective
from alchemist_core.rating.rater import Rater, Rating
from alchemist_core.rating.rules import sample_cost
from alchemist_core.rating.weights import batch_weights, effective_sample_size, product_weights


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one bilevel step measured, before its update."""

    validation_loss: float
    train_loss: float
    reference_loss: float
    cost_spread: float
    price: float
    effective_sample_size: float
    group_weight: float


@dataclass(slots=True)
class Averages:
    """The running means that the objectives are scaled by."""

    cost_spread: float = 0.0
    batch_cost: float = 0.0
    batch_cost_spread: float = 0.0


class Bilevel:
    """The state of a run: proxy θ, reference θ̂, rater, their optimisers and running means."""

    def __init__(self, config: RaterTrainingConfig, accelerator: Accelerator, sizes: tuple[StarConfig, StarConfig]):
        self.config, self.accelerator = config, accelerator
        start_from_seed(config.seed)
        proxy_size, rater_size = sizes
        proxy = Star(proxy_size)
        rater = Rater(Star(rater_size), rater_size.width)
        self.proxy, self.reference, self.rater = accelerator.prepare(proxy, copy.deepcopy(proxy), rater)
        self.optimizers = {
            "proxy": self._optimizer(self.proxy, config.proxy_learning_rate),
            "reference": self._optimizer(self.reference, config.proxy_learning_rate),
            "rater": self._optimizer(self.rater, config.rater_learning_rate),
        }
        self.average_rater = AveragedModel(self.unwrapped("rater"), avg_fn=self._average)
        self.averages = Averages()
        # θ reads twice what θ̂ and the rater read: half the work each. Two Python threads of one OpenMP thread each use two
        # cores and never wait for each other inside a kernel; the three models share no weight, so the bits are the same.
        self._beside = ThreadPoolExecutor(1)

    def warmup_step(self, train: Batch) -> float:
        """Train the proxy alone, uniformly."""
        loss = warmup_objective(self.proxy(*train))
        self._descend(loss, ["proxy"])
        return loss.item()

    def end_warmup(self) -> None:
        """Let θ̂ begin as a copy of the warmed-up θ, its optimiser's moments included; the rater's backbone may, too."""
        warmed_up = self.unwrapped("proxy").state_dict()
        self.unwrapped("reference").load_state_dict(warmed_up)
        self.optimizers["reference"].load_state_dict(copy.deepcopy(self.optimizers["proxy"].state_dict()))
        if self.config.rater_start == "proxy":
            cast("Rater", self.unwrapped("rater")).backbone.load_state_dict(warmed_up)

    def bilevel_step(self, both: Batch, n_validation: int) -> StepReport:
        """Update both proxies and the rater from losses that were all taken before any of them moved.

        Args:
            both: Validation pairs, then training pairs: θ reads them in one forward.
            n_validation: Where the training pairs begin.
        """
        train = both.after(n_validation)
        others = self._beside.submit(self._read_beside, train)
        loss_A, loss_B = self.proxy(*both).tensor_split([n_validation])
        reference_loss_B, rating = others.result()
        cost_B = sample_cost(self.config.rule, loss_B, reference_loss_B)
        weight_B, group_weight = batch_weights(rating.score_B.detach()), torch.sigmoid(rating.group_logit.detach())
        used_B = product_weights(weight_B, group_weight) if self.config.has_group_weight else weight_B
        price = self._move_spread(cost_B)
        other_loss = reference_objective(reference_loss_B, used_B)
        other_loss = other_loss + self._rater_objective(rating, cost_B, (weight_B * cost_B).sum(), price)
        stepped = self._beside.submit(self._descend, other_loss, ["reference", "rater"])
        self._descend(proxy_objective(loss_A, loss_B, used_B, penalty=self.config.penalty), ["proxy"])
        stepped.result()
        self.average_rater.update_parameters(self.unwrapped("rater"))
        return StepReport(
            loss_A.mean().item(), loss_B.mean().item(), reference_loss_B.mean().item(), cost_B.std().item(), price,
            effective_sample_size(weight_B).item(), group_weight.item(),
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Give everything that the next step depends on."""
        models = {name: self.unwrapped(name).state_dict() for name in self.optimizers}
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {
            "models": models,
            "optimizers": optimizers,
            "average_rater": self.average_rater.state_dict(),
            "averages": asdict(self.averages),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        for name, optimizer in self.optimizers.items():
            self.unwrapped(name).load_state_dict(state["models"][name])
            optimizer.load_state_dict(state["optimizers"][name])
        self.average_rater.load_state_dict(state["average_rater"])
        self.averages = Averages(**state["averages"])

    @property
    def scoring_rater(self) -> Rater:
        """Give the rater averaged over its recent past: scores settle sooner than any single step's weights do."""
        return cast("Rater", self.average_rater.module)

    def unwrapped(self, name: str) -> nn.Module:
        """Give one of the three models without what the accelerator put around it."""
        model: nn.Module = self.accelerator.unwrap_model(getattr(self, name))
        return model

    def _optimizer(self, model: nn.Module, learning_rate: float) -> Any:
        optimizer = torch.optim.AdamW(
            model.parameters(), learning_rate, betas=(0.9, 0.95), weight_decay=self.config.weight_decay, fused=True
        )
        return self.accelerator.prepare(optimizer)

    def _read_beside(self, train: Batch) -> tuple[Float[Tensor, " B"], Rating]:
        return self.reference(*train), self.rater(*train)

    def _average(self, mean: Tensor, now: Tensor, n_averaged: Tensor | int) -> Tensor:
        # A shorter memory at first, so that the weights before the first step are soon forgotten.
        kept = min(self.config.rater_average, (1 + int(n_averaged)) / (4 + int(n_averaged)))
        return torch.lerp(now, mean, kept)

    def _descend(self, loss: Tensor, names: list[str]) -> None:
        self.accelerator.backward(loss)
        for name in names:
            self.optimizers[name].step()
            self.optimizers[name].zero_grad()

    def _move_spread(self, cost_B: Tensor) -> float:
        constants, spread = self.config.constants, cost_B.std().item()
        self.averages.cost_spread = objective.running_mean(self.averages.cost_spread, spread, constants.ema_factor)
        return objective.sharpness_price(
            self.averages.cost_spread, price_ratio=constants.price_ratio, price_floor=constants.price_floor
        )

    def _rater_objective(self, rating: Rating, cost_B: Tensor, batch_cost: Tensor, price: float) -> Tensor:
        if self.config.objective is Objective.PAPER_EXACT:
            return objective.paper_objective(rating.score_B, rating.group_logit, cost_B)
        constants, averages = self.config.constants, self.averages
        group_price = max(averages.batch_cost_spread, constants.price_floor)
        loss = objective.instance_objective(
            rating.score_B, cost_B, price=price, drift_price=constants.drift_price
        ) + objective.group_objective(rating.group_logit, batch_cost, baseline=averages.batch_cost, price=group_price)
        gap, factor = abs(batch_cost.item() - averages.batch_cost), constants.ema_factor
        averages.batch_cost_spread = objective.running_mean(averages.batch_cost_spread, gap, factor)
        averages.batch_cost = objective.running_mean(averages.batch_cost, batch_cost.item(), factor)
        return loss
