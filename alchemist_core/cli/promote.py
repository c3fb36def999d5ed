"""Put a rater into production (`current_scores` switches in one transaction), or let it score beside it as a shadow."""

from pydantic import Field

from alchemist_core.config import Command, Config, Report
from alchemist_core.errors import CheckFailedError, ConfigError
from alchemist_core.store.audit import APPROVED_BY, COMMENT, approval, current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import find_rater, mark_shadow, promote_rater
from alchemist_core.telemetry import say


class PromoteConfig(Config):
    """Which rater."""

    rater: str = Field("newest", description="Rater by name, or newest")
    without_certificate: str | None = Field(
        None, min_length=3, description="Why a rater that is not certified goes into production; kept in the audit log"
    )
    shadow: bool | None = Field(
        None,
        description="Leave production as it is; the candidate scores every night beside it (--no-shadow: no longer)",
    )
    approved_by: str | None = Field(None, max_length=200, description=APPROVED_BY)
    comment: str | None = Field(None, max_length=2000, description=COMMENT)


class PromoteReport(Report):
    """The change."""

    rater: str
    was: str | None
    is_shadow: bool = False


def run(config: PromoteConfig) -> PromoteReport:
    """Promote a rater; the one in production retires."""
    engine = open_store()
    rater, before = find_rater(engine, config.rater), find_rater(engine, "production")
    if rater is None:
        raise ConfigError(
            "There is no rater to promote. Train one: alchemist train-rater --dataset NAME --validation NAME."
        )
    if config.shadow is not None:
        mark_shadow(engine, rater, is_shadow=config.shadow, actor=current_actor())
        if config.shadow:
            say(
                "It scores every night from now on; the pool before it only when it is asked to (alchemist plan score estimates it)."
            )
        return PromoteReport(rater=rater.name, was=before.name if before else None, is_shadow=config.shadow)
    if not rater.acceptance_report.get("is_certified") and config.without_certificate is None:
        raise CheckFailedError(
            f"Rater {rater.name} is not certified. Run alchemist certify --rater {rater.name}, or give the reason: "
            "alchemist promote --without-certificate 'REASON'."
        )
    if before is None:
        say("The store had no rater in production: the first one is promoted without approval.")
    said = approval(config.approved_by, config.comment)
    promote_rater(engine, rater, actor=current_actor(), reason=config.without_certificate, said=said)
    return PromoteReport(rater=rater.name, was=before.name if before else None)


def _next(_config: PromoteConfig, report: PromoteReport) -> str:
    return f"alchemist score --rater {report.rater}" if report.is_shadow else "alchemist score"


COMMANDS = {"": Command(PromoteConfig, run, _next)}
