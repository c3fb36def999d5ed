"""Compare a night's scores with the accepted nights; one that moved too far is held, with the group that moved it most.

How far is too far, the project file says: `[drift]`, or `[datasets.NAME.drift]`.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

from pydantic import Field

from alchemist_core.config import Command, Config, Report
from alchemist_core.errors import CheckFailedError
from alchemist_core.project import load_project
from alchemist_core.quality.drift import DriftLimits, Mover, NightDrift, judge_night
from alchemist_core.stages.scope import require_complete, scoring_scope
from alchemist_core.store.checks import store_check_results
from alchemist_core.store.engine import open_store
from alchemist_core.store.nights import night_title, open_nights
from alchemist_core.store.raters import find_rater
from alchemist_core.store.tables import AnyRow
from alchemist_core.telemetry import say

N_SAID = 2  # groups of each kind named on the terminal; the report and the store name more


class DriftConfig(Config):
    """Which nights."""

    dataset: str | None = Field(None, description="Dataset; none: every registered training dataset")
    crawl_date: date | None = Field(None, description="Crawl date (YYYY-MM-DD); none: every night that waits")
    rater: str = Field("production", description="Rater by name, or production, or newest")


class DriftReport(Report):
    """What was measured of each night, and the night that moved most."""

    n_nights: int = 0
    n_warned: int = 0
    n_held: int = 0
    moved_most: str | None = None
    nights: list[dict[str, Any]] = Field(default_factory=list)
    note: str | None = None

    def summary(self) -> str:
        """Return the counts; each night was told when it was measured."""
        return self.note or f"{self.n_nights} nights measured, {self.n_warned} warned, {self.n_held} held"


def run(config: DriftConfig) -> DriftReport:
    """Measure every night that waits for a decision; a held one stays closed until `alchemist release night`."""
    engine = open_store()
    rater = find_rater(engine, config.rater)
    if rater is None:
        return DriftReport(note="no production rater: nothing scored")
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
        say(describe(night, drift, limits))
        # At once: where a later night stops this, one that is held by now is never measured again.
        store_check_results(engine, [_check_row(night, drift, limits)] if drift.psi is not None else [])
        found.append((night, drift))
    if refused:
        raise CheckFailedError("\n".join([*refused, f"{len(found)} other nights were measured."]))
    return _report(found)


def _check_row(night: AnyRow, drift: NightDrift, limits: DriftLimits) -> dict[str, Any]:
    project = load_project()
    origins = {key: project.origin("drift", key, night.dataset) for key in DriftLimits.model_fields}
    # A warning among the checks: what stops the night is that it is held.
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


def _report(found: Sequence[tuple[AnyRow, NightDrift]]) -> DriftReport:
    rows = [
        {"dataset": night.dataset, "crawl_date": night.crawl_date.isoformat(), "revision": night.revision}
        | {name: getattr(drift, name) for name in NightDrift.__slots__ if name not in ("night_id", "movers")}
        | {"movers": [{name: getattr(mover, name) for name in Mover.__slots__} for mover in drift.movers]}
        for night, drift in found
    ]
    measured = [(night, drift) for night, drift in found if drift.psi is not None]
    # A night is one dataset's: the dataset that moved most is that of the night with the largest distance.
    most = max(measured, key=lambda pair: pair[1].psi or 0.0, default=None)
    return DriftReport(
        n_nights=len(found),
        n_warned=sum(drift.verdict == "warned" for _, drift in found),
        n_held=sum(drift.verdict == "held" for _, drift in found),
        moved_most=f"{night_title(most[0])} (PSI {most[1].psi:.3f})" if most else None,
        nights=rows,
        note=None if found else "no night was waiting",
    )


def describe(night: AnyRow, drift: NightDrift, limits: DriftLimits) -> str:
    """Say what was measured of a night, and where to look."""
    words = {
        "pooled": f"only {drift.n_tested:,} scores: pooled with the nights to come",
        "recorded": f"{drift.n_tested:,} scores recorded, nothing to compare them with yet",
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
    return "\n".join([line, *(_line(mover) for movers in kinds.values() for mover in movers[:N_SAID])])


def _line(mover: Mover) -> str:
    look = f"; look at {', '.join(mover.samples)}" if mover.samples else ""
    return f"  {mover.kind} {mover.name}: {mover.n:,} scores, PSI {mover.psi_without:.3f} without them{look}"


def _next(config: DriftConfig, report: DriftReport) -> str | None:
    if report.n_held:
        return (
            "look at the groups named above, then alchemist release night --dataset NAME --crawl-date DATE --reason WHY"
        )
    return f"alchemist publish night{_which(config)}" if report.n_nights else None


def _which(config: DriftConfig) -> str:
    return f" --dataset {config.dataset}" if config.dataset else ""


COMMANDS = {"": Command(DriftConfig, run, _next)}
