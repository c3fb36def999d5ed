"""How the image-text head is trained, and the record in its file. No torch: the command line reads the bounds."""

from typing import Annotated

from pydantic import Field

from alchemist_core.config import Config, Formerly
from alchemist_core.errors import ConfigError

LEAST_AUC = 0.8
"""A head is refused if its held-out AUC is at most this: it hardly distinguishes an image's own caption from others."""


class HeadTrainingConfig(Config):
    """Sizes, length and rates; equal values on equal samples give equal bytes."""

    hidden: int = Field(512, ge=8, le=8192, description="Width of the hidden layer of both networks")
    dim: int = Field(256, ge=2, le=4096, description="Features of the shared space")
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout ratio of the hidden layer")
    max_train_steps: Annotated[int, Formerly("n_steps")] = Field(600, ge=1, le=1_000_000, description="Training steps")
    batch_size: int = Field(
        256,
        ge=2,
        le=65_536,
        description="Samples per step; the captions of the other samples are the negative examples of each image",
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Peak learning rate of a cosine schedule")
    weight_decay: float = Field(0.1, ge=0, le=10, description="Weight decay of AdamW")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the initial weights, the batches and the dropout")


class HeadRecord(Config):
    """The record in a head's file: its training, its data, and its held-out AUC."""

    dataset: str = Field(..., description="Training data")
    heldout: str = Field(..., description="Held-out data")
    n_train: int = Field(..., ge=1, description="Number of training samples")
    n_heldout: int = Field(..., ge=1, description="Number of held-out samples")
    heldout_auc: float = Field(
        ...,
        ge=0,
        le=1,
        description="AUC: how often a held-out image is nearer to its own caption than an image to another caption",
    )
    resolution: int = Field(..., ge=32, le=4096, description="Side of the training images in pixels")
    training: HeadTrainingConfig = Field(..., description="Sizes, length, rates and seed")
    image_encoder_sha256: str = Field(..., description="sha256 of EfficientNet-lite0's weights")
    text_encoder_sha256: str = Field(..., description="sha256 of MiniLM's folder")


def refuse_weak(record: HeadRecord, name: str) -> None:
    """Refuse a head that hardly distinguishes an image's own caption from others.

    Raises:
        ConfigError: Its held-out AUC is too low.
    """
    if not record.heldout_auc > LEAST_AUC:
        raise ConfigError(
            f"heldout_auc of {name} is {record.heldout_auc:.3f} on {record.n_heldout:,} samples, and must be above "
            f"{LEAST_AUC}: the head can hardly distinguish right from wrong captions. Train on more samples, or on captions "
            "that describe the image."
        )
