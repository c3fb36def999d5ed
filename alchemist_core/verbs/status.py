"""Show what of the local stack runs, and where."""

from alchemist_core.command import Command
from alchemist_core.config import Config
from alchemist_core.local.stack import status
from alchemist_core.settings import load_settings
from alchemist_core.telemetry import say


class StatusConfig(Config):
    """Nothing to choose."""


def run(_config: StatusConfig) -> None:
    """Print address, login and processes."""
    say(status(load_settings().home.resolve()).describe())


COMMANDS = {"": Command(StatusConfig, run)}
