"""Evaluation: what a ranking and a subset are worth, as pure functions of arrays."""
