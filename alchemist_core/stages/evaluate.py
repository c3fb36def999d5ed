"""Measure trained models under a pinned contract: the held-out loss on an evaluation dataset, or a metric of images drawn for it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import Command, Config, Report
from alchemist_core.errors import ConfigError
from alchemist_core.files import require_artifact
from alchemist_core.notifications import Event, page_of_this_task
from alchemist_core.protocols.protocol import read_average, read_contract, read_fields
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.evaluate_average import AverageEvaluation, find_ingredient
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.image_evaluation import ImageEvaluation
from alchemist_core.stages.sharing import take_unmeasured
from alchemist_core.store import models
from alchemist_core.store.datasets import default_evaluation
from alchemist_core.store.manifests import members_sha256
from alchemist_core.store.notifications import announce
from alchemist_core.store.overviews import read_comparisons
from alchemist_core.store.registry import DatasetRow, find_dataset, list_datasets
from alchemist_core.store.samples import read_training_samples
from alchemist_core.store.subsets import VERSION_TEXT, SubsetRow, choose_version, rater_of_subset
from alchemist_core.store.tables import AnyRow
from alchemist_core.training.sample_reading import StoredSamples, read_images

METRIC, FLOW_METRIC = "heldout_loss", "heldout_flow_loss"
"""Held-out losses of the scale-wise generator, and of flow matching (FLUX-mini): two units, never in one table."""


class EvaluateConfig(Config):
    """What to measure, and on what."""

    subset: str = Field(..., description="Name of the subset whose arms are measured")
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)
    evaluation: str | None = Field(
        None, description="Evaluation dataset; none: the default (alchemist dataset set-default)"
    )
    contract: str = Field(
        METRIC,
        description="heldout_loss (nats a token), heldout_flow_loss (FLUX-mini), a shipped contract's name, or a .toml file",
    )
    weights: Path | None = Field(
        None, description="File or folder of the contract's network, where no package carries its weights"
    )


class EvaluateReport(Report):
    """Mean of the metric for each arm over its seeds."""

    subset: str
    contract: int
    metric: str
    n_measured: int
    n_reused: int
    means: dict[str, float]


def run(config: EvaluateConfig, *, slot: int = 0) -> EvaluateReport:
    """Measure every trained arm of a subset that has no value under the contract yet."""
    return execute("evaluate", config, lambda stage_run: evaluate(config, stage_run), EvaluateReport, slot=slot)


def evaluate(config: EvaluateConfig, stage_run: StageRun) -> EvaluateReport:
    """Measure what is missing, model by model."""
    engine = stage_run.engine
    _refuse_geneval(config.contract)
    subset = choose_version(engine, config.subset, version=config.version)
    rater = rater_of_subset(engine, subset)
    is_flux = _is_of_flux(engine, config.contract)
    trained = models.models_to_compare(engine, subset.subset_id, rater.name, is_flux=is_flux)
    if not trained:
        raise ConfigError(
            f"No {'FLUX-mini' if is_flux else 'model'} was trained on {subset.title} yet. "
            f"Run alchemist train-downstream --subset {subset.name} first."
        )
    if config.contract not in {METRIC, FLOW_METRIC} and (average := read_average(config.contract)) is not None:
        averages = AverageEvaluation(stage_run, *average)
        n_measured = averages.measure(trained)
        return _report(engine, subset, trained, averages.protocol_id, metric=averages.title, n_measured=n_measured)
    rows = read_training_samples(engine, evaluation_dataset(engine, config.evaluation).dataset_id)
    if config.contract not in {METRIC, FLOW_METRIC}:
        images = ImageEvaluation(stage_run, rows, contract=config.contract, weights=config.weights)
        n_measured = images.measure(trained)
        return _report(engine, subset, trained, images.protocol_id, metric=images.title, n_measured=n_measured)
    protocol_id = models.store_protocol(engine, flow_contract(rows) if is_flux else heldout_contract(rater, rows))
    measured = models.evaluated_models(engine, protocol_id, config.contract)
    missing, n_measured = [model for model in trained if model.model_id not in measured], 0
    if missing:
        side = None if is_flux else rater.config["training"]["resolution"]
        n_measured = _measure(stage_run, missing, rows, protocol_id, metric=config.contract, side=side)
    return _report(engine, subset, trained, protocol_id, metric=config.contract, n_measured=n_measured)


def _refuse_geneval(contract: str) -> None:
    if contract not in {METRIC, FLOW_METRIC} and read_fields(contract)[1].get("metric") == "geneval":
        raise ConfigError(
            f"The contract {contract} is of images in GenEval's own folders: alchemist geneval draw, then "
            f"alchemist geneval judge --contract {contract}."
        )


def _is_of_flux(engine: Engine, contract: str) -> bool:
    """Tell whose models a contract measures: values of two families are never averaged."""
    if contract in {METRIC, FLOW_METRIC}:
        return contract == FLOW_METRIC
    if (average := read_average(contract)) is not None:
        return bool(find_ingredient(engine, average[1].fid).protocol["sampler"] == "flow")
    return read_contract(contract)[1].sampler == "flow"


def evaluation_dataset(engine: Engine, name: str | None) -> DatasetRow:
    """Return the named evaluation dataset, or the default one.

    Raises:
        ConfigError: There is none, or the named dataset has another role: a loss on data that the rater or a model may have
            learned from is not a held-out loss.
    """
    found = default_evaluation(engine) if name is None else find_dataset(engine, name)
    if found is None:
        raise ConfigError(
            "There is no evaluation dataset. Register one: alchemist ingest --dataset NAME --root FOLDER --role evaluation."
        )
    if found.role != "evaluation":
        known = ", ".join(row.name for row in list_datasets(engine, role="evaluation")) or "none"
        raise ConfigError(
            f"--evaluation {found.name}: its role is {found.role}, so raters or models may have learned from it; only datasets of "
            f"role evaluation are allowed (registered: {known})."
        )
    return found


def heldout_contract(rater: AnyRow, rows: Any) -> dict[str, Any]:
    """Return all that two held-out losses must share to be compared: the pairs, and the tokenizer of the rater."""
    return {
        "metric": METRIC,
        "unit": "nats a token",
        "pairs": members_sha256([bytes(row.pair_hash) for row in rows]),
        "tokenizer_of": bytes(rater.checkpoint_sha256).hex(),
    }


def flow_contract(rows: Any) -> dict[str, Any]:
    """Return all that two held-out losses of flow matching must share: pairs, and the times and noise of the measuring code."""
    return {
        "metric": FLOW_METRIC,
        "unit": "squared error of the velocity, at the model's own resolution",
        "pairs": members_sha256([bytes(row.pair_hash) for row in rows]),
        "times": "8, the middles of equal shares of a logistic normal",
        "noise": "seeded by a pair's place",
    }


def _measure(
    stage_run: StageRun, missing: list[models.ModelRow], rows: Any, protocol_id: int, *, metric: str, side: int | None
) -> int:
    hold_device(stage_run)
    from alchemist_core.metrics.heldout import heldout_losses  # noqa: PLC0415
    from alchemist_core.training.generators import read_config  # noqa: PLC0415  torch only when there is work
    from alchemist_core.training.samples import Samples  # noqa: PLC0415

    # STAR's models share one side: their images are read once. FLUX's each have their own, and more pixels.
    pairs: Samples | StoredSamples | None = None
    if side is not None:
        pairs = Samples(*read_images(rows, side, stage_run.report)[:2])
    done = 0
    for done, model in enumerate(take_unmeasured(stage_run, missing, protocol_id=protocol_id, metric=metric), 1):
        path = require_artifact(model.checkpoint_uri, model.checkpoint_sha256)
        if (flux := read_config(path).flux) is not None:
            pairs = StoredSamples(rows, flux.resolution, stage_run.report)
        assert pairs is not None
        loss_N = heldout_losses(path, pairs)
        models.store_evaluation(
            stage_run.engine, model_id=model.model_id, protocol_id=protocol_id, metric=metric,
            value=float(loss_N.mean()), n=len(loss_N), run_id=stage_run.run_id,
        )  # fmt: skip
        stage_run.report(done, len(missing), f"{model.arm} seed {model.seed}: {loss_N.mean():.4f}")
    return done


def _report(
    engine: Engine,
    subset: SubsetRow,
    trained: Sequence[models.ModelRow],
    protocol_id: int,
    *,
    metric: str,
    n_measured: int,
) -> EvaluateReport:
    _announce_if_worse(engine, subset, protocol_id, metric)
    values: dict[str, list[float]] = {}
    for row in models.read_evaluations(engine, [model.model_id for model in trained], protocol_id):
        if row.metric == metric:
            values.setdefault(row.arm, []).append(row.value)
    return EvaluateReport(
        subset=subset.title,
        contract=protocol_id,
        metric=metric,
        n_measured=n_measured,
        n_reused=len(trained) - n_measured,
        means={arm: round(sum(found) / len(found), 5) for arm, found in values.items()},
    )


def _announce_if_worse(engine: Engine, subset: SubsetRow, protocol_id: int, metric: str) -> None:
    """Tell people where the whole interval of the gain over random is below 0, once a version and contract."""
    for row in read_comparisons(engine, subset.subset_id):
        is_asked = (row.arm, row.metric, row.protocol_id) == ("subset", metric, protocol_id)
        if not is_asked or row.gain_high is None or row.gain_high >= 0:
            continue
        event = Event(
            kind="worse_than_random",
            key=f"worse_than_random:{subset.subset_id}:{protocol_id}:{metric}",
            what_happened=f"{subset.title} is worse than a random subset of its size in {metric}: gain {row.gain:.4f}, "
            f"95% interval [{row.gain_low:.4f}, {row.gain_high:.4f}] over {row.n_seeds} seeds.",
            where_to_look=page_of_this_task("evaluationregression"),
            what_to_do=f"alchemist subset compare {shlex.quote(subset.name)} --version {subset.version}; the version before it comes "
            f"back by: alchemist subset rollback {shlex.quote(subset.name)}",
            facts={"metric": metric, "mean": row.mean, "gain": row.gain, "seeds": row.n_seeds},
        )
        with engine.begin() as connection:
            announce(connection, event)


COMMANDS = {"": Command(EvaluateConfig, run, lambda config, _: f"alchemist subset compare {config.subset}")}
