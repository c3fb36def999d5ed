"""Evaluation protocols: what two values of a metric must share to be comparable. One TOML file per shipped protocol."""
