"""Nights that are held (drift) or stopped (a failed check): release or reject them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Literal

from pydantic import Field
from sqlalchemy import Connection, Engine

from alchemist_core.cli import check
from alchemist_core.cli.drift import DriftConfig, check_drift
from alchemist_core.config import Command, Config, Result
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.extras import EXTRA_OF, missing_library
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.checks import (
    SUITES,
    FailedCheck,
    failed_checks,
    reject_checks,
    release_checks,
    released_checks,
)
from alchemist_core.store.engine import open_store
from alchemist_core.store.ledger import ScoringScope, count_unscored
from alchemist_core.store.nights import (
    NightRow,
    held_nights,
    night_title,
    reject_night,
    release_night,
)
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.registry import find_dataset

NightState = Literal["held", "rejected", "scored"]


class DecideNightConfig(Config):
    """Which held or stopped night, and why."""

    dataset: str = Field(..., description="Dataset of the night")
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
    state_before: list[str]
    rejected_by: str


class ReleaseNightResult(Result):
    """Nights that became selectable."""

    nights: list[str]
    state_before: list[str]
    released_by: str
    n_scored: int = 0


def release(config: ReleaseNightConfig) -> ReleaseNightResult:
    """Make a night selectable that was held (drift), rejected, or stopped by a check; then score, check and publish a stopped one.

    The audit log stores who released it and why. Checks that fail for the first time stop the night again. If the command is interrupted,
    run it again: it scores, checks and publishes what is left.
    """
    engine, actor = open_store(), current_actor()
    failed = failed_checks(engine, config.dataset, config.crawl_date)
    rater = find_rater(engine, config.rater)
    if rater is None and not failed:
        raise ConfigError("There is no rater in production, so no night is held. Give a rater: --rater NAME.")
    held, rejected = _find(engine, config, rater, "held"), _find(engine, config, rater, "rejected")
    is_unfinished = not (held or rejected or failed) and _is_unfinished(engine, config, rater)
    if not (held or rejected or failed or is_unfinished):
        raise ConfigError(
            f"No night of {config.dataset} {config.crawl_date} is held or rejected, or was stopped by a check. Show its state, and the "
            f"command if it was rejected under another rater: alchemist night list --nights {config.dataset}:{config.crawl_date}"
        )
    settled = _release(engine, config, {"held": held, "rejected": rejected}, failed, actor=actor)
    _require_settled([*held, *rejected], settled, failed, config)
    with _naming_the_dag(config):
        n_scored = _finish_night(config) if failed or is_unfinished else 0
    return ReleaseNightResult(
        nights=[night_title(row) for row in settled] or [f"{config.dataset} {config.crawl_date}"],
        state_before=[
            *(f"held: {row.reason}" for row in held if row in settled),
            *(f"rejected: {row.reason}" for row in rejected if row in settled),
            *(f"{'rejected' if row.is_rejected else 'stopped'}: {row.suite}.{row.expectation}" for row in failed),
            *(["released, but not published"] if is_unfinished else []),
        ],
        released_by=actor,
        n_scored=n_scored,
    )


def _is_unfinished(engine: Engine, config: ReleaseNightConfig, rater: RaterRow | None) -> bool:
    """Return whether failed checks of a night were released, and the night not finished since: a release was interrupted."""
    if rater is None or not any(released_checks(engine, suite, config.dataset, config.crawl_date) for suite in SUITES):
        return False
    dataset_id = find_dataset(engine, config.dataset).dataset_id
    n_unscored, _ = count_unscored(engine, ScoringScope(rater.rater_id, (dataset_id,), config.crawl_date))
    return n_unscored > 0 or bool(_find(engine, config, rater, "scored"))


def _find(engine: Engine, config: DecideNightConfig, rater: RaterRow | None, state: NightState) -> Sequence[NightRow]:
    if rater is None:
        return []
    dataset_id = find_dataset(engine, config.dataset).dataset_id
    return held_nights(
        engine, dataset_ids=[dataset_id], crawl_date=config.crawl_date, rater_id=rater.rater_id, state=state
    )


def reject(config: RejectNightConfig) -> RejectNightResult:
    """Reject a night that is held (drift) or stopped (a failed check): its samples are never selected, and reminders about it end.

    The audit log stores who rejected it and why. It can still be released. Shards that arrive later are a new revision of a held night,
    which is decided anew; it is held, too, if `sample retry-quarantine` scored samples of the held or rejected night into it. A stopped
    night is decided anew when each of its shards was replaced or retired.
    """
    engine, actor = open_store(), current_actor()
    rater = find_rater(engine, config.rater)
    failed = [row for row in failed_checks(engine, config.dataset, config.crawl_date) if not row.is_rejected]
    held = _find(engine, config, rater, "held")
    if not (held or failed):
        raise ConfigError(
            f"No night of {config.dataset} {config.crawl_date} is held or stopped by a check. "
            "Show the state of all nights: alchemist night list."
        )
    # What was scored of a stopped night is open.
    scored, settled = _find(engine, config, rater, "scored") if failed else [], list[NightRow]()
    with engine.begin() as connection:
        for state, row in [*(("held", row) for row in held), *(("scored", row) for row in scored)]:
            if reject_night(connection, row.night_id, actor=actor, reason=config.reason):
                settled.append(row)
                record_event(
                    connection, actor, "reject", f"night {night_title(row)}",
                    before={"state": state, "reason": row.reason}, after={"state": "rejected", "reason": config.reason},
                )  # fmt: skip
        if failed:
            reject_checks(connection, failed, config.dataset, config.crawl_date, actor=actor, reason=config.reason)
            _record_checks(connection, config, failed, "reject", actor)
    _require_settled(held, settled, failed, config)
    return RejectNightResult(
        nights=[night_title(row) for row in settled] or [f"{config.dataset} {config.crawl_date}"],
        state_before=[
            *(f"held: {row.reason}" for row in held if row in settled),
            *(f"stopped: {row.suite}.{row.expectation}" for row in failed),
        ],
        rejected_by=actor,
    )


def _record_checks(
    connection: Connection, config: DecideNightConfig, failed: Sequence[FailedCheck], action: str, actor: str
) -> None:
    record_event(
        connection, actor, action, f"checks of {config.dataset} {config.crawl_date}",
        before={"failed": [f"{row.suite}.{row.expectation}" for row in failed]}, after={"reason": config.reason},
    )  # fmt: skip


def _release(
    engine: Engine,
    config: ReleaseNightConfig,
    stopped: Mapping[str, Sequence[NightRow]],
    failed: Sequence[FailedCheck],
    *,
    actor: str,
) -> list[NightRow]:
    """Release nights and failed checks; return the nights that no other person had decided meanwhile."""
    settled = list[NightRow]()
    with engine.begin() as connection:
        for state, row in [(state, row) for state, rows in stopped.items() for row in rows]:
            if release_night(connection, row.night_id, actor=actor, reason=config.reason):
                settled.append(row)
                record_event(
                    connection, actor, "release", f"night {night_title(row)}",
                    before={"state": state, "reason": row.reason}, after={"state": "released", "reason": config.reason},
                )  # fmt: skip
        if failed:
            release_checks(connection, failed, config.dataset, config.crawl_date, actor=actor, reason=config.reason)
            _record_checks(connection, config, failed, "release", actor)
    return settled


def _require_settled(
    found: Sequence[NightRow], settled: Sequence[NightRow], failed: Sequence[FailedCheck], config: DecideNightConfig
) -> None:
    """Require that anything was decided.

    Raises:
        ConfigError: Another person has decided all of it meanwhile.
    """
    if found and not (settled or failed):
        raise ConfigError(
            f"Another person decided {config.dataset} {config.crawl_date} meanwhile, so nothing was done. "
            f"Show its state: alchemist night list --dataset {config.dataset}."
        )


@contextmanager
def _naming_the_dag(config: ReleaseNightConfig) -> Iterator[None]:
    """On a cluster no image has the libraries of scoring and those of checks, but the tasks of the DAG run in the image that fits each.

    The DAG publishes nights of the rater in production, so for another one the error names the library alone.

    Raises:
        MissingDependencyError: A library is not installed here.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRA_OF or config.rater != "production":
            raise
        raise missing_library(
            library,
            f"trigger the DAG nightly_rescore with crawl date {config.crawl_date}: the release of {config.dataset} is stored, and the DAG "
            "scores, checks and publishes the night",
        ) from error


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


COMMANDS = {
    "release": Command(
        ReleaseNightConfig, release, lambda config, _: f"alchemist night list --dataset {config.dataset}"
    ),
    "reject": Command(RejectNightConfig, reject),
}
