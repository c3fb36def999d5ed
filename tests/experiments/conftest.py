"""Experiments run on the small synthetic corpus and a store with a production rater, scores and a selectable night."""

import pytest

from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from tests.trained_store import TrainedStore, copy_trained, corpus, trained_once, trained_store

__all__ = ["copy_trained", "corpus", "trained_once", "trained_store"]


@pytest.fixture
def scored_store(trained_store: TrainedStore) -> TrainedStore:
    score(ScoreConfig(dataset="scenes"))
    publish_night(PublishNightConfig(dataset="scenes"))
    return trained_store
