"""Data checks in the store: the rows of a night or a subset to check, and the outcomes, one row per expectation."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from difflib import get_close_matches
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, func, insert, select, text
from sqlalchemy.exc import DBAPIError

from alchemist_core.errors import DataError
from alchemist_core.lazy import NDArray, np
from alchemist_core.notifications import Event, explorer_page, page_of_this_task
from alchemist_core.store.engine import read_clock
from alchemist_core.store.notifications import announce
from alchemist_core.store.queries import load_query
from alchemist_core.store.samples import list_wanted
from alchemist_core.store.tables import CheckResult

Columns = dict[str, list[Any]]
SUITES = ("shards", "samples", "scores", "subset", "evaluation")
"""The suites, those of a night in the order in which they run."""
OBSERVED_LENGTH = 300
"""Longest text of a failed check's observation in a notification; `check_results` stores all of it."""


def read_slice(engine: Engine, name: str, parameters: Mapping[str, Any]) -> Columns:
    """Return the rows of a query in `sql/queries/` as columns."""
    with engine.connect() as connection:
        return _columns(connection, name, parameters)


def read_time(engine: Engine) -> datetime:
    """Return the time of the database's clock. A check reads it before its rows, and stores it as the time of its results."""
    with engine.connect() as connection:
        return read_clock(connection)


def count_members(engine: Engine, pair_hash_K32: NDArray[np.uint8], subset_id: int) -> Columns:
    """Count a subset's members in the store by kind; return the counts as columns of one row. Letters: K members."""
    with engine.begin() as connection:
        list_wanted(connection, pair_hash_K32)
        return _columns(connection, "check_subset", {"subset_id": subset_id})


def store_check_results(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store the outcomes of a suite for one night or subset. The notification of its failures is stored in the same transaction."""
    if not rows:
        return
    failed = [
        row for row in rows
        if row["severity"] == "fail" and not row["is_success"] and "rejected_by" not in row["observed"]
    ]  # fmt: skip
    with engine.begin() as connection:
        if failed:
            announce(connection, _failed_check(failed, last_success=_last_success(connection, failed)))
        connection.execute(insert(CheckResult), list(rows))


def _last_success(connection: Connection, failed: Sequence[Mapping[str, Any]]) -> int:
    """Return the newest result in which one of the checks passed: repeated failures after it are the same event."""
    first, same = failed[0], CheckResult.__table__.columns
    where = [same[name].is_not_distinct_from(first.get(name)) for name in ("dataset_name", "crawl_date", "subset_name")]
    names = [row["expectation"] for row in failed]
    statement = select(func.coalesce(func.max(CheckResult.check_result_id), 0)).where(
        CheckResult.suite == first["suite"], CheckResult.expectation.in_(names), CheckResult.is_success, *where
    )
    return int(connection.execute(statement).scalar_one())


def _failed_check(failed: Sequence[Mapping[str, Any]], *, last_success: int) -> Event:
    """Return the notification of failed checks of a night or of a subset."""
    suite, dataset, day, subset = (
        failed[0].get(name) for name in ("suite", "dataset_name", "crawl_date", "subset_name")
    )
    names = sorted(row["expectation"] for row in failed)
    which = f"--dataset {shlex.quote(dataset or 'NAME')}"
    if subset is not None:
        about = f"stopped subset {subset}"
        remedy = f"alchemist subset show {shlex.quote(subset)}, then repair the data that the check names and run the check again"
    elif day is not None:
        about = f"stopped dataset {dataset}, night {day}"
        remedy = (
            "Repair the data and run the night again. If the data is correct: "
            f"alchemist night release {which} --crawl-date {day} --reason WHY"
        )
    else:
        about = f"checked all nights of dataset {dataset} together, which stops none"
        remedy = f"Repair the data, then run the check again: alchemist check --suite {suite} {which}"
    observed = {
        row["expectation"]: (row["observed"].get("in_words") or json.dumps(row["observed"], default=str))[
            :OBSERVED_LENGTH
        ]
        for row in failed
    }
    return Event(
        kind="failed_check",
        key=f"failed_check:{suite}:{dataset}:{day}:{subset}:{','.join(names)}:{last_success}",
        what_happened=f"Suite {suite} {about}: {', '.join(names)} failed.",
        where_to_look=(explorer_page("nights", dataset, day) if dataset and day and not subset else None)
        or page_of_this_task("check"),
        what_to_do=remedy,
        facts=observed,
    )


BEFORE_SCORING = ("shards", "samples")
"""Suites whose failed checks stop a night before it is scored."""


class FailedCheck(NamedTuple):
    """A failed check and what it observed."""

    suite: str
    expectation: str
    observed: dict[str, Any]

    @property
    def is_rejected(self) -> bool:
        """Whether a person has rejected the night because of it: it stays unselectable, and needs no further decision."""
        return "rejected_by" in self.observed

    @property
    def stops_scoring(self) -> bool:
        """Whether the night is not scored before it is released; a failed check of scores is decided anew when it is scored."""
        return self.suite in BEFORE_SCORING

    @property
    def in_words(self) -> str:
        """What was expected and what was found; of a check that was stored before it was put into words, its figures as JSON."""
        return str(self.observed.get("in_words") or json.dumps(self.observed))


def failed_checks(engine: Engine, dataset: str, crawl_date: date) -> list[FailedCheck]:
    """Return the failed checks that keep a night from being selectable."""
    with engine.connect() as connection:
        return find_failed_checks(connection, dataset, crawl_date)


def find_failed_checks(connection: Connection, dataset: str, crawl_date: date) -> list[FailedCheck]:
    """Return the failed checks that keep a night from being selectable, in the caller's transaction."""
    statement = text("""
        SELECT suite, expectation, observed FROM alchemist.failed_checks
        WHERE dataset_name = :dataset AND crawl_date = :crawl_date
    """)
    rows = connection.execute(statement, {"dataset": dataset, "crawl_date": crawl_date})
    return [FailedCheck._make(row) for row in rows]


def outdated_checks(engine: Engine, night_id: int) -> list[str]:
    """Return the suites whose newest check of a night is older than its newest shard."""
    with engine.connect() as connection:
        return list(connection.execute(load_query("outdated_checks"), {"night_id": night_id}).scalars())


def undecided_dates(engine: Engine, suite: str, dataset: str) -> list[date]:
    """Return the crawl dates of a dataset that are not decided yet, or not scored yet."""
    with engine.connect() as connection:
        rows = connection.execute(load_query("undecided_dates"), {"suite": suite, "dataset": dataset})
        return list(rows.scalars())


def released_checks(engine: Engine, suite: str, dataset: str, crawl_date: date | None) -> set[str]:
    """Return the expectations of a night that a person has released: their failures are only warnings."""
    statement = text("""
        SELECT DISTINCT expectation FROM alchemist.check_results
        WHERE suite = :suite AND dataset_name = :dataset AND crawl_date = :crawl_date AND observed -> 'released_by' IS NOT NULL
    """)
    with engine.connect() as connection:
        night = {"suite": suite, "dataset": dataset, "crawl_date": crawl_date}
        return set(connection.execute(statement, night).scalars())


def rejected_checks(engine: Engine, suite: str, dataset: str, crawl_date: date) -> dict[str, dict[str, Any]]:
    """Return the rejected expectations of a night with who rejected them, when and why.

    A rejection holds while any shard that it was about is neither retired nor replaced; then the checks decide anew.
    """
    statement = text("""
        SELECT expectation, observed ->> 'rejected_by' AS rejected_by, observed ->> 'rejected_for' AS rejected_for,
            observed ->> 'rejected_at' AS rejected_at
        FROM alchemist.failed_checks
        WHERE suite = :suite AND dataset_name = :dataset AND crawl_date = :crawl_date AND EXISTS (
            SELECT 1 FROM alchemist.shards INNER JOIN alchemist.datasets USING (dataset_id)
            WHERE datasets.name = :dataset AND shards.crawl_date = :crawl_date AND shards.state NOT IN ('retired', 'superseded')
                AND shards.created_at <= CAST(failed_checks.observed ->> 'rejected_at' AS timestamptz)
        )
    """)
    with engine.connect() as connection:
        rows = connection.execute(statement, {"suite": suite, "dataset": dataset, "crawl_date": crawl_date})
        return {row.expectation: {name: getattr(row, name) for name in REJECTION} for row in rows}


REJECTION = ("rejected_by", "rejected_for", "rejected_at")
"""What `observed` of a rejected check says of its rejection."""


def release_checks(
    connection: Connection, failed: Sequence[FailedCheck], dataset: str, crawl_date: date, *, actor: str, reason: str
) -> None:
    """Store that failed checks of a night no longer stop it, who released them and why."""
    release = {"released_by": actor, "released_for": reason}
    _decide_checks(connection, failed, {"dataset_name": dataset, "crawl_date": crawl_date}, release, severity="warn")


def reject_checks(
    connection: Connection, failed: Sequence[FailedCheck], dataset: str, crawl_date: date, *, actor: str, reason: str
) -> None:
    """Store that a person has rejected a night because of its failed checks: they keep stopping it, and need no further decision."""
    rejected_at = read_clock(connection).isoformat()
    rejection = dict(zip(REJECTION, (actor, reason, rejected_at), strict=True))
    _decide_checks(connection, failed, {"dataset_name": dataset, "crawl_date": crawl_date}, rejection, severity="fail")


def _decide_checks(
    connection: Connection, failed: Sequence[FailedCheck], night: Mapping[str, Any], decision: dict[str, Any], *, severity: str
) -> None:  # fmt: skip
    rows = [
        {
            "suite": row.suite, "expectation": row.expectation, "severity": severity, "is_success": False, **night,
            "observed": {name: value for name, value in row.observed.items() if name not in REJECTION} | decision,
        }
        for row in failed
    ]  # fmt: skip
    connection.execute(insert(CheckResult), rows)


def _columns(connection: Connection, name: str, parameters: Mapping[str, Any]) -> Columns:
    result = connection.execute(load_query(name), parameters)
    names = list(result.keys())
    rows = result.all()
    return {column: [row[i] for row in rows] for i, column in enumerate(names)}


NIGHT_COLUMNS, MEMBER_COLUMNS = ("dataset", "crawl_date"), ("sample_id",)
PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
ROW_NAMES = ("sample_id", "shard_id", "uri", "key")
"""Columns that identify a row for a person."""
COLUMNS = text("""
    SELECT attname::text FROM pg_attribute
    WHERE attrelid = to_regclass(format('alchemist.%I', CAST(:view AS text))) AND attnum > 0 AND NOT attisdropped
""")
VIEWS = text("SELECT viewname::text FROM pg_views WHERE schemaname = 'alchemist' ORDER BY viewname")
# Settings of this session; an empty crawl date means any date.
SET_UP = text("""
    SELECT set_config('alchemist.checked_dataset', :dataset, false), set_config('alchemist.checked_date', :crawl_date, false),
        set_config('statement_timeout', :timeout_ms, false), set_config('default_transaction_read_only', 'on', false)
""")
OF_NIGHT = "dataset = current_setting('alchemist.checked_dataset')"
OF_DATE = "crawl_date = CAST(current_setting('alchemist.checked_date') AS date)"
OF_SUBSET = "sample_id IN (SELECT checked_members.sample_id FROM pg_temp.checked_members)"
MEMBERS = text("""
    CREATE TEMPORARY TABLE checked_members AS
    SELECT samples.sample_id FROM wanted INNER JOIN alchemist.samples ON wanted.pair_hash = samples.pair_hash
""")


@dataclass(frozen=True, slots=True)
class Rows:
    """Selects the rows of a view: those of a night, or of a subset's members. Letters: K members."""

    engine: Engine
    timeout_s: float
    dataset: str = ""
    crawl_date: date | None = None
    pair_hash_K32: NDArray[np.uint8] | None = None


@dataclass(slots=True)
class Slice:
    """A query for the selected rows of a view, and the sessions that were opened for it."""

    rows: Rows
    query: str
    row_names: list[str]
    opened: list[Any] = field(default_factory=list)

    def connect(self) -> Any:
        """Open a read-only psycopg2 session in which the query returns these rows."""
        rows = self.rows
        connection = rows.engine.connect()
        if rows.pair_hash_K32 is not None:
            list_wanted(connection, rows.pair_hash_K32)
            connection.execute(MEMBERS)
            connection.commit()
        connection.execute(SET_UP, {
            "dataset": rows.dataset, "crawl_date": rows.crawl_date.isoformat() if rows.crawl_date else "",
            "timeout_ms": str(round(rows.timeout_s * 1000)),
        })  # fmt: skip
        connection.commit()
        session = connection.connection.driver_connection
        connection.detach()
        self.opened.append(session)
        return session

    def has_rows(self) -> bool:
        """Return whether there are rows to check."""
        with self.connect().cursor() as cursor:
            cursor.execute(f"SELECT EXISTS ({self.query})")
            return bool(cursor.fetchone()[0])


@contextmanager
def open_slice(view: str, rows: Rows) -> Iterator[Slice]:
    """Yield a query for the rows of a view; close its sessions at the end.

    Raises:
        DataError: There is no such view, it cannot be limited to these rows, or the store refused the query.
    """
    with rows.engine.connect() as connection:
        columns = _columns_of(connection, view, MEMBER_COLUMNS if rows.pair_hash_K32 is not None else NIGHT_COLUMNS)
    limits = [OF_SUBSET] if rows.pair_hash_K32 is not None else [OF_NIGHT, *([OF_DATE] if rows.crawl_date else [])]
    query = f"SELECT * FROM alchemist.{view} WHERE {' AND '.join(limits)}"  # noqa: S608  a plain name that was found in the store
    found = Slice(rows, query, [name for name in ROW_NAMES if name in columns])
    try:
        yield found
    except DBAPIError as error:
        raise DataError(
            f"The store refused to read view {view!r}: {str(error.orig).partition(chr(10))[0]}. Correct the suite."
        ) from None
    finally:
        for session in found.opened:
            session.close()


def _columns_of(connection: Connection, view: str, needed: tuple[str, ...]) -> list[str]:
    columns = list(connection.execute(COLUMNS, {"view": view}).scalars()) if PLAIN_NAME.fullmatch(view) else []
    if not columns:
        views = list(connection.execute(VIEWS).scalars())
        near = get_close_matches(view, views, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Views: {', '.join(views)}."
        raise DataError(f"There is no view {view!r} in the store. {hint}")
    if missing := [name for name in needed if name not in columns]:
        raise DataError(
            f"View {view!r} has no column {' and no column '.join(missing)}, so it cannot be limited to the rows to check."
        )
    return columns
