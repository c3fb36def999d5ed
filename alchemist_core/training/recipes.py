"""What a family of generators does its own way in training: its data, its model, what is kept of it. STAR's is here.

The loop in `downstream_training` knows batches, steps and checkpoints, and no family.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alchemist_core.models.star import Star
from alchemist_core.models.text import load_text_encoder
from alchemist_core.models.tokenizer import Tokenizer
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.encoding import EncodedPairs, encode_pairs
from alchemist_core.training.samples import PairSource


class Recipe(Protocol):
    """One family's part in a training run."""

    betas: tuple[float, float]
    schedule: str
    gradient_clip: float | None

    def encode(self, pairs: PairSource, cache: Path | None) -> Any:
        """Run the frozen encoders; `rows` of what comes back gives a step's batch, which the model is called with."""
        ...

    def make_model(self) -> nn.Module:
        """Make the model; called with a batch it gives a loss for each pair."""
        ...

    def kept_weights(self, model: Any) -> dict[str, Tensor]:
        """Give what a checkpoint must hold of the model."""
        ...

    def restore(self, model: Any, weights: Mapping[str, Tensor]) -> None:
        """Put back what `kept_weights` gave."""
        ...

    def write(self, model: Any, folder: Path) -> None:
        """Write what is needed to draw with the model."""
        ...


def load_recipe(config: DownstreamConfig, tokenizer_from: Path, device: torch.device) -> Recipe:
    """Load the frozen parts of the config's family.

    Args:
        config: How a generator is trained.
        tokenizer_from: Folder of the rater whose tokenizer STAR's arms share.
        device: Where networks run.
    """
    if config.flux is None:
        return StarRecipe(config, tokenizer_from, device)
    from alchemist_core.training.flux_recipe import FluxRecipe  # noqa: PLC0415  diffusers takes seconds that STAR need not pay

    return FluxRecipe(config, device)


class StarRecipe:
    """STAR, from scratch or by adapters: codes of a shared tokenizer are foretold."""

    betas, schedule = (0.9, 0.95), "cosine"
    gradient_clip: float | None = None

    def __init__(self, config: DownstreamConfig, tokenizer_from: Path, device: torch.device) -> None:
        self._config = config
        self._encoder = load_text_encoder(config.text_encoder, str(device))
        self._tokenizer = Tokenizer.load(tokenizer_from / "tokenizer.safetensors").to(device)

    def encode(self, pairs: PairSource, cache: Path | None) -> EncodedPairs:
        """Run tokenizer and text encoder."""
        return encode_pairs(pairs, self._tokenizer, self._encoder, cache=cache)

    def make_model(self) -> nn.Module:
        """Make a new generator, or adapters on a trained one."""
        star = Star(self._config.star(self._tokenizer.config, self._encoder.dim))
        star.trunk.has_gradient_checkpointing = self._config.is_checkpointed
        if self._config.base is None:
            return star
        from alchemist_core.models.lora import add_lora  # noqa: PLC0415  peft takes seconds that training from scratch need not pay

        star.load_state_dict(load_file(self._config.base / "model.safetensors"))
        return add_lora(star, self._config.lora_rank)

    def kept_weights(self, model: Any) -> dict[str, Tensor]:
        """Give all weights."""
        return dict(model.state_dict())

    def restore(self, model: Any, weights: Mapping[str, Tensor]) -> None:
        """Put all weights back."""
        model.load_state_dict(weights)

    def write(self, model: Any, folder: Path) -> None:
        """Write tokenizer and a plain generator; adapters are kept beside it, then folded in."""
        self._tokenizer.save(folder / "tokenizer.safetensors")
        if self._config.method == "lora":
            from alchemist_core.models.lora import merge_lora, save_lora  # noqa: PLC0415  as above

            save_lora(model, folder / "adapters.safetensors")
            model = merge_lora(model)
        save_file(dict(model.state_dict()), folder / "model.safetensors")
