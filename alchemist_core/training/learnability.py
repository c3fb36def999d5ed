"""The scoring rules `learnability` and `pmi`: after the warm-up the proxy trains on validation data only. No rater network is trained."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from alchemist_core.models.config import StarConfig
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextFeatures
from alchemist_core.rating.learnability import LearnabilityRater
from alchemist_core.rating.rater import SampleRater
from alchemist_core.training.bilevel import TwoProxies, load_starts
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.launching import start_from_seed
from alchemist_core.training.pmi import PmiRater, blank_captions
from alchemist_core.training.samples import Batch


@dataclass(frozen=True, slots=True)
class LearnabilityResult:
    """The numbers of one step, measured before its update."""

    validation_loss: float
    train_loss: float
    reference_loss: float
    cost_spread: float


class Learnability(TwoProxies):
    """The proxy θ, which trains on validation data, and the reference θ̂, which keeps the weights of the warm-up."""

    def __init__(self, config: RaterTrainingConfig, accelerator: Accelerator, sizes: tuple[StarConfig, StarConfig]):
        start_from_seed(config.seed)
        proxy = Star(sizes[0])
        load_starts(config, proxy)
        models = {"proxy": proxy, "reference": copy.deepcopy(proxy).requires_grad_(requires_grad=False)}
        super().__init__(config, accelerator, models, {"proxy": config.proxy_learning_rate})

    def step(self, parts: Sequence[Batch], n_validation: int, *, epoch: int = 0) -> LearnabilityResult:
        """Train θ on the validation samples; measure the losses of the training samples without learning from them."""
        figures_P4 = torch.stack(
            [self.read_part(part, n_validation, epoch=epoch, n_parts=len(parts)) for part in parts]
        )
        self._move(["proxy"])
        self.scaler.update()
        mean: list[float] = self.accelerator.reduce(figures_P4.mean(0), "mean").tolist()
        validation_loss, train_loss, reference_loss, square = mean
        # Computed from means, so the spread is that of the whole batch however it was split.
        spread = max(0.0, square - (train_loss - reference_loss) ** 2) ** 0.5
        return LearnabilityResult(validation_loss, train_loss, reference_loss, spread)

    @property
    def scoring_rater(self) -> SampleRater:
        """Both proxies as one rater."""
        return LearnabilityRater(self.unwrapped("reference"), self.unwrapped("proxy"))

    def read_part(self, part: Batch, n_validation: int, *, epoch: int, n_parts: int) -> Tensor:  # noqa: ARG002  a schedule's
        """Return validation loss, training loss, reference loss and squared difference of the last two."""
        train = part.between(n_validation, None)
        with torch.no_grad():
            loss_B, reference_loss_B = self.unwrapped("proxy")(*train), self.unwrapped("reference")(*train)
        loss = self.proxy(*part.between(None, n_validation)).mean()
        self.accelerator.backward(loss / n_parts)
        square = (loss_B - reference_loss_B).square().mean()
        return torch.stack([loss.detach(), loss_B.mean(), reference_loss_B.mean(), square])


class Pmi(Learnability):
    """Trains as `Learnability` does; a score compares captions under θ alone."""

    def __init__(self, config: RaterTrainingConfig, accelerator: Accelerator, sizes: tuple[StarConfig, StarConfig]):
        super().__init__(config, accelerator, sizes)
        self._captions = blank_captions(config.pmi_captions, sizes[0].text_dim)

    def compare_with(self, captions: TextFeatures) -> None:
        """Set the captions with which the own caption of a sample is compared."""
        self._captions = captions.to(self.accelerator.device)

    @property
    def scoring_rater(self) -> SampleRater:
        """The proxy and the other captions."""
        return PmiRater(self.unwrapped("proxy"), self._captions)
