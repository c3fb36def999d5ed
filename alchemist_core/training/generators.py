"""Families of generators: how each is trained (its recipe), and how a trained one is loaded to generate images. Contains STAR's recipe.

The loop in `downstream_training` handles batches, steps and checkpoints for all families.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alchemist_core.errors import ConfigError
from alchemist_core.models.config import SamplingConfig
from alchemist_core.models.flux_config import FlowSamplingConfig
from alchemist_core.models.images import ImageArray
from alchemist_core.models.published.sources import locate_file
from alchemist_core.models.published.star import fill_star
from alchemist_core.models.sampling import sample_codes
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextEncoder
from alchemist_core.models.tokenizer import Tokenizer
from alchemist_core.telemetry import OnProgress
from alchemist_core.training.checkpoints import read_json
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.encoding import EmptyCaptions, EncodedSamples, encode_samples, tokenizer_fingerprint
from alchemist_core.training.pinning import open_text_encoder
from alchemist_core.training.samples import SampleSource


class Recipe(Protocol):
    """The part of training that depends on the family of the generator."""

    betas: tuple[float, float]
    schedule: str
    max_grad_norm: float | None

    def encode(
        self,
        samples: SampleSource,
        cache: Path | None,
        accelerator: Accelerator | None,
        on_progress: OnProgress | None = None,
    ) -> Any:
        """Run the frozen encoders, each process a share; `rows` of the result returns the batch that the model is called with."""
        ...

    def make_model(self) -> nn.Module:
        """Build the model; called with a batch it returns each sample's loss."""
        ...

    def kept_weights(self, model: Any) -> dict[str, Tensor]:
        """Return the weights that a checkpoint stores."""
        ...

    def restore(self, model: Any, weights: Mapping[str, Tensor]) -> None:
        """Restore the weights that `kept_weights` returned."""
        ...

    def write(self, model: Any, folder: Path) -> None:
        """Write the files that sampling needs."""
        ...


def load_recipe(config: DownstreamConfig, tokenizer_from: Path, device: torch.device) -> Recipe:
    """Load the frozen parts of the config's family.

    Args:
        config: How the generator is trained.
        tokenizer_from: Folder of the rater whose tokenizer all STAR arms share.
        device: Device of the networks.
    """
    if config.flux is None:
        return StarRecipe(config, tokenizer_from, device)
    from alchemist_core.training.flux import FluxRecipe  # noqa: PLC0415  diffusers takes seconds that STAR need not pay

    return FluxRecipe(config, device)


class StarRecipe:
    """How STAR is trained, from scratch or with LoRA adapters, on the codes of a shared tokenizer."""

    betas, schedule = (0.9, 0.95), "cosine"
    max_grad_norm: float | None = None

    def __init__(self, config: DownstreamConfig, tokenizer_from: Path, device: torch.device) -> None:
        self._config = config
        self._encoder = open_text_encoder(config, str(device))
        self._tokenizer = Tokenizer.load(tokenizer_from / "tokenizer.safetensors").to(device)
        self._size = config.star(self._tokenizer.config, self._encoder.dim)
        if config.base_model is not None:
            # A file that does not fit is refused before hours of encoding.
            with torch.device("meta"):
                star = Star(self._size)
            fill_star(star, config.base_model)
            _require_its_tokenizer(str(config.base_model), self._tokenizer)

    def encode(
        self,
        samples: SampleSource,
        cache: Path | None,
        accelerator: Accelerator | None,
        on_progress: OnProgress | None = None,
    ) -> EncodedSamples:
        """Run the tokenizer and the text encoder."""
        encoded = encode_samples(
            samples, self._tokenizer, self._encoder, cache=cache, accelerator=accelerator, on_progress=on_progress
        )
        share = self._config.proportion_empty_prompts
        return replace(encoded, empty=EmptyCaptions(self._encoder.encode([""]), share)) if share else encoded

    def make_model(self) -> nn.Module:
        """Build a new generator, or one with the weights of the base model; `lora` adds adapters to it."""
        star = Star(self._size)
        star.trunk.has_gradient_checkpointing = self._config.gradient_checkpointing
        if self._config.base_model is not None:
            fill_star(star, self._config.base_model)
        if self._config.method != "lora":
            return star
        from alchemist_core.models.lora import add_lora  # noqa: PLC0415  peft takes seconds that training from scratch need not pay

        return add_lora(star, self._config.lora_rank)

    def kept_weights(self, model: Any) -> dict[str, Tensor]:
        """Return all weights."""
        return dict(model.state_dict())

    def restore(self, model: Any, weights: Mapping[str, Tensor]) -> None:
        """Restore all weights."""
        model.load_state_dict(weights)

    def write(self, model: Any, folder: Path) -> None:
        """Write the tokenizer and the generator; adapters are also written alone, then merged into the generator."""
        self._tokenizer.save(folder / "tokenizer.safetensors")
        if self._config.method == "lora":
            from alchemist_core.models.lora import merge_lora, save_lora  # noqa: PLC0415  as above

            save_lora(model, folder / "adapters.safetensors")
            model = merge_lora(model)
        save_file(dict(model.state_dict()), folder / "model.safetensors")


def _require_its_tokenizer(base_model: str, tokenizer: Tokenizer) -> None:
    """Refuse a base model that was trained here on the codes of another tokenizer: the shapes are equal, the codes unrelated.

    Raises:
        ConfigError: The tokenizer beside the base model is another one.
    """
    beside = locate_file(base_model).path.with_name("tokenizer.safetensors")
    if beside.is_file() and tokenizer_fingerprint(Tokenizer.load(beside)) != tokenizer_fingerprint(tokenizer):
        raise ConfigError(
            f"--base-model {base_model} was trained with the tokenizer {beside}, and the rater of this subset has another one: its codes "
            "mean other image patches. Give a model that was trained under this rater, or train from scratch."
        )


def read_config(model_path: Path) -> DownstreamConfig:
    """Read the training config from a model folder that `train_downstream` wrote."""
    return DownstreamConfig.from_stored(read_json(model_path / "config.json"))


Sampling = SamplingConfig | FlowSamplingConfig
Drawer = Callable[[list[str], list[int], Any], ImageArray]
"""Generates an image per prompt and seed, with the sampling config of its family."""


def load_drawer(model_path: Path, device: torch.device) -> Drawer:
    """Load the generator of either family from a model folder that `train_downstream` wrote."""
    config = read_config(model_path)
    if config.flux is None:
        return load_generator(model_path, device).draw
    from alchemist_core.training.flux import FluxGenerator  # noqa: PLC0415  diffusers takes seconds that STAR need not pay

    return FluxGenerator(model_path, config, device).draw


class Generator(NamedTuple):
    """STAR with the frozen encoders of its training."""

    star: Star
    tokenizer: Tokenizer
    encoder: TextEncoder

    def draw(self, prompts: list[str], seeds: list[int], sampling: SamplingConfig) -> ImageArray:
        """Generate one image per prompt."""
        text, empty = self.encoder.encode(prompts), self.encoder.encode([""])
        code_BS = sample_codes(self.star, self.tokenizer, text, empty=empty, seeds=seeds, config=sampling)
        return self.tokenizer.decode(code_BS.to(self.star.head.weight.device))


def load_generator(model_path: Path, device: torch.device) -> Generator:
    """Load STAR from a model folder that `train_downstream` wrote, in eval mode."""
    config = read_config(model_path)
    tokenizer = Tokenizer.load(model_path / "tokenizer.safetensors")
    encoder = open_text_encoder(config, str(device))
    star = Star(config.star(tokenizer.config, encoder.dim))
    star.load_state_dict(load_file(model_path / "model.safetensors"))
    return Generator(star.eval().to(device), tokenizer.to(device), encoder)
