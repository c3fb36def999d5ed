"""What the training loops are told: sizes, lengths, rates. No torch here: the command line reads these bounds."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from alchemist_core.config import NO_FLAG, Config
from alchemist_core.models.config import SCALES, StarConfig, TokenizerConfig, published_tokenizer, tokenizer_tiny
from alchemist_core.models.flux_config import FluxConfig
from alchemist_core.rating.config import Objective, PenaltySchedule, RaterReading, RatingRule

Precision = Literal["fp32", "bf16", "fp16"]
TEXT_ENCODERS = r"^(words|minilm|clip:.+)$"


def _later_field(default: Any, **declared: Any) -> Any:
    """Declare a field that a dump leaves out at its default: what was trained before there was the field keeps its identity."""
    return Field(default, exclude_if=lambda value: value == default, **declared)


class RaterTrainingConfig(Config):
    """How a rater is trained by two proxies; the defaults fit two CPU cores and two minutes."""

    rule: RatingRule = Field(
        RatingRule.ALIGNMENT,
        description="What values a sample: alignment (Eq. 6), loss (Eq. 9), or learnability (two proxies, no rater network)",
    )
    objective: Objective = Field(Objective.REGULARISED, description="What the rater descends")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the first weights and of the order of the data")
    n_warmup_steps: int = Field(400, ge=0, le=10_000_000, description="Uniform steps of the proxy before the rater")
    n_steps: int = Field(
        1200, ge=1, le=10_000_000, description="Steps after the warm-up, bilevel or on validation data"
    )
    batch_size: int = Field(64, ge=2, le=65536, description="Samples of each of the two batches of a step")
    softmax_group: int | None = Field(
        None, ge=2, le=65536, description="Samples whose weights sum to 1; it divides the batch; none: the batch"
    )
    n_accumulated: int = Field(1, ge=1, le=65536, description="Parts of a batch that are read one after another")
    precision: Precision = Field("fp32", description="Number format of the forwards; fp16 needs a GPU")
    is_checkpointed: bool = Field(
        default=False, description="Whether backwards read activations anew: less memory, more time"
    )
    is_compiled: bool = Field(default=False, description="Whether torch.compile fuses the models; needs a C++ compiler")
    gradient_clip: float | None = Field(None, gt=0, le=1000, description="Largest norm of a gradient; none: any")
    proxy_learning_rate: float = Field(1e-3, gt=0, le=1, description="AdamW step size of both proxies")
    rater_learning_rate: float = Field(1e-3, gt=0, le=1, description="AdamW step size of the rater")
    rater_average: float = Field(
        0.997, ge=0, lt=1, description="Share of its past that the averaged rater keeps each step; it is what scores"
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decoupled weight decay of all three")
    penalty_schedule: PenaltySchedule = Field(
        PenaltySchedule.CONSTANT, description="Training data in the proxy's step: constant (γ, Eq. 5) or seal (grows)"
    )
    penalty: float = Field(1.0, gt=0, le=100, description="γ: share of the training loss in the proxy's step")
    has_group_weight: bool = Field(False, description="Whether the group head scales the proxies' training losses")
    price_ratio: float = Field(0.5, gt=0, le=100, description="Price of sharpness in units of the running spread of c")
    proxy_width: int = Field(64, ge=8, le=4096, description="Features of a token inside a proxy")
    proxy_depth: int = Field(2, ge=1, le=64, description="Transformer blocks of a proxy")
    rater_width: int = Field(64, ge=8, le=4096, description="Features of a token inside the rater")
    rater_depth: int = Field(2, ge=1, le=64, description="Transformer blocks of the rater")
    rater_start: Literal["proxy", "scratch"] = Field(
        "proxy",
        description="First weights of the rater's backbone: the warmed-up proxy's, which needs one size, or new",
    )
    rater_reading: RaterReading = Field(
        RaterReading.MATCHES, description="What the rater's heads read: matches of image and caption, or hidden states"
    )
    n_heads: int | None = Field(
        2, ge=1, le=64, description="Attention heads of each; none: one for every 64 features, as published"
    )
    text_encoder: str = Field(
        "words",
        pattern=TEXT_ENCODERS,
        description="Frozen encoder of the captions: words, minilm, or clip:FOLDER_OR_HUB_NAME",
    )
    resolution: int = Field(16, ge=8, le=1024, description="Side of the image that the tokenizer reads, in pixels")
    coder: Literal["patches", "convolutions"] = Field(
        "patches", description="What a fitted tokenizer codes: patches of colours, or features of a trained autoencoder"
    )
    n_codes: int = Field(128, ge=2, le=65536, description="Codes of a fitted tokenizer")
    tokenizer_from: str | None = Field(
        None, description="Published tokenizer weights: a file, or hf:REPO/FILE; none: a tokenizer is fitted"
    )
    check_every_steps: int = Field(
        100, ge=1, le=1_000_000, description="Steps between looks at the held-out validation"
    )
    patience: int = Field(4, ge=1, le=1000, description="Looks without a better loss before the run stops")
    checkpoint_every_steps: int = Field(200, ge=1, le=1_000_000, description="Steps between checkpoints")

    @model_validator(mode="after")
    def _rater_fits_its_start(self) -> "RaterTrainingConfig":
        sizes = (self.rater_width, self.rater_depth), (self.proxy_width, self.proxy_depth)
        has_network = self.rule is not RatingRule.LEARNABILITY
        if has_network and self.rater_start == "proxy" and sizes[0] != sizes[1]:
            message = f"rater of (width, depth) {sizes[0]} cannot start from a proxy of {sizes[1]}; choose scratch"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _groups_divide_the_batch(self) -> "RaterTrainingConfig":
        if self.batch_size % (self.group_size * self.n_accumulated):
            message = (
                f"batch_size {self.batch_size} must be a multiple of softmax_group {self.group_size} × n_accumulated "
                f"{self.n_accumulated}: each part holds whole groups"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _published_tokenizer_has_a_schedule(self) -> "RaterTrainingConfig":
        if self.tokenizer_from is not None and self.resolution not in SCALES:
            message = f"resolution {self.resolution} has no published schedule of scales; choose from {sorted(SCALES)}"
            raise ValueError(message)
        return self

    @property
    def group_size(self) -> int:
        """Samples whose weights sum to 1."""
        return self.softmax_group or self.batch_size // self.n_accumulated

    @property
    def n_read(self) -> int:
        """Training pairs that all steps read, if none is read twice.

        >>> RaterTrainingConfig(n_warmup_steps=400, n_steps=1200, batch_size=64).n_read
        102400
        """
        return (self.n_warmup_steps + self.n_steps) * self.batch_size

    @property
    def tokenizer(self) -> TokenizerConfig:
        """The published tokenizer, or what is fitted."""
        if self.tokenizer_from is not None:
            return published_tokenizer(self.resolution)
        if self.coder == "convolutions":
            return tokenizer_tiny(self.resolution, self.n_codes)
        return TokenizerConfig(resolution=self.resolution, n_codes=self.n_codes)

    def proxy(self, tokenizer: TokenizerConfig, text_dim: int) -> StarConfig:
        """Size both proxies to what they read."""
        return _star(tokenizer, text_dim, width=self.proxy_width, depth=self.proxy_depth, n_heads=self.n_heads)

    def rater(self, tokenizer: TokenizerConfig, text_dim: int) -> StarConfig:
        """Size the rater's trunk to what it reads; rule learnability has two proxies for a rater."""
        if self.rule is RatingRule.LEARNABILITY:
            return self.proxy(tokenizer, text_dim)
        return _star(tokenizer, text_dim, width=self.rater_width, depth=self.rater_depth, n_heads=self.n_heads)


class DownstreamConfig(Config):
    """How a generator is trained on a subset; every arm of a comparison gets the same."""

    # Each arm's own: the stage sets it from its list of seeds.
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of the first weights, shared by all arms, and of the order",
        json_schema_extra=NO_FLAG,
    )
    n_epochs: int = Field(10, ge=1, le=10_000, description="Passes over the subset")
    n_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="Steps, whatever the subset's size; none: what the epochs need"
    )
    batch_size: int = Field(64, ge=1, le=65536, description="Samples of a step")
    n_accumulated: int = _later_field(1, ge=1, le=65536, description="Parts of a batch that are read one after another")
    precision: Precision = _later_field("fp32", description="Number format of the forwards; fp16 needs a GPU")
    is_checkpointed: bool = _later_field(
        default=False, description="Whether backwards read activations anew: less memory, more time"
    )
    learning_rate: float = Field(5e-3, gt=0, le=1, description="Highest AdamW step size; it falls along a cosine")
    n_warmup_steps: int = Field(20, ge=0, le=1_000_000, description="Steps in which the step size rises from 0")
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decoupled weight decay")
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of its past that the averaged model keeps each step; 0: the last weights are kept",
    )
    method: Literal["scratch", "lora"] = Field("scratch", description="Train all weights anew, or adapters on a base")
    base: Path | None = Field(
        None, description="What LoRA adapts: a trained model's folder, or FLUX-mini's weights file"
    )
    lora_rank: int = Field(8, ge=1, le=1024, description="Rank of the adapters")
    width: int = Field(64, ge=8, le=4096, description="Features of a token inside the model")
    depth: int = Field(2, ge=1, le=64, description="Transformer blocks")
    n_heads: int = Field(2, ge=1, le=64, description="Attention heads")
    text_encoder: str = Field(
        "words",
        pattern=TEXT_ENCODERS,
        description="Frozen encoder of the captions: words, minilm, or clip:FOLDER_OR_HUB_NAME",
    )
    checkpoint_every_steps: int = Field(500, ge=1, le=1_000_000, description="Steps between checkpoints")

    flux: FluxConfig | None = Field(
        None,
        description="Size of a flow-matching transformer, as preset flux_mini gives it; none: the scale-wise one is trained",
        json_schema_extra=NO_FLAG,
    )
    flux_parts: Path | None = Field(
        None, description="Folder of FLUX.1 in diffusers' layout: VAE, text encoders and tokenizers are read"
    )

    @model_validator(mode="after")
    def _parts_divide_the_batch(self) -> "DownstreamConfig":
        if self.batch_size % self.n_accumulated:
            message = f"batch_size {self.batch_size} must be a multiple of n_accumulated {self.n_accumulated}: parts are equal"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _flux_is_adapted(self) -> "DownstreamConfig":
        if self.flux is not None and self.method != "lora":
            message = f"method {self.method}: a flow-matching transformer is trained by lora, as preset flux_mini says"
            raise ValueError(message)
        if self.flux is None and self.flux_parts is not None:
            message = f"flux_parts {self.flux_parts} belongs to preset flux_mini"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _lora_has_a_base(self) -> "DownstreamConfig":
        # FLUX's paths are asked for when it is trained: a preset cannot know them.
        if self.flux is None and (self.method == "lora") != (self.base is not None):
            message = (
                f"method {self.method} with base {self.base}: lora needs the folder of a model, scratch takes none"
            )
            raise ValueError(message)
        return self

    def steps(self, n_pairs: int) -> int:
        """Count the steps on so many pairs.

        >>> DownstreamConfig(n_epochs=2, batch_size=64).steps(320)
        10
        """
        return self.n_steps or max(1, round(self.n_epochs * n_pairs / self.batch_size))

    def star(self, tokenizer: TokenizerConfig, text_dim: int) -> StarConfig:
        """Size the model to what it reads."""
        return _star(tokenizer, text_dim, width=self.width, depth=self.depth, n_heads=self.n_heads)


def _star(tokenizer: TokenizerConfig, text_dim: int, *, width: int, depth: int, n_heads: int | None) -> StarConfig:
    return StarConfig(
        width=width, depth=depth, n_heads=n_heads or max(1, width // 64), text_dim=text_dim,
        scales=tokenizer.scales, n_codes=tokenizer.n_codes, token_dim=tokenizer.token_dim,
    )  # fmt: skip
