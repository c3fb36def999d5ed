"""Nights: list them, check their drift, publish them, and release or reject those that are held."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.cli import check
from alchemist_core.cli.shard import UNREAD, remedy_of_shard
from alchemist_core.config import Command, Config, Result, Words, counted
from alchemist_core.errors import CheckFailedError, ConfigError, DataError
from alchemist_core.project import load_project, select_command
from alchemist_core.quality.drift import Mover, NightDrift, judge_night
from alchemist_core.quality.limits import DriftLimits
from alchemist_core.stages.ingest import REST_INGESTED
from alchemist_core.stages.publishing import PublishNightConfig, PublishNightResult, publish_night
from alchemist_core.stages.scope import require_complete, scoring_scope
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.store import registry
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.checks import FailedCheck, failed_checks, release_checks, store_check_results
from alchemist_core.store.engine import open_store
from alchemist_core.store.nights import (
    NightRow,
    announce_nights,
    held_nights,
    night_title,
    open_nights,
    read_night,
    reject_night,
    release_night,
)
from alchemist_core.store.overviews import (
    NightOverview,
    NightQuarantine,
    failed_ingests,
    quarantine_of_nights,
    read_nights,
)
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.registry import ShardRow, find_dataset
from alchemist_core.telemetry import on_one_line, say

MOST_SHARDS = 10


FORMER_REST_INGESTED = "All else was ingested."
"""Last line of the same errors in runs of version 0.1."""


class NightListConfig(Config):
    """Which nights to list."""

    dataset: str | None = Field(None, description="Dataset; none: every training dataset")
    nights: Words = Field((), description="Nights as DATASET:YYYY-MM-DD, separated by commas; replaces --dataset")
    limit: int = Field(14, ge=1, le=10_000, description="Nights to list of each dataset, newest first")


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
        """Return the lines of all nights; nights with problems come last, because the end of a log is read first."""
        lines = [line for night in sorted(self.nights, key=_has_problem) for line in night.lines()]
        return "\n".join(lines) or "No nights. Ingest a dataset: alchemist ingest --dataset NAME --root FOLDER"


def _has_problem(night: ListedNight) -> bool:
    return bool(night.unread or night.not_ingested or night.status not in ("selectable", "empty"))


def list_(config: NightListConfig) -> NightListResult:
    """List nights with their status, the shards that they do not include, and the next step for each."""
    engine = open_store()
    if config.dataset is not None:
        registry.find_dataset(engine, config.dataset)
    wanted = dict.fromkeys(map(read_night, config.nights))
    rows = [row for row in read_nights(engine, config.dataset) if not wanted or (row.dataset, row.crawl_date) in wanted]
    newest = [row for name in dict.fromkeys(row.dataset for row in rows) for row in _of(rows, name)[-config.limit :]]
    return NightListResult(nights=_listed(engine, newest))


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
        )
        for row, night in zip(rows, nights, strict=True)
    ]


def _describe(
    night: NightOverview, shown: Sequence[ShardRow], reasons: Sequence[NightQuarantine], error: str | None
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
        remedies=_remedies_of_night(night, reasons, is_left=bool(left)),
    )  # fmt: skip


def _left_by_ingest(night: NightOverview, shown: Sequence[ShardRow], error: str | None) -> list[str]:
    """Return the lines of an ingest error about this dataset, without those about shards that are listed anyway."""
    text, prefix = (error or "").partition(": ")[2], f"{night.dataset}: "
    lines = text.strip().splitlines()
    if lines and lines[-1] in (REST_INGESTED, FORMER_REST_INGESTED):
        lines.pop()
        lines = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    names = tuple(f"{on_one_line(shard.uri)}: " for shard in shown)
    return [line for line in lines if not line.startswith(names)]


def _remedies_of_night(night: NightOverview, reasons: Sequence[NightQuarantine], *, is_left: bool) -> list[str]:
    which = f"--dataset {night.dataset} --crawl-date {night.crawl_date}"
    steps = [f"remove the cause, then run alchemist ingest {which}"] if is_left else []
    if reasons:
        steps += [f"show what is quarantined: alchemist shard show {reasons[0].shard_id}"]
    release = f"alchemist night release {which} --reason WHY"
    if night.status.startswith("held"):
        steps += [f"inspect it, then {release}, or alchemist night reject {which} --reason WHY"]
    elif night.status.startswith("stopped"):
        steps += [
            f"alchemist check --suite shards,samples {which} prints the failed checks; if the data is correct, {release}"
        ]
    elif night.status.startswith("partly"):
        steps += [f"alchemist score {which}"]
    elif night.status == "scored":
        steps += [f"alchemist night publish {which}"]
    return steps


def _next_publish(config: PublishNightConfig, result: PublishNightResult) -> str | None:
    return f"{select_command(config.dataset)}{_under(config)}" if result.n_nights else None


class DecideNightConfig(Config):
    """Which held night, and why."""

    dataset: str = Field(..., description="Dataset of the held night")
    crawl_date: date = Field(..., description="Crawl date of the night (YYYY-MM-DD)")
    reason: str = Field(
        ..., min_length=3, max_length=500, description="Reason, 3 to 500 characters; stored in the audit log"
    )
    rater: str = Field("production", description="Rater by name, or production, or newest")


class ReleaseNightConfig(DecideNightConfig):
    """Which night to release, and why."""


class RejectNightConfig(DecideNightConfig):
    """Which night to reject, and why."""


class RejectNightResult(Result):
    """Nights that were rejected."""

    nights: list[str]
    was_held_for: list[str]
    rejected_by: str


class ReleaseNightResult(Result):
    """Nights that became selectable."""

    nights: list[str]
    was_held_for: list[str]
    released_by: str
    n_scored: int = 0


def release(config: ReleaseNightConfig) -> ReleaseNightResult:
    """Make a night selectable that was held (drift), rejected, or stopped by a check; then score, check and publish a stopped one.

    The audit log stores who released it and why. Checks that fail for the first time stop the night again.
    """
    engine, actor = open_store(), current_actor()
    failed = failed_checks(engine, config.dataset, config.crawl_date)
    rater = find_rater(engine, config.rater)
    if rater is None and not failed:
        raise ConfigError("There is no rater in production, so no night is held. Give a rater: --rater NAME.")
    held, rejected = _find(engine, config, rater, "held"), _find(engine, config, rater, "rejected")
    if not (held or rejected or failed):
        raise ConfigError(
            f"No night of {config.dataset} {config.crawl_date} is held or was stopped by a check. "
            "Show the state of all nights: alchemist night list."
        )
    _release(engine, config, {"held": held, "rejected": rejected}, failed, actor=actor)
    n_scored = _finish_night(config) if failed else 0
    return ReleaseNightResult(
        nights=[night_title(row) for row in [*held, *rejected]] or [f"{config.dataset} {config.crawl_date}"],
        was_held_for=[
            *(str(row.reason) for row in [*held, *rejected]),
            *(f"{row.suite}.{row.expectation}" for row in failed),
        ],
        released_by=actor,
        n_scored=n_scored,
    )


def _held(engine: Engine, config: DecideNightConfig, rater: RaterRow | None) -> Sequence[NightRow]:
    return _find(engine, config, rater, "held")


def _find(
    engine: Engine, config: DecideNightConfig, rater: RaterRow | None, state: Literal["held", "rejected"]
) -> Sequence[NightRow]:
    if rater is None:
        return []
    dataset_id = find_dataset(engine, config.dataset).dataset_id
    return held_nights(
        engine, dataset_ids=[dataset_id], crawl_date=config.crawl_date, rater_id=rater.rater_id, state=state
    )


def reject(config: RejectNightConfig) -> RejectNightResult:
    """Reject a held night: its samples are never selected, and reminders about it end. It can still be released.

    The audit log stores who rejected it and why. Shards that arrive later are a new revision of the night, which is decided anew.
    """
    engine, actor = open_store(), current_actor()
    held = _held(engine, config, find_rater(engine, config.rater))
    if not held:
        raise ConfigError(
            f"No night of {config.dataset} {config.crawl_date} is held. Show the state of all nights: alchemist night list."
        )
    with engine.begin() as connection:
        for row in held:
            if reject_night(connection, row.night_id, actor=actor, reason=config.reason):
                record_event(
                    connection, actor, "reject", f"night {night_title(row)}",
                    before={"state": "held", "reason": row.reason}, after={"state": "rejected", "reason": config.reason},
                )  # fmt: skip
    return RejectNightResult(
        nights=[night_title(row) for row in held], was_held_for=[str(row.reason) for row in held], rejected_by=actor
    )


def _release(
    engine: Engine,
    config: ReleaseNightConfig,
    stopped: Mapping[str, Sequence[NightRow]],
    failed: Sequence[FailedCheck],
    *,
    actor: str,
) -> None:
    with engine.begin() as connection:
        for state, row in [(state, row) for state, rows in stopped.items() for row in rows]:
            if release_night(connection, row.night_id, actor=actor, reason=config.reason):
                record_event(
                    connection, actor, "release", f"night {night_title(row)}",
                    before={"state": state, "reason": row.reason}, after={"state": "released", "reason": config.reason},
                )  # fmt: skip
        if failed:
            release_checks(connection, failed, config.dataset, config.crawl_date, actor=actor, reason=config.reason)
            record_event(
                connection, actor, "release", f"checks of {config.dataset} {config.crawl_date}",
                before={"failed": [f"{row.suite}.{row.expectation}" for row in failed]}, after={"reason": config.reason},
            )  # fmt: skip


def _finish_night(config: ReleaseNightConfig) -> int:
    """Run the steps that the DAG skipped after the failed check, and return the number of samples scored."""
    which = {"dataset": config.dataset, "crawl_date": config.crawl_date}
    raters = "nightly" if config.rater == "production" else config.rater
    try:
        n_scored, left = score(ScoreConfig.model_validate({**which, "rater": raters})).n_scored, None
    except DataError as error:
        # Some shards could not be scored: check and publish the others, and raise the error at the end.
        n_scored, left = 0, error
    check.run(check.CheckConfig.model_validate({**which, "suite": "scores"}))
    check_drift(DriftConfig.model_validate({**which, "rater": config.rater}))
    publish_night(PublishNightConfig.model_validate({**which, "rater": config.rater}))
    if left is not None:
        raise left
    return n_scored


N_PRINTED = 2  # Number of groups of each kind that are printed; the result and the database contain all of them.


class DriftConfig(Config):
    """Which nights to check."""

    dataset: str | None = Field(None, description="Dataset; none: every registered training dataset")
    crawl_date: date | None = Field(None, description="Crawl date (YYYY-MM-DD); none: every undecided night")
    rater: str = Field("production", description="Rater by name, or production, or newest")


class DriftResult(Result):
    """Drift of each night, and the night that drifted most."""

    n_nights: int = 0
    n_warned: int = 0
    n_held: int = 0
    moved_most: str | None = None
    nights: list[dict[str, Any]] = Field(default_factory=list)
    note: str | None = None

    def summary(self) -> str:
        """Return the counts; each night was printed when it was measured."""
        return self.note or f"{counted(self.n_nights, 'night')} measured, {self.n_warned} warned, {self.n_held} held"


def check_drift(config: DriftConfig) -> DriftResult:
    """Measure the score drift of undecided nights; a night that drifted too far is held until it is released."""
    engine = open_store()
    rater = find_rater(engine, config.rater)
    if rater is None:
        return DriftResult(note="There is no rater in production, so no night has scores.")
    scope = scoring_scope(engine, rater, dataset=config.dataset, crawl_date=config.crawl_date)
    nights = open_nights(engine, dataset_ids=scope.dataset_ids, crawl_date=config.crawl_date, rater_id=rater.rater_id)
    found, refused = [], []
    for night in nights:
        try:
            require_complete(engine, night, rater)
        except CheckFailedError as error:
            refused.append(str(error))
            continue
        limits = load_project().of_dataset(night.dataset).drift
        drift = judge_night(engine, night, rater, limits)
        say(describe_drift(night, drift, limits))
        # Store each night at once: a held night is not measured again if a later night raises an error.
        store_check_results(engine, [_check_row(night, drift, limits)] if drift.psi is not None else [])
        found.append((night, drift))
    if refused:
        raise CheckFailedError("\n".join([*refused, f"{len(found)} other nights were measured."]))
    return _drift_result(found)


def _check_row(night: NightRow, drift: NightDrift, limits: DriftLimits) -> dict[str, Any]:
    project = load_project()
    origins = {key: project.origin("drift", key, night.dataset) for key in DriftLimits.model_fields}
    # Severity warn: the state `held` stops the night, not this check.
    return {
        "suite": "scores",
        "expectation": "scores_are_steady",
        "severity": "warn",
        "is_success": drift.verdict not in ("warned", "held"),
        "observed": {
            "psi": drift.psi, "ks_distance": drift.ks_distance, "verdict": drift.verdict,
            "limits": limits.as_json(), "limits_from": origins,
        },
        "dataset_name": night.dataset,
        "crawl_date": night.crawl_date,
    }  # fmt: skip


def _drift_result(found: Sequence[tuple[NightRow, NightDrift]]) -> DriftResult:
    rows = [
        {"dataset": night.dataset, "crawl_date": night.crawl_date.isoformat(), "revision": night.revision}
        | {name: getattr(drift, name) for name in NightDrift.__slots__ if name not in ("night_id", "movers")}
        | {"movers": [{name: getattr(mover, name) for name in Mover.__slots__} for mover in drift.movers]}
        for night, drift in found
    ]
    measured = [(night, drift) for night, drift in found if drift.psi is not None]
    # The night with the largest distance also gives the dataset that drifted most.
    most = max(measured, key=lambda pair: pair[1].psi or 0.0, default=None)
    return DriftResult(
        n_nights=len(found),
        n_warned=sum(drift.verdict == "warned" for _, drift in found),
        n_held=sum(drift.verdict == "held" for _, drift in found),
        moved_most=f"{night_title(most[0])} (PSI {most[1].psi:.3f})" if most else None,
        nights=rows,
        note=None if found else "No night is undecided.",
    )


def describe_drift(night: NightRow, drift: NightDrift, limits: DriftLimits) -> str:
    """Describe the drift of a night and the groups of samples that contribute most."""
    words = {
        "pooled": f"only {drift.n_tested:,} scores: pooled with the next nights",
        "recorded": f"{drift.n_tested:,} scores recorded; there is no accepted night to compare with yet",
    }
    if drift.psi is None:
        return f"{night_title(night)}: {words[drift.verdict]}"
    line = (
        f"{night_title(night)}: {drift.verdict}. PSI {drift.psi:.3f}, KS distance {drift.ks_distance:.3f}: {drift.n_tested:,} scores "
        f"against {drift.n_reference:,} of {drift.reference} (warns at {limits.warn_psi:g}, holds at {limits.hold_psi:g})"
    )
    if drift.verdict == "steady":
        return line
    kinds = {mover.kind: [other for other in drift.movers if other.kind == mover.kind] for mover in drift.movers}
    return "\n".join([line, *(_mover_line(mover) for movers in kinds.values() for mover in movers[:N_PRINTED])])


def _mover_line(mover: Mover) -> str:
    look = f"; look at {', '.join(mover.samples)}" if mover.samples else ""
    return f"  {mover.kind} {mover.name}: {mover.n:,} scores, PSI {mover.psi_without:.3f} without them{look}"


def _next_drift(config: DriftConfig, result: DriftResult) -> str | None:
    if result.n_held:
        return (
            "inspect the groups named above, then alchemist night release --dataset NAME --crawl-date DATE --reason WHY"
        )
    return f"alchemist night publish{_which(config)}" if result.n_nights else None


def _which(config: DriftConfig) -> str:
    return f"{f' --dataset {config.dataset}' if config.dataset else ''}{_under(config)}"


def _under(config: DriftConfig | PublishNightConfig) -> str:
    return "" if config.rater == "production" else f" --rater {config.rater}"


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
    "check-drift": Command(DriftConfig, check_drift, _next_drift),
    "publish": Command(PublishNightConfig, publish_night, _next_publish),
    "release": Command(ReleaseNightConfig, release),
    "reject": Command(RejectNightConfig, reject),
    "announce": Command(AnnounceConfig, announce),
}
