"""Experiments run on the small synthetic corpus and a store with a production rater, scores and a selectable night."""

from tests.trained_store import copy_trained, corpus, scored_once, scored_store, trained_once, trained_store

__all__ = ["copy_trained", "corpus", "scored_once", "scored_store", "trained_once", "trained_store"]
