"""Metrics of trained models: held-out losses, and metrics of generated images."""
