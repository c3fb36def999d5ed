"""Sizes of tokenizers and of models of the scale-wise family. Without torch, because the command line reads these bounds."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from alchemist_core.config import Config, Formerly

SCALES = {
    256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    1024: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}
"""Published schedules: side of each scale's token grid by the image's side in pixels."""

Scales = tuple[int, ...]


class AutoencoderConfig(BaseModel):
    """The convolutional part of a tokenizer, and its training if it is trained here. The defaults are the published size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(160, ge=1, le=1024, description="Channels at full resolution")
    width_ratios: tuple[int, ...] = Field(
        (1, 1, 2, 2, 4),
        min_length=1,
        description="Channels of each level as a multiple of width; each level halves the side",
    )
    n_blocks: int = Field(
        2, ge=1, le=8, description="Residual blocks of a level of the encoder; the decoder has 1 more"
    )
    n_groups: int = Field(32, ge=1, le=128, description="Groups of every group norm")
    token_dim: int = Field(32, ge=1, le=1024, description="Features of a token")
    n_smoothers: int = Field(
        4, ge=1, le=64, description="Number of convolutions after upsampling, which the scales share"
    )
    smoothing_ratio: float = Field(0.5, ge=0, le=1, description="Weight of that convolution's output, 0 to 1")
    n_steps: int = Field(1000, ge=1, le=10_000_000, description="Training steps")
    batch_size: int = Field(16, ge=1, le=65536, description="Images of a training step")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="Peak AdamW learning rate, decreasing along a cosine")
    commitment: float = Field(0.25, ge=0, le=10, description="Weight of the loss that keeps features near their codes")

    @model_validator(mode="after")
    def _groups_divide_the_widths(self) -> "AutoencoderConfig":
        widths = [self.width * ratio for ratio in self.width_ratios]
        if any(width % self.n_groups for width in widths):
            message = f"every width of {widths} must be a multiple of n_groups {self.n_groups}"
            raise ValueError(message)
        return self

    @property
    def shrinkage(self) -> int:
        """Pixels per cell of the finest grid, along one side."""
        return int(2 ** (len(self.width_ratios) - 1))


class TokenizerConfig(BaseModel):
    """A multi-scale residual tokenizer, of patches or with an autoencoder, and how it is fitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resolution: int = Field(16, ge=8, le=1024, description="Side of the resized image in pixels")
    scales: Scales = Field((1, 2, 4), min_length=1, description="Side of each scale's token grid, coarse first")
    n_codes: int = Field(128, ge=2, le=65536, description="Codes in the codebook shared by all scales")
    n_rounds: int = Field(10, ge=1, le=1000, description="Rounds of k-means over the residuals")
    n_images: int = Field(2000, ge=1, le=1_000_000, description="Number of images that the codebook is fitted to")
    autoencoder: AutoencoderConfig | None = Field(None, description="Convolutions before the codebook; none: patches")

    @model_validator(mode="after")
    def _grid_divides_the_image(self) -> "TokenizerConfig":
        if list(self.scales) != sorted(set(self.scales)) or self.resolution % self.scales[-1]:
            message = f"scales {self.scales} must increase, and the last one must divide resolution {self.resolution}"
            raise ValueError(message)
        if self.autoencoder is not None and self.autoencoder.shrinkage != self.patch:
            message = (
                f"an autoencoder that shrinks {self.autoencoder.shrinkage} times does not bring resolution "
                f"{self.resolution} to the last of scales {self.scales}; it must shrink {self.patch} times"
            )
            raise ValueError(message)
        return self

    @property
    def patch(self) -> int:
        """Side of a cell of the finest grid in pixels."""
        return self.resolution // self.scales[-1]

    @property
    def token_dim(self) -> int:
        """Features of one token: the autoencoder's, or the colours of one patch."""
        return 3 * self.patch**2 if self.autoencoder is None else self.autoencoder.token_dim

    @property
    def n_tokens(self) -> int:
        """Tokens of one image over all scales (S)."""
        return count_tokens(self.scales)


def published_tokenizer(resolution: int = 256) -> TokenizerConfig:
    """Return the config of `vae_ch160v4096z32`, whose weights are used at every published resolution.

    >>> published_tokenizer(512).n_tokens
    2240
    """
    return TokenizerConfig(
        resolution=resolution, scales=SCALES[resolution], n_codes=4096, autoencoder=AutoencoderConfig()
    )


def tokenizer_tiny(resolution: int = 16, n_codes: int = 128) -> TokenizerConfig:
    """Return the config of the smallest tokenizer of the published architecture: 21 tokens, trained on a CPU within a minute.

    >>> tokenizer_tiny(32).patch
    8
    """
    scales = (1, 2, 4)
    n_levels = (resolution // scales[-1]).bit_length()
    width_ratios = ((1,) * n_levels + (2, 2))[-n_levels:]
    # Within a minute, many small steps of a narrow network give better images than few large steps of a wide one.
    autoencoder = AutoencoderConfig(
        width=12, width_ratios=width_ratios, n_blocks=1, n_groups=3, token_dim=12, n_smoothers=2,
        n_steps=1600, batch_size=max(2, 192 // resolution),
    )  # fmt: skip
    return TokenizerConfig(resolution=resolution, scales=scales, n_codes=n_codes, autoencoder=autoencoder)


def _published_width(fields: dict[str, Any]) -> int:
    return 64 * int(fields["depth"])


def _published_heads(fields: dict[str, Any]) -> int:
    return int(fields["depth"])


class StarConfig(BaseModel):
    """Size of the scale-wise transformer, and the shapes of its inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: int = Field(2, ge=1, le=64, description="Transformer blocks")
    width: int = Field(
        default_factory=_published_width,
        ge=8,
        le=4096,
        description="Features of a token inside; by default 64 per block",
    )
    n_heads: int = Field(
        default_factory=_published_heads, ge=1, le=64, description="Attention heads; by default one per block"
    )
    scales: Scales = Field((1, 2, 4), min_length=1, description="Side of each scale's token grid, coarse first")
    n_codes: int = Field(128, ge=2, le=65536, description="Codes that a token may take")
    token_dim: int = Field(48, ge=1, description="Features of a token of the tokenizer")
    text_dim: int = Field(144, ge=1, description="Features of a text token of the text encoder")
    drop_path_ratio: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Drop path: share of samples for which training skips the branches of the last block",
    )
    is_legacy: bool = Field(
        False,
        description="Let every sample attend to the first one's text, as in the training of the published weights",
    )

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "StarConfig":
        if self.width % (4 * self.n_heads):
            message = (
                f"width {self.width} must be a multiple of 4 * n_heads ({self.n_heads}): the rotary embedding rotates half of a head's "
                f"features by the column and half by the row, in pairs"
            )
            raise ValueError(message)
        return self

    @property
    def n_tokens(self) -> int:
        """Tokens of one image over all scales (S)."""
        return count_tokens(self.scales)


def published_star(depth: int, resolution: int = 256, **fields: Any) -> StarConfig:
    """Return the config of a published or paper-sized model: 8 is STAR-40M, 16 STAR-0.3B, 24 STAR-0.9B, 30 STAR-1.7B.

    >>> published_star(16).width, published_star(16).n_heads, published_star(16).n_tokens
    (1024, 16, 680)
    """
    return StarConfig(depth=depth, scales=SCALES[resolution], n_codes=4096, token_dim=32, text_dim=1024, **fields)


def count_tokens(scales: Scales) -> int:
    """Count the tokens of one image.

    >>> count_tokens((1, 2, 4))
    21
    """
    return sum(side**2 for side in scales)


class SamplingConfig(Config):
    """Sampling of codes from a generator. The defaults are those of STAR at 256 px."""

    guidance_scale: Annotated[float, Formerly("guidance")] = Field(
        4.0, ge=0, le=100, description="Classifier-free guidance at the last scale; it increases from 0 at the first"
    )
    top_k: int = Field(600, ge=1, le=65536, description="Sample each token from this many of its most likely codes")
    top_p: float = Field(
        0.8, gt=0, le=1, description="Sample each token from the most likely codes that together have this probability"
    )
    batch_size: int = Field(
        16, ge=1, le=4096, description="Number of images that are generated at the same time; the last batch is padded"
    )
