"""How the head of the offline image-text similarity is trained, and what its file says of itself. No torch here."""

from pydantic import Field

from alchemist_core.config import Config
from alchemist_core.errors import ConfigError

LEAST_AUC = 0.8
"""A head that puts a picture nearer to its own held-out caption than to another one less often than this is refused."""


class HeadTrainingConfig(Config):
    """Sizes, length and rates; the same values on the same pairs give the same bytes."""

    hidden: int = Field(512, ge=8, le=8192, description="Width of the layer in the middle of both networks")
    dim: int = Field(256, ge=2, le=4096, description="Features of the shared space")
    dropout: float = Field(0.5, ge=0, lt=1, description="Share of the middle layer that a step leaves out")
    n_steps: int = Field(600, ge=1, le=1_000_000, description="Steps")
    batch_size: int = Field(256, ge=2, le=65_536, description="Pairs of a step, each the others' wrong answer")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Largest step size; it falls to 0 along a cosine")
    weight_decay: float = Field(0.1, ge=0, le=10, description="AdamW's decay")
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of the first weights, of the batches and of what is left out"
    )


class HeadRecord(Config):
    """What a head's file says of itself: how it was trained, on what, and what it can tell apart."""

    dataset: str = Field(..., description="What it was trained on")
    heldout: str = Field(..., description="What it was tried on")
    n_train: int = Field(..., ge=1, description="Pairs that it was trained on")
    n_heldout: int = Field(..., ge=1, description="Pairs that it was tried on")
    heldout_auc: float = Field(
        ..., ge=0, le=1, description="How often a held-out picture is nearer to its own caption than to another one"
    )
    resolution: int = Field(..., ge=32, le=4096, description="Side of the pictures that it was trained on")
    training: HeadTrainingConfig = Field(..., description="Sizes, length, rates and seed")
    image_encoder_sha256: str = Field(..., description="sha256 of EfficientNet-lite0's weights")
    text_encoder_sha256: str = Field(..., description="sha256 of MiniLM's folder")


def refuse_weak(record: HeadRecord, name: str) -> None:
    """Let only a head pass that tells pictures' own captions from others.

    Raises:
        ConfigError: It does not.
    """
    if not record.heldout_auc > LEAST_AUC:
        raise ConfigError(
            f"heldout_auc of {name} is {record.heldout_auc:.3f} on {record.n_heldout:,} pairs, and must be above {LEAST_AUC}: what it "
            "measures would say little of images and their prompts. Train on more pairs, or on captions that say what is seen."
        )
