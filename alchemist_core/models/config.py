"""What a tokenizer and a model of the scale-wise family are made of. No torch here: the command line reads these bounds."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TokenizerConfig(BaseModel):
    """A multi-scale residual tokenizer of patches: what is fitted, and on how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resolution: int = Field(16, ge=8, le=1024, description="Side of the resized image in pixels")
    scales: tuple[int, ...] = Field(
        (1, 2, 4), min_length=1, description="Side of each scale's token grid, coarse first"
    )
    n_codes: int = Field(128, ge=2, le=65536, description="Codes in the codebook shared by all scales")
    n_rounds: int = Field(10, ge=1, le=1000, description="Rounds of k-means over the residuals of the sample")
    n_images: int = Field(2000, ge=1, le=1_000_000, description="Images of the sample that the codebook is fitted on")

    @model_validator(mode="after")
    def _grid_divides_the_image(self) -> "TokenizerConfig":
        if list(self.scales) != sorted(set(self.scales)) or self.resolution % self.scales[-1]:
            message = f"scales {self.scales} must grow and the last must divide resolution {self.resolution}"
            raise ValueError(message)
        return self

    @property
    def patch(self) -> int:
        """Side of a patch of the finest grid in pixels."""
        return self.resolution // self.scales[-1]

    @property
    def token_dim(self) -> int:
        """Features of one token: the colours of one patch."""
        return 3 * self.patch**2

    @property
    def n_tokens(self) -> int:
        """Tokens of one image over all scales (S)."""
        return sum(side**2 for side in self.scales)


class StarConfig(BaseModel):
    """One size of the scale-wise transformer, and the shapes of what it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(64, ge=8, le=4096, description="Features of a token inside the transformer")
    depth: int = Field(2, ge=1, le=64, description="Transformer blocks")
    n_heads: int = Field(2, ge=1, le=64, description="Attention heads")
    scales: tuple[int, ...] = Field(
        (1, 2, 4), min_length=1, description="Side of each scale's token grid, coarse first"
    )
    n_codes: int = Field(128, ge=2, le=65536, description="Codes that a token may take")
    token_dim: int = Field(48, ge=1, description="Features of a token as the tokenizer gives it")
    text_dim: int = Field(144, ge=1, description="Features of a text token as the text encoder gives it")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "StarConfig":
        if self.width % self.n_heads:
            message = f"width {self.width} must be a multiple of n_heads {self.n_heads}"
            raise ValueError(message)
        return self
