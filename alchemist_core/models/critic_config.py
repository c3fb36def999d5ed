"""How a critic is trained, and the record in its file. No torch: the command line reads the bounds."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from alchemist_core.config import Config
from alchemist_core.errors import ConfigError
from alchemist_core.models.image_text_config import HeadTrainingConfig
from alchemist_core.statistics import N_QUANTILES

OFFLINE = "offline"
"""The encoders that come from packages: EfficientNet-lite0 and all-MiniLM-L6-v2."""
LEAST_AUC = 0.6
"""A critic is refused if its held-out AUC is at most this: its scores would hardly order samples better than chance."""


class CriticTrainingConfig(HeadTrainingConfig):
    """Sizes, length and rates of a critic; equal values on equal samples give equal bytes."""

    max_train_steps: int = Field(1500, ge=1, le=1_000_000, description="Largest number of training steps")
    hard_negatives: float = Field(
        0.5,
        ge=0,
        le=0.9,
        description="Fraction of a step's samples that are hard negatives: samples whose captions are among the most similar ones to "
        "the caption of another sample of the step. At most half of the samples are: a larger value counts as 0.5",
    )
    validation_steps: int = Field(
        25, ge=1, le=100_000, description="Steps between two measurements of the held-out loss"
    )
    early_stopping_patience: int = Field(
        8, ge=1, le=1000, description="Measurements without a lower held-out loss after which training stops"
    )
    n_references: int = Field(
        256,
        ge=8,
        le=4096,
        description="Number of captions of the validation dataset with which an image's own caption is compared",
    )


Width = Annotated[int, Field(ge=1, le=65_536)]
"""Number of features of an encoder."""


class CriticRecord(Config):
    """The record in a critic's file: its training, its data, its encoders, and what it gave held-out samples."""

    dataset: str = Field(..., description="Validation dataset that it was trained on")
    n_train: int = Field(..., ge=1, description="Number of training samples")
    n_heldout: int = Field(..., ge=1, description="Number of held-out samples")
    n_steps: int = Field(..., ge=0, description="Steps after which the held-out loss was lowest")
    heldout_auc: float = Field(
        ..., ge=0, le=1, description="How often a held-out sample scores higher than one with another one's caption"
    )
    right_quantiles: tuple[float, ...] = Field(
        ..., min_length=N_QUANTILES, max_length=N_QUANTILES, description="Quantiles of the scores of held-out samples"
    )
    wrong_quantiles: tuple[float, ...] = Field(
        ..., min_length=N_QUANTILES, max_length=N_QUANTILES, description="The same with the captions of other samples"
    )
    resolution: int = Field(..., ge=32, le=4096, description="Side of the images in pixels")
    training: CriticTrainingConfig = Field(..., description="Sizes, length, rates and seed")
    encoder_sha256s: tuple[str, ...] = Field(..., description="sha256 of the frozen encoders")
    dims: tuple[Width, Width] = Field(..., description="Number of features of image and text encoder")


def read_critic_record(path: Path) -> CriticRecord:
    """Read the record in the header of a critic's file (safetensors), without torch.

    Raises:
        ConfigError: The file does not hold a critic.
    """
    try:
        return CriticRecord.from_stored(json.loads(_read_header(path)["__metadata__"]["record"]))
    except (OSError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise ConfigError(
            f"{path} is not a critic that alchemist scorer train wrote: {error}. Train one with that command."
        ) from error


def _read_header(path: Path) -> Any:
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        # In another format these bytes mean something else, often more than any memory.
        if n_header > path.stat().st_size:
            message = "it is not a whole safetensors file"
            raise ValueError(message)
        return json.loads(file.read(n_header))


def refuse_weak_critic(record: CriticRecord) -> None:
    """Refuse a critic that hardly distinguishes right from wrong captions.

    Raises:
        ConfigError: Its held-out AUC is too low.
    """
    if not record.heldout_auc > LEAST_AUC:
        raise ConfigError(
            f"The held-out AUC of the critic of {record.dataset} is {record.heldout_auc:.3f} on {record.n_heldout:,} samples, and must be "
            f"above {LEAST_AUC}: it can hardly distinguish right from wrong captions. Give more validation samples, or captions that "
            "describe the image."
        )
