"""`alchemist plan publish`: what publishing a subset version would change, as facts and as the question that a person is asked."""

from typing import Any
from urllib.parse import quote

import numpy as np
from pydantic import Field

from alchemist_core.config import BARE_WORD, Config, Report
from alchemist_core.errors import DataError
from alchemist_core.files import artifact_path
from alchemist_core.notifications import code_span
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import open_store
from alchemist_core.store.manifests import read_first_bits
from alchemist_core.store.subsets import (
    SubsetRow,
    choose_version,
    published_version,
    rater_of_subset,
    seconds_per_member,
    selection_report,
)

WINDOW = ("drop_top_ratio", "mean_rank", "std_rank", "start_rank")
UNITS = ("B", "kB", "MB", "GB", "TB")


class PlanPublishConfig(Config):
    """Which subset version would be published."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description="Version number; none: the newest")


class PlanPublishReport(Report):
    """What a person is asked. Sizes and times are estimates; what was never measured is none."""

    subset: str
    version: int
    n_samples: int
    published_version: int | None
    # Against the published version: members that would join, leave and stay. None where there is none, or its manifest is lost.
    n_in: int | None
    n_out: int | None
    n_stay: int | None
    n_bytes: int | None
    training_seconds: float | None
    strategy: str
    retention: float
    window: dict[str, float]
    seed: int
    rater: str
    datasets: list[str]
    warnings: list[str]
    report: str | None
    question: str

    def summary(self) -> str:
        """Return the question."""
        return self.question


def plan_publish(config: PlanPublishConfig) -> PlanPublishReport:
    """Say what publishing a subset version would change, and how long training on it would take."""
    engine = open_store()
    subset = choose_version(engine, config.name, version=config.version, is_newest=True)
    published = published_version(engine, config.name)
    rater, selected = rater_of_subset(engine, subset), selection_report(engine, subset)
    speed = seconds_per_member(engine)
    n_in, n_out, n_stay = _difference(subset, published)
    facts: dict[str, Any] = {
        "subset": subset.name,
        "version": subset.version,
        "n_samples": subset.n_samples,
        "published_version": published.version if published else None,
        "n_in": n_in,
        "n_out": n_out,
        "n_stay": n_stay,
        "n_bytes": selected.get("n_bytes"),
        "training_seconds": None if speed is None else round(speed * subset.n_samples, 1),
        "strategy": subset.strategy,
        "retention": subset.retention,
        "window": {name: subset.spec[name] for name in WINDOW if subset.spec.get(name) is not None},
        "seed": subset.seed,
        "rater": rater.name,
        "datasets": rater.dataset_names,
        "warnings": selected.get("warnings", []),
        "report": _report_address(rater.dataset_names),
    }
    return PlanPublishReport(**facts, question=_question(facts))


def _difference(subset: SubsetRow, published: SubsetRow | None) -> tuple[int | None, int | None, int | None]:
    if published is None:
        return None, None, None
    try:
        now, before = (read_first_bits(artifact_path(version.manifest_uri)) for version in (subset, published))
    except DataError:
        return None, None, None
    n_stay = len(np.intersect1d(now, before))
    return len(now) - n_stay, len(before) - n_stay, n_stay


def _report_address(datasets: list[str]) -> str | None:
    """Return where the newest report page of these datasets is read: below ALCHEMIST_REPORTS_URL, else its file; none before the first."""
    pages = [artifact_path(f"reports/{name}.html") for name in (*datasets, "all")]
    found = max((page for page in pages if page.is_file()), key=lambda page: page.stat().st_mtime, default=None)
    if found is None:
        return None
    base = load_settings().reports_url
    return f"{base.rstrip('/')}/{quote(found.name)}" if base else str(found)


def _question(facts: dict[str, Any]) -> str:
    """Return the facts as Markdown, every value as code: a name is never a link, HTML or a heading."""
    window = ", ".join(f"{name.replace('_', ' ')} {code_span(f'{value:g}')}" for name, value in facts["window"].items())
    seconds, n_bytes = facts["training_seconds"], facts["n_bytes"]
    size = code_span(f"about {_size(n_bytes)}") if n_bytes is not None else "not known"
    training = code_span(f"about {_duration(seconds)}") if seconds is not None else "not known, none was measured yet"
    strategy = f"{code_span(facts['strategy'])}, retention {code_span(format(facts['retention'], 'g'))}"
    lines = [
        f"Publish {code_span(facts['subset'])} version {code_span(facts['version'])}?",
        "",
        f"- Members: {code_span(format(facts['n_samples'], ','))}",
        f"- Compared with the published version: {_compared(facts)}",
        f"- Size: {size}",
        f"- Training on it: {training}",
        f"- Strategy: {strategy}{f', {window}' if window else ''}, seed {code_span(facts['seed'])}",
        f"- Rater: {code_span(facts['rater'])}; datasets: {', '.join(map(code_span, facts['datasets']))}",
        *(f"- Warning: {code_span(warning)}" for warning in facts["warnings"]),
        f"- Report: {_link(facts['report'])}",
    ]
    return "\n".join(lines)


def _compared(facts: dict[str, Any]) -> str:
    if facts["published_version"] is None:
        return "none is published yet"
    if facts["n_in"] is None:
        return f"version {code_span(facts['published_version'])}, of which no manifest can be read"
    join, leave, stay = (code_span(format(facts[name], ",")) for name in ("n_in", "n_out", "n_stay"))
    return f"version {code_span(facts['published_version'])}: {join} join, {leave} leave, {stay} stay"


def _link(report: str | None) -> str:
    if report is None:
        return "none yet, `alchemist report` makes it"
    # The address is ours and quoted; a path is shown as code, since browsers do not open files from a web page.
    return f"[{report}](<{report}>)" if report.startswith(("https://", "http://")) else code_span(report)


def _size(n_bytes: float) -> str:
    """Return a size for a person.

    >>> _size(999), _size(1_250_000_000)
    ('999 B', '1.2 GB')
    """
    power = max(power for power in range(len(UNITS)) if power == 0 or n_bytes >= 1000**power)
    return f"{n_bytes / 1000**power:.{1 if power else 0}f} {UNITS[power]}"


def _duration(seconds: float) -> str:
    """Return a duration for a person.

    >>> _duration(50), _duration(5400)
    ('50 s', '1.5 hours')
    """
    return f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds:,.0f} s"
