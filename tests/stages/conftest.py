"""Stages are tested on a small drawn corpus and a store that was trained once."""

from tests.object_store import endpoint, object_store
from tests.trained_store import copy_trained, corpus, ingest_corpus, trained_once, trained_store

__all__ = ["copy_trained", "corpus", "endpoint", "ingest_corpus", "object_store", "trained_once", "trained_store"]
