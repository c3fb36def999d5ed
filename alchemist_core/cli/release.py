"""Release what is held: a person has looked at a night and lets it be drawn from."""

from collections.abc import Sequence
from datetime import date

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.cli import check, drift
from alchemist_core.config import Command, Config, Report
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.checks import failed_checks, release_checks
from alchemist_core.store.engine import open_store
from alchemist_core.store.nights import held_nights, night_title, release_night
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.tables import AnyRow


class ReleaseNightConfig(Config):
    """Which night, and why."""

    dataset: str = Field(..., description="Dataset of the held night")
    crawl_date: date = Field(..., description="Its crawl date (YYYY-MM-DD)")
    reason: str = Field(..., min_length=3, max_length=500, description="Why it may be drawn from; kept for the record")
    rater: str = Field("production", description="Rater by name, or production, or newest")


class ReleaseNightReport(Report):
    """What became selectable."""

    nights: list[str]
    was_held_for: list[str]
    released_by: str
    n_scored: int = 0


def night(config: ReleaseNightConfig) -> ReleaseNightReport:
    """Release a night that drift holds or a check has stopped; a stopped one is scored, checked and published from there.

    Who did it and why goes into the audit events. Checks that nobody has seen fail stop it again.
    """
    engine, actor = open_store(), current_actor()
    failed = failed_checks(engine, config.dataset, config.crawl_date)
    rater = find_rater(engine, config.rater)
    if rater is None and not failed:
        raise ConfigError("There is no rater in production, so no night is held. Name the rater: --rater NAME.")
    held = _held(engine, config, rater) if rater else []
    if not held and not failed:
        raise ConfigError(
            f"No night of {config.dataset} {config.crawl_date} is held or was stopped by a check. "
            "The view nightly_overview shows the state of every night."
        )
    _release(engine, config, held, failed, actor=actor)
    n_scored = _go_on(config) if failed else 0
    return ReleaseNightReport(
        nights=[night_title(row) for row in held] or [f"{config.dataset} {config.crawl_date}"],
        was_held_for=[*(row.reason for row in held), *(f"{row.suite}.{row.expectation}" for row in failed)],
        released_by=actor,
        n_scored=n_scored,
    )


def _held(engine: Engine, config: ReleaseNightConfig, rater: RaterRow) -> Sequence[AnyRow]:
    dataset_id = find_dataset(engine, config.dataset).dataset_id
    return held_nights(engine, dataset_ids=[dataset_id], crawl_date=config.crawl_date, rater_id=rater.rater_id)


def _release(
    engine: Engine, config: ReleaseNightConfig, held: Sequence[AnyRow], failed: Sequence[AnyRow], *, actor: str
) -> None:
    with engine.begin() as connection:
        for row in held:
            if release_night(connection, row.night_id, actor=actor, reason=config.reason):
                record_event(
                    connection, actor, "release", f"night {night_title(row)}",
                    before={"state": "held", "reason": row.reason}, after={"state": "released", "reason": config.reason},
                )  # fmt: skip
        if failed:
            release_checks(connection, failed, config.dataset, config.crawl_date, actor=actor, reason=config.reason)
            record_event(
                connection, actor, "release", f"checks of {config.dataset} {config.crawl_date}",
                before={"failed": [f"{row.suite}.{row.expectation}" for row in failed]}, after={"reason": config.reason},
            )  # fmt: skip


def _go_on(config: ReleaseNightConfig) -> int:
    """Do what the DAG would have done behind the check that stopped it; returns how many pairs were scored."""
    which = {"dataset": config.dataset, "crawl_date": config.crawl_date}
    raters = "nightly" if config.rater == "production" else config.rater
    try:
        n_scored, left = score(ScoreConfig.model_validate({**which, "rater": raters})).n_scored, None
    except DataError as error:
        # All but some shards was scored: the night goes on without those, and the command fails at its end.
        n_scored, left = 0, error
    check.run(check.CheckConfig.model_validate({**which, "suite": "scores"}))
    drift.run(drift.DriftConfig.model_validate({**which, "rater": config.rater}))
    publish_night(PublishNightConfig.model_validate({**which, "rater": config.rater}))
    if left is not None:
        raise left
    return n_scored


COMMANDS = {"night": Command(ReleaseNightConfig, night)}
