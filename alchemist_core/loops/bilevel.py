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
from torch import Tensor

from alchemist_core.loops.averaging import average_of
from alchemist_core.loops.config import RaterTrainingConfig
from alchemist_core.loops.determinism import start_from_seed
from alchemist_core.loops.pairs import Batch
from alchemist_core.loops.rater_network import make_rater
from alchemist_core.loops.rater_objective import Measured, RaterObjective
from alchemist_core.loops.two_proxies import TwoProxies
from alchemist_core.models.config import StarConfig
from alchemist_core.models.star import Star, Trunk
from alchemist_core.rating.config import PenaltySchedule
from alchemist_core.rating.proxies import proxy_objective, reference_objective, seal_shares
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


class Bilevel(TwoProxies):
    """The state of a run: proxy θ, reference θ̂, rater, their optimisers and running means."""

    rater: Any

    def __init__(self, config: RaterTrainingConfig, accelerator: Accelerator, sizes: tuple[StarConfig, StarConfig]):
        start_from_seed(config.seed)
        proxy_size, rater_size = sizes
        proxy = Star(proxy_size)
        models = {"proxy": proxy, "reference": copy.deepcopy(proxy), "rater": make_rater(config, rater_size)}
        rate = config.proxy_learning_rate
        rates = {"proxy": rate, "reference": rate, "rater": config.rater_learning_rate}
        super().__init__(config, accelerator, models, rates)
        self.average_rater = average_of(self.unwrapped("rater"), config.rater_average)
        self.objective = RaterObjective(config, accelerator)
        # θ reads twice what θ̂ and the rater read: half the work each. Two Python threads of one OpenMP thread each use two
        # cores and never wait for each other inside a kernel; the three models share no weight, so the bits are the same.
        # Several processes reduce gradients in one order only, and a GPU has one stream: there the halves follow each other.
        is_alone_on_cpu = accelerator.num_processes == 1 and accelerator.device.type == "cpu"
        self._beside = ThreadPoolExecutor(1) if is_alone_on_cpu else None

    def end_warmup(self) -> None:
        """Let θ̂ begin as the warmed-up θ; the rater's backbone may, too."""
        super().end_warmup()
        if self.config.rater_start == "proxy":
            backbone, warmed_up = cast("Rater", self.unwrapped("rater")).backbone, cast("Star", self.unwrapped("proxy"))
            backbone.load_state_dict((warmed_up.trunk if isinstance(backbone, Trunk) else warmed_up).state_dict())

    def step(self, parts: Sequence[Batch], n_validation: int, *, epoch: int = 0) -> StepReport:
        """Update both proxies and the rater from losses that were all taken before any of them moved; θ reads a part in one forward."""
        measured = [self._read_part(part, n_validation, epoch=epoch, n_parts=len(parts)) for part in parts]
        stepped = self._submit(self._move, ["reference", "rater"])
        self._move(["proxy"])
        stepped()
        self.scaler.update()
        self.average_rater.update_parameters(self.unwrapped("rater"))
        return self._report(measured)

    def state_dict(self) -> dict[str, Any]:
        """Give everything that the next step depends on."""
        return super().state_dict() | {
            "average_rater": self.average_rater.state_dict(), "averages": asdict(self.objective.averages),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        super().load_state_dict(state)
        self.average_rater.load_state_dict(state["average_rater"])
        self.objective.load(state["averages"])

    @property
    def scoring_rater(self) -> Rater:
        """Give the rater averaged over its recent past."""
        return cast("Rater", self.average_rater.module)

    def _read_part(self, part: Batch, n_validation: int, *, epoch: int, n_parts: int) -> Measured:
        """Read one part with all three models and add its gradients."""
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
        n_groups = train.n_pairs // self.config.group_size
        return self.reference(*train), self.rater(*train, n_groups)

    def _submit(self, work: Any, *given: Any) -> Any:
        """Start work on the second thread, or do it now where there is none; what is returned waits for its result."""
        if self._beside is not None:
            return self._beside.submit(work, *given).result
        done = work(*given)
        return lambda: done

    def _report(self, measured: Sequence[Measured]) -> StepReport:
        cost_spread, price = self.objective.move_averages(measured)
        figures = torch.stack([
            torch.stack([part.figure(name) for part in measured]).mean()
            for name in ("loss_A", "loss_B", "reference_loss_B", "effective_size_G", "entropy_G", "group_weight_G")
        ])  # fmt: skip
        mean: list[float] = self.accelerator.reduce(figures, "mean").tolist()
        return StepReport(mean[0], mean[1], mean[2], cost_spread, price, mean[3], mean[4], mean[5])
