"""The store itself: start and stop the embedded server, print its URL, open psql, migrate, take the checksum, back up, restore."""

import os
from urllib.parse import unquote, urlsplit

from pydantic import Field

from alchemist_core.cli.db_backup import BackupConfig, RestoreConfig, backup, restore
from alchemist_core.config import Command, Config, Report
from alchemist_core.errors import ConfigError
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import create_store, database_url, open_store, role_url
from alchemist_core.store.postgres import Role, psql_path, stop_postgres
from alchemist_core.telemetry import say


class NoConfig(Config):
    """Nothing to choose."""


class UrlConfig(Config):
    """Whose address is printed."""

    role: Role = Field(
        "reader",
        description="Role that logs in: reader (queries only), writer (what stages need) or owner (migrations)",
    )


class PsqlConfig(Config):
    """Who logs in, and what psql gets."""

    role: Role = Field(
        "reader",
        description="Role that logs in: reader (queries only), writer or owner; comes before psql's own options. On a server "
        "of your own the URL's user always logs in, and reader means read-only transactions",
    )
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
    """Start the embedded server (a no-op when it runs), create an empty store's schema, and print the reader's URL."""
    _require_embedded()
    create_store()
    open_store()
    return UrlReport(url=role_url("reader"))


def stop(_config: NoConfig) -> None:
    """Stop the embedded server; its data stays."""
    _require_embedded()
    home = load_settings().home
    if stop_postgres(home):
        say("The embedded Postgres is stopped; alchemist db start brings it back.")
    else:
        say(f"No Postgres of {home.resolve()} runs: there was nothing to stop.")


def url(config: UrlConfig) -> UrlReport:
    """Print the libpq URL of the store for one role: the reader unless --role names another."""
    address = role_url(config.role)
    if urlsplit(address).password is None:
        say(
            f"ALCHEMIST_DATABASE_URL holds another role's password, so this URL of the {config.role} has none: "
            "ask the server's administrator for it and set PGPASSWORD."
        )
    return UrlReport(url=address)


def psql(config: PsqlConfig) -> None:
    """Open psql on the store as the reader, or as --role; all other arguments go to psql unchanged."""
    # A given server has one login, its URL's: there the reader is that login in read-only transactions.
    is_given = load_settings().database_url is not None
    address = urlsplit(database_url() if is_given else role_url(config.role))
    if config.role == "reader":
        os.environ["PGOPTIONS"] = f"{os.environ.get('PGOPTIONS', '')} -c default_transaction_read_only=on"
    # By the environment: a password in the arguments would show in the list of processes.
    os.environ["PGPASSWORD"] = unquote(address.password or "")
    place = address._replace(netloc=address.netloc.replace(f":{address.password}@", "@")).geturl()
    # Replaces this process, so that psql owns the terminal and its exit code is ours.
    os.execv(str(psql_path()), ["psql", place, *config.arguments])  # noqa: S606  no shell is meant


def migrate(_config: NoConfig) -> None:
    """Bring the schema to this code's revision, views and grants; no other command changes an existing schema."""
    from alchemist_core.store.engine import head_revision  # noqa: PLC0415  alembic only where it is used
    from alchemist_core.store.engine import migrate as upgrade  # noqa: PLC0415

    create_store()
    has_changed = upgrade(database_url())
    say(f"The schema is {'now' if has_changed else 'already'} at revision {head_revision()}.")


def checksum(_config: NoConfig) -> ChecksumReport:
    """Print a checksum over all data, equal for equal data whatever its ids and times."""
    from alchemist_core.store.backups import checksum as take  # noqa: PLC0415  reads every table

    open_store()
    return ChecksumReport(checksum=take(database_url()))


def _require_embedded() -> None:
    if load_settings().database_url is not None:
        raise ConfigError("ALCHEMIST_DATABASE_URL names a server of your own: start and stop it by its own tools.")


COMMANDS = {
    "start": Command(NoConfig, start),
    "stop": Command(NoConfig, stop),
    "url": Command(UrlConfig, url),
    "psql": Command(PsqlConfig, psql),
    "migrate": Command(NoConfig, migrate),
    "checksum": Command(NoConfig, checksum),
    "backup": Command(
        BackupConfig, backup, lambda _, report: f"alchemist db restore {report.folder}, under a new ALCHEMIST_HOME"
    ),
    "restore": Command(RestoreConfig, restore),
}
