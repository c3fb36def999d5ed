"""A rater's training taken again while single training pairs are followed: their losses and gradient norms, band by band (Fig. 3).

Training is a function of its config and its pairs, so the proxies of a finished rater can be watched afterwards, at whatever marks.
Knows nothing of scores: who calls it says which pairs are of which band.

Letters: N pairs that are followed · G of them whose gradients are measured · M pairs of either or of all.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import copyfile

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from alchemist_core.files import atomic_write
from alchemist_core.models.star import Trunk
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import ImageTokens
from alchemist_core.telemetry import say
from alchemist_core.training import checkpoints
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.rater_training import RaterRun, Report
from alchemist_core.training.samples import Batch, JoinedSamples

# Every sample of a chunk has a gradient of the model's own size.
_MOST_GRADIENT_BYTES = 2**28


def gradient_norms(model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
    """Give the Euclidean norm of the gradient of each sample's loss by all weights of a generator.

    The cost is that of one backward a sample, and memory for the gradients of a chunk: at most 256 MiB, or one sample.

    Args:
        model: Gives the loss of each sample, in nats a token.
        batch: Samples.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    tensors_B = (*_fields(batch.tokens), *_fields(batch.text))
    n_at_once = max(1, _MOST_GRADIENT_BYTES // (4 * sum(weight.numel() for weight in weights.values())))
    norms = vmap(_norm_of_one(model), in_dims=(None, *(0 for _ in tensors_B)), chunk_size=n_at_once)
    # The fused kernels of attention have no rule for many samples with a gradient each.
    with sdpa_kernel(SDPBackend.MATH):
        norm_B: Tensor = norms(weights, *tensors_B)
    return norm_B


def _norm_of_one(model: nn.Module) -> Callable[..., Tensor]:
    def loss(weights: dict[str, Tensor], *sample: Tensor) -> Tensor:
        code_BS, input_BSD, token_BTD, mask_BT, pooled_BD = (tensor.unsqueeze(0) for tensor in sample)
        given = ImageTokens(code_BS, input_BSD), TextFeatures(token_BTD, mask_BT, pooled_BD)
        loss_B: Tensor = functional_call(model, weights, given)
        return loss_B.sum()

    def norm(weights: dict[str, Tensor], *sample: Tensor) -> Tensor:
        gradients: dict[str, Tensor] = grad(loss)(weights, *sample)
        return torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()

    return norm


def _fields(tensors: ImageTokens | TextFeatures) -> tuple[Tensor, ...]:
    return tuple(getattr(tensors, name) for name in tensors.__dataclass_fields__)


_N_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """Which training pairs are followed, by their places among the training pairs."""

    place_N: Int64[np.ndarray, " N"]
    band_N: Int64[np.ndarray, " N"]
    # Whose gradients are measured too: each costs a backward of its own.
    has_gradient_N: Bool[np.ndarray, " N"]
    n_bands: int
    # Marks behind the one before the first step.
    n_marks: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What was measured after a step, means over the pairs of each band."""

    step: int
    # Passes over the training pairs.
    epoch: float
    # nats a token under the proxy θ
    loss_of_band: list[float]
    gradient_norm_of_band: list[float]
    # nats a token under the reference θ̂, over all that are followed; none before it exists.
    reference_loss: float | None


@dataclass(frozen=True, slots=True)
class Course:
    """All marks of a training, and whether it was the rater's own."""

    marks: list[Mark]
    # The largest difference of the validation loss of a step to what the rater's own training measured, nats a token.
    largest_difference: float


def follow_training(
    rater: Path, samples: JoinedSamples, followed: Followed, *, out: Path, cache: Path | None, report: Report
) -> Course:
    """Train the proxies of a rater again and measure at even marks, or read what was measured; a killed run goes on.

    Args:
        rater: The rater's folder: its config, its tokenizer, and what its training measured.
        samples: The rater's own validation pairs, behind them its training pairs.
        followed: What is measured, and when.
        out: Folder to make: the marks.
        cache: Folder of what frozen encoders gave before.
        report: Told the steps done, the steps planned, and a note.
    """
    if not (out / "course.json").exists():
        _Following(rater, samples, followed, out=out, cache=cache).run(report)
    course = checkpoints.read_json(out / "course.json")
    return Course([Mark(**mark) for mark in course["marks"]], course["largest_difference"])


class _Following:
    """One training under way, and its marks so far."""

    def __init__(
        self, rater: Path, samples: JoinedSamples, followed: Followed, *, out: Path, cache: Path | None
    ) -> None:
        self.out, self.rater, self.followed, self.partial = out, rater, followed, checkpoints.partial_folder(out)
        self.partial.mkdir(parents=True, exist_ok=True)
        copyfile(rater / "tokenizer.safetensors", self.partial / "tokenizer.safetensors")
        config = RaterTrainingConfig.from_stored(checkpoints.read_json(rater / "config.json"))
        self.training = RaterRun(config, samples.second, samples.first, out=out, cache=cache)
        self.total = config.n_warmup_steps + config.n_steps
        # A pair whose picture cannot be decoded is in no batch, and is not followed.
        kept_M, place_N = self.training.data.kept_N, followed.place_N + len(samples.first)
        is_kept_N = np.isin(place_N, kept_M)
        self.index_N = torch.from_numpy(np.searchsorted(kept_M, place_N[is_kept_N]))
        self.band_N, self.has_gradient_N = followed.band_N[is_kept_N], followed.has_gradient_N[is_kept_N]
        marks = self.partial / "marks.json"
        found = checkpoints.read_json(marks)["marks"] if marks.exists() else []
        self.marks = {mark["step"]: Mark(**mark) for mark in found}

    def run(self, report: Report) -> None:
        """Train to the end, measuring after the steps of the marks; what that costs is said before the first step."""
        n_marks = self.followed.n_marks
        steps = {round(self.total * i / n_marks) for i in range(n_marks + 1)}

        def measure_and_report(done: int, total: int, note: str) -> None:
            if done in steps:
                self._measure(done)
            report(done, total, note)

        # The first mark; after a kill between a checkpoint and the mark of its step, that one.
        if self.training.progress.step in steps:
            self._measure_in_time(self.training.progress.step, n_marks=len(steps))
        self.training.train(measure_and_report)
        # Training may have stopped before its last step.
        self._measure(self.training.progress.step)
        self._finish()

    def _measure_in_time(self, step: int, *, n_marks: int) -> None:
        began = time.perf_counter()
        self._measure(step)
        say(
            f"{n_marks:,} marks of {time.perf_counter() - began:.0f} seconds each ({len(self.band_N):,} losses, "
            f"{self.has_gradient_N.sum():,} gradients), beside {self.total:,} steps of training."
        )

    def _measure(self, step: int) -> None:
        if step in self.marks:
            return
        config, (proxy, reference) = self.training.config, self._models()
        # Before the end of the warm-up there is no θ̂.
        has_reference = step > config.n_warmup_steps
        self.marks[step] = Mark(
            step, step * config.batch_size / self.training.n_train, self._means(_losses(proxy, self._batches()), self.band_N),
            self._means(self._gradients(proxy), self.band_N[self.has_gradient_N]),
            float(_losses(reference, self._batches()).mean()) if has_reference else None,
        )  # fmt: skip
        with atomic_write(self.partial / "marks.json", is_sole_writer=True) as partial:
            checkpoints.write_json(partial, {"marks": [asdict(mark) for mark in self.marks.values()]})

    def _models(self) -> tuple[nn.Module, nn.Module]:
        """Copy both proxies without what saves memory in a step: a sample's own gradient knows no checkpoints."""
        models = tuple(copy.deepcopy(self.training.models.unwrapped(name)) for name in ("proxy", "reference"))
        for model in models:
            for module in model.modules():
                if isinstance(module, Trunk):
                    module.has_gradient_checkpointing = False
        return models[0], models[1]

    def _gradients(self, proxy: nn.Module) -> Float[np.ndarray, " G"]:
        index_G = self.index_N[torch.from_numpy(self.has_gradient_N)]
        return torch.cat([gradient_norms(proxy, batch) for batch in self._batches(index_G)]).numpy(force=True)

    def _batches(self, index_M: Int64[Tensor, " M"] | None = None) -> Iterator[Batch]:
        index_M, device = self.index_N if index_M is None else index_M, self.training.accelerator.device
        for start in range(0, len(index_M), _N_AT_ONCE):
            yield self.training.data.rows(index_M[start : start + _N_AT_ONCE]).to(device)

    def _means(self, value_M: Float[np.ndarray, " M"], band_M: Int64[np.ndarray, " M"]) -> list[float]:
        return [float(value_M[band_M == band].mean()) for band in range(self.followed.n_bands)]

    def _finish(self) -> None:
        """Compare the training with the rater's own, and give the folder its name."""
        then = checkpoints.read_json(self.rater / "metrics.json")["history"]
        both = zip(then, self.training.progress.history, strict=False)
        differences = [abs(one["validation_loss"] - other["validation_loss"]) for one, other in both]
        checkpoints.write_json(self.partial / "course.json", {
            "marks": [asdict(self.marks[step]) for step in sorted(self.marks)],
            "largest_difference": max(differences),
        })  # fmt: skip
        for name in ("marks.json", "tokenizer.safetensors"):
            (self.partial / name).unlink()
        checkpoints.finish(self.out)


@torch.no_grad()
def _losses(model: nn.Module, batches: Iterator[Batch]) -> Float[np.ndarray, " M"]:
    return torch.cat([model(*batch) for batch in batches]).numpy(force=True)
