"""Training a generator on the samples of one arm: recipe, initial weights and epochs are the same for every arm.

It reads samples and writes a folder. It does not depend on the subset that they come from.

Letters: b samples of a part of a batch.
"""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from alchemist_core.errors import ConfigError, DataError, TrainingCollapsedError
from alchemist_core.telemetry import OnProgress, say
from alchemist_core.training import checkpoints
from alchemist_core.training.averaging import average_of
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.generators import load_recipe
from alchemist_core.training.launching import make_accelerator, own_slice, start_from_seed
from alchemist_core.training.samples import EpochReads, SampleSource


def train_downstream(
    config: DownstreamConfig,
    samples: SampleSource,
    *,
    tokenizer_from: Path,
    out: Path,
    on_progress: OnProgress,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Train a model, or return the metrics of a finished run; a killed run resumes from its last checkpoint.

    Args:
        config: Recipe, the same for every arm.
        samples: The samples of the arm; `WeightedSamples` are read as often as their weights say.
        tokenizer_from: Folder of the rater whose tokenizer all arms share.
        out: Folder to write: model, tokenizer, config and metrics.
        on_progress: Called with the steps done, the steps planned, and a note.
        cache: Folder of cached outputs of the frozen encoders.

    Raises:
        ConfigError: The number format or the number of processes does not fit, or a checkpoint is of another config.
        DataError: There is no sample, or a sample's image cannot be decoded.
    """
    if (finished := checkpoints.read_finished(out)) is not None:
        return finished
    if not len(samples):
        raise DataError("No samples to train on. Select at least 1.")
    run = _Run(config, samples, tokenizer_from=tokenizer_from, out=out, cache=cache, on_progress=on_progress)
    run.train(on_progress)
    return run.finish()


class _Run:
    """One training run: its encoded data, model, optimiser, schedule and step."""

    def __init__(
        self, config: DownstreamConfig, samples: SampleSource, *, tokenizer_from: Path, out: Path, cache: Path | None,
        on_progress: OnProgress,
    ) -> None:  # fmt: skip
        from transformers import get_scheduler  # noqa: PLC0415  half a second that scoring and evaluation need not pay

        self.config, self.out, self.reads = config, out, EpochReads(samples, seed=config.seed)
        self.accelerator = make_accelerator(config.mixed_precision)
        require_equal_parts(config, self.accelerator.num_processes)
        device = self.accelerator.device
        self.recipe = load_recipe(config, tokenizer_from, device)
        self.data = self.recipe.encode(samples, cache, self.accelerator, on_progress)
        if n_broken := len(samples) - len(self.data):
            raise DataError(
                f"The images of {n_broken:,} of {len(samples):,} samples cannot be decoded any more. Select again."
            )
        self.n_steps = config.steps(self.reads.n_reads)
        start_from_seed(config.seed)
        model = self.recipe.make_model()
        trainable = [weights for weights in model.parameters() if weights.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable, config.learning_rate, self.recipe.betas, weight_decay=config.weight_decay, fused=True
        )
        n_warmup = min(config.lr_warmup_steps, self.n_steps // 10)
        schedule = get_scheduler(
            self.recipe.schedule, optimizer, num_warmup_steps=n_warmup, num_training_steps=self.n_steps
        )
        self.model, self.optimizer, self.schedule = self.accelerator.prepare(model, optimizer, schedule)
        self.average = average_of(self._plain_model(), config.ema_decay) if config.ema_decay else None
        self.step = 0
        self.losses: list[float] = []
        self._resume()

    def train(self, on_progress: OnProgress) -> None:
        """Train until every epoch is done."""
        while self.step < self.n_steps:
            loss = self._descend()
            if not math.isfinite(loss):
                raise TrainingCollapsedError(
                    f"The training stopped: its loss is not finite at step {self.step}. Lower --learning-rate, now "
                    f"{self.config.learning_rate:g}, or use another --mixed-precision, now {self.config.mixed_precision}."
                )
            self.step += 1
            self.losses.append(loss)
            if self.step % self.config.checkpointing_steps == 0:
                self._save()
            on_progress(self.step, self.n_steps, f"loss {loss:.3f}")

    def finish(self) -> dict[str, Any]:
        """Write the folder and return its metrics; every process waits for the first."""
        if self.accelerator.is_main_process:
            self._write()
        self.accelerator.wait_for_everyone()
        return checkpoints.read_json(self.out / "metrics.json")

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            checkpoints.save_state(self.out, self.config, self._state())
        self.accelerator.wait_for_everyone()

    def _write(self) -> None:
        folder = checkpoints.partial_folder(self.out)
        folder.mkdir(parents=True, exist_ok=True)
        metrics = {
            "n_steps": self.n_steps,
            "n_pairs": self.reads.n_reads,
            "final_loss": sum(self.losses[-50:]) / len(self.losses[-50:]),
            "losses": self.losses,
        }
        self.recipe.write(self._plain_model() if self.average is None else self.average.module, folder)
        checkpoints.write_json(folder / "config.json", self.config.hashed_json())
        checkpoints.write_json(folder / "metrics.json", metrics)
        checkpoints.finish(self.out)

    def _descend(self) -> float:
        index_B = self.reads.batch(self.step, batch_size=self.config.batch_size)
        parts = torch.chunk(own_slice(self.accelerator, index_B), self.config.gradient_accumulation_steps)
        # The random numbers of a step are a function of the step and the process, so that a resumed run repeats them.
        n_processes = self.accelerator.num_processes
        torch.manual_seed((self.config.seed * 1_000_003 + self.step) * n_processes + self.accelerator.process_index)
        loss = torch.stack([self._descend_on(index_b) for index_b in parts]).sum()
        if self.recipe.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self._plain_model())
        return float(self.accelerator.reduce(loss, "mean").item())

    def _descend_on(self, index_b: Int64[Tensor, " b"]) -> Tensor:
        # Run backward for each part, so that the activations of only one part are in memory.
        batch = self.data.rows(index_b).to(self.accelerator.device)
        loss: Tensor = self.model(*batch).mean() / self.config.gradient_accumulation_steps
        self.accelerator.backward(loss)
        return loss.detach()

    def _plain_model(self) -> nn.Module:
        model: nn.Module = self.accelerator.unwrap_model(self.model)
        return model

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.recipe.kept_weights(self._plain_model()),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "step": self.step,
            "losses": self.losses,
        }

    def _resume(self) -> None:
        state = checkpoints.load_state(self.out, self.config)
        if state is None:
            return
        self.recipe.restore(self._plain_model(), state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.losses = state["step"], state["losses"]
        if self.accelerator.is_main_process:
            say(f"Resuming from the checkpoint at step {self.step:,}.")


def require_equal_parts(config: DownstreamConfig, n_processes: int) -> None:
    """Refuse a batch that processes would not split into equal parts.

    Raises:
        ConfigError: They would not; the message gives the factor that is missing.
    """
    if config.batch_size % (n_processes * config.gradient_accumulation_steps):
        raise ConfigError(
            f"batch_size {config.batch_size} does not split into {n_processes} processes × gradient_accumulation_steps "
            f"{config.gradient_accumulation_steps} equal parts; set it to a multiple of {n_processes * config.gradient_accumulation_steps}"
        )
