"""What only a GPU can show, in parts: `python -m tests.gpu --help`. They compute under the command line's defaults."""

from alchemist_core.compute_defaults import set_compute_defaults

set_compute_defaults()
