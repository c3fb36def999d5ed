"""Publish a night: its scores are scored and checked, and may be drawn from."""

from datetime import date

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import Config, Result
from alchemist_core.errors import CheckFailedError
from alchemist_core.stages.scope import require_complete, scoring_scope
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.checks import failed_checks, outdated_checks
from alchemist_core.store.engine import open_store
from alchemist_core.store.nights import NightRow, decide_night, held_nights, night_title, open_nights, release_command
from alchemist_core.store.notifications import deliver
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.telemetry import say, warn


class PublishNightConfig(Config):
    """Which nights."""

    dataset: str | None = Field(None, description="Dataset; none: every registered training dataset")
    crawl_date: date | None = Field(None, description="Crawl date (YYYY-MM-DD); none: every night that waits")
    rater: str = Field("production", description="Rater by name, or production, or newest")


class PublishNightResult(Result):
    """What became selectable."""

    n_nights: int
    note: str | None = None


def publish_night(config: PublishNightConfig) -> PublishNightResult:
    """Make a scored and checked night selectable; an empty night, or one without a rater, has nothing to publish.

    One that nobody checks is published unchecked; what was checked must have been checked as it is now.

    Raises:
        CheckFailedError: After the others were published: a night is held, failed its checks, or must be scored or checked first.
    """
    engine = open_store()
    deliver(engine)  # what a killed command had announced
    rater = find_rater(engine, config.rater)
    if rater is None:
        say("no production rater: nothing scored")
        return PublishNightResult(n_nights=0, note="no production rater: nothing scored")
    scope = scoring_scope(engine, rater, dataset=config.dataset, crawl_date=config.crawl_date)
    nights = open_nights(engine, dataset_ids=scope.dataset_ids, crawl_date=config.crawl_date, rater_id=rater.rater_id)
    n_published, refused = 0, []
    for night in nights:
        try:
            n_published += _publish(engine, night, rater)
        except CheckFailedError as error:
            refused.append(str(error))
    held = held_nights(engine, dataset_ids=scope.dataset_ids, crawl_date=config.crawl_date, rater_id=rater.rater_id)
    for night in held:
        warn(
            f"{night_title(night)} is left alone, it is held: {night.reason}. Look at it, then: {release_command(night)}"
        )
    if held or refused:
        # Red in Airflow too: what a person must decide does not look like success. After all others: what keeps one closed is its own.
        told = f"{n_published} nights were published, {len(held)} are held and cannot be selected"
        names = f": {', '.join(night_title(night) for night in held)}" if held else ""
        raise CheckFailedError("\n".join([*refused, f"{told}{names}."]))
    return PublishNightResult(n_nights=n_published, note=None if n_published else "no night was waiting")


def _publish(engine: Engine, night: NightRow, rater: RaterRow) -> int:
    """Publish one night, and return how many that were: another command may have decided it meanwhile.

    Raises:
        CheckFailedError: Shards of it are unscored, a check failed, or it has grown since it was checked.
    """
    require_complete(engine, night, rater)
    _refuse_failed(engine, night)
    _refuse_outdated(engine, night)
    with engine.begin() as connection:
        if not decide_night(connection, night.night_id, state="selectable", actor=current_actor()):
            return 0
        subject = f"night {night_title(night)}"
        record_event(connection, current_actor(), "publish", subject, after={"state": "selectable"})
    return 1


def _refuse_failed(engine: Engine, night: NightRow) -> None:
    failed = failed_checks(engine, night.dataset, night.crawl_date)
    if failed:
        names = ", ".join(f"{row.suite}.{row.expectation}" for row in failed)
        raise CheckFailedError(
            f"Night {night.crawl_date} of {night.dataset} did not pass its checks ({names}): it stays closed. Look at it, then: "
            f"alchemist night release --dataset {night.dataset} --crawl-date {night.crawl_date} --reason WHY"
        )


def _refuse_outdated(engine: Engine, night: NightRow) -> None:
    if suites := outdated_checks(engine, night.night_id):
        which = f"--dataset {night.dataset} --crawl-date {night.crawl_date}"
        commands = ", then ".join(f"alchemist check --suite {suite} {which}" for suite in suites)
        raise CheckFailedError(
            f"Night {night_title(night)} has grown since its {' and '.join(suites)} were checked. Run {commands}, then publish it again."
        )
