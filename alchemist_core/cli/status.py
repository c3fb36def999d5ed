"""Show what of the local stack runs, and where; and which run holds which device."""

from pathlib import Path

from alchemist_core.config import Command, Config
from alchemist_core.local.stack import status
from alchemist_core.settings import load_settings
from alchemist_core.stages.devices import describe_held_devices
from alchemist_core.store.engine import DatabaseError, database_url, make_engine
from alchemist_core.store.postgres import is_running
from alchemist_core.telemetry import say


class StatusConfig(Config):
    """Nothing to choose."""


def run(_config: StatusConfig) -> None:
    """Print address, login and processes, then the devices that are in use."""
    home = load_settings().home.resolve()
    say(status(home).describe())
    for line in _describe_devices(home):
        say(line)


def _describe_devices(home: Path) -> list[str]:
    """Return a line for each held device; none where no server answers: looking starts nothing."""
    if load_settings().database_url is None and not is_running(home):
        return []
    engine = make_engine(database_url())
    try:
        return describe_held_devices(engine)
    except DatabaseError:
        return []
    finally:
        engine.dispose()


COMMANDS = {"": Command(StatusConfig, run)}
