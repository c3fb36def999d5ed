"""Pinning: before a training, the files and hub names in its config are fixed to their present content.

A stage pins the config that it was given: a hub name gets its commit, each source of weights the sha256 of its content, and the
text encoder its number of tokens; a rater gets its version of decoding. The identity of a rater or model depends on the content of
weights, not on their location.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from alchemist_core.config import Config, former_names
from alchemist_core.errors import ConfigError
from alchemist_core.files import file_sha256
from alchemist_core.models.published.sources import (
    HUB_ENCODER,
    HubName,
    components_sha256,
    locate_encoder,
    locate_file,
)
from alchemist_core.shards.decode_versions import version_for
from alchemist_core.training.config import DownstreamConfig, PinnedConfig, RaterTrainingConfig

if TYPE_CHECKING:
    from alchemist_core.models.text import TextEncoder

C = TypeVar("C", RaterTrainingConfig, DownstreamConfig)
FILES = ("tokenizer_weights", "proxy_weights", "rater_weights", "base_model")
"""Fields that name a file of weights."""
COMPONENTS = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
MINILM_TOKENS = 256


def pin(config: C) -> C:
    """Return the config with its files and hub names pinned; of a pinned config, compare them with their pins.

    Raises:
        ConfigError: Weights are missing, or are not those that the config was pinned to.
    """
    update: dict[str, Any] = {}
    sha256s = {}
    for name in FILES:
        if (source := getattr(config, name, None)) is not None:
            located = locate_file(str(source))
            update[name], sha256s[name] = located.source, file_sha256(located.path).hex()
    components: Path | None = getattr(config, "flux_components", None)
    if components is not None:
        sha256s["flux_components"] = components_sha256(components, COMPONENTS)
    if config.text_encoder.startswith(HUB_ENCODER):
        update["text_encoder"], encoder = locate_encoder(config.text_encoder)
        sha256s["text_encoder"] = encoder.sha256()
    update["caption_tokens"] = caption_tokens(config)
    if isinstance(config, RaterTrainingConfig):
        update["decode_version"] = version_for(config.resolution)
    for name, sha256 in sha256s.items():
        _require_content(config, name, sha256)
    return config.model_copy(update=update | {"weights_sha256": sha256s})


def caption_tokens(config: RaterTrainingConfig | DownstreamConfig) -> int | None:
    """Return the tokens at which a new training cuts captions; None: the text encoder's own limit."""
    return MINILM_TOKENS if config.text_encoder == "minilm" and config.caption_tokens is None else config.caption_tokens


def without_places(model: type[Config], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON that an identity is computed from: with the content of weights and without their places.

    Args:
        model: Model of the config.
        stored: The pinned config as JSON.
    """
    hashed = stored.get("weights_sha256", {})
    return former_names(model, {name: value for name, value in stored.items() if name not in hashed})


def before_hashes(given: C, pinned: C) -> C:
    """Return the config from which the identity was computed before weights were hashed, to find raters and models of that time."""
    return given.model_copy(update={"caption_tokens": pinned.caption_tokens})


def open_text_encoder(config: RaterTrainingConfig | DownstreamConfig, device: str = "cpu") -> "TextEncoder":
    """Load the text encoder of a config, with the content and the number of tokens that the config was pinned to.

    Raises:
        ConfigError: The encoder is missing, or a folder holds another one than that of the training.
    """
    from alchemist_core.models.text import load_text_encoder  # noqa: PLC0415  imports torch; stages pin without it

    # The hub never changes a commit, and parts of it may lie in one cache and not in another.
    if "text_encoder" in config.weights_sha256 and not HubName.parse(config.text_encoder).is_pinned:
        _, encoder = locate_encoder(config.text_encoder)
        _require_content(config, "text_encoder", encoder.sha256())
    return load_text_encoder(config.text_encoder, device, n_tokens=config.caption_tokens)


def _require_content(config: PinnedConfig, name: str, found: str) -> None:
    wanted = config.weights_sha256.get(name, found)
    if wanted != found:
        raise ConfigError(
            f"{name} {getattr(config, name)} has sha256 {found[:16]}…, but {wanted[:16]}… was trained with. Restore the weights of the "
            "training."
        )
