"""Stop what `alchemist up` (or the demo) started; data and logs stay."""

from alchemist_core.config import Command, Config
from alchemist_core.local.stack import down
from alchemist_core.settings import load_settings
from alchemist_core.telemetry import say


class DownConfig(Config):
    """Nothing to choose."""


def run(_config: DownConfig) -> None:
    """Stop Airflow, the exporter and the embedded Postgres."""
    down(load_settings().home.resolve())
    say("The stack is down. Its data stays; alchemist up brings it back.")


COMMANDS = {"": Command(DownConfig, run)}
