"""Train a rater by bilevel optimization: it learns which training samples help a proxy model on the validation dataset."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import NO_FLAG, Command, Config, Formerly, Result, fingerprint, later_field
from alchemist_core.errors import ConfigError
from alchemist_core.files import FEATURE_CACHE, artifact_path, folder_sha256
from alchemist_core.rating.config import ScoringRule
from alchemist_core.shards.decode_versions import UNPINNED
from alchemist_core.stages.collective import execute_together, hold_together
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, count_processes
from alchemist_core.store import raters
from alchemist_core.store.manifests import find_hashes, hashes_sha256, sort_hashes
from alchemist_core.store.registry import find_dataset, refuse_evaluation
from alchemist_core.store.sample_table import SampleTable
from alchemist_core.store.samples import read_training_samples
from alchemist_core.telemetry import say, warn
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.pinning import before_hashes, pin, without_places
from alchemist_core.training.sample_reading import StoredSamples

ROLES = {"dataset": "train", "validation": "validation"}
"""Role that each dataset must have."""
MOST_STEPS = 2_000
"""Steps of a training that the store keeps; a chart shows 100 points."""
FEW_VALIDATION = 2_000
"""With fewer validation samples a rater alone misses defects that it finds with two more scorers. Source: research pages 034, 043, 044."""


METRIC_TEXTS = {
    "n_steps": "steps",
    "stopped_early": "stopped early",
    "best_step": "step of the lowest held-out loss",
    "score_mean": "mean of the scores",
    "score_std": "standard deviation of the scores",
    "n_scores": "training samples scored for these figures",
    "n_held_out": "validation samples held out",
    "spearman_score_minus_loss": "rank correlation of score and low loss (1: the rater only ranks by loss)",
    "reference_loss_mean": "mean loss of the reference proxy",
}
"""The metrics of a training in words; results and reports store their names."""


class TrainRaterConfig(Config):
    """Datasets and training options of a rater."""

    dataset: str = Field(..., description="Training dataset that the rater learns to rate")
    validation: str = Field(
        ..., description="Validation dataset: samples like those that downstream models should be good at"
    )
    max_samples: Annotated[int | None, Formerly("max_pairs")] = Field(
        None,
        ge=64,
        description="Use at most this many samples of each dataset (those with the smallest hashes); default: as many training "
        "samples as the steps read, and all validation samples",
    )
    least_samples: int | None = later_field(
        None,
        ge=1,
        description="Read at least this many training samples, although the steps need fewer, so that the tokenizer is fitted to those of "
        "a longer training; set by experiments that compare raters of several lengths",
        json_schema_extra=NO_FLAG,
    )
    training: RaterTrainingConfig = Field(default_factory=RaterTrainingConfig, description="Training options")


class TrainRaterResult(Result):
    """The trained rater, new or existing."""

    rater: str
    is_new: bool
    rule: str
    n_train: int
    n_validation: int
    n_in_both: int
    n_near_duplicates: int
    n_processes: int = 1
    metrics: dict[str, float]

    def summary(self) -> str:
        """Return the fields, with the meaning of the counts and metrics, and what to add to a small validation dataset."""
        metrics: dict[str, object] = {METRIC_TEXTS.get(name, name): value for name, value in self.metrics.items()}
        if "stopped_early" in self.metrics:
            metrics[METRIC_TEXTS["stopped_early"]] = bool(self.metrics["stopped_early"])
        texts = {
            "n_in_both": f"{self.n_in_both:,} training images are also in the validation dataset: excluded from training",
            "n_near_duplicates": f"{self.n_near_duplicates:,} more training images look like one of them (same perceptual hash): kept",
        }
        shown = {name: text for name, text in texts.items() if getattr(self, name)}
        text = Result.summary(self.model_copy(update={"metrics": metrics, **shown}))
        if self.n_validation >= FEW_VALIDATION:
            return text
        is_measured = self.rule in (ScoringRule.ALIGNMENT, ScoringRule.LEARNABILITY)
        only = "" if is_measured else " (measured only with rules alignment and learnability)"
        # The options of the recipe fusion, because those of the project file come before a recipe.
        return (
            f"{text}\n{self.n_validation:,} validation samples are few: below {FEW_VALIDATION:,} a rater alone misses wrong captions and "
            f"damaged images. Add samples, or a critic and a density ratio{only}: train both and score with them (alchemist docs "
            "how-to/choose-a-validation-dataset), then alchemist select --rank-by rater+critic+density --strategy head_gsample "
            "--accept auto --fill repeat."
        )


def run(config: TrainRaterConfig, *, slot: int = 0) -> TrainRaterResult:
    """Train a rater version; if one with the same config and samples exists, return it."""
    return execute_together(
        "train_rater", config, lambda stage_run: train_rater(config, stage_run), TrainRaterResult, slot=slot
    )


def train_rater(config: TrainRaterConfig, stage_run: StageRun) -> TrainRaterResult:
    """Pin what the config names outside of itself, read both datasets, train the rater and register it."""
    given, config = config, config.model_copy(update={"training": pin(config.training)})
    rows, overlap = read_both(config, stage_run.engine)
    members = {name: hashes_sha256(found.hashes("pair_hash")) for name, found in rows.items()}
    identity = _identity(config, members)
    n_pairs = {"n_train": len(rows["dataset"]), "n_validation": len(rows["validation"]), **overlap}

    def find() -> TrainRaterResult | None:
        if (known := _find(stage_run.engine, identity, given, config, members)) is None:
            return None
        return TrainRaterResult(
            rater=known.name, is_new=False, rule=known.rule, metrics=_figures(known.acceptance_report), **n_pairs
        )

    if (result := find()) is not None:
        return result
    refuse_evaluation(stage_run.engine, config.validation)
    _state_overlap(config, **overlap)
    hold_device(stage_run)
    name = f"{config.dataset}-{config.training.rule}-{identity[:8]}"
    # Another run may be training this rater: `least_samples` makes another run key, but no other rater of a small dataset.
    with hold_together(stage_run, f"rater:{name}"):
        if (result := find()) is not None:
            return result
        metrics = _train(config, stage_run, rows, name)
        if stage_run.is_leader:
            _register(config, stage_run, name, identity, metrics)
    return TrainRaterResult(
        rater=name, is_new=True, rule=config.training.rule, n_processes=count_processes(), metrics=_figures(metrics), **n_pairs
    )  # fmt: skip


def _train(config: TrainRaterConfig, stage_run: StageRun, rows: dict[str, SampleTable], name: str) -> dict[str, Any]:
    from alchemist_core.training.rater_training import train_rater as train  # noqa: PLC0415  torch is imported only when there is something to train

    side = config.training.resolution
    pairs = {
        name: StoredSamples(found, side, stage_run.report, config.training.decode_version)
        for name, found in rows.items()
    }
    return train(
        config.training, pairs["dataset"], pairs["validation"], out=artifact_path(f"raters/{name}"),
        on_progress=stage_run.report, cache=artifact_path(FEATURE_CACHE),
    )  # fmt: skip


def find_trained(engine: Engine, config: TrainRaterConfig) -> raters.RaterRow | None:
    """Return the rater that a training would return without training: one with the same config and samples.

    Raises:
        ConfigError: A dataset is unknown, has another role, or has fewer samples than a batch.
    """
    given, config = config, config.model_copy(update={"training": pin(config.training)})
    rows, _ = read_both(config, engine)
    members = {name: hashes_sha256(found.hashes("pair_hash")) for name, found in rows.items()}
    return _find(engine, _identity(config, members), given, config, members)


def _identity(config: TrainRaterConfig, members: dict[str, str]) -> str:
    training = without_places(RaterTrainingConfig, config.training.as_json())
    # Which samples are read is in the hashes of the members.
    given = {name: value for name, value in config.hashed_json().items() if name != "least_samples"}
    return fingerprint({"config": given | {"training": training}} | members)


def _find(
    engine: Engine, identity: str, given: TrainRaterConfig, config: TrainRaterConfig, members: dict[str, str]
) -> raters.RaterRow | None:
    """Return the rater of an identity, or the one that the same options had trained before.

    The identity of a rater from before decode versions has none, and paths in place of weights if it is older still.
    """
    unversioned = config.training.model_copy(update={"decode_version": UNPINNED})
    before = unversioned, before_hashes(given.training, config.training)
    others = [_identity(config.model_copy(update={"training": training}), members) for training in before]
    found = (raters.find_trained(engine, one) for one in dict.fromkeys([identity, *others]))
    return next((rater for rater in found if rater is not None), None)


def read_both(config: TrainRaterConfig, engine: Engine) -> tuple[dict[str, SampleTable], dict[str, int]]:
    """Return the samples of both datasets without shared images, and the numbers of shared images and near-duplicates.

    Raises:
        ConfigError: A dataset is unknown, has another role, or has fewer samples than a batch.
    """
    rows = {name: _read_pairs(config, engine, name) for name in ROLES}
    rows["dataset"], overlap = _keep_apart(config, rows["dataset"], rows["validation"])
    return rows, overlap


def _register(config: TrainRaterConfig, stage_run: StageRun, name: str, identity: str, metrics: dict[str, Any]) -> None:
    raters.register_rater(
        stage_run.engine, name=name, rule=config.training.rule, config=config.as_json(), identity_hash=identity,
        checkpoint_uri=f"raters/{name}", checkpoint_sha256=folder_sha256(artifact_path(f"raters/{name}")),
        acceptance_report=metrics | {"history": _thin(metrics["history"])}, run_id=stage_run.run_id,
    )  # fmt: skip


def _thin(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep as many steps as a report can use, and each that was validated: commands read the report of a rater often, and whole.

    `metrics.json` in the folder of the rater keeps all steps.
    """
    every = math.ceil(len(history) / MOST_STEPS)
    return [one for at, one in enumerate(history) if at % every == 0 or "held_out_loss" in one]


def _read_pairs(config: TrainRaterConfig, engine: Engine, field: str) -> SampleTable:
    dataset = find_dataset(engine, getattr(config, field))
    # Raters of earlier versions may have learned from an evaluation dataset; those are found again, and no new one is trained.
    if dataset.role != ROLES[field] and (field, dataset.role) != ("validation", "evaluation"):
        raise ConfigError(f"--{field} {dataset.name}: its role is {dataset.role!r}. Allowed: {ROLES[field]}.")
    # Only as many samples as the steps read are located, not all of 30 million.
    n_read = max(config.training.n_read, config.least_samples or 0) if field == "dataset" else None
    limits = [n for n in (config.max_samples, n_read) if n is not None]
    rows = read_training_samples(engine, dataset.dataset_id, max_samples=min(limits, default=None))
    if len(rows) == n_read:
        say(f"{dataset.name}: using the first {len(rows):,} samples by hash, as many as all steps read.")
    return _enough(config, dataset.name, rows)


def _keep_apart(
    config: TrainRaterConfig, train: SampleTable, validation: SampleTable
) -> tuple[SampleTable, dict[str, int]]:
    """Remove from the training samples every image of the validation dataset; count the near-duplicates of its images.

    Otherwise the rater would learn to recognise validation images: training on an image lowers the loss of that same image most.
    """
    place_N = find_hashes(sort_hashes(validation.hashes("image_hash")), train.hashes("image_hash"))
    kept = train if (place_N < 0).all() else train.take(np.flatnonzero(place_N < 0))
    if len(kept) < config.training.batch_size:
        raise ConfigError(
            f"{len(train) - len(kept):,} of {len(train):,} images of {config.dataset} are also in {config.validation} and excluded from "
            f"training. {len(kept):,} are left, but a batch has {config.training.batch_size:,}. Give a validation dataset of other "
            "images, or lower --batch-size."
        )
    looks = {row.perceptual_hash for row in validation} - {None}
    overlap = {
        "n_in_both": len(train) - len(kept),
        "n_near_duplicates": sum(row.perceptual_hash in looks for row in kept),
    }
    return kept, overlap


def _state_overlap(config: TrainRaterConfig, n_in_both: int, n_near_duplicates: int) -> None:
    """Say it once for each training; a lookup of a trained rater says nothing."""
    if n_in_both:
        say(
            f"{n_in_both:,} images of {config.dataset} are also in {config.validation}; they are excluded from training."
        )
    if n_near_duplicates:
        warn(
            f"{n_near_duplicates:,} images of {config.dataset} look like an image of {config.validation} (equal perceptual hash). "
            "The rater trains on them and scores them, because similar images need not be copies. If they must not be selected: "
            f"alchemist select --decontaminate {config.validation}."
        )


def _enough(config: TrainRaterConfig, dataset: str, rows: SampleTable) -> SampleTable:
    n_least = config.training.batch_size
    if len(rows) < n_least and len(rows) == config.max_samples:
        raise ConfigError(
            f"--max-samples {len(rows)} is less than a batch, which has {n_least} samples. Raise it, or lower --batch-size."
        )
    if len(rows) < n_least:
        raise ConfigError(
            f"Dataset {dataset!r} has {len(rows)} samples, but a batch has {n_least}. Ingest more shards, or lower --batch-size."
        )
    return rows


def _figures(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a training; the report of a certified rater has more."""
    return {name: round(float(value), 4) for name, value in metrics.items() if name in METRIC_TEXTS}


COMMANDS = {"": Command(TrainRaterConfig, run, lambda _, result: f"alchemist rater certify {result.rater}")}
