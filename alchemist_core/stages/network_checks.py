"""Loading each network as a run does, to see that its weights are whole and of the right size before a run needs them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from alchemist_core.errors import ConfigError
from alchemist_core.files import file_sha256
from alchemist_core.models.config import SCALES, StarConfig, published_tokenizer
from alchemist_core.models.extractors import weights_sha256
from alchemist_core.models.flux_config import FluxConfig
from alchemist_core.models.published.catalogue import STAR_NETWORKS
from alchemist_core.models.published.recognition import Shape, Shapes, count_blocks, recognise
from alchemist_core.models.published.sources import HUB_ENCODER, components_sha256, locate_encoder, locate_file
from alchemist_core.models.published.star import IN_RATER, IN_STAR, OWN_RATER, OWN_STAR, fill_rater, load_star
from alchemist_core.models.published.weights import read_weights, shapes_of
from alchemist_core.models.star import Star
from alchemist_core.rating.config import RaterFeatures
from alchemist_core.rating.rater import Rater
from alchemist_core.training.bilevel import check_starts
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.pinning import COMPONENTS, open_text_encoder

_MOST_SHAPES = 4


@dataclass(frozen=True, slots=True)
class CheckedNetwork:
    """A network that was loaded."""

    path: Path
    recognised: str | None
    """The model and size that its keys belong to."""
    n_numbers: int
    shapes: dict[str, Shape]
    """Of the first keys."""
    sha256: str


def check_network(name: str, source: str, *, flux: FluxConfig | None = None) -> CheckedNetwork:
    """Load the weights of a network as a run does.

    Args:
        name: Name of the network in the catalogue.
        source: A file, a folder, or a hub name.
        flux: The size of a FLUX transformer; None: FLUX-mini's.

    Raises:
        ConfigError: The weights are missing, cut off, or another network's; the message names the first key that differs, and what
            the weights look like.
    """
    loaded = _flux(source, flux or FluxConfig()) if name == "flux-mini" else _LOADERS[name](source)
    _refuse_infinite(loaded.weights, source)
    shapes = shapes_of(loaded.weights)
    return CheckedNetwork(
        loaded.path,
        recognise(shapes),
        sum(tensor.numel() for tensor in loaded.weights.values()),
        {key: shapes[key] for key in list(shapes)[:_MOST_SHAPES]},
        loaded.sha256,
    )


def check_sizes(config: RaterTrainingConfig) -> None:
    """Compare initial weights with the sizes of a config, as train-rater does before it reads an image.

    Raises:
        ConfigError: A size differs.
    """
    if config.proxy_weights is not None or config.rater_weights is not None:
        dim, tokenizer = open_text_encoder(config).dim, config.tokenizer_config
        check_starts(config, (config.proxy(tokenizer, dim), config.rater(tokenizer, dim)))


_SIGNS = {
    "head_instance.0.weight": "rater",
    "quantize.embedding.weight": "tokenizer",
    "img_in.weight": "flux-mini",
    "Mixed_7c.branch_pool.conv.weight": "inception",
    "_conv_stem.weight": "efficientnet-lite0",
}


def guess_network(source: str) -> str | None:
    """Return the network that the keys of a source belong to; None if no known network has them.

    Raises:
        ConfigError: The source is missing, or is not a file of weights.
    """
    if source.startswith(HUB_ENCODER):
        return "text-encoder"
    shapes = shapes_of(read_weights(source, IN_STAR, IN_RATER))
    if "pos_start" in shapes and "head_instance.0.weight" not in shapes:
        return STAR_NETWORKS.get(count_blocks(shapes, "blocks."), "star")
    bare = {key.removeprefix("model.diffusion_model.") for key in shapes}
    return next((name for sign, name in _SIGNS.items() if sign in bare), None)


@dataclass(frozen=True, slots=True)
class _Loaded:
    path: Path
    weights: Mapping[str, Tensor]
    sha256: str


def _refuse_infinite(weights: Mapping[str, Tensor], source: str) -> None:
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ConfigError(f"{source}: {key} holds numbers that are not finite. Download it again.")


def _weights_of(loaded: Any) -> dict[str, Tensor]:
    """Return the weights of the networks that an encoder or extractor holds."""
    networks = [part for part in vars(loaded).values() if isinstance(part, nn.Module)]
    return {key: tensor for network in networks for key, tensor in network.state_dict().items()}


def _star(source: str, depth: int | None = None) -> _Loaded:
    weights = read_weights(source, IN_STAR)
    # A model that was trained here was written whole, in any size: reading it finds a file that is cut off.
    if OWN_STAR not in weights:
        load_star(source, _star_size(shapes_of(weights), depth))
    return _file(source, weights)


def _star_size(shapes: Shapes, depth: int | None = None) -> StarConfig:
    """Return the size of a published model from its shapes; with a depth, that of the published size.

    The text encoder and the number of scales are those of the file: they differ between the published files.
    """
    width = shapes.get("pos_start", (0, 0, 64))[-1]
    n_scales = shapes.get("lvl_embed.weight", (10,))[0]
    scales = next((scales for scales in SCALES.values() if len(scales) == n_scales), tuple(range(1, n_scales + 1)))
    text_dim = shapes.get("encoder_proj.weight", (0, 1024))[1]
    if depth is not None:
        return StarConfig(depth=depth, scales=scales, n_codes=4096, token_dim=32, text_dim=text_dim)
    return StarConfig(
        depth=max(1, count_blocks(shapes, "blocks.")),
        width=width,
        n_heads=shapes.get("blocks.0.attn.scale_mul_1H11", (0, max(1, width // 64)))[1],
        scales=scales,
        n_codes=shapes.get("head_logits.weight", (4096,))[0],
        token_dim=shapes.get("word_embed.weight", (0, 32))[1],
        text_dim=text_dim,
    )


def _rater(source: str) -> _Loaded:
    """Load a rater, or a generator for its backbone."""
    weights = read_weights(source, IN_RATER, IN_STAR)
    # As above.
    if not weights.keys() & {OWN_RATER, OWN_STAR}:
        size = _star_size(shapes_of(weights))
        fill_rater(Rater(Star(size).trunk, size.width, reading=RaterFeatures.HIDDEN), source)
    return _file(source, weights)


def _tokenizer(source: str) -> _Loaded:
    from alchemist_core.models.published.tokenizer import load_tokenizer  # noqa: PLC0415  each loads what it needs alone

    load_tokenizer(source, published_tokenizer())
    return _file(source, read_weights(source))


def _flux(source: str, config: FluxConfig) -> _Loaded:
    from alchemist_core.models.flux import DTYPES  # noqa: PLC0415  as above
    from alchemist_core.models.published.flux import load_flux  # noqa: PLC0415

    load_flux(source, config, DTYPES[config.weight_dtype])
    return _file(source, read_weights(source))


def _flux_components(source: str) -> _Loaded:
    from alchemist_core.models.flux_encoders import FluxAutoencoder, FluxTextEncoder  # noqa: PLC0415  as above

    folder, config = Path(source), FluxConfig()
    sha256 = components_sha256(folder, COMPONENTS)
    parts = {"vae": FluxAutoencoder(folder, config).vae}
    parts |= {name: part for name, part in FluxTextEncoder(folder, config).networks.items() if "encoder" in name}
    weights = {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state_dict().items()}
    return _Loaded(folder, weights, sha256)


def _text_encoder(source: str) -> _Loaded:
    from alchemist_core.models.text import Clip  # noqa: PLC0415  as above

    name = source if source.startswith(HUB_ENCODER) else HUB_ENCODER + source
    _, folders = locate_encoder(name)
    encoder = Clip(name)
    encoder.encode(["a red circle"])
    return _Loaded(folders.model, _weights_of(encoder), folders.sha256())


def _minilm(source: str) -> _Loaded:
    from alchemist_core.models.text import MiniLm  # noqa: PLC0415  as above

    encoder = MiniLm()
    encoder.encode(["a red circle"])
    return _Loaded(Path(source), _weights_of(encoder), weights_sha256(Path(source)))


def _extractor(name: str) -> Callable[[str], _Loaded]:
    def load(source: str) -> _Loaded:
        from alchemist_core.metrics.image_metrics import load_network  # noqa: PLC0415  as above

        path = locate_file(source).path if Path(source).is_file() or name == "inception_v3" else Path(source)
        return _Loaded(path, _weights_of(load_network(name, path)), weights_sha256(path))

    return load


def _mask2former(source: str) -> _Loaded:
    from alchemist_core.metrics.detectors import Mask2Former  # noqa: PLC0415  as above

    return _Loaded(Path(source), _weights_of(Mask2Former(Path(source))), weights_sha256(Path(source)))


def _aesthetic_head(source: str) -> _Loaded:
    from alchemist_core.scorers.aesthetic import read_head  # noqa: PLC0415  as above

    path = locate_file(source).path
    read_head(path)
    return _file(source, load_file(path))


def _file(source: str, weights: Mapping[str, Tensor]) -> _Loaded:
    path = locate_file(source).path
    return _Loaded(path, weights, file_sha256(path).hex())


def _of_depth(depth: int) -> Callable[[str], _Loaded]:
    return lambda source: _star(source, depth)


_LOADERS: dict[str, Callable[[str], _Loaded]] = {
    **{name: _of_depth(depth) for depth, name in STAR_NETWORKS.items()},
    "star": _star,
    "rater": _rater,
    "tokenizer": _tokenizer,
    "text-encoder": _text_encoder,
    "minilm": _minilm,
    "flux-components": _flux_components,
    "inception": _extractor("inception_v3"),
    "clip-l": _extractor("clip"),
    "efficientnet-lite0": _extractor("efficientnet_lite0"),
    "image-text-head": _extractor("efficientnet_lite0_minilm_head"),
    "mask2former": _mask2former,
    "aesthetic-head": _aesthetic_head,
}
