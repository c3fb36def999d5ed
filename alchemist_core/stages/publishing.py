"""Publish a night: its samples are scored and checked, and become eligible for selection."""

from collections.abc import Sequence
from datetime import date

from pydantic import Field
from sqlalchemy import Connection, Engine

from alchemist_core.config import Command, Config, Result, counted
from alchemist_core.errors import CheckFailedError
from alchemist_core.project import select_command
from alchemist_core.stages.scope import require_complete, scoring_scope
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.checks import FailedCheck, failed_checks, find_failed_checks, outdated_checks
from alchemist_core.store.engine import open_store
from alchemist_core.store.nights import (
    EarlierRejection,
    NightRow,
    decide_night,
    find_rejection,
    held_nights,
    is_drift_current,
    night_options,
    night_title,
    open_nights,
    reject_command,
    release_command,
)
from alchemist_core.store.notifications import deliver
from alchemist_core.store.raters import RaterRow, find_rater, rater_option
from alchemist_core.telemetry import say, warn


class PublishNightConfig(Config):
    """Nights to publish."""

    dataset: str | None = Field(None, description="Dataset; default: all registered training datasets")
    crawl_date: date | None = Field(None, description="Crawl date (YYYY-MM-DD); default: all open nights")
    rater: str = Field("production", description="Name of the rater, or production, or newest")


class PublishNightResult(Result):
    """Number of nights that became selectable."""

    n_nights: int
    note: str | None = None


def publish_night(config: PublishNightConfig) -> PublishNightResult:
    """Make scored nights selectable. An empty night has nothing to publish.

    A night is not published if it is held or incomplete, if it failed a check, or if it has grown since it was checked or its drift
    was measured; what a second retry adds to a revision that a retry opened is not noticed. A night that was never checked is published.
    A rejection holds for every later rater, and for samples that a retry scores later: a night whose shards were all rejected before, or
    whose failed checks a person has rejected, is rejected, and held if some of its shards were. What a retry adds to a held night is held,
    with late shards of the same revision.

    Raises:
        CheckFailedError: Some nights were not published; raised after the others were.
    """
    engine = open_store()
    deliver(engine)  # notifications that a killed command had stored
    rater = find_rater(engine, config.rater)
    if rater is None:
        say("No rater is in production, so nothing was published.")
        return PublishNightResult(n_nights=0, note="No rater is in production, so nothing was published.")
    scope = scoring_scope(engine, rater, dataset=config.dataset, crawl_date=config.crawl_date)
    nights = open_nights(engine, dataset_ids=scope.dataset_ids, crawl_date=config.crawl_date, rater_id=rater.rater_id)
    published, refused = [], []
    for night in nights:
        try:
            if _publish(engine, night, rater):
                published.append(night)
        except CheckFailedError as error:
            refused.append(str(error))
    _state_unmeasured(engine, published)
    held = held_nights(engine, dataset_ids=scope.dataset_ids, crawl_date=config.crawl_date, rater_id=rater.rater_id)
    for night in held:
        warn(f"Night {night_title(night)} is held and was not published: {night.reason}. {_what_to_do(night, rater)}")
    if held or refused:
        # Fail, so that the task is red in Airflow and a person decides; after all other nights were published.
        summary = f"Published {counted(len(published), 'night')}; {len(held)} are held and not selectable"
        names = f": {', '.join(night_title(night) for night in held)}" if held else ""
        raise CheckFailedError("\n".join([*refused, f"{summary}{names}."]))
    return PublishNightResult(n_nights=len(published), note=None if published else "No night was open.")


def _state_unmeasured(engine: Engine, published: Sequence[NightRow]) -> None:
    """Say how many nights became selectable before anything compared their scores with those of earlier nights."""
    unmeasured = [night for night in published if is_drift_current(engine, night.night_id) is None]
    if unmeasured:
        say(
            f"{len(unmeasured):,} of {counted(len(published), 'night')} had no drift check, so nothing compared its scores with those of "
            f"earlier nights, among them {night_title(unmeasured[0])}. Run alchemist night check-drift before you publish."
        )


def _publish(engine: Engine, night: NightRow, rater: RaterRow) -> bool:
    """Publish one night; return whether it became selectable: another command may have decided it meanwhile.

    Raises:
        CheckFailedError: The night has unscored shards, failed a check that nobody rejected, or has grown since it was checked.
    """
    require_complete(engine, night, rater)
    failed = failed_checks(engine, night.dataset, night.crawl_date)
    _refuse_failed(night, failed, rater)
    _refuse_outdated(engine, night, rater)
    with engine.begin() as connection:
        if failed:
            # Read again: if a person has released the checks meanwhile, the release checks and publishes the night.
            failed = find_failed_checks(connection, night.dataset, night.crawl_date)
            _refuse_failed(night, failed, rater)
            if failed:
                _repeat_of_checks(connection, night, failed, rater)
            return False
        if (rejection := find_rejection(connection, night.night_id)) is not None:
            _repeat(connection, night, rejection, rater)
            return False
        if not decide_night(connection, night.night_id, state="selectable", actor=current_actor()):
            return False
        subject = f"night {night_title(night)}"
        record_event(
            connection, current_actor(), "publish", subject, after={"state": "selectable", "rater": rater.name}
        )
    return True


def _repeat(connection: Connection, night: NightRow, rejection: EarlierRejection, rater: RaterRow) -> None:
    """Decide a night as its shards were decided before; hold it if a person rejected only some of them."""
    under = f"under rater {rejection.rater}, {rejection.decided_by} rejected"
    if rejection.is_whole:
        action, state, who, reason = "reject", "rejected", rejection.decided_by, rejection.reason
        say(f"Night {night_title(night)} is rejected: {under} all of its shards: {rejection.reason}")
    elif rejection.state == "held":
        action, state, who = "hold", "held", current_actor()
        reason = f"a retry scored samples of a held night: {rejection.reason}"
    else:
        action, state, who = "hold", "held", current_actor()
        reason = f"{under} {rejection.n_rejected:,} of {counted(rejection.n_shards, 'shard')}: {rejection.reason}"
    if decide_night(connection, night.night_id, state=state, actor=who, reason=reason):
        after = {"state": state, "reason": reason, "rater": rater.name, "rejected_under": rejection.rater}
        record_event(connection, current_actor(), action, f"night {night_title(night)}", after=after)


def _repeat_of_checks(
    connection: Connection, night: NightRow, rejected: Sequence[FailedCheck], rater: RaterRow
) -> None:
    """Reject a night whose failed checks a person has rejected: they are about the crawl date, whichever rater or revision scores it."""
    who, reason = rejected[0].observed["rejected_by"], rejected[0].observed["rejected_for"]
    say(f"Night {night_title(night)} is rejected: {who} rejected its failed checks: {reason}")
    if decide_night(connection, night.night_id, state="rejected", actor=who, reason=reason):
        after = {"state": "rejected", "reason": reason, "rater": rater.name}
        record_event(connection, current_actor(), "reject", f"night {night_title(night)}", after=after)


def _what_to_do(night: NightRow, rater: RaterRow) -> str:
    of_rater = rater_option(rater.name, rater.state)
    return f"Inspect it, then: {release_command(night, of_rater)}, or {reject_command(night, of_rater)}"


def _refuse_failed(night: NightRow, failed: Sequence[FailedCheck], rater: RaterRow) -> None:
    """Refuse a night with a failed check, unless a person has rejected all of them."""
    if not all(row.is_rejected for row in failed):
        names = ", ".join(f"{row.suite}.{row.expectation}" for row in failed)
        raise CheckFailedError(
            f"Night {night.crawl_date} of {night.dataset} failed its checks ({names}) and was not published. {_what_to_do(night, rater)}"
        )


def _refuse_outdated(engine: Engine, night: NightRow, rater: RaterRow) -> None:
    suites = outdated_checks(engine, night.night_id)
    which = night_options(night)
    commands = [f"alchemist check --suite {suite} {which}" for suite in suites]
    if is_drift_current(engine, night.night_id) is False:
        of_rater = rater_option(rater.name, rater.state)
        suites, commands = [*suites, "scores"], [*commands, f"alchemist night check-drift {which}{of_rater}"]
    if commands:
        checked, steps = " and ".join(dict.fromkeys(suites)), ", then ".join(commands)
        raise CheckFailedError(
            f"Night {night_title(night)} has grown since its {checked} were checked. Run {steps}, then publish it again."
        )


def _next(config: PublishNightConfig, result: PublishNightResult) -> str | None:
    return f"{select_command(config.dataset)}{rater_option(config.rater)}" if result.n_nights else None


COMMANDS = {"publish": Command(PublishNightConfig, publish_night, _next)}
