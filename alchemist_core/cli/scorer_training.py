"""Train a critic on the validation dataset, and register it as a scorer."""

import hashlib
from typing import Annotated

from pydantic import Field

from alchemist_core.config import BARE_WORD, Config, Located, Result
from alchemist_core.files import artifact_path, write_bytes_atomically
from alchemist_core.models.critic_config import OFFLINE, CriticRecord, CriticTrainingConfig, refuse_weak_critic
from alchemist_core.scorers.critic import ARTIFACT
from alchemist_core.scorers.registration import register
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.samples import read_training_samples


class TrainScorerConfig(Config):
    """Which critic to train, and on what."""

    name: str = Field("critic", description="Name of the scorer", json_schema_extra=BARE_WORD)
    validation: str = Field(
        ..., description="Validation dataset: the critic is trained on a part of it, and measured on the rest"
    )
    encoders: Annotated[str, Located(is_or_name=True)] = Field(
        OFFLINE,
        description="Frozen encoders. offline: EfficientNet-lite0 and all-MiniLM-L6-v2, from packages. Otherwise a folder of a CLIP or "
        "SigLIP, or hf:ORG/NAME@REVISION",
    )
    resolution: int = Field(
        224,
        ge=32,
        le=1024,
        description="Side of the images in pixels for --encoders offline; the others have one of their own",
    )
    max_samples: int = Field(
        100_000,
        ge=100,
        le=10_000_000,
        description="Largest number of validation samples, taken in the order of their hash",
    )
    nightly: bool = Field(False, description="Score every night beside the production rater")
    training: CriticTrainingConfig = Field(default_factory=CriticTrainingConfig, description="Training of the critic")


class TrainScorerResult(Result):
    """The scorer, its file, and how often a held-out sample scored higher than one with another one's caption (AUC)."""

    name: str
    is_new: bool
    head: str
    sha256: str
    n_train: int
    n_heldout: int
    n_steps: int
    heldout_auc: float


def train_scorer(config: TrainScorerConfig) -> TrainScorerResult:
    """Train a critic of how well images match captions on the validation dataset alone, and register it as a scorer.

    Raises:
        ConfigError: The held-out AUC is too low (nothing is written), or the name belongs to another scorer.
        DataError: There are too few samples.
    """
    return execute("train_scorer", config, lambda stage_run: make_critic(config, stage_run), TrainScorerResult)


def make_critic(config: TrainScorerConfig, stage_run: StageRun) -> TrainScorerResult:
    """Encode the samples, train on nine tenths of them, measure the critic on the others, write and register it."""
    rows = read_training_samples(
        stage_run.engine, find_dataset(stage_run.engine, config.validation).dataset_id, max_samples=config.max_samples
    )
    hold_device(stage_run, is_on_cpu=True)
    from alchemist_core.models.critic import load_encoders, pack_critic  # noqa: PLC0415
    from alchemist_core.training.critic_training import encode_samples, hold_out, score_heldout, train_critic  # noqa: PLC0415  torch only when there is work

    train_M, heldout_M = hold_out([row.caption for row in rows], [bytes(row.image_hash) for row in rows])
    encoders = load_encoders(config.encoders, config.resolution)
    train, heldout = (encode_samples(rows.take(part), encoders, stage_run.report)[1] for part in (train_M, heldout_M))
    critic, n_steps = train_critic(train, heldout, config.training, stage_run.report)
    scores = score_heldout(critic, heldout)
    right, wrong = scores.quantiles()
    record = CriticRecord(
        dataset=config.validation, n_train=len(train.captions), n_heldout=len(heldout.captions), n_steps=n_steps,
        heldout_auc=scores.auc, right_quantiles=right, wrong_quantiles=wrong, resolution=encoders.side, training=config.training,
        encoder_sha256s=encoders.sha256s, dims=encoders.dims,
    )  # fmt: skip
    refuse_weak_critic(record)
    data = pack_critic(critic, record)
    sha256 = hashlib.sha256(data).hexdigest()
    head = f"{ARTIFACT}critics/{sha256[:16]}.safetensors"
    write_bytes_atomically(artifact_path(head.removeprefix(ARTIFACT)), data)
    _, is_new = register(
        stage_run.engine, config.name, "critic", {"head": head, "encoders": encoders.source}, run_id=stage_run.run_id,
        is_shadow=config.nightly,
    )  # fmt: skip
    return TrainScorerResult(
        name=config.name, is_new=is_new, head=head, sha256=sha256, n_train=record.n_train, n_heldout=record.n_heldout,
        n_steps=n_steps, heldout_auc=round(record.heldout_auc, 4),
    )  # fmt: skip
