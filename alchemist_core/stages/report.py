"""Write one self-contained HTML page: comparisons, scores, subsets, images by rank, nights and quarantine."""

import re
from pathlib import Path

from pydantic import Field

from alchemist_core.config import Command, Config, Result
from alchemist_core.files import artifact_path, write_bytes_atomically
from alchemist_core.report.gathering import gather_content
from alchemist_core.report.page import render_report
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.tables import utc_now

MADE_AT = re.compile(r"<time>[^<]*</time>")


class ReportConfig(Config):
    """The dataset of the report, and its file."""

    dataset: str | None = Field(None, description="Training dataset; default: all")
    out: Path | None = Field(
        None, description="File to write; default: artifacts/reports/<dataset>.html under the home"
    )


class ReportResult(Result):
    """Path of the page."""

    path: str
    n_bytes: int
    is_new: bool


def run(config: ReportConfig, *, slot: int = 0) -> ReportResult:
    """Write the page; an unchanged one is not written again."""
    return execute("report", config, lambda stage_run: report(config, stage_run), ReportResult, slot=slot)


def report(config: ReportConfig, stage_run: StageRun) -> ReportResult:
    """Read the content, render it, and write the page."""
    if config.dataset is not None:
        find_dataset(stage_run.engine, config.dataset)
    page = render_report(
        gather_content(stage_run.engine, config.dataset, made_at=utc_now(), on_progress=stage_run.report)
    )
    path = config.out or artifact_path(f"reports/{config.dataset or 'all'}.html")
    is_new = not path.exists() or _without_time(path.read_text(encoding="utf-8")) != _without_time(page)
    if is_new:
        write_bytes_atomically(path, page.encode())
    return ReportResult(path=str(path.resolve()), n_bytes=path.stat().st_size, is_new=is_new)


def _without_time(page: str) -> str:
    return MADE_AT.sub("", page, count=1)


COMMANDS = {"": Command(ReportConfig, run, lambda _, result: f"open {result.path} in a browser; it needs no network")}
