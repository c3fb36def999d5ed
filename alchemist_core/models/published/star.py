"""STAR and the paper's rater in their published layout: 19 keys per block, and an unused table of classes.

The functions that fill a module also read the files that this package writes, so that a model can start from one trained here.

Letters: C features inside · H heads.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alchemist_core.errors import ConfigError
from alchemist_core.models.config import StarConfig
from alchemist_core.models.published.weights import Layout, export_weights, load_weights, read_weights, rename_all
from alchemist_core.models.star import Star, Trunk

IN_STAR, IN_RATER = ("trainer", "var_wo_ddp"), ("trainer", "varRater_wo_ddp")
"""Where the publishers' training checkpoints keep the weights."""
# ImageNet's classes and one for none, unused since VAR.
_N_CLASSES = 1001

_TRUNK = {
    "pos_start": "first_in",
    "word_embed.weight": "token_in.weight",
    "word_embed.bias": "token_in.bias",
    "encoder_proj.weight": "text_in.weight",
    "encoder_proj.bias": "text_in.bias",
    "lvl_embed.weight": "level_in.weight",
}
_BLOCK = {
    "attn.mat_qkv.weight": "self_attention.query_key_value.weight",
    "attn.q_bias": "self_attention.query_key_value.query_bias",
    "attn.v_bias": "self_attention.query_key_value.value_bias",
    "attn.scale_mul_1H11": "self_attention.log_sharpness_H",
    "attn.proj.weight": "self_attention.out.weight",
    "attn.proj.bias": "self_attention.out.bias",
    "cross_attn.mat_q.weight": "cross_attention.query.weight",
    "cross_attn.q_bias": "cross_attention.query.bias",
    "cross_attn.mat_kv.weight": "cross_attention.key_value.weight",
    "cross_attn.v_bias": "cross_attention.key_value.value_bias",
    "cross_attn.scale_mul_1H11": "cross_attention.log_sharpness_H",
    "cross_attn.proj.weight": "cross_attention.out.weight",
    "cross_attn.proj.bias": "cross_attention.out.bias",
    "ffn.fc1.weight": "feed_in.weight",
    "ffn.fc1.bias": "feed_in.bias",
    "ffn.fc2.weight": "feed_out.weight",
    "ffn.fc2.bias": "feed_out.bias",
}
_HEAD = {"head_logits.weight": "head.weight", "head_logits.bias": "head.bias"}
_RATER_HEADS = {
    f"{theirs}.{layer}.{part}": f"{ours}.{layer}.{part}"
    for theirs, ours in {"head_instance": "instance_head", "head_batch.fc": "group_head"}.items()
    for layer in (0, 2)
    for part in ("weight", "bias")
}


def star_layout(config: StarConfig) -> Layout:
    """Return the layout of a published generator."""
    return _trunk_layout(config).within("trunk.").joined(Layout(_HEAD))


def rater_layout(config: StarConfig) -> Layout:
    """Return the layout of the paper's published rater, for a rater that pools the trunk's hidden states."""
    return _trunk_layout(config).within("backbone.").joined(Layout(_RATER_HEADS))


def load_star(source: str | Path, config: StarConfig) -> Star:
    """Load a published generator; `is_legacy` in its config repeats the cross-attention of its training.

    Args:
        source: A file of weights or of a training checkpoint, a folder that holds one, or `hf:ORG/NAME/FILE@REVISION`.
        config: Its size, such as `published_star(16)`.
    """
    # Another size is refused before a large model is built.
    with torch.device("meta"):
        size = Star(config)
    fill_star(size, source)
    star = Star(config)
    fill_star(star, source)
    return star


def fill_star(star: Star, source: str | Path) -> None:
    """Load a generator's weights; on the meta device, only compare keys and shapes.

    Args:
        star: The generator, of the weights' size.
        source: As in `load_star`; or the weights of a generator that was trained here.

    Raises:
        ConfigError: There is no such file, or its keys or shapes differ.
    """
    weights = read_weights(source, IN_STAR)
    layout = _own_layout(star) if OWN_STAR in weights else star_layout(star.trunk.config)
    load_weights(star, weights, layout, source=str(source))


def fill_rater(rater: Any, source: str | Path) -> None:
    """Load a whole rater, or its backbone from a generator; on the meta device, only compare keys and shapes.

    Args:
        rater: The rater, of the weights' size. Its backbone is a `Star`, or for the paper's feature a `Trunk`.
        source: A published rater or STAR, as in `load_star`; or a rater or generator that was trained here.

    Raises:
        ConfigError: There is no such file, or its keys or shapes differ, or a published rater has another feature.
    """
    weights, backbone = read_weights(source, IN_RATER, IN_STAR), rater.backbone
    config: StarConfig = backbone.config if isinstance(backbone, Trunk) else backbone.trunk.config
    if "head_instance.0.weight" in weights:
        if not isinstance(backbone, Trunk):
            raise ConfigError(f"{source} is a published rater, which pools hidden states. Set --rater-features hidden.")
        load_weights(rater, weights, rater_layout(config), source=str(source))
    elif OWN_RATER in weights:
        load_weights(rater, weights, _own_layout(rater), source=str(source))
    elif isinstance(backbone, Trunk):
        load_weights(backbone, weights, _trunk_of_star(backbone, weights), source=str(source))
    else:
        fill_star(backbone, source)


OWN_STAR, OWN_RATER = "trunk.first_in", "instance_head.0.weight"
"""Keys of a generator and of a rater that were trained here."""


def _own_layout(module: nn.Module, prefix: str = "", spare: Collection[str] = ()) -> Layout:
    return Layout({prefix + name: name for name in module.state_dict()}, spare=dict.fromkeys(spare, ()))


def _trunk_of_star(trunk: Trunk, weights: Mapping[str, Tensor]) -> Layout:
    """Return the layout of a generator whose head is not read."""
    if OWN_STAR in weights:
        return _own_layout(trunk, "trunk.", ("head.weight", "head.bias"))
    layout = _trunk_layout(trunk.config)
    return Layout(layout.names, layout.shapes, layout.spare | dict.fromkeys(_HEAD, ()))


def export_star(star: Star) -> dict[str, Tensor]:
    """Return a generator's weights in the published layout."""
    return export_weights(star, star_layout(star.trunk.config))


def _trunk_layout(config: StarConfig) -> Layout:
    layout = Layout(_TRUNK, spare={"class_emb.weight": (_N_CLASSES, config.width)})
    block = rename_all(_BLOCK)
    for index in range(config.depth):
        theirs = f"blocks.{index}."
        parts = ("attn", "cross_attn")
        layout = layout.joined(
            Layout(
                block(theirs, theirs),
                shapes={f"{theirs}{part}.scale_mul_1H11": (1, config.n_heads, 1, 1) for part in parts},
                spare={f"{theirs}{part}.zero_k_bias": (config.width,) for part in parts},
            )
        )
    return layout
