"""Reading a trained generator back from the folder that training left."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alchemist_core.models.config import SamplingConfig
from alchemist_core.models.flux_config import FlowSamplingConfig
from alchemist_core.models.images import ImageArray
from alchemist_core.models.sampling import sample_codes
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextEncoder, load_text_encoder
from alchemist_core.models.tokenizer import Tokenizer
from alchemist_core.training.checkpoints import read_json
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.encoding import EncodedSamples, encode_samples
from alchemist_core.training.samples import SampleSource


class Recipe(Protocol):
    """One family's part in a training run."""

    betas: tuple[float, float]
    schedule: str
    gradient_clip: float | None

    def encode(self, samples: SampleSource, cache: Path | None) -> Any:
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
    from alchemist_core.training.flux import FluxRecipe  # noqa: PLC0415  diffusers takes seconds that STAR need not pay

    return FluxRecipe(config, device)


class StarRecipe:
    """STAR, from scratch or by adapters: codes of a shared tokenizer are foretold."""

    betas, schedule = (0.9, 0.95), "cosine"
    gradient_clip: float | None = None

    def __init__(self, config: DownstreamConfig, tokenizer_from: Path, device: torch.device) -> None:
        self._config = config
        self._encoder = load_text_encoder(config.text_encoder, str(device))
        self._tokenizer = Tokenizer.load(tokenizer_from / "tokenizer.safetensors").to(device)

    def encode(self, samples: SampleSource, cache: Path | None) -> EncodedSamples:
        """Run tokenizer and text encoder."""
        return encode_samples(samples, self._tokenizer, self._encoder, cache=cache)

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


Sampling = SamplingConfig | FlowSamplingConfig
Drawer = Callable[[list[str], list[int], Any], ImageArray]
"""Draws an image a prompt and seed, under the sampling config of its family."""


class Generator(NamedTuple):
    """A generator with the frozen encoders that it was trained between."""

    star: Star
    tokenizer: Tokenizer
    encoder: TextEncoder

    def draw(self, prompts: list[str], seeds: list[int], sampling: SamplingConfig) -> ImageArray:
        """Draw one image a prompt."""
        text, empty = self.encoder.encode(prompts), self.encoder.encode([""])
        code_BS = sample_codes(self.star, self.tokenizer, text, empty=empty, seeds=seeds, config=sampling)
        return self.tokenizer.decode(code_BS.to(self.star.head.weight.device))


def read_config(model_path: Path) -> DownstreamConfig:
    """Read how the model in a folder that `train_downstream` made was trained."""
    return DownstreamConfig.from_stored(read_json(model_path / "config.json"))


def load_drawer(model_path: Path, device: torch.device) -> Drawer:
    """Load whatever draws images in a folder that `train_downstream` made."""
    config = read_config(model_path)
    if config.flux is None:
        return load_generator(model_path, device).draw
    from alchemist_core.training.flux import FluxGenerator  # noqa: PLC0415  diffusers takes seconds that STAR need not pay

    return FluxGenerator(model_path, config, device).draw


def load_generator(model_path: Path, device: torch.device) -> Generator:
    """Load STAR from a folder that `train_downstream` made, in eval mode."""
    config = read_config(model_path)
    tokenizer = Tokenizer.load(model_path / "tokenizer.safetensors")
    encoder = load_text_encoder(config.text_encoder, str(device))
    star = Star(config.star(tokenizer.config, encoder.dim))
    star.load_state_dict(load_file(model_path / "model.safetensors"))
    return Generator(star.eval().to(device), tokenizer.to(device), encoder)
