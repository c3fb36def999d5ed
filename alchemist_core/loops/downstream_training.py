"""Training a generator on the pairs of one arm: same recipe, same first weights and same epochs for every arm.

It takes pairs in memory and leaves a folder; which subset the pairs are, it does not know.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.loops import checkpoints
from alchemist_core.loops.config import DownstreamConfig
from alchemist_core.loops.determinism import start_from_seed
from alchemist_core.loops.encoding import EncodedPairs, encode_pairs
from alchemist_core.loops.launching import make_accelerator, own_slice
from alchemist_core.loops.pairs import Pairs, batch_index
from alchemist_core.models.config import StarConfig
from alchemist_core.models.star import Star
from alchemist_core.models.text import load_text_encoder
from alchemist_core.models.tokenizer import Tokenizer

Report = Callable[[int, int, str], None]


def train_downstream(
    config: DownstreamConfig,
    pairs: Pairs,
    *,
    tokenizer_from: Path,
    out: Path,
    report: Report,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Train a model, or read what a finished run measured; a killed run goes on from its last checkpoint.

    Args:
        config: Recipe, the same for every arm.
        pairs: The arm's pairs.
        tokenizer_from: Folder of the rater whose tokenizer all arms share.
        out: Folder to make: model, tokenizer, config and metrics.
        report: Told the steps done, the steps planned, and a note.
        cache: Folder of what frozen encoders gave before.
    """
    if (out / "metrics.json").exists():
        return checkpoints.read_json(out / "metrics.json")
    if not len(pairs):
        raise DataError("no pairs to train on; select at least 1")
    run = _Run(config, pairs, tokenizer_from=tokenizer_from, out=out, cache=cache)
    run.train(report)
    return run.finish()


class _Run:
    """One training run: its data behind the frozen encoders, model, optimiser, schedule, step."""

    def __init__(
        self, config: DownstreamConfig, pairs: Pairs, *, tokenizer_from: Path, out: Path, cache: Path | None
    ) -> None:
        from transformers import get_scheduler  # noqa: PLC0415  half a second that scoring and evaluation need not pay

        self.config, self.out, self.n_pairs = config, out, len(pairs)
        self.accelerator = make_accelerator()
        device = self.accelerator.device
        encoder = load_text_encoder(config.text_encoder, str(device))
        self.tokenizer = Tokenizer.load(tokenizer_from / "tokenizer.safetensors").to(device)
        with self.accelerator.main_process_first():
            self.data: EncodedPairs = encode_pairs(pairs, self.tokenizer, encoder, cache=cache)
        self.n_steps = config.steps(len(pairs))
        start_from_seed(config.seed)
        model = _make_model(config, config.star(self.tokenizer.config, encoder.dim))
        trainable = [weights for weights in model.parameters() if weights.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable, config.learning_rate, (0.9, 0.95), weight_decay=config.weight_decay, fused=True
        )
        n_warmup = min(config.n_warmup_steps, self.n_steps // 10)
        schedule = get_scheduler("cosine", optimizer, num_warmup_steps=n_warmup, num_training_steps=self.n_steps)
        self.model, self.optimizer, self.schedule = self.accelerator.prepare(model, optimizer, schedule)
        self.step = 0
        self.losses: list[float] = []
        self._resume()

    def train(self, report: Report) -> None:
        """Step until every epoch is done."""
        while self.step < self.n_steps:
            loss = self._descend()
            self.step += 1
            self.losses.append(loss)
            if self.step % self.config.checkpoint_every_steps == 0:
                self._save()
            report(self.step, self.n_steps, f"loss {loss:.3f}")

    def finish(self) -> dict[str, Any]:
        """Write the folder and give its metrics; every process waits for the first."""
        if self.accelerator.is_main_process:
            self._write()
        self.accelerator.wait_for_everyone()
        return checkpoints.read_json(self.out / "metrics.json")

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            checkpoints.save_state(self.out, self._state())
        self.accelerator.wait_for_everyone()

    def _write(self) -> None:
        folder = checkpoints.partial_folder(self.out)
        folder.mkdir(parents=True, exist_ok=True)
        metrics = {
            "n_steps": self.n_steps,
            "n_pairs": self.n_pairs,
            "final_loss": sum(self.losses[-50:]) / len(self.losses[-50:]),
            "losses": self.losses,
        }
        self.tokenizer.save(folder / "tokenizer.safetensors")
        save_file(
            _plain_weights(self.config, self.accelerator.unwrap_model(self.model), folder), folder / "model.safetensors"
        )
        checkpoints.write_json(folder / "config.json", self.config.model_dump(mode="json"))
        checkpoints.write_json(folder / "metrics.json", metrics)
        checkpoints.finish(self.out)

    def _descend(self) -> float:
        index_B = batch_index(self.n_pairs, self.step, batch_size=self.config.batch_size, seed=self.config.seed)
        batch = self.data.rows(own_slice(self.accelerator, index_B)).to(self.accelerator.device)
        loss = self.model(*batch).mean()
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return float(self.accelerator.reduce(loss.detach(), "mean").item())

    def _state(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump_json(),
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "losses": self.losses,
        }

    def _resume(self) -> None:
        state = checkpoints.load_state(self.out)
        if state is None:
            return
        if state["config"] != self.config.model_dump_json():
            raise ConfigError(f"{checkpoints.partial_folder(self.out)} holds a run of another config; remove it")
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.losses = state["step"], state["losses"]


def _make_model(config: DownstreamConfig, size: StarConfig) -> nn.Module:
    star = Star(size)
    if config.base is None:
        return star
    from alchemist_core.models.lora import add_lora  # noqa: PLC0415  peft takes seconds that training from scratch need not pay

    star.load_state_dict(load_file(config.base / "model.safetensors"))
    return add_lora(star, config.lora_rank)


def _plain_weights(config: DownstreamConfig, model: Any, folder: Path) -> dict[str, Tensor]:
    """Give the weights of a plain generator; adapters are kept beside them, then folded in."""
    if config.method == "scratch":
        return dict(model.state_dict())
    from alchemist_core.models.lora import merge_lora, save_lora  # noqa: PLC0415  as above

    save_lora(model, folder / "adapters.safetensors")
    return merge_lora(model).state_dict()
