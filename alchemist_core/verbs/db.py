"""The store itself: start and stop the embedded server, print its URL, open psql, migrate, take the checksum, back up, restore."""

import os
from urllib.parse import unquote, urlsplit

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report
from alchemist_core.errors import ConfigError
from alchemist_core.local.postgres import psql_path, start_postgres, stop_postgres
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import database_url
from alchemist_core.telemetry import say
from alchemist_core.verbs.db_backup import BackupConfig, RestoreConfig, backup, restore


class NoConfig(Config):
    """Nothing to choose."""


class PsqlConfig(Config):
    """What psql gets."""

    arguments: list[str] = Field(
        default_factory=list, description="Everything after `psql` is psql's own, for example -c 'SELECT 1'"
    )


class UrlReport(Report):
    """Where the store is."""

    url: str

    def summary(self) -> str:
        """Return the bare URL, for use in a shell."""
        return self.url


class ChecksumReport(Report):
    """The data's checksum."""

    checksum: str

    def summary(self) -> str:
        """Return the bare checksum."""
        return self.checksum


def start(_config: NoConfig) -> UrlReport:
    """Start the embedded server (a no-op when it runs) and print its URL."""
    _require_embedded()
    return UrlReport(url=start_postgres(load_settings().home).url())


def stop(_config: NoConfig) -> None:
    """Stop the embedded server; its data stays."""
    _require_embedded()
    stop_postgres(load_settings().home)
    say("The embedded Postgres is stopped; alchemist db start brings it back.")


def url(_config: NoConfig) -> UrlReport:
    """Print the libpq URL of the store."""
    return UrlReport(url=database_url())


def psql(config: PsqlConfig) -> None:
    """Open psql on the store; what follows goes to psql unchanged."""
    program, address = str(psql_path()), urlsplit(database_url())
    # By the environment: a password in the arguments would show in the list of processes.
    os.environ["PGPASSWORD"] = unquote(address.password or "")
    place = address._replace(netloc=address.netloc.replace(f":{address.password}@", "@")).geturl()
    # Replaces this process, so that psql owns the terminal and its exit code is ours.
    os.execv(program, [program, place, *config.arguments])  # noqa: S606  no shell is meant


def migrate(_config: NoConfig) -> None:
    """Bring the schema to the newest revision (every other command does so too)."""
    from alchemist_core.store.migrate import current_revision  # noqa: PLC0415  alembic only where it is used
    from alchemist_core.store.migrate import migrate as upgrade  # noqa: PLC0415

    address = database_url()
    upgrade(address)
    say(f"The schema is at revision {current_revision(address)}.")


def checksum(_config: NoConfig) -> ChecksumReport:
    """Print a checksum over all data, equal for equal data whatever its ids and times."""
    from alchemist_core.store.checksum import checksum as take  # noqa: PLC0415  reads every table

    return ChecksumReport(checksum=take(database_url()))


def _require_embedded() -> None:
    if load_settings().database_url is not None:
        raise ConfigError("ALCHEMIST_DATABASE_URL names a server of your own: start and stop it by its own tools.")


COMMANDS = {
    "start": Command(NoConfig, start),
    "stop": Command(NoConfig, stop),
    "url": Command(NoConfig, url),
    "psql": Command(PsqlConfig, psql),
    "migrate": Command(NoConfig, migrate),
    "checksum": Command(NoConfig, checksum),
    "backup": Command(
        BackupConfig, backup, lambda _, report: f"alchemist db restore {report.folder}, under a new ALCHEMIST_HOME"
    ),
    "restore": Command(RestoreConfig, restore),
}
