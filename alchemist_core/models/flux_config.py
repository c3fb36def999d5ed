"""Sizes of flow-matching transformers of the FLUX family, and the training of their adapters. Without torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from alchemist_core.config import Config, Formerly


class FluxConfig(Config):
    """Size of the transformer. The defaults are those of FLUX-mini.

    Source: TencentARC/FluxKits, `flux-mini`.
    """

    n_double_blocks: int = Field(5, ge=1, le=64, description="Blocks with separate weights for image and text")
    n_single_blocks: int = Field(10, ge=1, le=128, description="Blocks with shared weights, after the double blocks")
    n_heads: int = Field(24, ge=1, le=128, description="Attention heads")
    head_dim: int = Field(128, ge=8, le=512, description="Features of a head")
    token_dim: int = Field(
        64, ge=4, le=4096, description="Features of an image token, which holds 2 × 2 cells of the latents"
    )
    text_dim: int = Field(4096, ge=1, le=65536, description="Features of a text token of T5")
    pooled_dim: int = Field(768, ge=1, le=65536, description="Features of a caption of CLIP")
    rope_dims: tuple[int, int, int] = Field(
        (16, 56, 56), description="Features of a head that the rotary embedding rotates, by axis: none, row, column"
    )
    resolution: int = Field(512, ge=16, le=2048, description="Side of training and generated images in pixels")
    n_text_tokens: int = Field(
        512, ge=1, le=512, description="Tokens of a caption for T5; longer captions are truncated"
    )
    weight_dtype: Annotated[Literal["fp32", "bf16"], Formerly("precision")] = Field(
        "bf16", description="Number format of the frozen weights"
    )
    gradient_checkpointing: Annotated[bool, Formerly("is_checkpointed")] = Field(
        default=True, description="Recompute activations in the backward pass: less memory, slower"
    )
    guidance_scale: Annotated[float, Formerly("guidance")] = Field(
        4.0, ge=0, le=100, description="Guidance embedded by the transformer in training"
    )
    max_grad_norm: Annotated[float, Formerly("gradient_clip")] = Field(
        1.0, gt=0, le=1000, description="Clip gradients to this norm"
    )

    @model_validator(mode="after")
    def _axes_share_a_head(self) -> "FluxConfig":
        if sum(self.rope_dims) != self.head_dim or any(dim % 2 for dim in self.rope_dims):
            message = f"rope_dims {self.rope_dims} must be even and sum to head_dim {self.head_dim}"
            raise ValueError(message)
        if self.token_dim % 4:
            message = f"token_dim {self.token_dim} must be a multiple of 4: a token holds 2 × 2 cells"
            raise ValueError(message)
        return self

    @property
    def width(self) -> int:
        """Features of a token inside.

        >>> FluxConfig().width
        3072
        """
        return self.n_heads * self.head_dim


class FlowSamplingConfig(Config):
    """Sampling of images from noise. The defaults are those of FLUX-mini."""

    num_inference_steps: Annotated[int, Formerly("n_steps")] = Field(
        50, ge=1, le=1000, description="Euler steps from noise to image"
    )
    guidance_scale: Annotated[float, Formerly("guidance")] = Field(
        3.5, ge=0, le=100, description="Guidance embedded by the transformer"
    )
    batch_size: int = Field(4, ge=1, le=4096, description="Images of a forward pass")
