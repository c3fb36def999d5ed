"""Publish a night: its scores are scored and checked, and may be drawn from."""

from alchemist_core.config import Command
from alchemist_core.stages.publishing import PublishNightConfig, PublishNightReport, publish_night


def _next(config: PublishNightConfig, report: PublishNightReport) -> str | None:
    return (
        f"alchemist select --dataset {config.dataset or 'NAME'} --retention 0.2 --dry-run" if report.n_nights else None
    )


COMMANDS = {"night": Command(PublishNightConfig, publish_night, _next)}
