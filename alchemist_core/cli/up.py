"""Start the local stack: embedded Postgres, Airflow and the metrics exporter, on loopback, supervised."""

from alchemist_core.config import Command, Config
from alchemist_core.local.stack import up
from alchemist_core.settings import load_settings
from alchemist_core.telemetry import say


class UpConfig(Config):
    """Nothing to choose: settings say where."""


def run(_config: UpConfig) -> None:
    """Start the stack and wait until Airflow schedules; a running one is reused."""
    say(up(load_settings().home.resolve()).describe())


COMMANDS = {"": Command(UpConfig, run)}
