"""STAR and the paper's rater in their published layout: 19 keys per block, and an unused table of classes.

Letters: C features inside · H heads.
"""

from pathlib import Path

from torch import Tensor, nn

from alchemist_core.models.config import StarConfig
from alchemist_core.models.published.weights import Layout, export_weights, load_weights, read_weights, rename_all
from alchemist_core.models.star import Star

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
        source: Path or `hf:ORG/NAME/FILE` of a training checkpoint or of the weights alone.
        config: Its size, such as `published_star(16)`.
    """
    star = Star(config)
    load_weights(star, read_weights(source, "trainer", "var_wo_ddp"), star_layout(config), source=str(source))
    return star


def load_rater(source: str | Path, rater: nn.Module, config: StarConfig) -> None:
    """Load a published checkpoint into a rater with the paper's heads on a trunk of this size."""
    load_weights(rater, read_weights(source, "trainer", "varRater_wo_ddp"), rater_layout(config), source=str(source))


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
