"""Training a rater: load or fit a tokenizer, encode the samples, warm up the proxy, then step until early stopping.

It reads samples and writes a folder, and uses neither shards nor the database. Under `accelerate launch` or torchrun, each process reads
its slice of every batch, and the first process writes.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import save_file

from alchemist_core.errors import ConfigError, DataError, TrainingCollapsedError
from alchemist_core.files import atomic_write
from alchemist_core.models.config import StarConfig, TokenizerConfig
from alchemist_core.models.published.tokenizer import load_tokenizer
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import Tokenizer, fit_tokenizer
from alchemist_core.rating.acceptance import HELD_OUT
from alchemist_core.rating.config import ScoringRule
from alchemist_core.statistics import quantiles_of, spearman
from alchemist_core.telemetry import OnProgress, say
from alchemist_core.training import checkpoints
from alchemist_core.training.bilevel import Bilevel, TwoProxies, check_starts, collapse_reason
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.encoding import encode_samples
from alchemist_core.training.launching import make_accelerator, own_slice
from alchemist_core.training.learnability import Learnability, Pmi
from alchemist_core.training.pinning import open_text_encoder
from alchemist_core.training.pmi import choose_captions
from alchemist_core.training.samples import Batch, ImagesOf, JoinedSamples, SampleSource, batch_index

N_EVALUATED = 1024
"""Samples of each evaluation: of the held-out loss, and of the training metrics."""
# Logits in memory at a time: 1 GiB, and as much again for their probabilities.
_MOST_LOGITS = 2**28
_N_QUANTILES = 257
# Rule pmi looks for different captions among so many.
_MOST_DRAWN = 256


@dataclass(slots=True)
class Progress:
    """The steps of a run so far, their numbers, and the best rater."""

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_loss: float = float("inf")
    best_step: int = 0
    n_worse: int = 0
    best_rater: dict[str, Any] | None = None
    is_stopped: bool = False


def train_rater(
    config: RaterTrainingConfig,
    train: SampleSource,
    validation: SampleSource,
    *,
    out: Path,
    on_progress: OnProgress,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Train a rater, or return the metrics of a finished run; a killed run resumes from its last checkpoint.

    Args:
        config: Scoring rule, lengths and sizes.
        train: The samples to rate.
        validation: Samples like those that the downstream model should be good at; a tenth is held out for early stopping.
        out: Folder to write: rater, proxy, tokenizer, config and metrics.
        on_progress: Called with the steps done, the steps planned, and a note.
        cache: Folder of cached outputs of the frozen encoders.

    Raises:
        ConfigError: The number format or the number of processes does not fit.
        DataError: Fewer than two training or two validation images can be decoded.
        TrainingCollapsedError: A loss is not finite, or the weights collapsed to single samples.
    """
    if (finished := checkpoints.read_finished(out)) is not None:
        return finished
    run = RaterRun(config, train, validation, out=out, cache=cache, on_progress=on_progress)
    run.train(on_progress)
    return run.finish()


class RaterRun:
    """One training run: its encoded data, its models, its progress."""

    def __init__(
        self,
        config: RaterTrainingConfig,
        train: SampleSource,
        validation: SampleSource,
        *,
        out: Path,
        cache: Path | None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.config, self.out = config, out
        self.accelerator = make_accelerator(config.mixed_precision)
        require_whole_groups(config, self.accelerator.num_processes)
        encoder = open_text_encoder(config, str(self.accelerator.device))
        sizes = (config.proxy(config.tokenizer_config, encoder.dim), config.rater(config.tokenizer_config, encoder.dim))
        check_starts(config, sizes)
        with self.accelerator.main_process_first():
            self.tokenizer = _tokenizer(config, train, out).to(self.accelerator.device)
        # One table in the order held-out validation, validation, training, so that a step gathers both batches at once.
        self.data = encode_samples(
            JoinedSamples(validation, train), self.tokenizer, encoder, cache=cache, accelerator=self.accelerator,
            on_progress=on_progress,
        )  # fmt: skip
        self.n_all_validation = int((self.data.kept < len(validation)).sum())
        self.n_train = len(self.data) - self.n_all_validation
        _require_several(training=self.n_train, validation=self.n_all_validation)
        self.n_held_out = max(1, self.n_all_validation // 10)
        kept_V = self.data.kept[: self.n_all_validation]
        self.validation_row_V = _rows_to_train(kept_V, validation.image_keys, self.n_held_out)
        self.n_validation = len(self.validation_row_V)
        self._say_what_trains()
        self.models = make_models(config, self.accelerator, sizes)
        if isinstance(self.models, Pmi):
            self.models.compare_with(self._draw_captions())
        self.progress = Progress()
        self._resume()

    def train(self, on_progress: OnProgress) -> None:
        """Train until the last step, or until early stopping."""
        config, progress = self.config, self.progress
        total = config.proxy_warmup_steps + config.max_train_steps
        while progress.step < total and not progress.is_stopped:
            note = self._warm_up() if progress.step < config.proxy_warmup_steps else self._step()
            progress.step += 1
            if progress.step % config.validation_steps == 0 and progress.step > config.proxy_warmup_steps:
                self._validate()
            if progress.step % config.checkpointing_steps == 0:
                self._save()
            on_progress(progress.step, total, note)
        if progress.n_worse > 0 and self.accelerator.is_main_process:
            ended = f"Stopped early at step {progress.step:,} of {total:,}: the" if progress.is_stopped else "The"
            say(f"{ended} held-out loss was lowest at step {progress.best_step:,}, whose rater is kept.")

    def finish(self) -> dict[str, Any]:
        """Write the folder and return its metrics; every process waits for the first."""
        if self.accelerator.is_main_process:
            self._write()
        self.accelerator.wait_for_everyone()
        return checkpoints.read_json(self.out / "metrics.json")

    def _write(self) -> None:
        # The last validation was worse than the best one, or than several.
        if self.progress.n_worse > 0 and self.progress.best_rater is not None:
            self.models.scoring_rater.load_state_dict(self.progress.best_rater)
        folder = checkpoints.partial_folder(self.out)
        folder.mkdir(parents=True, exist_ok=True)
        metrics = self._metrics()
        self.tokenizer.save(folder / "tokenizer.safetensors")
        save_file(self.models.scoring_rater.state_dict(), folder / "rater.safetensors")
        save_file(self.models.unwrapped("proxy").state_dict(), folder / "proxy.safetensors")
        checkpoints.write_json(folder / "config.json", self.config.hashed_json())
        checkpoints.write_json(folder / "metrics.json", metrics)
        checkpoints.finish(self.out)

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            checkpoints.save_state(self.out, self.config, self._state())
        self.accelerator.wait_for_everyone()

    def _warm_up(self) -> str:
        parts = [self._batch(index_B) for index_B in self._parts(self._train_index(self.progress.step))]
        loss = self.models.warmup_step(parts)
        if not math.isfinite(loss):
            raise TrainingCollapsedError(
                f"Rater training stopped: the loss of the warm-up is not finite at step {self.progress.step}. Lower the proxies' learning "
                "rate."
            )
        return f"warm-up, loss {loss:.3f}"

    def _step(self) -> str:
        step, config = self.progress.step, self.config
        if step == config.proxy_warmup_steps:
            self.models.end_warmup()
        n_before = step - config.proxy_warmup_steps
        validation_A = batch_index(self.n_validation, n_before, batch_size=config.batch_size, seed=config.seed + 1)
        both = zip(self._parts(self.validation_row_V[validation_A]), self._parts(self._train_index(step)), strict=True)
        parts = [self._batch(torch.cat(indices)) for indices in both]
        epoch = n_before * config.batch_size // self.n_validation
        measured = self.models.step(parts, parts[0].n_samples // 2, epoch=epoch)
        self.progress.history.append({"step": step, **asdict(measured)})
        if (reason := collapse_reason(self.progress.history, config.group_size)) is not None:
            raise TrainingCollapsedError(f"Rater training stopped: {reason}.")
        return f"loss {measured.validation_loss:.3f}, spread of the advantage {measured.cost_spread:.3f}"

    def _draw_captions(self) -> TextFeatures:
        """Draw different captions of the validation samples that are not held out, by the seed."""
        drawn_M = np.random.default_rng([self.config.seed, 2]).permutation(self.n_validation)[:_MOST_DRAWN]
        text = self.data.captions.rows(self.validation_row_V[torch.from_numpy(drawn_M)])
        return choose_captions(text, self.config.pmi_captions)

    def _parts(self, index_B: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split this process's slice of a batch into its micro-batches."""
        return torch.chunk(own_slice(self.accelerator, index_B), self.config.gradient_accumulation_steps)

    def _train_index(self, step: int) -> torch.Tensor:
        index_B = batch_index(self.n_train, step, batch_size=self.config.batch_size, seed=self.config.seed)
        return index_B + self.n_all_validation

    def _batch(self, index_B: torch.Tensor) -> Batch:
        return self.data.rows(index_B).to(self.accelerator.device)

    def _say_what_trains(self) -> None:
        """Report if more than a tenth of the validation samples trains nothing.

        Raises:
            DataError: No sample trains.
        """
        n_dropped = self.n_all_validation - self.n_held_out - self.n_validation
        if n_dropped:
            say(
                f"{self.n_validation:,} of {self.n_all_validation:,} validation samples train the rater: {self.n_held_out:,} are held "
                f"out, and {n_dropped:,} are further captions of their images."
            )
        if not self.n_validation:
            raise DataError(
                "No validation sample is left beside the held-out ones, because all of them have the same images. Ingest samples of "
                "other images."
            )

    def _validate(self) -> None:
        progress = self.progress
        loss_B = self._losses("proxy", torch.arange(min(self.n_held_out, N_EVALUATED)))
        # Reduced to one number: processes that stopped at different steps would wait for each other forever.
        loss = self.accelerator.reduce(loss_B.mean(), "mean").item()
        progress.history[-1]["held_out_loss"] = loss
        if loss < progress.best_loss:
            rater = self.models.scoring_rater.state_dict()
            progress.best_rater = {name: tensor.detach().clone() for name, tensor in rater.items()}
            progress.best_loss, progress.best_step, progress.n_worse = loss, progress.step, 0
        else:
            progress.n_worse += 1
            progress.is_stopped = progress.n_worse >= self.config.early_stopping_patience

    @torch.no_grad()
    def _losses(self, name: str, index_B: torch.Tensor) -> torch.Tensor:
        # Unwrapped, because the other processes do not take part.
        model = self.models.unwrapped(name)
        return torch.cat([model(*self._batch(index_P)) for index_P in self._small_parts(index_B)])

    def _small_parts(self, index_B: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(index_B, samples_per_forward(self.tokenizer.config))

    @torch.no_grad()
    def _metrics(self) -> dict[str, Any]:
        """Return the metrics, including the controls that show whether the score is more than a ranking by loss."""
        start, generator = self.n_all_validation, np.random.default_rng(self.config.seed)
        index_B = torch.from_numpy(np.sort(generator.permutation(self.n_train)[:N_EVALUATED])) + start
        rater = self.models.scoring_rater
        score_B, held_out_B = (
            torch.cat([rater.score(*self._batch(index_P)) for index_P in self._small_parts(places)])
            for places in (index_B, torch.arange(min(self.n_held_out, N_EVALUATED)))
        )
        return {
            "n_steps": self.progress.step,
            "stopped_early": self.progress.is_stopped,
            "best_step": self.progress.best_step,
            "score_mean": score_B.mean().item(),
            "score_std": score_B.std().item(),
            # The first scored night is compared with these quantiles.
            "score_quantiles": np.quantile(score_B.numpy(force=True), np.linspace(0, 1, _N_QUANTILES)).tolist(),
            "n_scores": len(score_B),
            # The first ones in the order of pair_hash: the acceptance report measures on samples that trained nothing.
            "n_held_out": self.n_held_out,
            HELD_OUT: quantiles_of(held_out_B.numpy(force=True)),
            "spearman_score_minus_loss": spearman(
                score_B.numpy(force=True), -self._losses("proxy", index_B).numpy(force=True)
            ),
            "reference_loss_mean": self._losses("reference", index_B).mean().item(),
            "history": self.progress.history,
        }

    def _state(self) -> dict[str, Any]:
        return {
            # The key has this name in the checkpoints of every scoring rule.
            "bilevel": self.models.state_dict(),
            "progress": asdict(self.progress),
            "torch_rng": torch.get_rng_state(),
        }

    def _resume(self) -> None:
        state = checkpoints.load_state(self.out, self.config)
        if state is None:
            return
        self.models.load_state_dict(state["bilevel"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["torch_rng"])
        if self.accelerator.is_main_process:
            say(f"Resuming from the checkpoint at step {self.progress.step:,}.")


_WITHOUT_RATER: dict[ScoringRule, type[Learnability]] = {
    ScoringRule.LEARNABILITY: Learnability,
    ScoringRule.PMI: Pmi,
}


def make_models(
    config: RaterTrainingConfig, accelerator: Accelerator, sizes: tuple[StarConfig, StarConfig]
) -> TwoProxies:
    """Build the models of a run with this scoring rule; `sizes` are those of the proxies and of the rater."""
    kind = _WITHOUT_RATER.get(config.rule, Bilevel)
    return kind(config, accelerator, sizes)


def samples_per_forward(config: TokenizerConfig) -> int:
    """Return how many samples an evaluation reads at a time, so that their logits fit into memory."""
    return max(1, _MOST_LOGITS // (config.n_tokens * config.n_codes))


def _rows_to_train(kept_V: NDArray[np.int64], image_key_N32: NDArray[np.uint8] | None, n_held_out: int) -> torch.Tensor:
    """Return the validation rows behind the held-out ones, without further captions of held-out images.

    Args:
        kept_V: Place in the dataset of each row, the held-out ones first.
        image_key_N32: The sha256 of the image of each place; None if images cannot be told apart.
        n_held_out: Number of held-out rows.
    """
    row_V = np.arange(n_held_out, len(kept_V))
    if image_key_N32 is not None:
        held_out = {key.tobytes() for key in image_key_N32[kept_V[:n_held_out]]}
        row_V = row_V[[key.tobytes() not in held_out for key in image_key_N32[kept_V[n_held_out:]]]]
    return torch.from_numpy(row_V)


def _require_several(**n_of: int) -> None:
    for name, n_samples in n_of.items():
        if n_samples < 2:
            raise DataError(
                f"Only {n_samples} {name} sample has an image that can be decoded; at least 2 are needed. Ingest more samples."
            )


def require_whole_groups(config: RaterTrainingConfig, n_processes: int) -> None:
    """Refuse a batch that processes and parts would not split into whole softmax groups.

    Raises:
        ConfigError: They would not; the message gives the largest size that fits.
    """
    n_whole = config.group_size * config.gradient_accumulation_steps
    if config.batch_size % (n_processes * n_whole):
        n_parts = n_processes * config.gradient_accumulation_steps
        most, n_left = divmod(config.batch_size, n_parts)
        remedy = (
            f"set softmax_group_size to {most} or a divisor of it, at least 2"
            if n_left == 0 and most > 1
            else f"set batch_size to a multiple of {n_processes * n_whole}"
        )
        raise ConfigError(
            f"batch_size {config.batch_size} does not split into {n_processes} processes of whole softmax groups of "
            f"{config.group_size} × gradient_accumulation_steps {config.gradient_accumulation_steps}; {remedy}"
        )


def _tokenizer(config: RaterTrainingConfig, train: SampleSource, out: Path) -> Tokenizer:
    """Load the tokenizer of an unfinished run, else load or fit one and write it before anything depends on it."""
    path = checkpoints.partial_folder(out) / "tokenizer.safetensors"
    if path.exists():
        return Tokenizer.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if config.tokenizer_weights is not None:
        tokenizer = load_tokenizer(config.tokenizer_weights, config.tokenizer_config)
    else:
        tokenizer = fit_tokenizer(ImagesOf(train), config.tokenizer_config, config.seed)
    with atomic_write(path, is_sole_writer=True) as partial:
        tokenizer.save(partial)
    return tokenizer
