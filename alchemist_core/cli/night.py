"""Nights: list them, and announce those that became selectable."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.cli.shard import UNREAD, remedy_of_shard
from alchemist_core.config import Command, Config, Result, Words, counted
from alchemist_core.errors import CheckFailedError
from alchemist_core.store import registry
from alchemist_core.store.audit import current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.nights import announce_nights, read_night
from alchemist_core.store.overviews import (
    NightOverview,
    NightQuarantine,
    failed_ingests,
    quarantine_of_nights,
    read_nights,
)
from alchemist_core.store.raters import rater_option
from alchemist_core.store.registry import ShardRow
from alchemist_core.telemetry import on_one_line

if TYPE_CHECKING:
    from alchemist_core.store.checks import FailedCheck

MOST_SHARDS = 10
UNSCORED = "every_shard_is_scored"
"""A check whose failure scoring repairs."""

UNFINISHED = "partly scored"
"""How the status of a night begins that has unscored shards, and that nothing stops or works on."""
FORMER_REST_INGESTED = "All else was ingested."
"""Last line of the same errors in runs of version 0.1."""


class NightListConfig(Config):
    """Which nights to list."""

    dataset: str | None = Field(None, description="Dataset; none: every training dataset")
    nights: Words = Field((), description="Nights as DATASET:YYYY-MM-DD, separated by commas; replaces --dataset")
    limit: int = Field(
        14, ge=1, le=10_000, description="Nights to list of each dataset, newest first; with --nights, all are listed"
    )
    require_scored: bool = Field(
        False,
        description="Fail if a shard of one of --nights is ingested but not scored, and no run works on that night",
    )


class UnreadShard(Result):
    """A shard that its night does not include, and why."""

    shard_id: int
    uri: str
    state: str
    reason: str | None
    remedy: str | None


class ListedNight(Result):
    """A crawl date of one dataset."""

    dataset: str
    crawl_date: date
    status: str
    n_shards: int
    n_locations: int
    n_scored: int
    n_quarantined: int
    unread: list[UnreadShard]
    n_more_unread: int = 0
    not_ingested: list[str] = Field([])
    """Errors of the newest ingest of this night, each with its remedy; empty if it succeeded."""
    quarantined: dict[str, int] = Field({})
    """Number of quarantined locations by reason."""
    remedies: list[str] = Field([])

    def lines(self) -> list[str]:
        """Return a line for the night, then one for each problem and each next step."""
        counts = f"{counted(self.n_shards, 'shard')}, {self.n_scored:,} scored, {self.n_quarantined:,} quarantined"
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in self.quarantined.items())
        left = [
            *self.not_ingested,
            *(
                f"{on_one_line(one.uri)}: {one.state}, {one.reason or 'no reason recorded'}; next: {one.remedy}"
                for one in self.unread
            ),
        ]
        return [
            f"{self.dataset} {self.crawl_date}: {self.status}; {counts}{f' ({reasons})' if reasons else ''}",
            *(f"  {line}" for line in left),
            *(
                [f"  and {self.n_more_unread:,} more shards: alchemist shard list --dataset {self.dataset}"]
                if self.n_more_unread
                else []
            ),
            *(f"  next: {remedy}" for remedy in self.remedies),
        ]


class NightListResult(Result):
    """Nights, each with its problems."""

    nights: list[ListedNight]

    def summary(self) -> str:
        """Return the lines of all nights, in their order."""
        lines = [line for night in self.nights for line in night.lines()]
        return "\n".join(lines) or "No nights. Ingest a dataset: alchemist ingest --dataset NAME --root FOLDER"


def _has_problem(night: ListedNight) -> bool:
    is_settled = night.status in ("selectable", "empty") or night.status.startswith("rejected")
    return bool(night.unread or night.not_ingested or not is_settled)


def list_(config: NightListConfig) -> NightListResult:
    """List nights with their status, the shards that they do not include, and the next step for each.

    The newest night comes last; of named nights, those with problems.

    Raises:
        CheckFailedError: `require_scored` is set, and a named night is not scored although nothing stopped it.
    """
    engine = open_store()
    if config.dataset is not None:
        registry.find_dataset(engine, config.dataset)
    wanted = dict.fromkeys(map(read_night, config.nights))
    rows = [row for row in read_nights(engine, config.dataset) if not wanted or (row.dataset, row.crawl_date) in wanted]
    if not wanted:
        rows = [row for name in dict.fromkeys(row.dataset for row in rows) for row in _of(rows, name)[-config.limit :]]
    listed = sorted(_listed(engine, rows), key=lambda night: (night.crawl_date, night.dataset))
    # Of a run of Airflow, nights with problems come last, because the end of a log is read first.
    result = NightListResult(nights=sorted(listed, key=_has_problem) if config.nights else listed)
    if config.require_scored and config.nights:
        _require_scored(result)
    return result


def _require_scored(result: NightListResult) -> None:
    """Refuse nights with shards that were ingested after the run had planned what to score: no task of it has checked them."""
    if left := [night for night in result.nights if night.status.startswith(UNFINISHED)]:
        names = ", ".join(f"{night.dataset} {night.crawl_date} ({night.status})" for night in left)
        raise CheckFailedError(
            f"Ingested but not scored: {names}. In Airflow, clear all tasks of the run and not only the failed ones, or trigger "
            f"nightly_rescore for the date.\n{result.summary()}"
        )


def _of(rows: Sequence[NightOverview], dataset: str) -> list[NightOverview]:
    return [row for row in rows if row.dataset == dataset]


def _listed(engine: Engine, rows: Sequence[NightOverview]) -> list[ListedNight]:
    nights = [(row.dataset, row.crawl_date) for row in rows]
    errors, reasons = failed_ingests(engine, nights), quarantine_of_nights(engine, nights)
    unread = [
        shard for shard in registry.find_shards(engine, states=UNREAD) if (shard.dataset, shard.crawl_date) in nights
    ]
    return [
        _describe(
            row,
            [shard for shard in unread if shard.dataset == row.dataset],
            [reason for reason in reasons if (reason.dataset, reason.crawl_date) == night],
            errors.get(night),
            _failed(engine, *night) if row.status.startswith("stopped") else [],
        )
        for row, night in zip(rows, nights, strict=True)
    ]


def _failed(engine: Engine, dataset: str, crawl_date: date) -> "list[FailedCheck]":
    """Return the failed checks of a night, by suite in the order in which they run."""
    # Imported for stopped nights only: listing nights is a task of every night.
    from alchemist_core.store.checks import SUITES, failed_checks  # noqa: PLC0415

    return sorted(failed_checks(engine, dataset, crawl_date), key=lambda row: SUITES.index(row.suite))


def _describe(
    night: NightOverview,
    shown: Sequence[ShardRow],
    reasons: Sequence[NightQuarantine],
    error: str | None,
    failed: "Sequence[FailedCheck]",
) -> ListedNight:
    unread = [shard for shard in shown if shard.crawl_date == night.crawl_date]
    shards = [
        UnreadShard(shard_id=row.shard_id, uri=row.uri, state=row.state, reason=row.reason, remedy=remedy_of_shard(row))
        for row in unread[:MOST_SHARDS]
    ]
    left = _left_by_ingest(night, shown, error)
    return ListedNight(
        dataset=night.dataset, crawl_date=night.crawl_date, n_shards=night.n_shards, n_locations=night.n_locations,
        status="not ingested" if error and night.status == "empty" else night.status,
        n_scored=night.n_scored, n_quarantined=night.n_quarantined, unread=shards, n_more_unread=len(unread) - len(shards),
        not_ingested=left, quarantined={row.reason: row.n_locations for row in reasons},
        remedies=_remedies_of_night(night, reasons, failed, is_left=bool(left)),
    )  # fmt: skip


def _left_by_ingest(night: NightOverview, shown: Sequence[ShardRow], error: str | None) -> list[str]:
    """Return the lines of an ingest error about this dataset, without those about shards that are listed anyway."""
    if error is None:
        return []
    from alchemist_core.stages.ingest import REST_INGESTED  # noqa: PLC0415  loads what an ingest needs

    text, prefix = error.partition(": ")[2], f"{night.dataset}: "
    lines = text.strip().splitlines()
    if lines and lines[-1] in (REST_INGESTED, FORMER_REST_INGESTED):
        lines.pop()
        lines = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    names = tuple(f"{on_one_line(shard.uri)}: " for shard in shown)
    return [line for line in lines if not line.startswith(names)]


def _remedies_of_night(
    night: NightOverview, reasons: Sequence[NightQuarantine], failed: "Sequence[FailedCheck]", *, is_left: bool
) -> list[str]:
    which = f"--dataset {night.dataset} --crawl-date {night.crawl_date}"
    steps = [f"remove the cause, then run alchemist ingest {which}"] if is_left else []
    if reasons:
        steps += [f"show what is quarantined: alchemist shard show {reasons[0].shard_id}"]
    release, reject = (f"alchemist night {verb} {which} --reason WHY" for verb in ("release", "reject"))
    if night.status.startswith("held"):
        steps += [f"inspect it, then {release}, or {reject}"]
    elif night.rejected_under:
        steps += [f"if its data is correct after all, {release}{rater_option(night.rejected_under)}"]
    elif failed and all(row.expectation == UNSCORED for row in failed):
        steps += [f"alchemist score {which}", f"alchemist check --suite scores {which}"]
    elif night.status.startswith("stopped"):
        suites = ",".join(dict.fromkeys(row.suite for row in failed))
        steps += [
            f"alchemist check --suite {suites} {which} prints the failed checks",
            f"if the data is correct, {release}; if it is wrong, {reject}",
        ]
    elif night.status.startswith(UNFINISHED):
        steps += [f"alchemist score {which}"]
    elif night.status == "scored":
        steps += [f"alchemist night publish {which}"]
    return steps


class AnnounceConfig(Config):
    """No options."""


class SelectableNight(Result):
    """A night that became selectable under the production rater."""

    dataset: str
    crawl_date: date
    revision: int
    rater: str


class AnnounceResult(Result):
    """Nights that became selectable since the last announcement."""

    nights: list[SelectableNight]

    def summary(self) -> str:
        """Return a line for each night."""
        lines = [f"{night.dataset} {night.crawl_date} r{night.revision}" for night in self.nights]
        return "\n".join(lines) or "No night has become selectable since the last announcement."


def announce(_config: AnnounceConfig) -> AnnounceResult:
    """Return the nights that became selectable since the last call, so that Airflow updates their assets; called by the DAGs.

    Each night is returned to one run of Airflow only, and to its retries again. Released nights are included.
    """
    found = announce_nights(open_store(), current_actor())
    nights = [
        SelectableNight(dataset=one.dataset, crawl_date=one.crawl_date, revision=one.revision, rater=one.rater)
        for one in found
    ]
    return AnnounceResult(nights=nights)


COMMANDS = {
    "list": Command(NightListConfig, list_),
    "announce": Command(AnnounceConfig, announce),
}
