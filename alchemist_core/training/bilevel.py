"""A step of rater training: the proxies θ and θ̂, the rater, their updates, and the training loss of the rater.

The advantage of a sample is c = L(θ) − L(θ̂): its loss under the proxy minus its loss under the reference. Other scoring rules use another
value (`rating.rules`). The code calls the value of any rule the sample's cost.

A softmax group never spans two parts of a batch or two processes, so the number of parts or processes does not change the result.

Letters: A samples of the validation batch · B samples of the training batch · G softmax groups.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from alchemist_core.models.config import StarConfig
from alchemist_core.models.published.star import fill_rater, fill_star
from alchemist_core.models.star import Star, Trunk
from alchemist_core.rating import objective
from alchemist_core.rating.config import (
    DRIFT_PRICE,
    EMA_FACTOR,
    PRICE_FLOOR,
    Objective,
    PenaltySchedule,
    RaterFeatures,
    ScoringRule,
)
from alchemist_core.rating.learnability import LearnabilityRater
from alchemist_core.rating.proxies import proxy_objective, reference_objective, seal_shares, warmup_objective
from alchemist_core.rating.rater import Rater, Rating, SampleRater
from alchemist_core.rating.rules import sample_cost
from alchemist_core.rating.weights import batch_weights, effective_sample_size, entropy, product_weights
from alchemist_core.training.averaging import average_of
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.launching import start_from_seed
from alchemist_core.training.pmi import PmiRater, blank_captions
from alchemist_core.training.samples import Batch


class TwoProxies(ABC):
    """The models of a run and the optimisers of those that are trained. A scoring rule defines the step after the warm-up."""

    proxy: Any
    reference: Any

    def __init__(
        self,
        config: RaterTrainingConfig,
        accelerator: Accelerator,
        models: Mapping[str, nn.Module],
        rates: Mapping[str, float],
    ) -> None:
        """Set up the run. `models` includes `proxy` and `reference`; `learning_rates` has an entry for each model that is trained."""
        self.config, self.accelerator = config, accelerator
        for name, model in models.items():
            setattr(self, name, self._prepared(model, is_trained=name in rates))
        self._names = tuple(models)
        self.optimizers = {name: self._optimizer(getattr(self, name), rate) for name, rate in rates.items()}
        # Not by accelerate's optimisers: each of the three would update the shared fp16 loss scale in the middle of a step.
        self.scaler = accelerator.scaler or torch.amp.GradScaler("cpu", enabled=False)

    def warmup_step(self, parts: Sequence[Batch]) -> float:
        """Train the proxy alone, with uniform weights of the samples."""
        losses = [self._warm_up_on(train, len(parts)) for train in parts]
        self._move(["proxy"])
        self.scaler.update()
        return self._mean(torch.stack(losses).sum())

    def end_warmup(self) -> None:
        """Copy the warmed-up θ into θ̂, including its optimiser's moments where θ̂ is trained."""
        self.unwrapped("reference").load_state_dict(self.unwrapped("proxy").state_dict())
        if self.config.reset_moments:
            self.optimizers["proxy"].state.clear()
        if "reference" in self.optimizers:
            self.optimizers["reference"].load_state_dict(copy.deepcopy(self.optimizers["proxy"].state_dict()))

    @abstractmethod
    def step(self, parts: Sequence[Batch], n_validation: int, *, epoch: int = 0) -> Any:
        """Take one step after the warm-up; return the numbers measured before it, as a dataclass.

        Args:
            parts: Equal parts of the step's batch: validation samples, then training samples.
            n_validation: Index in a part at which its training samples begin.
            epoch: Passes over the validation data so far; used by the schedule `seal` only.
        """

    @abstractmethod
    def read_part(self, part: Batch, n_validation: int, *, epoch: int, n_parts: int) -> Any:
        """Run one part of a step's batch through the models and accumulate the gradients: what a step holds in memory and computes."""

    @property
    @abstractmethod
    def scoring_rater(self) -> SampleRater:
        """The rater that scores samples, as trained so far."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "models": {name: self.unwrapped(name).state_dict() for name in self._names},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a `state_dict`."""
        for name in self._names:
            self.unwrapped(name).load_state_dict(state["models"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.scaler.load_state_dict(state["scaler"])

    def unwrapped(self, name: str) -> nn.Module:
        """Return a model without the accelerator's wrappers."""
        unwrapped = self.accelerator.unwrap_model(getattr(self, name), keep_torch_compile=False)
        # In several processes the compiled model is inside of DDP's wrapper, where accelerate leaves it compiled.
        model: nn.Module = getattr(unwrapped, "_orig_mod", unwrapped)
        return model

    def _prepared(self, model: nn.Module, *, is_trained: bool) -> Any:
        if self.config.gradient_checkpointing:
            for module in model.modules():
                if isinstance(module, Trunk):
                    module.has_gradient_checkpointing = True
        # The accelerator moves the model to its device.
        given = torch.compile(model) if self.config.compile else model
        # Models that are not trained have no gradients to share between processes.
        return self.accelerator.prepare_model(given, evaluation_mode=not is_trained)

    def _optimizer(self, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            model.parameters(), learning_rate, betas=(0.9, 0.95), weight_decay=self.config.weight_decay, fused=True
        )

    def _warm_up_on(self, train: Batch, n_parts: int) -> Tensor:
        # Run backward for each part, so that the activations of only one part are in memory.
        loss = warmup_objective(self.proxy(*train)) / n_parts
        self.accelerator.backward(loss)
        return loss.detach()

    def _move(self, names: list[str]) -> None:
        for name in names:
            optimizer = self.optimizers[name]
            if self.config.max_grad_norm is not None:
                self.scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(getattr(self, name).parameters(), self.config.max_grad_norm)
            self.scaler.step(optimizer)
            optimizer.zero_grad()

    def _mean(self, value: Tensor) -> float:
        """Average a number over the processes."""
        mean: Tensor = self.accelerator.reduce(value.detach(), "mean")
        return mean.item()


@dataclass(slots=True)
class Averages:
    """Running means, by which the objectives are scaled."""

    cost_spread: float = 0.0
    batch_cost: float = 0.0
    batch_cost_spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of one part of a batch, without gradient."""

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
        """Return the mean of one field."""
        mean: Tensor = getattr(self, name).detach().mean()
        return mean


class RaterObjective:
    """Computes the training loss of the rater; its running means are equal in every process."""

    def __init__(self, config: RaterTrainingConfig, accelerator: Accelerator) -> None:
        self.config, self._accelerator, self.averages = config, accelerator, Averages()

    def load(self, averages: dict[str, float]) -> None:
        """Restore the running means of a checkpoint."""
        self.averages = Averages(**averages)

    @property
    def price(self) -> float:
        """Weight of KL(W ‖ uniform) in this step, computed from the steps before it."""
        return objective.sharpness_price(
            self.averages.cost_spread, kl_weight=self.config.kl_weight, price_floor=PRICE_FLOOR
        )

    def measure(self, loss_A: Tensor, loss_B: Tensor, reference_loss_B: Tensor, rating: Rating) -> Measured:
        """Compute the cost of each sample by the scoring rule, and its weight within its group."""
        cost_B = sample_cost(self.config.rule, loss_B, reference_loss_B)
        group_weight_G = torch.sigmoid(rating.group_logit_G.detach())
        weights = [batch_weights(score_g) for score_g in self._groups(rating.score_B.detach())]
        used = weights
        if self.config.group_weight or self.config.objective is Objective.PAPER_EXACT:
            used = [product_weights(weight_g, group) for weight_g, group in zip(weights, group_weight_G, strict=True)]
        costs = [(weight_g * cost_g).sum() for weight_g, cost_g in zip(weights, self._groups(cost_B), strict=True)]
        return Measured(
            loss_A.detach(), loss_B.detach(), reference_loss_B.detach(), cost_B,
            torch.cat(used) / len(used), torch.stack(costs),
            torch.stack([effective_sample_size(weight_g) for weight_g in weights]),
            torch.stack([entropy(weight_g) for weight_g in weights]), group_weight_G,
        )  # fmt: skip

    def value(self, rating: Rating, measured: Measured) -> Float[Tensor, ""]:
        """Return the training loss of the rater on this part: the mean over its groups."""
        score_groups, cost_groups = self._groups(rating.score_B), self._groups(measured.cost_B)
        values = [
            self._group_value(score_g, rating.group_logit_G[group], cost_g, measured.batch_cost_G[group])
            for group, (score_g, cost_g) in enumerate(zip(score_groups, cost_groups, strict=True))
        ]
        return torch.stack(values).mean()

    def move_averages(self, parts: Sequence[Measured]) -> tuple[float, float]:
        """Update the running means by one step; return the step's spread of costs, and the KL weight that it used."""
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


@dataclass(frozen=True, slots=True)
class StepResult:
    """The numbers of one bilevel step, measured before its update."""

    validation_loss: float
    train_loss: float
    reference_loss: float
    cost_spread: float
    price: float
    effective_sample_size: float
    entropy: float
    group_weight: float


class Bilevel(TwoProxies):
    """The state of a bilevel run: proxy θ, reference θ̂, rater, their optimisers and running means."""

    rater: Any

    def __init__(self, config: RaterTrainingConfig, accelerator: Accelerator, sizes: tuple[StarConfig, StarConfig]):
        start_from_seed(config.seed)
        proxy_size, rater_size = sizes
        proxy, rater = Star(proxy_size), make_rater(config, rater_size)
        load_starts(config, proxy, rater)
        models = {"proxy": proxy, "reference": copy.deepcopy(proxy), "rater": rater}
        rate = config.proxy_learning_rate
        rates = {"proxy": rate, "reference": rate, "rater": config.rater_learning_rate}
        super().__init__(config, accelerator, models, rates)
        self.average_rater = average_of(self.unwrapped("rater"), config.rater_ema_decay)
        self.objective = RaterObjective(config, accelerator)
        # θ reads twice as many samples as θ̂ and the rater, so each side is half of the work. On a CPU two threads run the two halves; the
        # models share no weights, so the result is bit-identical. On a GPU, and in several processes (which must reduce gradients in one
        # order), the halves run one after the other.
        is_alone_on_cpu = accelerator.num_processes == 1 and accelerator.device.type == "cpu"
        self._beside = ThreadPoolExecutor(1) if is_alone_on_cpu else None

    def end_warmup(self) -> None:
        """Copy the warmed-up θ into θ̂ and, if configured, into the rater's backbone."""
        super().end_warmup()
        if self.config.rater_init == "proxy":
            backbone, warmed_up = cast("Rater", self.unwrapped("rater")).backbone, cast("Star", self.unwrapped("proxy"))
            backbone.load_state_dict((warmed_up.trunk if isinstance(backbone, Trunk) else warmed_up).state_dict())

    def step(self, parts: Sequence[Batch], n_validation: int, *, epoch: int = 0) -> StepResult:
        """Update both proxies and the rater from losses that were all computed before any of them changed."""
        measured = [self.read_part(part, n_validation, epoch=epoch, n_parts=len(parts)) for part in parts]
        stepped = self._submit(self._move, ["reference", "rater"])
        self._move(["proxy"])
        stepped()
        self.scaler.update()
        self.average_rater.update_parameters(self.unwrapped("rater"))
        return self._result(measured)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return super().state_dict() | {
            "average_rater": self.average_rater.state_dict(), "averages": asdict(self.objective.averages),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a `state_dict`."""
        super().load_state_dict(state)
        self.average_rater.load_state_dict(state["average_rater"])
        self.objective.load(state["averages"])

    @property
    def scoring_rater(self) -> Rater:
        """The EMA of the rater."""
        return cast("Rater", self.average_rater.module)

    def read_part(self, part: Batch, n_validation: int, *, epoch: int, n_parts: int) -> Measured:
        """Run one part through all three models and accumulate its gradients."""
        train = part.between(n_validation, None)
        others = self._submit(self._read_beside, train)
        loss_A, loss_B = self.proxy(*part).tensor_split([n_validation])
        reference_loss_B, rating = others()
        measured = self.objective.measure(loss_A, loss_B, reference_loss_B, rating)
        other_loss = reference_objective(reference_loss_B, measured.used_weight_B)
        other_loss = other_loss + self.objective.value(rating, measured)
        added = self._submit(self.accelerator.backward, other_loss / n_parts)
        self.accelerator.backward(self._proxy_loss(loss_A, loss_B, measured, epoch) / n_parts)
        added()
        return measured

    def _proxy_loss(self, loss_A: Tensor, loss_B: Tensor, measured: Measured, epoch: int) -> Tensor:
        validation_share, penalty = 1.0, self.config.penalty
        if self.config.penalty_schedule is PenaltySchedule.SEAL:
            validation_share, penalty = seal_shares(epoch)
        return proxy_objective(
            loss_A, loss_B, measured.used_weight_B, penalty=penalty, validation_share=validation_share
        )

    def _read_beside(self, train: Batch) -> tuple[Float[Tensor, " B"], Rating]:
        n_groups = train.n_samples // self.config.group_size
        return self.reference(*train), self.rater(*train, n_groups)

    def _submit(self, work: Any, *given: Any) -> Any:
        """Start work on the second thread, or do it now without one; return a function that waits for the result."""
        if self._beside is not None:
            return self._beside.submit(work, *given).result
        done = work(*given)
        return lambda: done

    def _result(self, measured: Sequence[Measured]) -> StepResult:
        cost_spread, price = self.objective.move_averages(measured)
        figures = torch.stack([
            torch.stack([part.figure(name) for part in measured]).mean()
            for name in ("loss_A", "loss_B", "reference_loss_B", "effective_size_G", "entropy_G", "group_weight_G")
        ])  # fmt: skip
        mean: list[float] = self.accelerator.reduce(figures, "mean").tolist()
        return StepResult(mean[0], mean[1], mean[2], cost_spread, price, mean[3], mean[4], mean[5])


# The effective sample size of healthy runs stays above 0.3 of the group; a collapsed run gives all weight to a few samples.
_WINDOW, _LEAST_SHARE = 100, 0.1
# In groups of fewer than 10 samples, all weight on one sample counts as a collapse.
_ONE_ALONE = 1.01


def collapse_reason(history: Sequence[dict[str, Any]], group_size: int) -> str | None:
    """Return why a run has failed, judged by its last steps; None while it is healthy.

    Args:
        history: The numbers of each step, oldest first.
        group_size: Samples of a softmax group.
    """
    last = history[-1]
    broken = [name for name in ("validation_loss", "train_loss", "reference_loss") if not math.isfinite(last[name])]
    if broken:
        return f"{', '.join(broken)} is not finite at step {last['step']:.0f}. Lower the proxies' learning rate"
    # The scoring rules without a rater network compute no weights.
    recent = [step["effective_sample_size"] for step in history[-_WINDOW:] if "effective_sample_size" in step]
    least = max(_LEAST_SHARE * group_size, _ONE_ALONE)
    if len(recent) == _WINDOW and sum(recent) / _WINDOW < least:
        return (
            f"over {_WINDOW} steps the effective sample size was {sum(recent) / _WINDOW:.3g} of {group_size} samples (at least "
            f"{least:.3g} are needed): the rater has collapsed; raise kl_weight or use the regularised objective"
        )
    return None


def make_rater(config: RaterTrainingConfig, size: StarConfig) -> Rater:
    """Build an untrained rater. The feature `match` needs the generator's code vectors, `hidden` only its trunk."""
    backbone = Trunk(size) if config.rater_features is RaterFeatures.HIDDEN else Star(size)
    return Rater(backbone, size.width, reading=config.rater_features)


def load_starts(config: RaterTrainingConfig, proxy: Star, rater: Rater | None = None) -> None:
    """Load the initial weights that a config names, if it names any; on the meta device, only compare keys and shapes.

    Raises:
        ConfigError: A file is missing, or its keys or shapes differ; the message names the first, and what the file looks like.
    """
    if config.proxy_weights is not None:
        fill_star(proxy, config.proxy_weights)
    if config.rater_weights is not None and rater is not None:
        fill_rater(rater, config.rater_weights)


def check_starts(config: RaterTrainingConfig, sizes: tuple[StarConfig, StarConfig]) -> None:
    """Refuse initial weights that do not fit, before anything else is computed.

    Raises:
        ConfigError: As `load_starts`.
    """
    if config.proxy_weights is not None or config.rater_weights is not None:
        with torch.device("meta"):
            proxy, rater = Star(sizes[0]), make_rater(config, sizes[1])
        load_starts(config, proxy, rater)


def make_scoring_rater(config: RaterTrainingConfig, size: StarConfig) -> SampleRater:
    """Build the rater that a run of this config produces, with untrained weights."""
    if config.rule is ScoringRule.PMI:
        return PmiRater(Star(size), blank_captions(config.pmi_captions, size.text_dim))
    if not config.rule.trains_rater:
        return LearnabilityRater(Star(size), Star(size))
    return make_rater(config, size)
