"""One seed of an experiment: its corpus, its raters, and its measured arms, made by the stages or reused from the store."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from alchemist_core.config import fingerprint, former_names
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.experiments.arms import RATERS, Arm
from alchemist_core.experiments.clusters import ClusterConfig, cluster_corpus, find_user_clusters
from alchemist_core.experiments.config import TrialsConfig, for_seed
from alchemist_core.experiments.method_scores import MethodConfig, methods_among, score_by_method
from alchemist_core.experiments.scores import score_dataset
from alchemist_core.files import artifact_path, file_sha256
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.metrics.heldout import HeldoutLoss
from alchemist_core.project import load_project
from alchemist_core.report.arm_names import ORACLE, arm_title
from alchemist_core.selection.config import SelectionPolicy, policy_spec
from alchemist_core.selection.fusion import JOIN, signals_of
from alchemist_core.settings import load_settings
from alchemist_core.stages import evaluate, ingest, score, select, train_downstream, train_rater
from alchemist_core.stages.evaluate import evaluation_dataset
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.store.datasets import count_shared_images
from alchemist_core.store.engine import create_store, open_store
from alchemist_core.store.export import score_name
from alchemist_core.store.models import find_model, read_evaluations
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.subsets import find_by_id
from alchemist_core.telemetry import say, warn
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig

_PARTS = (("", "train", "train"), ("-validation", "validation", "validation"), ("-test", "test", "evaluation"))


class Trial:
    """The datasets and raters of one seed.

    Args:
        config: Corpora and recipes.
        seed: The seed.
        kinds: Kinds of raters whose losses are compared: all are fitted to as many samples as the longest of their trainings reads.
    """

    def __init__(self, config: TrialsConfig, seed: int, kinds: Iterable[str] = ()) -> None:
        self.config, self.seed = config, seed
        self._n_read = max((config.training_of(kind, seed).n_read for kind in kinds), default=0)
        self._trained: RaterRow | None = None
        self.dataset = self._name(config.dataset, "")
        # Methods learn from it, too: with a named rater from what that one has learned from.
        self.validation = self._name(config.validation or _validation_of(config.rater), "-validation")
        self.evaluation = self._name(config.evaluation, "-test")
        # Names of stored scores by the methods and the kinds of raters of the arms.
        self.stored_names: dict[str, str] = {}

    @property
    def truth(self) -> Path | None:
        """The Parquet file with the kind of each sample."""
        if self.config.truth is not None:
            return Path(for_seed(self.config.truth, self.seed))
        return self._root / "truth.parquet" if self.config.dataset is None else None

    def prepare(self) -> None:
        """Generate and register the synthetic corpus, if no dataset is named; an existing one is reused."""
        if self.config.dataset is not None:
            return
        drawn = draw_scenes(self._root, **self.config.scenes_of(self.seed).model_dump())
        say(
            f"seed {self.seed}: {drawn.n_train:,} scenes {'reused from' if drawn.is_reused else 'generated in'} {self._root}"
        )
        for suffix, part, role in _PARTS:
            root = str((self._root / part).resolve())
            given = {"dataset": f"{self._drawn_name}{suffix}", "root": root, "role": role}
            ingest.run(ingest.IngestConfig.model_validate(given))

    def rater(self, kind: str) -> RaterRow:
        """Return this seed's trained rater of a kind; all samples of the corpus are scored and selectable afterwards.

        Raises:
            ConfigError: The config names one rater for every seed, and it has another rule.
            DataError: It has another tokenizer than this seed's first rater.
        """
        if self.config.rater is not None:
            return _require_rater(self.config.rater, kind)
        trained = train_rater.run(self._rater_config(kind))
        self._require_one_tokenizer(_require_rater(trained.rater, kind))
        score.run(score.ScoreConfig(dataset=self.dataset, rater=trained.rater))
        publish_night(PublishNightConfig(dataset=self.dataset, rater=trained.rater))
        return _require_rater(trained.rater, kind)

    def find_rater(self, kind: str) -> RaterRow | None:
        """Return this seed's rater of a kind, if it was trained before.

        Raises:
            ConfigError: A dataset is not registered, or the config names a rater of another rule.
        """
        if self.config.rater is not None:
            return _require_rater(self.config.rater, kind)
        return train_rater.find_trained(open_store(), self._rater_config(kind))

    def _rater_config(self, kind: str) -> train_rater.TrainRaterConfig:
        training = self.config.training_of(kind, self.seed)
        # A tokenizer that is given does not depend on the samples.
        is_fitted = training.tokenizer_weights is None
        least = self._n_read if is_fitted and self._n_read > training.n_read else None
        return train_rater.TrainRaterConfig(
            dataset=self.dataset, validation=self.validation, least_samples=least, training=training
        )

    def _require_one_tokenizer(self, rater: RaterRow) -> None:
        first = self._trained = self._trained or rater
        if tokenizer_sha256(first) != tokenizer_sha256(rater):
            raise DataError(
                f"Raters {first.name} and {rater.name} have different tokenizers, so losses under them cannot be compared. Has dataset "
                f"{self.dataset} changed since the first was trained? Run it again while nothing is ingested."
            )

    def score_by(self, names: Sequence[str], rater: RaterRow) -> None:
        """Give the corpus the scores that arms rank by; those of methods and of raters have a name of their own for each corpus.

        Args:
            names: Scores, methods and kinds of raters.
            rater: The rater whose scores a method may read.
        """
        chosen = methods_among(names)
        kinds = [name for name in names if name in RATERS]
        score_dataset(self.dataset, [name for name in names if name not in (*chosen, *kinds)])
        self.stored_names |= {kind: score_name(self.rater(kind).name) for kind in kinds}
        for method in chosen:
            self.stored_names[method] = score_by_method(self.method_config(method, rater))

    def method_config(self, method: str, rater: RaterRow) -> MethodConfig:
        """Return the config by which a method scores the corpus."""
        return MethodConfig(
            method=method, dataset=self.dataset, validation=self.validation, rater=rater.name, seed=self.seed,
            resolution=self.config.method_resolution,
        )  # fmt: skip

    def stored_policy(self, policy: dict[str, Any]) -> dict[str, Any]:
        """Return a policy with the names under which the scores of methods and raters are stored, and the scorer of its clusters."""
        if "rank_by" in policy:
            names = [self.stored_names.get(name, name) for name in signals_of(policy["rank_by"])]
            policy = policy | {"rank_by": JOIN.join(names)}
        options = SelectionPolicy.model_validate(policy)
        if not options.eligible_options().needs_comparison or options.semantic_scorer is not None:
            return policy
        return policy | {"semantic_scorer": self._clusters()}

    def _clusters(self) -> str:
        """Return the scorer whose clusters all samples have: a user's, for a dataset of theirs, else one that is made for it."""
        if self.config.dataset == self.dataset and (scorer := find_user_clusters(self.dataset)) is not None:
            return scorer
        given = {"dataset": self.dataset, "resolution": self.config.method_resolution}
        return cluster_corpus(ClusterConfig.model_validate(given))

    def training_seeds(self) -> tuple[int, ...]:
        """Return the seeds of the models that each arm trains.

        >>> Trial(TrialsConfig(trainings=3), 7).training_seeds()
        (7, 1000007, 2000007)
        """
        return tuple(self.seed + number * 1_000_000 for number in range(self.config.trainings))

    def _name(self, given: str | None, suffix: str) -> str:
        return f"{self._drawn_name}{suffix}" if given is None else for_seed(given, self.seed)

    @property
    def _drawn_name(self) -> str:
        # The generator's config is part of the name: another size is another dataset.
        drawn = self.config.scenes_of(0).model_dump()
        return f"scenes-{fingerprint(drawn)[:6]}-s{self.seed}"

    @property
    def _root(self) -> Path:
        return load_settings().home.resolve() / "corpora" / self._drawn_name


def create_for_scenes(config: TrialsConfig) -> None:
    """Create a missing store for synthetic scenes; a dataset that is given must already be in one."""
    if config.dataset is None:
        create_store()


def require_evaluation(config: TrialsConfig, seeds: Iterable[int]) -> None:
    """Refuse an evaluation dataset that raters or models may have learned from, before anything is trained.

    Raises:
        ConfigError: A seed's dataset is not registered, or its role is not evaluation, or it is the validation dataset, too.
    """
    if config.evaluation is not None:
        for name, validation in {
            (trial.evaluation, trial.validation) for trial in (Trial(config, seed) for seed in seeds)
        }:
            evaluation_dataset(open_store(), name)
            if validation == name:
                raise ConfigError(
                    f"--validation and --evaluation are both {name}: raters and methods would learn from the samples that measure them. "
                    "Give two datasets."
                )


def warn_of_shared_evaluation(config: TrialsConfig, choosing: Sequence[int], reporting: Sequence[int]) -> None:
    """Say what an interval does not contain where the same evaluation images choose a setting and report on it.

    Args:
        config: Its evaluation datasets are registered.
        choosing: Seeds that choose the setting.
        reporting: Seeds that report; the same ones where each reports what the others chose.
    """
    if config.evaluation is None:
        return
    if "{seed}" not in config.evaluation:
        warn(
            f"All seeds are measured on {config.evaluation}: the samples that choose also report, and the interval covers only the chance "
            "of the training. Confirm the result on another evaluation dataset."
        )
        return
    engine = open_store()
    keys = [
        [find_dataset(engine, Trial(config, seed).evaluation).dataset_id for seed in seeds]
        for seeds in (choosing, reporting)
    ]
    n_shared, n_images = count_shared_images(engine, *keys)
    if n_shared:
        others = "another of them" if choosing == reporting else _name_seeds(choosing)
        warn(
            f"{n_shared:,} of {n_images:,} evaluation images of {_name_seeds(reporting)} are also evaluation images of {others}: the "
            "images that choose also report, and no interval over seeds contains that. Confirm the result on other images."
        )


def _name_seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def warn_of_unread_sections(config: TrialsConfig) -> None:
    """Say which sections of the project file change nothing here, because the user may expect the models of the project's own commands."""
    project = load_project()
    unread = [
        f"[{name}]"
        for name, options, is_told in (
            ("rater", project.rater, bool(config.training) or config.rater is not None),
            ("downstream", project.downstream, bool(config.model)),
        )
        if options and not is_told
    ]
    if config.dataset is not None and unread:
        warn(
            f"{' and '.join(unread)} of {project.path} {'are' if len(unread) > 1 else 'is'} not read here: raters and models are trained "
            f"with preset {config.preset} and with the options in --training and --model."
        )


def require_arms(config: TrialsConfig, arms: Iterable[Arm]) -> None:
    """Refuse arms that the corpus or the named rater cannot have, before anything is trained.

    Raises:
        ConfigError: An oracle arm lacks its truth file, or an arm has another scoring rule or kind of rater than the named one.
    """
    for arm in arms:
        if arm.trains.partition("+")[0] == ORACLE and config.dataset is not None and config.truth is None:
            raise ConfigError(
                f"Arm {arm_title(arm.word)} requires --truth FILE, which lists the kind of each sample, such as the truth.parquet of a "
                "synthetic corpus. Give it, or omit the arm."
            )
        for kind in arm.raters if config.rater is not None else ():
            _require_rater(str(config.rater), kind)


def named_rule(config: TrialsConfig) -> str | None:
    """Return the scoring rule of the rater that the config names: its kind in `RATERS`; None if it names none."""
    rater = None if config.rater is None else find_rater(open_store(), config.rater)
    return rater.rule if rater is not None and rater.rule in RATERS else None


def _validation_of(name: str | None) -> str | None:
    """Return the validation dataset of the rater that a config names; None if it names none."""
    rater = None if name is None else find_rater(open_store(), name)
    return None if rater is None else rater.config.get("validation")


def _require_rater(name: str, kind: str) -> RaterRow:
    rater = find_rater(open_store(), name)
    if rater is None:
        raise ConfigError(f"--rater {name} does not exist. Omit --rater to train one for every seed.")
    if rater.rule != RATERS[kind]["rule"]:
        remedy = f"Name arms of {rater.rule}, such as {rater.rule}/auto, or omit" if rater.rule in RATERS else "Omit"
        raise ConfigError(
            f"--rater {rater.name} has the scoring rule {rater.rule}: it cannot rank arms of {kind!r}. {remedy} --rater to train one for "
            "every seed."
        )
    trained = RaterTrainingConfig.from_stored(rater.config["training"])
    for option, wanted in RATERS[kind].items():
        if option != "rule" and (own := getattr(trained, option)) != wanted:
            raise ConfigError(
                f"--rater {rater.name} was trained with {option} {own}, not {wanted}: it cannot rank arms of {kind!r}. Omit these arms, "
                "or omit --rater to train one for every seed."
            )
    return rater


def tokenizer_sha256(rater: RaterRow) -> bytes:
    """Hash the tokenizer of a rater: losses under two raters are comparable only if it is the same."""
    return file_sha256(artifact_path(rater.checkpoint_uri) / "tokenizer.safetensors")


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm at one retention under one seed, measured."""

    arm: str
    retention: float
    seed: int
    n_samples: int
    n_steps: int
    # Nats per token on the evaluation dataset; lower is better.
    loss: float
    # Multiple of the experiment's epochs; each length has a schedule of its own.
    length: float = 1.0
    # The loss of each of several trainings, whose mean is the loss; empty for one.
    losses: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return {name: value for name, value in asdict(self).items() if name != "losses" or value}


def subset_of(
    trial: Trial, policy: dict[str, Any], rater: RaterRow, *, retention: float
) -> tuple[SelectionPolicy, str]:
    """Return the selection policy of an arm, and the name of its subset."""
    given = SelectionPolicy.model_validate({"retention": retention, **trial.stored_policy(policy), "seed": trial.seed})
    # The name contains the spec of the members, so that experiments share the subset of an equal arm.
    spec = policy_spec(given, given.resolve(rater.rule))
    hashed = fingerprint([rater.name, former_names(SelectionPolicy, spec)])[:8]
    return given, f"{trial.dataset}-{given.strategy}-r{retention * 100:g}-{hashed}"


def measure_cell(
    trial: Trial, arm: Arm, policy: dict[str, Any], rater: RaterRow, *, retention: float, model: DownstreamConfig
) -> Cell:
    """Select, train and evaluate one arm.

    Args:
        trial: The seed.
        arm: The arm.
        policy: The selection policy's fields, `auto` resolved.
        rater: The rater whose ranks are used.
        retention: Retention, 0-1.
        model: Training config of every arm.
    """
    given, name = subset_of(trial, policy, rater, retention=retention)
    selected = select.run(select.SelectConfig(dataset=(trial.dataset,), name=name, rater=rater.name, policy=given))
    if arm.scores and (n_unscored := selected.n_removed.get("unscored")):
        warn(
            f"{trial.dataset}: {n_unscored:,} samples have no score {' or '.join(arm.scores)}, so arm {arm.word} selects from "
            "fewer samples."
        )
    trained = train_downstream.run(
        train_downstream.TrainDownstreamConfig(
            subset=name,
            version=selected.version,
            arms=(arm.trains,),
            seeds=trial.training_seeds(),
            truth=trial.truth,
            model=model,
        )
    )
    cells = [
        _evaluate(trial, arm, retention, identity, beside=(name, selected.version)) for identity in trained.identities
    ]
    if len(cells) == 1:
        return cells[0]
    losses = tuple(cell.loss for cell in cells)
    return replace(cells[0], loss=fmean(losses), losses=losses)


def _evaluate(trial: Trial, arm: Arm, retention: float, identity: str, *, beside: tuple[str, int | None]) -> Cell:
    engine = open_store()
    model = find_model(engine, identity)
    assert model is not None
    # A model of the same members may have been trained for a subset of another name: it is measured there.
    if model.subset_id is not None:
        subset = find_by_id(engine, model.subset_id)
        beside = subset.name, subset.version
    measured = evaluate.run(evaluate.EvaluateConfig(subset=beside[0], version=beside[1], evaluation=trial.evaluation))
    rows = read_evaluations(engine, [model.model_id], measured.protocol_id)
    losses = [float(row.value) for row in rows if row.metric == HeldoutLoss.title]
    if len(losses) != 1:
        raise DataError(
            f"Model {identity} of arm {arm.word}, seed {trial.seed}, has {len(losses)} held-out losses under protocol "
            f"{measured.protocol_id}, not 1. Run the experiment again."
        )
    return Cell(arm.word, retention, trial.seed, model.n_samples, model.n_steps, losses[0])
