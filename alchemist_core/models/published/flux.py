"""FLUX-mini as published: the map between its 220 keys and diffusers' 320 weights.

Source: the key map of diffusers' conversion script, with the guidance embedder that it leaves out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alchemist_core.models.flux import make_transformer
from alchemist_core.models.flux_config import FluxConfig
from alchemist_core.models.published.recognition import Shape
from alchemist_core.models.published.weights import read_weights, refuse_misfits

_PREFIX = "model.diffusion_model."
_TOP = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
_DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
_DOUBLE_NORMS = {
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
}
_SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}
_SINGLE_NORMS = {"norm.query_norm.scale": "attn.norm_q.weight", "norm.key_norm.scale": "attn.norm_k.weight"}
# In published rows shift comes before scale, in those of diffusers scale before shift.
_SWAPPED = {"final_layer.adaLN_modulation.1.weight", "final_layer.adaLN_modulation.1.bias"}


def flux_keys(config: FluxConfig) -> dict[str, tuple[str, ...]]:
    """Return the weights of diffusers that each published key consists of, in the order of rows.

    >>> flux_keys(FluxConfig())["single_blocks.9.linear1.bias"][3]
    'single_transformer_blocks.9.proj_mlp.bias'
    """
    keys = _with_parts(_TOP, "", "")
    for index in range(config.n_double_blocks):
        theirs, ours = f"double_blocks.{index}.", f"transformer_blocks.{index}."
        keys |= _with_parts(_DOUBLE, theirs, ours)
        keys |= {theirs + key: (ours + name,) for key, name in _DOUBLE_NORMS.items()}
    for index in range(config.n_single_blocks):
        theirs, ours = f"single_blocks.{index}.", f"single_transformer_blocks.{index}."
        keys |= _with_parts(_SINGLE, theirs, ours)
        keys |= {theirs + key: (ours + name,) for key, name in _SINGLE_NORMS.items()}
    return keys


def load_flux(source: str | Path, config: FluxConfig, dtype: torch.dtype = torch.float32) -> Any:
    """Load published weights into diffusers' transformer.

    Args:
        source: A file, a folder that holds one, or `hf:ORG/NAME/FILE@REVISION`.
        config: The size of the model.
        dtype: Number format of the loaded weights.

    Raises:
        ConfigError: Keys are missing, unexpected or of another shape; the message names them.
    """
    weights = {key.removeprefix(_PREFIX): tensor.to(dtype) for key, tensor in read_weights(source).items()}
    with torch.device("meta"):
        transformer = make_transformer(config)
    transformer.load_state_dict(
        to_diffusers(weights, transformer.state_dict(), config, source=str(source)), assign=True
    )
    return transformer


def to_diffusers(
    weights: Mapping[str, Tensor], ours: Mapping[str, Tensor], config: FluxConfig, *, source: str
) -> dict[str, Tensor]:
    """Split published weights into those of diffusers.

    Args:
        weights: The published state dict.
        ours: Diffusers' state dict of this size, for its shapes.
        config: The size.
        source: Origin of the weights, for the error.

    Raises:
        ConfigError: As `load_flux`.
    """
    keys = flux_keys(config)
    refuse_misfits(weights, {key: _shape(ours, names) for key, names in keys.items()}, source=source)
    parts: dict[str, Tensor] = {}
    for key, names in keys.items():
        rows = torch.split(weights[key], [len(ours[name]) for name in names])
        parts |= dict(zip(names, rows, strict=True))
        if key in _SWAPPED:
            parts[names[0]] = torch.cat(weights[key].chunk(2)[::-1])
    return parts


def export_flux(ours: Mapping[str, Tensor], config: FluxConfig) -> dict[str, Tensor]:
    """Return diffusers' weights under their published names."""
    joined = {key: torch.cat([ours[name] for name in names]) for key, names in flux_keys(config).items()}
    return joined | {key: torch.cat(joined[key].chunk(2)[::-1]) for key in _SWAPPED}


def _with_parts(names: Mapping[str, tuple[str, ...]], theirs: str, ours: str) -> dict[str, tuple[str, ...]]:
    return {
        f"{theirs}{key}.{part}": tuple(f"{ours}{name}.{part}" for name in each)
        for key, each in names.items()
        for part in ("weight", "bias")
    }


def _shape(ours: Mapping[str, Tensor], names: tuple[str, ...]) -> Shape:
    return sum(len(ours[name]) for name in names), *ours[names[0]].shape[1:]
