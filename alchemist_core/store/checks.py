"""What data checks read and leave behind: one night's slice as columns, and one row an expectation."""

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, insert, select, text

from alchemist_core.notifications import Event, page_of_this_task
from alchemist_core.store.notifications import announce
from alchemist_core.store.pairs import list_wanted
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import AnyRow, CheckResult

Columns = dict[str, list[Any]]
OBSERVED_LENGTH = 300
"""Characters of what a failed check observed that a notification shows; `check_results` has all of it."""


def read_slice(engine: Engine, name: str, parameters: Mapping[str, Any]) -> Columns:
    """Return the rows of a query in `sql/queries/` as columns."""
    with engine.connect() as connection:
        return _columns(connection, name, parameters)


def count_members(engine: Engine, pair_hash_K32: NDArray[np.uint8], subset_id: int) -> Columns:
    """Return what the store knows of a subset's members, counted, as columns of one row. Letters: K members."""
    with engine.begin() as connection:
        list_wanted(connection, pair_hash_K32)
        return _columns(connection, "check_subset", {"subset_id": subset_id})


def store_check_results(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store the outcomes of one suite's expectations; those that stop the pipeline are announced in the same transaction."""
    if not rows:
        return
    stopped: dict[str | None, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["severity"] == "fail" and not row["is_success"]:
            stopped.setdefault(row.get("dataset_name"), []).append(row)
    with engine.begin() as connection:
        for failed in stopped.values():
            announce(connection, _failed_check(failed, last_success=_last_success(connection, failed)))
        connection.execute(insert(CheckResult), list(rows))


def _last_success(connection: Connection, failed: Sequence[Mapping[str, Any]]) -> int:
    """Return the newest result where one of the checks passed: a failure is one event until then, and a new one afterwards."""
    first, same = failed[0], CheckResult.__table__.columns
    where = [same[name].is_not_distinct_from(first.get(name)) for name in ("dataset_name", "crawl_date", "subset_name")]
    names = [row["expectation"] for row in failed]
    statement = select(func.coalesce(func.max(CheckResult.check_result_id), 0)).where(
        CheckResult.suite == first["suite"], CheckResult.expectation.in_(names), CheckResult.is_success, *where
    )
    return int(connection.execute(statement).scalar_one())


def _failed_check(failed: Sequence[Mapping[str, Any]], *, last_success: int) -> Event:
    """Say which checks of one dataset's night, or of one subset, failed."""
    suite, dataset, day, subset = (
        failed[0].get(name) for name in ("suite", "dataset_name", "crawl_date", "subset_name")
    )
    names = sorted(row["expectation"] for row in failed)
    if subset is not None:
        about, remedy = (
            f"subset {subset}",
            f"alchemist subset show {shlex.quote(subset)}, then repair what the check names and run it again",
        )
    else:
        about = f"dataset {dataset}, {f'night {day}' if day else 'all nights'}"
        which = f"--dataset {shlex.quote(dataset or 'NAME')} --crawl-date {day or 'DATE'}"
        remedy = f"Repair the data and run the night again, or, if the data is right: alchemist release night {which} --reason WHY"
    observed = {row["expectation"]: json.dumps(row["observed"], default=str)[:OBSERVED_LENGTH] for row in failed}
    return Event(
        kind="failed_check",
        key=f"failed_check:{suite}:{dataset}:{day}:{subset}:{','.join(names)}:{last_success}",
        what_happened=f"Suite {suite} stopped {about}: {', '.join(names)} failed.",
        where_to_look=page_of_this_task("check"),
        what_to_do=remedy,
        facts=observed,
    )


def failed_checks(engine: Engine, dataset: str, crawl_date: date) -> Sequence[AnyRow]:
    """Return what keeps a night from being drawn from: suite, expectation and what was observed of each."""
    statement = text("""
        SELECT suite, expectation, observed FROM alchemist.failed_checks
        WHERE dataset_name = :dataset AND crawl_date = :crawl_date
    """)
    with engine.connect() as connection:
        return connection.execute(statement, {"dataset": dataset, "crawl_date": crawl_date}).all()


def outdated_checks(engine: Engine, night_id: int) -> list[str]:
    """Return the suites that looked at a night before the last of it had come."""
    with engine.connect() as connection:
        return list(connection.execute(load_query("outdated_checks"), {"night_id": night_id}).scalars())


def released_checks(engine: Engine, suite: str, dataset: str, crawl_date: date | None) -> set[str]:
    """Return the expectations of a night that a person has released: they are counted and stop nothing any more."""
    statement = text("""
        SELECT DISTINCT expectation FROM alchemist.check_results
        WHERE suite = :suite AND dataset_name = :dataset AND crawl_date = :crawl_date AND observed -> 'released_by' IS NOT NULL
    """)
    with engine.connect() as connection:
        night = {"suite": suite, "dataset": dataset, "crawl_date": crawl_date}
        return set(connection.execute(statement, night).scalars())


def release_checks(
    connection: Connection, failed: Sequence[AnyRow], dataset: str, crawl_date: date, *, actor: str, reason: str
) -> None:
    """Note that failed checks of a night stop it no longer, who said so and why."""
    said = {"released_by": actor, "released_for": reason}
    rows = [
        {
            "suite": row.suite, "expectation": row.expectation, "severity": "warn", "is_success": False,
            "observed": row.observed | said, "dataset_name": dataset, "crawl_date": crawl_date,
        }
        for row in failed
    ]  # fmt: skip
    connection.execute(insert(CheckResult), rows)


def _columns(connection: Connection, name: str, parameters: Mapping[str, Any]) -> Columns:
    result = connection.execute(load_query(name), parameters)
    names = list(result.keys())
    rows = result.all()
    return {column: [row[i] for row in rows] for i, column in enumerate(names)}
