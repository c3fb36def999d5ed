"""Commands are tested on a small synthetic corpus and a store with a trained rater."""

from tests.drawn_versions import pool
from tests.trained_store import (
    copy_trained,
    corpus,
    ingest_corpus,
    scored_once,
    scored_store,
    trained_once,
    trained_store,
)

__all__ = [
    "copy_trained", "corpus", "ingest_corpus", "pool", "scored_once", "scored_store", "trained_once", "trained_store",
]  # fmt: skip
