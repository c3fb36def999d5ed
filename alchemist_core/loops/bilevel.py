"""One step of the bilevel problem: two proxies, a rater, three optimisers. Where data comes from is not known here.

Letters: A samples of the validation batch · B samples of the training batch · G softmax groups.
"""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from alchemist_core.loops.averaging import average_of
from alchemist_core.loops.config import RaterTrainingConfig
from alchemist_core.loops.determinism import start_from_seed
from alchemist_core.loops.pairs import Batch
from alchemist_core.loops.rater_network import make_rater
from alchemist_core.loops.rater_objective import Measured, RaterObjective
from alchemist_core.models.config import StarConfig
from alchemist_core.models.star import Star, Trunk
from alchemist_core.rating.config import PenaltySchedule
from alchemist_core.rating.proxies import proxy_objective, reference_objective, seal_shares, warmup_objective
from alchemist_core.rating.rater import Rater, Rating


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one bilevel step measured, before its update."""

    validation_loss: float
    train_loss: float
    reference_loss: float
    cost_spread: float
    price: float
    effective_sample_size: float
    entropy: float
    group_weight: float


class Bilevel:
    """The state of a run: proxy θ, reference θ̂, rater, their optimisers and running means."""

    def __init__(self, config: RaterTrainingConfig, accelerator: Accelerator, sizes: tuple[StarConfig, StarConfig]):
        self.config, self.accelerator = config, accelerator
        start_from_seed(config.seed)
        proxy_size, rater_size = sizes
        proxy = Star(proxy_size)
        rater = make_rater(config, rater_size)
        self.proxy, self.reference, self.rater = (
            self._prepared(model) for model in (proxy, copy.deepcopy(proxy), rater)
        )
        self.optimizers = {
            "proxy": self._optimizer(self.proxy, config.proxy_learning_rate),
            "reference": self._optimizer(self.reference, config.proxy_learning_rate),
            "rater": self._optimizer(self.rater, config.rater_learning_rate),
        }
        # accelerate's own optimisers would move the one scale of fp16 after each of three, between gradients of one step.
        self.scaler = accelerator.scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.average_rater = average_of(self.unwrapped("rater"), config.rater_average)
        self.objective = RaterObjective(config, accelerator)
        # θ reads twice what θ̂ and the rater read: half the work each. Two Python threads of one OpenMP thread each use two
        # cores and never wait for each other inside a kernel; the three models share no weight, so the bits are the same.
        # Several processes reduce gradients in one order only, and a GPU has one stream: there the halves follow each other.
        is_alone_on_cpu = accelerator.num_processes == 1 and accelerator.device.type == "cpu"
        self._beside = ThreadPoolExecutor(1) if is_alone_on_cpu else None

    def warmup_step(self, parts: Sequence[Batch]) -> float:
        """Train the proxy alone, uniformly."""
        losses = [self._warm_up_on(train, len(parts)) for train in parts]
        self._step(["proxy"])
        self.scaler.update()
        return self._mean(torch.stack(losses).sum())

    def end_warmup(self) -> None:
        """Let θ̂ begin as a copy of the warmed-up θ, its optimiser's moments included; the rater's backbone may, too."""
        warmed_up = self.unwrapped("proxy").state_dict()
        self.unwrapped("reference").load_state_dict(warmed_up)
        self.optimizers["reference"].load_state_dict(copy.deepcopy(self.optimizers["proxy"].state_dict()))
        if self.config.rater_start == "proxy":
            backbone = cast("Rater", self.unwrapped("rater")).backbone
            trunk = cast("Star", self.unwrapped("proxy")).trunk.state_dict()
            backbone.load_state_dict(trunk if isinstance(backbone, Trunk) else warmed_up)

    def bilevel_step(self, parts: Sequence[Batch], n_validation: int, *, epoch: int = 0) -> StepReport:
        """Update both proxies and the rater from losses that were all taken before any of them moved.

        Args:
            parts: Equal parts of the step's batch: validation pairs, then training pairs, which θ reads in one forward.
            n_validation: Where the training pairs of a part begin.
            epoch: Passes over the validation data so far; only the schedule `seal` asks.
        """
        measured = [self._read_part(part, n_validation, epoch=epoch, n_parts=len(parts)) for part in parts]
        stepped = self._submit(self._step, ["reference", "rater"])
        self._step(["proxy"])
        stepped()
        self.scaler.update()
        self.average_rater.update_parameters(self.unwrapped("rater"))
        return self._report(measured)

    def state_dict(self) -> dict[str, Any]:
        """Give everything that the next step depends on."""
        models = {name: self.unwrapped(name).state_dict() for name in self.optimizers}
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {
            "models": models,
            "optimizers": optimizers,
            "average_rater": self.average_rater.state_dict(),
            "averages": asdict(self.objective.averages),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        for name, optimizer in self.optimizers.items():
            self.unwrapped(name).load_state_dict(state["models"][name])
            optimizer.load_state_dict(state["optimizers"][name])
        self.average_rater.load_state_dict(state["average_rater"])
        self.objective.load(state["averages"])
        self.scaler.load_state_dict(state["scaler"])

    @property
    def scoring_rater(self) -> Rater:
        """Give the rater averaged over its recent past."""
        return cast("Rater", self.average_rater.module)

    def unwrapped(self, name: str) -> nn.Module:
        """Give one of the three models without what the accelerator put around it."""
        model: nn.Module = self.accelerator.unwrap_model(getattr(self, name), keep_torch_compile=False)
        return model

    def _prepared(self, model: nn.Module) -> Any:
        if self.config.is_checkpointed:
            for module in model.modules():
                if isinstance(module, Trunk):
                    module.has_gradient_checkpointing = True
        model = model.to(self.accelerator.device)
        return self.accelerator.prepare(torch.compile(model) if self.config.is_compiled else model)

    def _optimizer(self, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            model.parameters(), learning_rate, betas=(0.9, 0.95), weight_decay=self.config.weight_decay, fused=True
        )

    def _warm_up_on(self, train: Batch, n_parts: int) -> Tensor:
        # Backward at once: only one part's activations are held, and several processes add up the gradients of each.
        loss = warmup_objective(self.proxy(*train)) / n_parts
        self.accelerator.backward(loss)
        return loss.detach()

    def _read_part(self, part: Batch, n_validation: int, *, epoch: int, n_parts: int) -> Measured:
        """Read one part with all three models and add its gradients."""
        train = part.after(n_validation)
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
        n_groups = train.n_pairs // self.config.group_size
        return self.reference(*train), self.rater(*train, n_groups)

    def _submit(self, work: Any, *given: Any) -> Any:
        """Start work on the second thread, or do it now where there is none; what is returned waits for its result."""
        if self._beside is not None:
            return self._beside.submit(work, *given).result
        done = work(*given)
        return lambda: done

    def _step(self, names: list[str]) -> None:
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

    def _report(self, measured: Sequence[Measured]) -> StepReport:
        cost_spread, price = self.objective.move_averages(measured)
        figures = torch.stack([
            torch.stack([part.figure(name) for part in measured]).mean()
            for name in ("loss_A", "loss_B", "reference_loss_B", "effective_size_G", "entropy_G", "group_weight_G")
        ])  # fmt: skip
        mean: list[float] = self.accelerator.reduce(figures, "mean").tolist()
        return StepReport(mean[0], mean[1], mean[2], cost_spread, price, mean[3], mean[4], mean[5])
