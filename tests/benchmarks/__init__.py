"""Benchmarks, which compute under the command line's defaults."""

from alchemist_core.compute_defaults import set_compute_defaults

set_compute_defaults()
