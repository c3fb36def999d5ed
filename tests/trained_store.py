"""A small synthetic corpus, and stores with the ingested corpus and a trained rater: made once per run, copied for each test."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import make_url

from alchemist_core.cli.rater import PromoteConfig, promote
from alchemist_core.cli.subset import PublishSubsetConfig, publish
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.settings import load_settings
from alchemist_core.stages.ingest import IngestConfig, IngestResult
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.stages.select import SelectConfig, SelectResult
from alchemist_core.stages.select import run as select
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_downstream import run as train_downstream
from alchemist_core.stages.train_rater import TrainRaterConfig
from alchemist_core.stages.train_rater import run as train_rater
from alchemist_core.store.engine import open_store
from tests.conftest import folder_of_run, once

PARTS = (("v", "validation", "validation"), ("t", "test", "evaluation"), ("scenes", "train", "train"))


@dataclass(frozen=True)
class TrainedStore:
    """A store with the corpus ingested and a rater in production, and the home of its artifacts."""

    url: str
    home: Path


def use_store(patch: pytest.MonkeyPatch, store: TrainedStore) -> None:
    """Let settings name this store."""
    patch.setenv("ALCHEMIST_DATABASE_URL", store.url)
    patch.setenv("ALCHEMIST_HOME", str(store.home))
    load_settings.cache_clear()


@pytest.fixture(scope="session")
def corpus() -> Path:
    """240 training scenes over two nights, 200 for validation, 64 for the test."""

    def make() -> str:
        root = folder_of_run("scenes")
        draw_scenes(root, n_train=240, n_validation=200, n_test=64, shard_size=40, side=32)
        return str(root)

    return Path(once("corpus", make))


@pytest.fixture
def ingest_corpus(corpus: Path, database_url: str) -> Callable[[], IngestResult]:
    """Ingest all three parts; returns the training part's report."""

    def run() -> IngestResult:
        for name, part, role in PARTS:
            report = ingest(IngestConfig.model_validate({"dataset": name, "root": str(corpus / part), "role": role}))
        return report

    return run


@contextmanager
def used(store: TrainedStore) -> Iterator[None]:
    """Use a store, and close the connections to it, so that its database can be copied."""
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, store)
        yield
        open_store().dispose()
    load_settings.cache_clear()


def copy_store(store: TrainedStore, make_database: Callable[..., str], home: Path) -> TrainedStore:
    shutil.copytree(store.home, home)
    return TrainedStore(make_database(template=make_url(store.url).database), home)


def store_once(name: str, make: Callable[[Path], TrainedStore]) -> TrainedStore:
    """Return the store that was made in a home of this name, once per test run."""

    def made() -> str:
        store = make(folder_of_run(name))
        return f"{store.url}\n{store.home}"

    url, home = once(name, made).splitlines()
    return TrainedStore(url, Path(home))


@pytest.fixture(scope="session")
def trained_once(make_database: Callable[..., str], corpus: Path) -> TrainedStore:
    """Trained once a run, to be copied: a few steps, enough to give different scores."""

    def make(home: Path) -> TrainedStore:
        with used(store := TrainedStore(make_database(), home)):
            for name, part, role in PARTS:
                ingest(IngestConfig.model_validate({"dataset": name, "root": str(corpus / part), "role": role}))
            training = {"proxy_warmup_steps": 20, "max_train_steps": 20, "batch_size": 32}
            train_rater(TrainRaterConfig.model_validate({"dataset": "scenes", "validation": "v", "training": training}))
            promote(PromoteConfig(without_acceptance="a few steps, for tests"))
        return store

    return store_once("trained", make)


@pytest.fixture(scope="session")
def scored_once(make_database: Callable[..., str], trained_once: TrainedStore) -> TrainedStore:
    """The trained store with scores and selectable nights, made once a run, to be copied."""

    def make(home: Path) -> TrainedStore:
        with used(store := copy_store(trained_once, make_database, home)):
            make_selectable()
        return store

    return store_once("scored", make)


@pytest.fixture(scope="session")
def published_once(make_database: Callable[..., str], scored_once: TrainedStore) -> TrainedStore:
    """The scored store with the published subset s, made once a run, to be copied."""

    def make(home: Path) -> TrainedStore:
        with used(store := copy_store(scored_once, make_database, home)):
            select_subset()
            publish(PublishSubsetConfig(name="s"))
        return store

    return store_once("published", make)


@pytest.fixture(scope="session")
def modelled_once(make_database: Callable[..., str], published_once: TrainedStore) -> TrainedStore:
    """The published store with a model of the subset and one of a random subset, made once a run, to be copied."""

    def make(home: Path) -> TrainedStore:
        with used(store := copy_store(published_once, make_database, home)):
            given = {"subset": "s", "arms": "subset,random", "model": {"num_train_epochs": 1, "batch_size": 32}}
            train_downstream(TrainDownstreamConfig.model_validate(given))
        return store

    return store_once("modelled", make)


@pytest.fixture
def copy_trained(
    trained_once: TrainedStore, make_database: Callable[..., str], tmp_path: Path
) -> Callable[[], TrainedStore]:
    """Make copies of the trained store."""
    return lambda: copy_store(trained_once, make_database, tmp_path / f"home-{len(list(tmp_path.glob('home-*')))}")


@pytest.fixture
def trained_store(copy_trained: Callable[[], TrainedStore], monkeypatch: pytest.MonkeyPatch) -> TrainedStore:
    """A copy of the trained store that this process's settings name."""
    store = copy_trained()
    use_store(monkeypatch, store)
    return store


@pytest.fixture
def scored_store(
    scored_once: TrainedStore, make_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainedStore:
    """A copy of the scored store that this process's settings name."""
    store = copy_store(scored_once, make_database, tmp_path / "home-0")
    use_store(monkeypatch, store)
    return store


@pytest.fixture
def published_store(
    published_once: TrainedStore, make_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainedStore:
    """A copy of the store with the published subset s, which this process's settings name."""
    store = copy_store(published_once, make_database, tmp_path / "home-0")
    use_store(monkeypatch, store)
    return store


@pytest.fixture
def modelled_store(
    modelled_once: TrainedStore, make_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainedStore:
    """A copy of the store with models of s and of a random subset, which this process's settings name."""
    store = copy_store(modelled_once, make_database, tmp_path / "home-0")
    use_store(monkeypatch, store)
    return store


def make_selectable() -> None:
    """Score the corpus, and publish its nights, so that their samples can be selected."""
    score(ScoreConfig(dataset="scenes"))
    publish_night(PublishNightConfig(dataset="scenes"))


def select_subset(name: str = "s", retention: float | str = 0.5, **policy: object) -> SelectResult:
    """Select a version of a subset of the corpus."""
    given = {"retention": retention, **policy}
    return select(SelectConfig.model_validate({"dataset": "scenes", "name": name, "policy": given}))
