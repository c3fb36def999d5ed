"""One seed of an experiment: its corpus and its raters, made by the stages or found again."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from alchemist_core.config import fingerprint
from alchemist_core.data.artifacts import artifact_path
from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import RATERS
from alchemist_core.experiments.config import TrialsConfig
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.settings import load_settings
from alchemist_core.stages import ingest, score, train_rater
from alchemist_core.stages.evaluate import evaluation_dataset
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.telemetry import say
from alchemist_core.verbs.publish import PublishNightConfig, publish_night

_PARTS = (("", "train", "train"), ("-validation", "validation", "validation"), ("-test", "test", "evaluation"))


class Trial:
    """Names of a seed's datasets, and its raters."""

    def __init__(self, config: TrialsConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.dataset = self._name(config.dataset, "")
        self.validation = self._name(config.validation, "-validation")
        self.evaluation = self._name(config.evaluation, "-test")

    @property
    def truth(self) -> Path | None:
        """The file that says what each pair is worth."""
        if self.config.truth is not None:
            return Path(self.config.truth.format(seed=self.seed))
        return self._root / "truth.parquet" if self.config.dataset is None else None

    def prepare(self) -> None:
        """Draw and register the corpus, where scenes are drawn; what is there already is found again."""
        if self.config.dataset is not None:
            return
        drawn = draw_scenes(self._root, **self.config.scenes_of(self.seed).model_dump())
        say(f"seed {self.seed}: {drawn.n_train:,} scenes {'found' if drawn.is_reused else 'drawn'} in {self._root}")
        for suffix, part, role in _PARTS:
            root = str((self._root / part).resolve())
            given = {"dataset": f"{self._drawn_name}{suffix}", "root": root, "role": role}
            ingest.run(ingest.IngestConfig.model_validate(given))

    def rater(self, kind: str) -> RaterRow:
        """Return this seed's rater of a kind, trained, and with every pair of the corpus scored and selectable.

        Raises:
            ConfigError: One rater was named for every seed, and it is not of this kind.
        """
        if self.config.rater is not None:
            return _require_rater(self.config.rater, kind)
        training = self.config.training_of(kind, self.seed)
        trained = train_rater.run(
            train_rater.TrainRaterConfig(dataset=self.dataset, validation=self.validation, training=training)
        )
        score.run(score.ScoreConfig(dataset=self.dataset, rater=trained.rater))
        publish_night(PublishNightConfig(dataset=self.dataset, rater=trained.rater))
        return _require_rater(trained.rater, kind)

    def _name(self, given: str | None, suffix: str) -> str:
        return f"{self._drawn_name}{suffix}" if given is None else given.format(seed=self.seed)

    @property
    def _drawn_name(self) -> str:
        # What is drawn is part of the name: another size is another dataset.
        drawn = self.config.scenes_of(0).model_dump()
        return f"scenes-{fingerprint(drawn)[:6]}-s{self.seed}"

    @property
    def _root(self) -> Path:
        return load_settings().home.resolve() / "corpora" / self._drawn_name


def require_evaluation(config: TrialsConfig, seeds: Iterable[int]) -> None:
    """Refuse a named evaluation dataset that models may have learned from, before anything is trained.

    Raises:
        ConfigError: A seed's dataset is not registered, or its role is not evaluation.
    """
    if config.evaluation is not None:
        for name in {Trial(config, seed).evaluation for seed in seeds}:
            evaluation_dataset(open_store(), name)


def _require_rater(name: str, kind: str) -> RaterRow:
    rater = find_rater(open_store(), name)
    if rater is None:
        raise ConfigError(f"--rater {name}: there is none. Leave it out to have one trained for every seed.")
    if rater.rule != RATERS[kind]["rule"]:
        raise ConfigError(f"--rater {rater.name} is of rule {rater.rule}: it cannot rank arms of {kind!r}.")
    return rater


def tokenizer_sha256(rater: RaterRow) -> bytes:
    """Hash the tokenizer of a rater: losses under two raters can be compared where it is the same."""
    with (artifact_path(rater.checkpoint_uri) / "tokenizer.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
