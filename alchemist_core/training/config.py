"""Options of the training loops: sizes, lengths, rates. No torch, because the command line reads these bounds."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from alchemist_core.config import NO_FLAG, Config, Formerly, Located, later_field
from alchemist_core.models.config import SCALES, StarConfig, TokenizerConfig, published_tokenizer, tokenizer_tiny
from alchemist_core.models.flux_config import FluxConfig
from alchemist_core.rating.config import Objective, PenaltySchedule, RaterFeatures, ScoringRule
from alchemist_core.shards.decode_versions import UNPINNED, DecodeVersion

MixedPrecision = Literal["no", "bf16", "fp16"]
TokenizerKind = Literal["patches", "vqvae"]
TEXT_ENCODERS = r"^(words|minilm|clip:.+)$"
TEXT_ENCODER_HELP = (
    "Frozen text encoder of the captions. words: hashed words, without weights. minilm: all-MiniLM-L6-v2. clip:FOLDER or "
    "clip:ORG/NAME@REVISION: a CLIP text encoder"
)
Source = Annotated[str, BeforeValidator(lambda given: str(given) if isinstance(given, Path) else given), Located()]
WEIGHTS_HELP = "a file, a folder that holds one, or hf:ORG/NAME/FILE@REVISION"

ENCODER_FOLDER = Located(prefix="clip:", is_or_name=True)


class PinnedConfig(Config):
    """What a stage adds to training options before it trains, so that the result always means the same."""

    caption_tokens: int | None = later_field(
        None,
        ge=1,
        le=65536,
        description="Tokens at which the text encoder cuts captions, set by the stage: the encoder's own limit; none: 32 for minilm "
        "in models of version 0.1, else the encoder's own limit",
        json_schema_extra=NO_FLAG,
    )
    weights_sha256: dict[str, str] = later_field(
        {},
        description="sha256 of the weights that each field names, set by the stage",
        json_schema_extra=NO_FLAG,
    )


class RaterTrainingConfig(PinnedConfig):
    """How a rater is trained by two proxies; the defaults fit two CPU cores and two minutes."""

    rule: ScoringRule = Field(
        ScoringRule.ALIGNMENT,
        description="Scoring rule. alignment: how much lower a sample's loss is under the proxy that also trains on validation data "
        "(Eq. 6). loss: a low loss under that proxy (Eq. 9). learnability: how much further training on validation data alone lowers "
        "a proxy's loss; it trains no rater network. pmi: how much better a proxy predicts an image from its own caption than from other "
        "captions; trained as learnability",
    )
    objective: Objective = Field(
        Objective.REGULARISED,
        description="Training loss of the rater. regularised: weighted advantage and a KL penalty. paper_exact: the paper's loss, which "
        "collapses to few samples",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the initial weights and of the data order")
    proxy_warmup_steps: Annotated[int, Formerly("n_warmup_steps")] = Field(
        400,
        ge=0,
        le=10_000_000,
        description="Training steps of the proxy with uniform weights before the rater is trained",
    )
    max_train_steps: Annotated[int, Formerly("n_steps")] = Field(
        1200,
        ge=1,
        le=10_000_000,
        description="Training steps after the proxy's warm-up; early stopping may end the run before",
    )
    batch_size: int = Field(
        64, ge=2, le=65536, description="Training samples of a step, and as many validation samples, over all GPUs"
    )
    softmax_group_size: Annotated[int | None, Formerly("softmax_group")] = Field(
        None,
        ge=2,
        le=65536,
        description="Samples whose weights sum to 1; must divide the micro-batch; none: the micro-batch, --batch-size / "
        "--gradient-accumulation-steps",
    )
    gradient_accumulation_steps: Annotated[int, Formerly("n_accumulated")] = Field(
        1, ge=1, le=65536, description="Micro-batches per optimizer step: the batch is read in this many parts"
    )
    mixed_precision: Annotated[MixedPrecision, Formerly("precision", {"no": "fp32"})] = Field(
        "no", description="Number format of the forward passes. no: fp32. bf16. fp16: needs a GPU"
    )
    gradient_checkpointing: Annotated[bool, Formerly("is_checkpointed")] = Field(
        default=False, description="Recompute activations in the backward pass: less memory, slower"
    )
    compile: Annotated[bool, Formerly("is_compiled")] = Field(
        default=False, description="Compile the models with torch.compile; needs a C++ compiler"
    )
    max_grad_norm: Annotated[float | None, Formerly("gradient_clip")] = Field(
        None, gt=0, le=1000, description="Clip gradients to this norm; none: no clipping"
    )
    proxy_learning_rate: float = Field(1e-3, gt=0, le=1, description="AdamW learning rate of both proxies")
    rater_learning_rate: float = Field(1e-3, gt=0, le=1, description="AdamW learning rate of the rater")
    rater_ema_decay: Annotated[float, Formerly("rater_average")] = Field(
        0.997, ge=0, lt=1, description="Decay of the EMA of the rater's weights; the EMA model scores"
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW weight decay of the rater and both proxies")
    penalty_schedule: PenaltySchedule = Field(
        PenaltySchedule.CONSTANT,
        description="Weight of the training loss in the proxy's step. constant: --penalty (γ, Eq. 5). seal: "
        "grows with each validation epoch",
    )
    penalty: float = Field(1.0, gt=0, le=100, description="Weight γ of the training loss in the proxy's step (Eq. 5)")
    # Of a few steps on validation data alone, whose direction the moments of the warm-up would decide.
    reset_moments: bool = later_field(
        default=False,
        json_schema_extra=NO_FLAG,
        description="Whether the proxy's moments of AdamW are forgotten after the warm-up",
    )
    group_weight: Annotated[bool, Formerly("has_group_weight")] = Field(
        False, description="Scale the proxies' training losses by the rater's weight of each group of samples (W_batch)"
    )
    kl_weight: Annotated[float, Formerly("price_ratio")] = Field(
        0.5,
        gt=0,
        le=100,
        description="Weight of KL(W ‖ uniform) in the rater's loss, relative to the running standard deviation of the advantage",
    )
    proxy_width: int = Field(64, ge=8, le=4096, description="Width of a proxy: features of a token")
    proxy_depth: int = Field(2, ge=1, le=64, description="Transformer blocks of a proxy")
    rater_width: int = Field(64, ge=8, le=4096, description="Width of the rater: features of a token")
    rater_depth: int = Field(2, ge=1, le=64, description="Transformer blocks of the rater")
    rater_init: Annotated[Literal["proxy", "scratch", "weights"], Formerly("rater_start")] = Field(
        "proxy",
        description="Initial weights of the rater's backbone. proxy: those of the warmed-up proxy, which must have the same size. "
        "scratch: random. weights: those of --rater-weights",
    )
    rater_features: Annotated[RaterFeatures, Formerly("rater_reading", {"match": "matches"})] = Field(
        RaterFeatures.MATCH,
        description="Input of the rater's heads. match: how well the caption predicts each image token. hidden: mean hidden state of "
        "the last block, as in the paper",
    )
    n_heads: int | None = Field(
        2,
        ge=1,
        le=64,
        description="Attention heads of the rater and of each proxy. Presets for GPUs have one for every 64 features",
    )
    text_encoder: Annotated[str, ENCODER_FOLDER] = Field("words", pattern=TEXT_ENCODERS, description=TEXT_ENCODER_HELP)
    resolution: int = Field(16, ge=8, le=1024, description="Side of the square images in pixels")
    decode_version: DecodeVersion = later_field(
        UNPINNED,
        description="How JPEGs are reduced while they are decoded, set by the stage: it is part of what a score means. 1: to at least "
        "twice the resolution; raters that store no version. 2: to at least the resolution; new raters above 128 px",
        json_schema_extra=NO_FLAG,
    )
    tokenizer: Annotated[TokenizerKind, Formerly("coder", {"vqvae": "convolutions"})] = Field(
        "patches",
        description="Image tokenizer that is fitted to the training images. patches: k-means on the colours of patches. vqvae: a "
        "convolutional autoencoder",
    )
    codebook_size: Annotated[int, Formerly("n_codes")] = Field(
        128, ge=2, le=65536, description="Codes of the fitted tokenizer"
    )
    tokenizer_weights: Annotated[Source | None, Formerly("tokenizer_from")] = Field(
        None, description=f"Published tokenizer: {WEIGHTS_HELP}; none: a tokenizer is fitted"
    )
    proxy_weights: Source | None = later_field(
        None,
        description=f"Initial weights of the proxies: published STAR, {WEIGHTS_HELP}; none: random",
    )
    rater_weights: Source | None = later_field(
        None,
        description="Initial weights of the rater with --rater-init weights: a published rater, or published STAR for its backbone, "
        f"{WEIGHTS_HELP}; none: as --rater-init says",
    )
    pmi_captions: int = later_field(
        4,
        ge=2,
        le=64,
        description="Captions of validation samples with which rule pmi compares the own caption of each sample. More of them lower the "
        "noise of a score, and each costs as much as scoring by a rater",
    )
    score_batch_size: int = later_field(
        256,
        ge=1,
        le=4096,
        description="Samples that are scored together. Smaller batches are padded to it, because the bits of a score depend on it: fewer "
        "save time where few samples are scored, and memory",
    )
    validation_steps: Annotated[int, Formerly("check_every_steps")] = Field(
        100, ge=1, le=1_000_000, description="Compute the loss on held-out validation samples every this many steps"
    )
    early_stopping_patience: Annotated[int, Formerly("patience")] = Field(
        4, ge=1, le=1000, description="Stop after this many validations without a lower loss"
    )
    checkpointing_steps: Annotated[int, Formerly("checkpoint_every_steps")] = Field(
        200, ge=1, le=1_000_000, description="Save a checkpoint to resume from every this many steps"
    )

    @model_validator(mode="after")
    def _rater_fits_its_start(self) -> "RaterTrainingConfig":
        sizes = (self.rater_width, self.rater_depth), (self.proxy_width, self.proxy_depth)
        if self.rule.trains_rater and self.rater_init == "proxy" and sizes[0] != sizes[1]:
            message = (
                f"rater of (width, depth) {sizes[0]} cannot start from a proxy of {sizes[1]}: set rater_init to scratch"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _rater_weights_are_used(self) -> "RaterTrainingConfig":
        if (self.rater_weights is not None) != (self.rater_init == "weights"):
            message = f"rater_weights {self.rater_weights} with rater_init {self.rater_init}: set both, --rater-init weights and the file"
            raise ValueError(message)
        if self.rater_weights is not None and not self.rule.trains_rater:
            message = (
                f"rater_weights {self.rater_weights} with rule {self.rule}, which trains no rater network: omit it"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _groups_divide_the_batch(self) -> "RaterTrainingConfig":
        if self.batch_size % (self.group_size * self.gradient_accumulation_steps):
            message = (
                f"batch_size {self.batch_size} must be a multiple of softmax_group_size {self.group_size} × gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}: each part holds whole groups"
            )
            raise ValueError(message)
        if self.rule.trains_rater and self.group_size < 2:
            message = (
                f"batch_size {self.batch_size} / gradient_accumulation_steps {self.gradient_accumulation_steps} leaves softmax groups of "
                "1 sample, whose weight is always 1; at least 2 are needed: lower gradient_accumulation_steps"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _published_tokenizer_has_a_schedule(self) -> "RaterTrainingConfig":
        if self.tokenizer_weights is not None and self.resolution not in SCALES:
            message = f"resolution {self.resolution} has no published schedule of scales; choose from {sorted(SCALES)}"
            raise ValueError(message)
        return self

    @property
    def group_size(self) -> int:
        """Samples whose weights sum to 1."""
        # At least 1, so that a batch of fewer samples than parts is refused and not divided by 0.
        return self.softmax_group_size or max(1, self.batch_size // self.gradient_accumulation_steps)

    @property
    def n_read(self) -> int:
        """Number of training samples that all steps read together.

        >>> RaterTrainingConfig(proxy_warmup_steps=400, max_train_steps=1200, batch_size=64).n_read
        102400
        """
        return (self.proxy_warmup_steps + self.max_train_steps) * self.batch_size

    @property
    def tokenizer_config(self) -> TokenizerConfig:
        """The pretrained tokenizer, or the kind that is fitted."""
        if self.tokenizer_weights is not None:
            return published_tokenizer(self.resolution)
        if self.tokenizer == "vqvae":
            return tokenizer_tiny(self.resolution, self.codebook_size)
        return TokenizerConfig(resolution=self.resolution, n_codes=self.codebook_size)

    def proxy(self, tokenizer: TokenizerConfig, text_dim: int) -> StarConfig:
        """Return the config of both proxies for the sizes of their inputs."""
        return _star(tokenizer, text_dim, width=self.proxy_width, depth=self.proxy_depth, n_heads=self.n_heads)

    def rater(self, tokenizer: TokenizerConfig, text_dim: int) -> StarConfig:
        """Return the config of the rater for the sizes of its inputs; without a rater network the proxies are the rater."""
        if not self.rule.trains_rater:
            return self.proxy(tokenizer, text_dim)
        return _star(tokenizer, text_dim, width=self.rater_width, depth=self.rater_depth, n_heads=self.n_heads)


class DownstreamConfig(PinnedConfig):
    """Training options of a generator; all arms of a comparison share them."""

    # The stage sets it for each model from its list of seeds.
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of the initial weights, shared by all arms, and of the data order",
        json_schema_extra=NO_FLAG,
    )
    num_train_epochs: Annotated[int, Formerly("n_epochs")] = Field(
        10, ge=1, le=10_000, description="Passes over the training samples of each arm"
    )
    max_train_steps: Annotated[int | None, Formerly("n_steps")] = Field(
        None,
        ge=1,
        le=100_000_000,
        description="Training steps of each arm, in place of --num-train-epochs; none: by epochs",
    )
    batch_size: int = Field(64, ge=1, le=65536, description="Samples of a step, over all GPUs and micro-batches")
    gradient_accumulation_steps: Annotated[int, Formerly("n_accumulated")] = later_field(
        1, ge=1, le=65536, description="Micro-batches per optimizer step: the batch is read in this many parts"
    )
    mixed_precision: Annotated[MixedPrecision, Formerly("precision", {"no": "fp32"})] = later_field(
        "no", description="Number format of the forward passes. no: fp32. bf16. fp16: needs a GPU"
    )
    gradient_checkpointing: Annotated[bool, Formerly("is_checkpointed")] = later_field(
        default=False, description="Recompute activations in the backward pass: less memory, slower"
    )
    learning_rate: float = Field(
        5e-3,
        gt=0,
        le=1,
        description="Peak AdamW learning rate. Afterwards it decreases along a cosine; that of FLUX-mini stays",
    )
    lr_warmup_steps: Annotated[int, Formerly("n_warmup_steps")] = Field(
        20,
        ge=0,
        le=1_000_000,
        description="Steps in which the learning rate increases from 0; at most a tenth of all steps",
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW weight decay")
    ema_decay: Annotated[float, Formerly("average")] = Field(
        0.0, ge=0, lt=1, description="Decay of the EMA of the weights; the EMA model is saved; 0: no EMA"
    )
    proportion_empty_prompts: float = later_field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the captions that a step replaces with the empty one, so that images can be sampled with classifier-free "
        "guidance; the published STAR was trained with 0.1",
    )
    method: Literal["scratch", "finetune", "lora"] = Field(
        "scratch",
        description="What is trained. scratch: all weights, from random ones. finetune: all weights, from those of --base-model. lora: "
        "adapters on --base-model",
    )
    base_model: Annotated[Source | None, Formerly("base")] = Field(
        None,
        description=f"Model that training starts from: published STAR or FLUX-mini, {WEIGHTS_HELP}; or the folder of a model that was "
        "trained here",
    )
    lora_rank: int = Field(8, ge=1, le=1024, description="Rank of the LoRA adapters")
    width: int = Field(64, ge=8, le=4096, description="Width of the model: features of a token")
    depth: int = Field(2, ge=1, le=64, description="Transformer blocks of the model")
    n_heads: int = Field(2, ge=1, le=64, description="Attention heads of the model")
    text_encoder: Annotated[str, ENCODER_FOLDER] = Field("words", pattern=TEXT_ENCODERS, description=TEXT_ENCODER_HELP)
    checkpointing_steps: Annotated[int, Formerly("checkpoint_every_steps")] = Field(
        500, ge=1, le=1_000_000, description="Save a checkpoint to resume from every this many steps"
    )

    flux: FluxConfig | None = Field(
        None,
        description="Size of a flow-matching transformer, set by preset flux_mini; none: train the scale-wise model",
        json_schema_extra=NO_FLAG,
    )
    flux_components: Annotated[Path | None, Formerly("flux_parts")] = Field(
        None, description="Folder of FLUX.1 in diffusers' layout, for its VAE, text encoders and tokenizers"
    )

    @model_validator(mode="after")
    def _parts_divide_the_batch(self) -> "DownstreamConfig":
        if self.batch_size % self.gradient_accumulation_steps:
            message = (
                f"batch_size {self.batch_size} must be a multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}: micro-batches are equal"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _flux_is_adapted(self) -> "DownstreamConfig":
        if self.flux is not None and self.method != "lora":
            message = f"method {self.method}: a flow-matching transformer is trained by lora, as in preset flux_mini"
            raise ValueError(message)
        if self.flux is not None and self.proportion_empty_prompts:
            message = f"proportion_empty_prompts {self.proportion_empty_prompts}: FLUX-mini needs none, its guidance is an input"
            raise ValueError(message)
        if self.flux is None and self.flux_components is not None:
            message = f"flux_components {self.flux_components} belongs to preset flux_mini"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _method_has_its_base(self) -> "DownstreamConfig":
        # FLUX's paths are required only when it is trained, because a preset cannot contain them.
        if self.flux is None and (self.method != "scratch") != (self.base_model is not None):
            message = f"method {self.method} with base_model {self.base_model}: lora and finetune require one, scratch uses none"
            raise ValueError(message)
        return self

    def steps(self, n_pairs: int) -> int:
        """Return the number of steps on this many samples.

        >>> DownstreamConfig(num_train_epochs=2, batch_size=64).steps(320)
        10
        """
        return self.max_train_steps or max(1, round(self.num_train_epochs * n_pairs / self.batch_size))

    def star(self, tokenizer: TokenizerConfig, text_dim: int) -> StarConfig:
        """Return the config of the model for the sizes of its inputs."""
        return _star(tokenizer, text_dim, width=self.width, depth=self.depth, n_heads=self.n_heads)


def _star(tokenizer: TokenizerConfig, text_dim: int, *, width: int, depth: int, n_heads: int | None) -> StarConfig:
    return StarConfig(
        width=width, depth=depth, n_heads=n_heads or max(1, width // 64), text_dim=text_dim,
        scales=tokenizer.scales, n_codes=tokenizer.n_codes, token_dim=tokenizer.token_dim,
    )  # fmt: skip
