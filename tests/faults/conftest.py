"""Fault tests run on copies of a store with a trained rater."""

from tests.trained_store import copy_trained, corpus, trained_once, trained_store

__all__ = ["copy_trained", "corpus", "trained_once", "trained_store"]
