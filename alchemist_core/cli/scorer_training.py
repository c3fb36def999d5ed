"""Train a critic or fit a density ratio on the validation dataset, and register it as a scorer."""

import hashlib
import shlex
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from alchemist_core.config import BARE_WORD, Config, Located, Result
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import artifact_path, write_bytes_atomically
from alchemist_core.models.critic_config import OFFLINE, CriticRecord, CriticTrainingConfig, refuse_weak_critic
from alchemist_core.models.density import N_DIMS, PENALTY, DensityRecord, fit_density, is_held_out, pack_density
from alchemist_core.scorers.density import unit
from alchemist_core.scorers.registration import register, require_free_name
from alchemist_core.scorers.trained import ARTIFACT
from alchemist_core.stages.declared_scorers import adjust
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.statistics import area_under_curve, quantiles_of
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import find_outputs, record_held_out
from alchemist_core.store.registry import find_dataset, refuse_evaluation
from alchemist_core.store.samples import read_training_samples


class TrainScorerConfig(Config):
    """Which scorer to train, and on what."""

    name: str = Field("critic", description="Name of the scorer", json_schema_extra=BARE_WORD)
    kind: Literal["critic", "density"] = Field(
        "critic",
        description="critic: how much better an image matches its own caption than other captions. density: how much more frequent images "
        "like this one are in the validation dataset than in the corpus; it needs --dataset",
    )
    validation: str = Field(..., description="Validation dataset: a part of it is held out, to measure the scorer")
    dataset: str | None = Field(None, description="Corpus with which --kind density compares the validation dataset")
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
    max_corpus_samples: int = Field(
        10_000,
        ge=100,
        le=10_000_000,
        description="The same of samples of --dataset; images are encoded at 20 to 40 a second on a core",
    )
    nightly: bool | None = Field(
        None, description="Score every night beside the production rater; default: as before, else no"
    )
    training: CriticTrainingConfig = Field(default_factory=CriticTrainingConfig, description="Training of the critic")

    @model_validator(mode="after")
    def _density_has_a_corpus(self) -> "TrainScorerConfig":
        if (self.kind == "density") != (self.dataset is not None):
            message = f"kind {self.kind} with dataset {self.dataset}: --kind density needs --dataset, the corpus, and a critic takes none"
            raise ValueError(message)
        return self


class TrainScorerResult(Result):
    """The scorer, its file, and its held-out AUC.

    The AUC says how often a held-out validation sample scores higher than one with another one's caption (critic), or than a held-out
    sample of the corpus (density). A density ratio near 0.5 is no fault: the corpus then looks like the validation dataset.
    """

    name: str
    is_new: bool
    is_nightly: bool
    head: str
    sha256: str
    n_train: int
    n_heldout: int
    n_steps: int
    heldout_auc: float


def train_scorer(config: TrainScorerConfig) -> TrainScorerResult:
    """Train a critic of how well images match captions, or fit a density ratio, and register it as a scorer.

    A critic sees the validation dataset alone.

    Raises:
        ConfigError: A dataset is an evaluation dataset, the held-out AUC of a critic is too low (nothing is written), or
            the name belongs to another scorer.
        DataError: There are too few samples.
    """
    refuse_evaluation(open_store(), config.validation)
    if config.dataset is not None:
        refuse_evaluation(open_store(), config.dataset, role="train")
    require_free_name(open_store(), config.name, config.kind)
    make = make_density if config.kind == "density" else make_critic
    return execute("train_scorer", config, lambda stage_run: make(config, stage_run), TrainScorerResult)


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
    head, sha256 = _write("critics", pack_critic(critic, record))
    is_new, is_nightly = _register(config, stage_run, {"head": head, "encoders": encoders.source}, right)
    return TrainScorerResult(
        name=config.name, is_new=is_new, is_nightly=is_nightly, head=head, sha256=sha256, n_train=record.n_train,
        n_heldout=record.n_heldout, n_steps=n_steps, heldout_auc=round(record.heldout_auc, 4),
    )  # fmt: skip


def make_density(config: TrainScorerConfig, stage_run: StageRun) -> TrainScorerResult:
    """Encode the images of both datasets, fit on nine tenths of each, measure on the others, write and register the ratio."""
    assert config.dataset is not None
    tables = [
        read_training_samples(stage_run.engine, find_dataset(stage_run.engine, name).dataset_id, max_samples=most)
        for name, most in ((config.validation, config.max_samples), (config.dataset, config.max_corpus_samples))
    ]
    hold_device(stage_run, is_on_cpu=True)
    from alchemist_core.models.critic import load_encoders  # noqa: PLC0415
    from alchemist_core.training.critic_training import encode_images  # noqa: PLC0415  torch only when there is work

    encoders, parts = load_encoders(config.encoders, config.resolution), []
    for name, rows in zip((config.validation, config.dataset), tables, strict=True):
        index_M, image_MD = encode_images(rows, encoders, stage_run.report)
        is_heldout_M = is_held_out([bytes(rows[place].image_hash) for place in index_M.tolist()])
        if not 0 < is_heldout_M.sum() < len(is_heldout_M):
            raise DataError(
                f"Dataset {name} has {len(index_M):,} samples whose image can be decoded, too few to hold some out. Give more samples."
            )
        parts.append((unit(image_MD[~is_heldout_M]), unit(image_MD[is_heldout_M])))
    (validation_MD, heldout_MD), (corpus_ND, others_ND) = parts
    density = fit_density(corpus_ND, validation_MD)
    heldout_H, others_H = density.score(heldout_MD), density.score(others_ND)
    record = DensityRecord(
        validation=config.validation, dataset=config.dataset, n_validation=len(validation_MD), n_corpus=len(corpus_ND),
        heldout_auc=area_under_curve(heldout_H, others_H), n_dims=N_DIMS, penalty=PENALTY, resolution=encoders.side,
        encoder_sha256s=encoders.sha256s,
    )  # fmt: skip
    file, sha256 = _write("densities", pack_density(density, record))
    settings = {"file": file, "encoders": encoders.source}
    is_new, is_nightly = _register(config, stage_run, settings, quantiles_of(heldout_H))
    return TrainScorerResult(
        name=config.name, is_new=is_new, is_nightly=is_nightly, head=file, sha256=sha256,
        n_train=len(validation_MD) + len(corpus_ND), n_heldout=len(heldout_MD) + len(others_ND), n_steps=0,
        heldout_auc=round(record.heldout_auc, 4),
    )  # fmt: skip


def _register(
    config: TrainScorerConfig, stage_run: StageRun, settings: dict[str, str], heldout_quantiles: Sequence[float]
) -> tuple[bool, bool]:
    """Register the scorer, with what it gives good samples; return whether it is new, and whether it is nightly.

    Raises:
        ConfigError: The name belongs to one of another training (the message has the command that registers this one), or the scorer
            has another name already.
    """
    try:
        rows, is_new = register(
            stage_run.engine, config.name, config.kind, settings, run_id=stage_run.run_id, is_shadow=config.nightly
        )
    except ConfigError as error:
        if not find_outputs(stage_run.engine, config.name):
            raise
        options = shlex.quote(",".join(f"{name}={value}" for name, value in settings.items()))
        command = f"alchemist scorer register {config.name}_2 --use {config.kind} --option {options}"
        raise ConfigError(
            f"{error} Its file is kept. To score with it, without --accept auto, it need not be trained again: {command}"
        ) from error
    record_held_out(stage_run.engine, [row.name for row in rows], heldout_quantiles)
    adjust(stage_run.engine, rows, is_nightly=config.nightly, keeps_embeddings=None, section=None)
    return is_new, find_outputs(stage_run.engine, config.name)[0].is_shadow


def _write(folder: str, data: bytes) -> tuple[str, str]:
    """Write a file under its sha256; return its address and the hash."""
    sha256 = hashlib.sha256(data).hexdigest()
    address = f"{ARTIFACT}{folder}/{sha256[:16]}.safetensors"
    write_bytes_atomically(artifact_path(address.removeprefix(ARTIFACT)), data)
    return address, sha256
