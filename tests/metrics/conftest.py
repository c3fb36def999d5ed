"""Protocols are tested on a store with a trained rater."""

import pytest

from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_downstream import run as train_downstream
from tests.trained_store import (
    TrainedStore,
    copy_trained,
    corpus,
    scored_once,
    scored_store,
    select_subset,
    trained_once,
    trained_store,
)

__all__ = ["copy_trained", "corpus", "scored_once", "scored_store", "trained_once", "trained_store"]


@pytest.fixture
def trained_arms(scored_store: TrainedStore) -> list[str]:
    """The identities of a subset's model and its control's, a step each."""
    select_subset()
    given = {"subset": "s", "arms": "subset,random", "model": {"max_train_steps": 1, "batch_size": 32}}
    return train_downstream(TrainDownstreamConfig.model_validate(given)).identities
