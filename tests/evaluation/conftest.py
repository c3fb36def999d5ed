"""Contracts are agreed on in a store that was trained once."""

from tests.trained_store import copy_trained, corpus, trained_once, trained_store

__all__ = ["copy_trained", "corpus", "trained_once", "trained_store"]
