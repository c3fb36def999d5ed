"""What every rule of rating begins with: a proxy θ, warmed up alone, and a reference θ̂ that begins as its copy."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from alchemist_core.loops.config import RaterTrainingConfig
from alchemist_core.loops.pairs import Batch
from alchemist_core.models.star import Trunk
from alchemist_core.rating.proxies import warmup_objective
from alchemist_core.rating.rater import PairRater


class TwoProxies(ABC):
    """Models and the optimisers of those that are trained. A rule says what a step does after the warm-up."""

    proxy: Any
    reference: Any

    def __init__(
        self,
        config: RaterTrainingConfig,
        accelerator: Accelerator,
        models: Mapping[str, nn.Module],
        rates: Mapping[str, float],
    ) -> None:
        """Take models by name, `proxy` and `reference` among them, and the step size of each that is trained."""
        self.config, self.accelerator = config, accelerator
        for name, model in models.items():
            setattr(self, name, self._prepared(model, is_trained=name in rates))
        self._names = tuple(models)
        self.optimizers = {name: self._optimizer(getattr(self, name), rate) for name, rate in rates.items()}
        # accelerate's own optimisers would move the one scale of fp16 after each of three, between gradients of one step.
        self.scaler = accelerator.scaler or torch.amp.GradScaler("cpu", enabled=False)

    def warmup_step(self, parts: Sequence[Batch]) -> float:
        """Train the proxy alone, uniformly."""
        losses = [self._warm_up_on(train, len(parts)) for train in parts]
        self._move(["proxy"])
        self.scaler.update()
        return self._mean(torch.stack(losses).sum())

    def end_warmup(self) -> None:
        """Let θ̂ begin as a copy of the warmed-up θ, its optimiser's moments included where it is trained."""
        self.unwrapped("reference").load_state_dict(self.unwrapped("proxy").state_dict())
        if "reference" in self.optimizers:
            self.optimizers["reference"].load_state_dict(copy.deepcopy(self.optimizers["proxy"].state_dict()))

    @abstractmethod
    def step(self, parts: Sequence[Batch], n_validation: int, *, epoch: int = 0) -> Any:
        """Step once after the warm-up and report what was measured before it, a dataclass of numbers.

        Args:
            parts: Equal parts of the step's batch: validation pairs, then training pairs.
            n_validation: Where the training pairs of a part begin.
            epoch: Passes over the validation data so far; only the schedule `seal` asks.
        """

    @property
    @abstractmethod
    def scoring_rater(self) -> PairRater:
        """Give what scores pairs, as far as it is trained."""

    def state_dict(self) -> dict[str, Any]:
        """Give everything that the next step depends on."""
        return {
            "models": {name: self.unwrapped(name).state_dict() for name in self._names},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        for name in self._names:
            self.unwrapped(name).load_state_dict(state["models"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.scaler.load_state_dict(state["scaler"])

    def unwrapped(self, name: str) -> nn.Module:
        """Give one of the models without what the accelerator put around it."""
        model: nn.Module = self.accelerator.unwrap_model(getattr(self, name), keep_torch_compile=False)
        return model

    def _prepared(self, model: nn.Module, *, is_trained: bool) -> Any:
        if self.config.is_checkpointed:
            for module in model.modules():
                if isinstance(module, Trunk):
                    module.has_gradient_checkpointing = True
        model = model.to(self.accelerator.device)
        given = torch.compile(model) if self.config.is_compiled else model
        # Several processes have no gradients to share of what is not trained.
        return self.accelerator.prepare_model(given, evaluation_mode=not is_trained)

    def _optimizer(self, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            model.parameters(), learning_rate, betas=(0.9, 0.95), weight_decay=self.config.weight_decay, fused=True
        )

    def _warm_up_on(self, train: Batch, n_parts: int) -> Tensor:
        # Backward at once: only one part's activations are held, and several processes add up the gradients of each.
        loss = warmup_objective(self.proxy(*train)) / n_parts
        self.accelerator.backward(loss)
        return loss.detach()

    def _move(self, names: list[str]) -> None:
        for name in names:
            optimizer = self.optimizers[name]
            if self.config.gradient_clip is not None:
                self.scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(getattr(self, name).parameters(), self.config.gradient_clip)
            self.scaler.step(optimizer)
            optimizer.zero_grad()

    def _mean(self, value: Tensor) -> float:
        """Average one number over the processes."""
        mean: Tensor = self.accelerator.reduce(value.detach(), "mean")
        return mean.item()
