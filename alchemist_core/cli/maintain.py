"""Maintenance: remove expired leases, old check results, orphaned files, old logs and Airflow's old history; complete takedowns."""

import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import Command, Config, Result, counted
from alchemist_core.errors import AlchemistError, DataError
from alchemist_core.files import (
    FEATURE_CACHE,
    artifact_path,
    clear_block_cache,
    remove_experiment_embeddings,
    remove_reports,
)
from alchemist_core.local.airflow_environment import airflow_home, find_programs
from alchemist_core.log_files import MIB, remove_old
from alchemist_core.settings import load_settings
from alchemist_core.store import maintenance
from alchemist_core.store.embeddings import read_taken_down_hashes
from alchemist_core.store.engine import open_store

LONGEST_REPORT = timedelta(hours=1)
"""A report takes minutes: one that is written this long after a takedown was begun after it."""
LONGEST_ENCODING = timedelta(days=1)
"""The same of a dataset that an experiment encodes, at 20 to 40 images a second on a core."""


class MaintainConfig(Config):
    """No options."""


class RetentionConfig(Config):
    """How long to keep history."""

    keep_days: float = Field(
        365,
        ge=1,
        le=36_500,
        description="Days of history to keep. retention: check results. airflow: runs in Airflow's database",
    )


class MaintainResult(Result):
    """Number of items done, and of those left."""

    n_done: int
    n_left: int = 0
    note: str | None = None


def leases(_config: MaintainConfig) -> MaintainResult:
    """Delete leases that expired more than an hour ago, mark their runs as lost, and end overlong sessions of readers."""
    engine = open_store()
    n_leases, n_runs = maintenance.remove_expired_leases(engine)
    with engine.begin() as connection:
        n_reads = maintenance.end_long_reads(connection)
    return MaintainResult(
        n_done=n_leases,
        note=f"Marked {counted(n_runs, 'run')} as lost (no heartbeat); ended {counted(n_reads, 'session')} of readers.",
    )


def takedowns(_config: MaintainConfig) -> MaintainResult:
    """Mark takedowns as complete when no published version and no materialized dataset contains the image.

    Before that, what was computed from the images is deleted: embeddings, and what work that runs on has stored since the takedown, such
    as answers of models, features, pictures of the explorer, pages of the report, and embeddings of whole datasets for experiments.

    Raises:
        DataError: Files of embeddings or of answers cannot be read or written; everything else was done.
    """
    engine = open_store()
    taken_down = read_taken_down_hashes(engine)
    n_forgotten, failures = _forget_computed(engine, taken_down) if taken_down else ({}, [])
    n_done, n_left = maintenance.complete_takedowns(engine)
    if failures:
        raise DataError("\n".join([*map(str, failures), "Everything else was done."]))
    removed = [counted(n, what) for what, n in n_forgotten.items() if n]
    return MaintainResult(n_done=n_done, n_left=n_left, note=f"Removed {', '.join(removed)}." if removed else None)


def _forget_computed(engine: Engine, image_hashes: Sequence[bytes]) -> tuple[dict[str, int], list[DataError]]:
    """Delete what was computed from images; return how many of each kind, and why files could not be read or written."""
    from alchemist_core.embeddings.upkeep import remove_taken_down  # noqa: PLC0415  imports pyarrow
    from alchemist_core.scorers.vlm import forget_answers  # noqa: PLC0415  imports the image libraries
    from alchemist_core.shards.pictures import own_cache  # noqa: PLC0415  as above
    from alchemist_core.training.feature_cache import forget  # noqa: PLC0415  imports numpy

    n_embeddings, failures = remove_taken_down(engine)
    n_answers, failed_answers = forget_answers(image_hashes)
    n_forgotten = {
        "embedding": n_embeddings,
        "answer": n_answers,
        "cached feature": forget(artifact_path(FEATURE_CACHE), image_hashes),
        "cached picture": own_cache().forget(image_hashes),
    }
    if (asked_at := maintenance.newest_pending_takedown(engine)) is not None:
        # Nothing says which images a block or a page holds. A page that is written later was begun after the takedown.
        clear_block_cache()
        n_forgotten["report page"] = remove_reports(asked_at + LONGEST_REPORT)
        n_forgotten["embedding file"] = remove_experiment_embeddings(asked_at + LONGEST_ENCODING)
    return n_forgotten, failures + failed_answers


def embeddings(_config: MaintainConfig) -> MaintainResult:
    """Delete files of embeddings that were written for a shard whose scores were never stored: their process was killed."""
    from alchemist_core.embeddings.upkeep import remove_orphans  # noqa: PLC0415  imports pyarrow

    return MaintainResult(n_done=remove_orphans(open_store()))


def retention(config: RetentionConfig) -> MaintainResult:
    """Delete old check results, except the newest of each night and those of nights that a person released."""
    return MaintainResult(n_done=maintenance.forget_old_checks(open_store(), keep_days=config.keep_days))


def statistics(_config: MaintainConfig) -> MaintainResult:
    """Refresh the planner statistics of the large tables."""
    return MaintainResult(n_done=maintenance.refresh_statistics(open_store()))


def airflow(config: RetentionConfig) -> MaintainResult:
    """Delete Airflow's history that is older than --keep-days, by `airflow db clean`.

    Tasks have no access to Airflow's database, so its URL is a setting of its own; without it, nothing is deleted.

    Raises:
        AlchemistError: `airflow db clean` failed; the message ends with its output.
    """
    url = load_settings().airflow_database_url
    if url is None:
        return MaintainResult(n_done=0, note="ALCHEMIST_AIRFLOW_DATABASE_URL is not set, so nothing was deleted.")
    before = datetime.now(UTC) - timedelta(days=config.keep_days)
    command = [str(find_programs() / "airflow"), "db", "clean", "--yes", "--skip-archive"]
    # Without the second variable, Airflow derives an asynchronous URL from the first one, and needs a driver that is not installed.
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
        raise AlchemistError(
            f"`airflow db clean` failed with exit code {done.returncode}. The end of its output:\n{done.stderr[-2000:]}"
        )
    return MaintainResult(n_done=1)


def logs(_config: MaintainConfig) -> MaintainResult:
    """Rotate the logs of the local stack and remove old logs of Airflow's tasks, by ALCHEMIST_LOG_… and ALCHEMIST_TASK_LOG_…."""
    from alchemist_core.local.supervisor import rotate_all  # noqa: PLC0415  the other commands need no local stack

    settings = load_settings()
    home = settings.home.resolve()
    n_rotated = rotate_all(home, max_bytes=settings.log_max_mib * MIB)
    n_removed, n_left = remove_old(
        settings.task_logs or airflow_home(home) / "logs",
        keep_days=settings.task_log_keep_days,
        max_bytes=settings.task_log_max_mib * MIB,
    )
    return MaintainResult(n_done=n_removed, n_left=n_left, note=f"Rotated {n_rotated} logs of processes.")


COMMANDS = {
    "leases": Command(MaintainConfig, leases),
    "takedowns": Command(MaintainConfig, takedowns),
    "embeddings": Command(MaintainConfig, embeddings),
    "retention": Command(RetentionConfig, retention),
    "statistics": Command(MaintainConfig, statistics),
    "airflow": Command(RetentionConfig, airflow),
    "logs": Command(MaintainConfig, logs),
}
