"""Print the end of one process's log of the local stack."""

from pydantic import Field

from alchemist_core.config import BARE_WORD, Command, Config
from alchemist_core.local.stack import logs
from alchemist_core.settings import load_settings
from alchemist_core.telemetry import say


class LogsConfig(Config):
    """Whose log."""

    process: str = Field(
        "scheduler", description="Process of the stack, as alchemist status names it", json_schema_extra=BARE_WORD
    )
    lines: int = Field(100, ge=1, le=100_000, description="Lines from the end")


def run(config: LogsConfig) -> None:
    """Print the end of a log."""
    say(logs(load_settings().home.resolve(), config.process, n_lines=config.lines))


COMMANDS = {"": Command(LogsConfig, run)}
