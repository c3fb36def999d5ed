"""Alchemist: decides which images a text-to-image model should learn from."""

__version__ = "0.2.0"
