"""Scorers: everything that gives a sample a score. A scorer of your own is a subclass of `Scorer`."""

from alchemist_core.scorers.scorer import Batch, Scorer, ScorerUnavailableError

__all__ = ["Batch", "Scorer", "ScorerUnavailableError"]
