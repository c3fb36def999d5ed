"""Recognises the model and the size of a state dict by its keys and shapes. No torch."""

from collections.abc import Callable, Mapping
from typing import Any

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

STAR_SIZES = {8: "STAR-40M", 16: "STAR-0.3B", 24: "STAR-0.9B", 30: "STAR-1.7B"}
"""The paper's names of STAR's sizes, by depth."""


def recognise(shapes: Shapes) -> str | None:
    """Return the model and the size that these keys and shapes belong to; None if no known model has them.

    >>> blocks = {f"blocks.{i}.attn.q_bias": (512,) for i in range(8)}
    >>> recognise({"pos_start": (1, 1, 512), "head_logits.weight": (4096, 512), **blocks})
    'STAR-40M (depth 8, width 512)'
    """
    bare = {key.removeprefix("model.diffusion_model."): shape for key, shape in shapes.items()}
    for sign, describe in _SIGNS.items():
        if sign in bare:
            return describe(bare)
    return None


def count_blocks(keys: Mapping[str, Any], prefix: str) -> int:
    """Return the number of numbered modules under a prefix.

    >>> count_blocks({"blocks.0.a": 1, "blocks.1.a": 1, "head.a": 1}, "blocks.")
    2
    """
    return len({key.removeprefix(prefix).partition(".")[0] for key in keys if key.startswith(prefix)})


def star_size(depth: int) -> str:
    """Return the name of a size of STAR.

    >>> star_size(16), star_size(2)
    ('STAR-0.3B', 'a STAR of 2 blocks')
    """
    return STAR_SIZES.get(depth, f"a STAR of {depth} blocks")


def _star(shapes: Shapes, first: str, blocks: str, text: str) -> str:
    depth, width = count_blocks(shapes, blocks), shapes[first][-1]
    reads = f", captions of {shapes[text][1]:,} features" if text in shapes else ""
    return f"{star_size(depth)} (depth {depth}, width {width}{reads})"


def _rater(shapes: Shapes) -> str:
    depth, width = count_blocks(shapes, "blocks."), shapes["head_instance.0.weight"][1]
    return f"the paper's rater (depth {depth}, width {width})"


def _tokenizer(shapes: Shapes) -> str:
    n_codes, dim = shapes["quantize.embedding.weight"]
    return f"a published tokenizer ({n_codes:,} codes of {dim} features)"


def _flux(shapes: Shapes) -> str:
    n_double, n_single = count_blocks(shapes, "double_blocks."), count_blocks(shapes, "single_blocks.")
    name = {(5, 10): "FLUX-mini", (19, 38): "FLUX.1"}.get((n_double, n_single), "a FLUX transformer")
    return f"{name} ({n_double} double and {n_single} single blocks, width {shapes['img_in.weight'][0]})"


def _text_encoder(shapes: Shapes) -> str:
    sign = next(key for key in shapes if key.endswith("embeddings.token_embedding.weight"))
    what = "CLIP" if "visual_projection.weight" in shapes else "a CLIP text encoder"
    return f"{what} ({shapes[sign][1]:,} features of a text token)"


# By a key that only this model has, the most specific first.
_SIGNS: dict[str, Callable[[Shapes], str]] = {
    "head_instance.0.weight": _rater,
    "pos_start": lambda shapes: _star(shapes, "pos_start", "blocks.", "encoder_proj.weight"),
    "quantize.embedding.weight": _tokenizer,
    "img_in.weight": _flux,
    "x_embedder.weight": lambda _: (
        "a FLUX transformer in diffusers' layout, which is not read; give the publisher's own file"
    ),
    "trunk.first_in": lambda shapes: (
        _star(shapes, "trunk.first_in", "trunk.blocks.", "trunk.text_in.weight") + " that was trained here"
    ),
    "instance_head.0.weight": lambda _: "a rater that was trained here",
    "quantiser.codebook.weight": lambda _: "a tokenizer that was fitted here",
    "text_model.embeddings.token_embedding.weight": _text_encoder,
    "embeddings.token_embedding.weight": _text_encoder,
    "embeddings.word_embeddings.weight": lambda _: "a BERT text encoder, such as all-MiniLM-L6-v2",
    "Mixed_7c.branch_pool.conv.weight": lambda _: "InceptionV3 for FID",
    "class_predictor.weight": lambda _: "Mask2Former",
    "_conv_stem.weight": lambda _: "an EfficientNet",
}
