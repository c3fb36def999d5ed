"""Computations on a device: rater training, scoring, downstream training. Only this package imports accelerate."""
