"""Release what is held: a person has looked at a night and lets it be drawn from."""

from datetime import date

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report
from alchemist_core.errors import AlchemistError, ConfigError
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.engine import open_store
from alchemist_core.store.nights import held_nights, release_night
from alchemist_core.store.raters import find_rater
from alchemist_core.store.registry import find_dataset


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


def night(config: ReleaseNightConfig) -> ReleaseNightReport:
    """Release the held revisions of a night; who did it and why goes into the audit events."""
    engine = open_store()
    rater = find_rater(engine, config.rater)
    if rater is None:
        raise AlchemistError("There is no rater in production, so no night is held. Name the rater: --rater NAME.")
    dataset_id = find_dataset(engine, config.dataset).dataset_id
    held = held_nights(engine, dataset_ids=[dataset_id], crawl_date=config.crawl_date, rater_id=rater.rater_id)
    if not held:
        raise ConfigError(
            f"No night of {config.dataset} {config.crawl_date} is held under {rater.name}. "
            "The view nightly_overview shows the state of every night."
        )
    actor = current_actor()
    with engine.begin() as connection:
        for row in held:
            if release_night(connection, row.night_id, actor=actor, reason=config.reason):
                record_event(
                    connection, actor, "release", f"night {row.crawl_date} r{row.revision}",
                    before={"state": "held", "reason": row.reason}, after={"state": "released", "reason": config.reason},
                )  # fmt: skip
    titles = [f"{row.dataset} {row.crawl_date} r{row.revision}" for row in held]
    return ReleaseNightReport(nights=titles, was_held_for=[row.reason for row in held], released_by=actor)


COMMANDS = {"night": Command(ReleaseNightConfig, night)}
