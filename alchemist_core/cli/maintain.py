"""Keep the installation well: leases of the dead, finished takedowns, old outcomes, statistics, Airflow's own history."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import Field

from alchemist_core.config import Command, Config, Report
from alchemist_core.errors import AlchemistError
from alchemist_core.local.airflow_environment import airflow_home
from alchemist_core.local.supervisor import rotate_all
from alchemist_core.log_files import MIB, remove_old
from alchemist_core.settings import load_settings
from alchemist_core.store import maintenance
from alchemist_core.store.engine import open_store


class MaintainConfig(Config):
    """Nothing to choose."""


class RetentionConfig(Config):
    """How long to keep what nobody decides by any more."""

    keep_days: float = Field(
        365, ge=1, le=36_500, description="Days that outcomes of checks and Airflow's runs are kept"
    )


class MaintainReport(Report):
    """What was done, and what is left."""

    n_done: int
    n_left: int = 0
    note: str | None = None


def leases(_config: MaintainConfig) -> MaintainReport:
    """Delete leases that expired an hour ago and end their runs, and end readers' sessions that run past their bound."""
    engine = open_store()
    n_leases, n_runs = maintenance.remove_expired_leases(engine)
    with engine.begin() as connection:
        n_reads = maintenance.end_long_reads(connection)
    return MaintainReport(
        n_done=n_leases, note=f"Marked {n_runs} runs as lost (no heartbeat); ended {n_reads} sessions of readers."
    )


def takedowns(_config: MaintainConfig) -> MaintainReport:
    """Note which takedowns are complete: nothing published and no tar of ours holds the picture any more."""
    n_done, n_left = maintenance.complete_takedowns(open_store())
    return MaintainReport(n_done=n_done, n_left=n_left)


def retention(config: RetentionConfig) -> MaintainReport:
    """Delete old outcomes of checks; the newest of each night and what a person released stay."""
    return MaintainReport(n_done=maintenance.forget_old_checks(open_store(), keep_days=config.keep_days))


def statistics(_config: MaintainConfig) -> MaintainReport:
    """Analyse the large tables, partitioned ones too."""
    return MaintainReport(n_done=maintenance.refresh_statistics(open_store()))


def airflow(config: RetentionConfig) -> MaintainReport:
    """Delete Airflow's own history beyond the kept days, by `airflow db clean`.

    A task may not see Airflow's database, so its address is a setting of its own; without it nothing is done.

    Raises:
        AlchemistError: Airflow's program failed; the text has its end.
    """
    url = load_settings().airflow_database_url
    if url is None:
        return MaintainReport(n_done=0, note="ALCHEMIST_AIRFLOW_DATABASE_URL is not set: nothing was cleaned")
    before = datetime.now(UTC) - timedelta(days=config.keep_days)
    command = [str(Path(sys.executable).parent / "airflow"), "db", "clean", "--yes", "--skip-archive"]
    # Without the second variable Airflow derives an asynchronous URL, which takes a driver that it does not bring.
    addresses = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url.get_secret_value(),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": "",
    }
    environment = os.environ | addresses
    done = subprocess.run(
        [*command, "--clean-before-timestamp", before.isoformat()],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise AlchemistError(f"`airflow db clean` failed with {done.returncode}. Its end:\n{done.stderr[-2000:]}")
    return MaintainReport(n_done=1)


def logs(_config: MaintainConfig) -> MaintainReport:
    """Rotate the local stack's logs and remove old logs of Airflow's tasks, as the settings of size and age say."""
    settings = load_settings()
    home = settings.home.resolve()
    n_rotated = rotate_all(home, max_bytes=settings.log_max_mib * MIB)
    n_removed, n_left = remove_old(
        settings.task_logs or airflow_home(home) / "logs",
        keep_days=settings.task_log_keep_days,
        max_bytes=settings.task_log_max_mib * MIB,
    )
    return MaintainReport(n_done=n_removed, n_left=n_left, note=f"{n_rotated} logs of processes were rotated")


COMMANDS = {
    "leases": Command(MaintainConfig, leases),
    "takedowns": Command(MaintainConfig, takedowns),
    "retention": Command(RetentionConfig, retention),
    "statistics": Command(MaintainConfig, statistics),
    "airflow": Command(RetentionConfig, airflow),
    "logs": Command(MaintainConfig, logs),
}
