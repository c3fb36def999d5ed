"""Stages are tested on a small drawn corpus and a store that was trained once."""

from tests.drawn_versions import pool
from tests.trained_store import copy_trained, corpus, ingest_corpus, trained_once, trained_store

__all__ = ["copy_trained", "corpus", "ingest_corpus", "pool", "trained_once", "trained_store"]
