"""Stages are tested on a small synthetic corpus and a store with a trained rater."""

from tests.object_store import endpoint, object_store
from tests.trained_store import (
    copy_trained,
    corpus,
    ingest_corpus,
    modelled_once,
    modelled_store,
    published_once,
    published_store,
    scored_once,
    scored_store,
    trained_once,
    trained_store,
)

__all__ = [
    "copy_trained", "corpus", "endpoint", "ingest_corpus", "modelled_once", "modelled_store", "object_store", "published_once",
    "published_store", "scored_once", "scored_store", "trained_once", "trained_store",
]  # fmt: skip
