"""Experiments run on the small synthetic corpus and a store with a production rater, scores and a selectable night."""

import pytest

from tests.trained_store import TrainedStore, copy_trained, corpus, make_selectable, trained_once, trained_store

__all__ = ["copy_trained", "corpus", "trained_once", "trained_store"]


@pytest.fixture
def scored_store(trained_store: TrainedStore) -> TrainedStore:
    make_selectable()
    return trained_store
