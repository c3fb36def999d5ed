"""Measure trained models under an evaluation protocol: the held-out loss on an evaluation dataset, or a metric of generated images."""

import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import BARE_WORD, Command, Config, Formerly, Located, Result, split_commas
from alchemist_core.errors import ConfigError
from alchemist_core.metrics.catalogue import find_metric
from alchemist_core.metrics.image_metrics import ImageMetric
from alchemist_core.metrics.metric import Bench, EvaluationSamples, Metric
from alchemist_core.notifications import Event, explorer_page, page_of_this_task
from alchemist_core.project import load_project, of_version, train_downstream_command
from alchemist_core.protocols.protocol import read_protocol
from alchemist_core.report.arm_names import arm_title
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.sharing import hold_resource
from alchemist_core.store import models
from alchemist_core.store.datasets import default_evaluation
from alchemist_core.store.notifications import announce
from alchemist_core.store.overviews import read_comparisons
from alchemist_core.store.registry import DatasetRow, find_dataset, list_datasets
from alchemist_core.store.sample_table import SampleTable
from alchemist_core.store.samples import read_training_samples
from alchemist_core.store.subsets import VERSION_TEXT, SubsetRater, SubsetRow, choose_version, rater_of_subset
from alchemist_core.telemetry import warn


class EvaluateConfig(Config):
    """Which subset to measure, under which protocol."""

    subset: str = Field(..., description="Name of the subset whose arms are measured", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)
    evaluation: str | None = Field(
        None,
        description="Evaluation dataset; default: the one set by alchemist dataset set-default, else the one that was registered first",
    )
    protocol: Annotated[str, Formerly("contract"), Located(suffix=".toml")] = Field(
        "heldout_loss",
        description="Evaluation protocols, separated by commas: heldout_loss (nats per token), heldout_flow_loss (FLUX-mini), another "
        "shipped protocol (average_mjhq, clean_fid_mjhq, clip_score_mjhq, fid_mjhq, fid_mjhq_categories, fid_mjhq_flux, "
        "image_text_offline, kid_offline), or a .toml file",
    )
    weights: Path | None = Field(
        None,
        description="File or folder with the weights of the network that the metric uses (such as InceptionV3), if no "
        "installed package contains them; default: [evaluation.PROTOCOL] weights of the project file",
    )


class EvaluateResult(Result):
    """Mean of the metric for each arm over its seeds, of models that were trained alike."""

    subset: str
    protocol_id: int
    metric: str
    n_measured: int
    n_reused: int
    means: dict[str, float]
    n_trained_otherwise: int | None = None
    """Models of the version that are in no mean, because the means are of one training; None if there are none."""
    others: list["EvaluateResult"] = Field(default_factory=list)
    """Results under the other protocols, if several were given."""

    def summary(self) -> str:
        """Return the result under each protocol."""
        each = [one.model_copy(update={"others": None}) for one in (self, *self.others)]
        return "\n\n".join(map(Result.summary, each))


def run(config: EvaluateConfig, *, slot: int = 0) -> EvaluateResult:
    """Measure every trained arm of a subset that has no value under a protocol yet; each protocol is a run of its own."""
    first, *others = [
        execute("evaluate", one, partial(evaluate, one), EvaluateResult, slot=slot) for one in split_protocols(config)
    ]
    return first.model_copy(update={"others": others})


def split_protocols(config: EvaluateConfig) -> list[EvaluateConfig]:
    """Return a config for each protocol, with the weights that the project file names for it unless weights are given.

    Raises:
        ConfigError: Weights are given for several protocols.
    """
    names = split_commas(config.protocol) or (config.protocol,)
    if len(names) > 1 and config.weights is not None:
        raise ConfigError(
            f"--weights {config.weights} can belong to one protocol only, and --protocol names {len(names)}. Name the weights of each "
            "in alchemist.toml, as weights in [evaluation.PROTOCOL], or evaluate the protocols one by one."
        )
    project = load_project()
    given = {name: config.weights or project.files_of(name).get("weights") for name in names}
    return [
        config.model_copy(update={"protocol": name, "weights": None if weights is None else Path(weights)})
        for name, weights in given.items()
    ]


def evaluate(config: EvaluateConfig, stage_run: StageRun) -> EvaluateResult:
    """Pin the protocol, measure the models without a value, and average the values of each arm."""
    engine, file = stage_run.engine, read_protocol(config.protocol)
    make_metric = find_metric(file)
    subset = choose_version(engine, config.subset, version=config.version)
    rater = rater_of_subset(engine, subset)
    metric = make_metric(_prepare_bench(config, stage_run, rater), file)
    is_flux = metric.sampler == "flow"
    trained = models.models_to_compare(engine, subset.subset_id, rater.name, is_flux=is_flux)
    if not trained:
        raise ConfigError(
            f"No {'FLUX-mini' if is_flux else 'model'} was trained on {subset.title} yet. "
            f"Run {train_downstream_command(subset.name, config.version)} first."
        )
    protocol_id = store_protocol(stage_run, metric)
    n_measured = measure_missing(stage_run, metric, protocol_id, trained)
    return _average_arms(engine, subset, trained, protocol_id, metric=metric.title, n_measured=n_measured)


def store_protocol(stage_run: StageRun, metric: Metric) -> int:
    """Return the id of a metric's pinned protocol, which is stored on first use, once its network has been loaded.

    Raises:
        ConfigError: The protocol was stored before, and a condition differs.
        ConfigError: The protocol is used for the first time, and the weights are another network's.
    """
    engine, pinned = stage_run.engine, metric.pin()
    if metric.protocol_name is None:
        return models.store_protocol(engine, pinned)
    if isinstance(metric, ImageMetric) and models.find_named(engine, metric.protocol_name) is None:
        # A stored protocol never changes, so the hash of a wrong file would refuse the right one for ever.
        hold_device(stage_run)
        metric.load()
    return models.agree_on_protocol(engine, metric.protocol_name, pinned)


def measure_missing(stage_run: StageRun, metric: Metric, protocol_id: int, trained: Sequence[models.ModelRow]) -> int:
    """Measure and store the models that have no value yet; return how many this run measured."""
    engine, title = stage_run.engine, metric.title
    missing = _without_value(engine, metric, protocol_id, trained)
    if missing and metric.uses_device:
        hold_device(stage_run)
    done = 0
    for done, model in enumerate(_take_each(stage_run, metric, protocol_id, missing), 1):
        measured = metric.measure(model)
        models.store_values(
            engine,
            measured.values,
            model_id=model.model_id,
            protocol_id=protocol_id,
            n=measured.n,
            run_id=stage_run.run_id,
        )
        stage_run.report(done, len(missing), f"{model.arm} seed {model.seed}: {title} {measured.values[title]:.5g}")
    return done


def _take_each(
    stage_run: StageRun, metric: Metric, protocol_id: int, missing: Sequence[models.ModelRow]
) -> Iterator[models.ModelRow]:
    """Yield models one at a time, each reserved for this run; skip those that another run measured meanwhile."""
    for model in missing:
        with hold_resource(stage_run, f"value:{protocol_id}:{metric.title}:{model.model_id}"):
            if _without_value(stage_run.engine, metric, protocol_id, [model]):
                yield model


def _without_value(
    engine: Engine, metric: Metric, protocol_id: int, trained: Sequence[models.ModelRow]
) -> list[models.ModelRow]:
    measured = models.evaluated_models(engine, protocol_id, metric.title)
    return [model for model in trained if model.model_id not in measured]


def _prepare_bench(config: EvaluateConfig, stage_run: StageRun, rater: SubsetRater) -> Bench:
    engine = stage_run.engine

    def read_rows() -> SampleTable:
        dataset = evaluation_dataset(engine, config.evaluation)
        if rater.config.get("validation") == dataset.name:
            # An earlier version trained it.
            warn(
                f"Rater {rater.name} has learned from {dataset.name}, its validation dataset, so its selection fits the samples that "
                "measure it, and a gain shows nothing. Measure on another evaluation dataset, or train another rater."
            )
        return read_training_samples(engine, dataset.dataset_id)

    samples = EvaluationSamples(engine, read_rows, stage_run.report)
    return Bench(engine, rater, samples, config.weights, stage_run.report, partial(hold_resource, stage_run))


def evaluation_dataset(engine: Engine, name: str | None) -> DatasetRow:
    """Return the named evaluation dataset, or the default one.

    Raises:
        ConfigError: There is none, or the named dataset has another role: raters or models may have learned from it.
    """
    found = default_evaluation(engine) if name is None else find_dataset(engine, name)
    if found is None:
        raise ConfigError(
            "There is no evaluation dataset. Register one: alchemist ingest --dataset NAME --root FOLDER --role evaluation."
        )
    if found.role != "evaluation":
        known = ", ".join(row.name for row in list_datasets(engine, role="evaluation")) or "none"
        raise ConfigError(
            f"--evaluation {found.name}: its role is {found.role}, so raters or models may have learned from it. Only datasets of "
            f"role evaluation are allowed (registered: {known})."
        )
    return found


def _average_arms(
    engine: Engine,
    subset: SubsetRow,
    trained: Sequence[models.ModelRow],
    protocol_id: int,
    *,
    metric: str,
    n_measured: int,
) -> EvaluateResult:
    _announce_if_worse(engine, subset, protocol_id, metric)
    found = [
        row
        for row in models.read_evaluations(engine, [model.model_id for model in trained], protocol_id)
        if row.metric == metric
    ]
    alike = models.find_alike(engine, subset.subset_id, protocol_id, metric)
    values: dict[str, dict[int, float]] = {}
    for row in [row for row in found if row.model_id in alike] or found:
        values.setdefault(row.arm, {})[row.seed] = row.value
    return EvaluateResult(
        subset=subset.title,
        protocol_id=protocol_id,
        metric=metric,
        n_measured=n_measured,
        n_reused=len(trained) - n_measured,
        means={arm_title(arm): round(sum(each.values()) / len(each), 5) for arm, each in values.items()},
        n_trained_otherwise=len(found) - sum(map(len, values.values())) or None,
    )


def _announce_if_worse(engine: Engine, subset: SubsetRow, protocol_id: int, metric: str) -> None:
    """Notify people if the whole interval of the gain over random is below 0, once per version and protocol."""
    for row in read_comparisons(engine, subset.subset_id):
        is_asked = (row.arm, row.metric, row.protocol_id) == ("subset", metric, protocol_id)
        if not is_asked or row.gain_high is None or row.gain_high >= 0:
            continue
        event = Event(
            kind="worse_than_random",
            key=f"worse_than_random:{subset.subset_id}:{protocol_id}:{metric}",
            what_happened=f"{subset.title} is worse than a random subset of its size in {metric}: gain {row.gain:.4f}, "
            f"95% interval [{row.gain_low:.4f}, {row.gain_high:.4f}] over {row.n_common_seeds} common seeds.",
            where_to_look=explorer_page("subsets", subset.name, subset.version)
            or page_of_this_task("evaluationregression"),
            what_to_do=f"alchemist subset compare {shlex.quote(subset.name)} --version {subset.version}; to publish the version "
            f"before it: alchemist subset rollback {shlex.quote(subset.name)} --from {subset.version}; if this one must not be "
            f"read any more: alchemist subset withdraw {shlex.quote(subset.name)} --version {subset.version} --reason WHY",
            facts={"metric": metric, "mean": row.mean, "gain": row.gain, "seeds": row.n_common_seeds},
        )
        with engine.begin() as connection:
            announce(connection, event)


def _next(config: EvaluateConfig, _result: EvaluateResult) -> str:
    return f"alchemist subset compare {of_version(config.subset, config.version)}"


COMMANDS = {"": Command(EvaluateConfig, run, _next)}
