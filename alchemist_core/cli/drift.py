"""Check the score drift of nights: a night that drifted too far is held."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from pydantic import Field

from alchemist_core.config import Command, Config, Result, counted
from alchemist_core.errors import CheckFailedError
from alchemist_core.project import load_project
from alchemist_core.quality.drift import Mover, NightDrift, judge_night
from alchemist_core.quality.limits import DriftLimits
from alchemist_core.stages.scope import require_complete, scoring_scope
from alchemist_core.store.checks import store_check_results
from alchemist_core.store.engine import open_store
from alchemist_core.store.nights import (
    NightRow,
    night_title,
    open_nights,
)
from alchemist_core.store.raters import find_rater, rater_option
from alchemist_core.telemetry import say

N_PRINTED = 2  # Number of groups of each kind that are printed; the result and the database contain all of them.


class DriftConfig(Config):
    """Which nights to check."""

    dataset: str | None = Field(None, description="Dataset; none: every registered training dataset")
    crawl_date: date | None = Field(None, description="Crawl date (YYYY-MM-DD); none: every undecided night")
    rater: str = Field("production", description="Rater by name, or production, or newest")


class DriftResult(Result):
    """Drift of each night, and the night that drifted most."""

    n_nights: int = 0
    n_warned: int = 0
    n_held: int = 0
    moved_most: str | None = None
    nights: list[dict[str, Any]] = Field(default_factory=list)
    note: str | None = None

    def summary(self) -> str:
        """Return the counts; each night was printed when it was measured."""
        return self.note or f"{counted(self.n_nights, 'night')} measured, {self.n_warned} warned, {self.n_held} held"


def check_drift(config: DriftConfig) -> DriftResult:
    """Measure the score drift of undecided nights; a night that drifted too far is held until it is released."""
    engine = open_store()
    rater = find_rater(engine, config.rater)
    if rater is None:
        return DriftResult(note="There is no rater in production, so no night has scores.")
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
        say(describe_drift(night, drift, limits))
        # Store each night at once: a held night is not measured again if a later night raises an error.
        store_check_results(engine, [_check_row(night, drift, limits)] if drift.psi is not None else [])
        found.append((night, drift))
    if refused:
        raise CheckFailedError("\n".join([*refused, f"{len(found)} other nights were measured."]))
    return _drift_result(found)


def _check_row(night: NightRow, drift: NightDrift, limits: DriftLimits) -> dict[str, Any]:
    project = load_project()
    origins = {key: project.origin("drift", key, night.dataset) for key in DriftLimits.model_fields}
    # Severity warn: the state `held` stops the night, not this check.
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


def _drift_result(found: Sequence[tuple[NightRow, NightDrift]]) -> DriftResult:
    rows = [
        {"dataset": night.dataset, "crawl_date": night.crawl_date.isoformat(), "revision": night.revision}
        | {name: getattr(drift, name) for name in NightDrift.__slots__ if name not in ("night_id", "movers")}
        | {"movers": [{name: getattr(mover, name) for name in Mover.__slots__} for mover in drift.movers]}
        for night, drift in found
    ]
    measured = [(night, drift) for night, drift in found if drift.psi is not None]
    # The night with the largest distance also gives the dataset that drifted most.
    most = max(measured, key=lambda pair: pair[1].psi or 0.0, default=None)
    return DriftResult(
        n_nights=len(found),
        n_warned=sum(drift.verdict == "warned" for _, drift in found),
        n_held=sum(drift.verdict == "held" for _, drift in found),
        moved_most=f"{night_title(most[0])} (PSI {most[1].psi:.3f})" if most else None,
        nights=rows,
        note=None if found else "No night is undecided.",
    )


def describe_drift(night: NightRow, drift: NightDrift, limits: DriftLimits) -> str:
    """Describe the drift of a night and the groups of samples that contribute most."""
    words = {
        "pooled": f"only {drift.n_tested:,} scores: pooled with the next nights",
        "recorded": f"{drift.n_tested:,} scores recorded; there is no accepted night to compare with yet",
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
    return "\n".join([line, *(_mover_line(mover) for movers in kinds.values() for mover in movers[:N_PRINTED])])


def _mover_line(mover: Mover) -> str:
    look = f"; look at {', '.join(mover.samples)}" if mover.samples else ""
    return f"  {mover.kind} {mover.name}: {mover.n:,} scores, PSI {mover.psi_without:.3f} without them{look}"


def _next_drift(config: DriftConfig, result: DriftResult) -> str | None:
    if result.n_held:
        return (
            "inspect the groups named above, then alchemist night release --dataset NAME --crawl-date DATE"
            f"{rater_option(config.rater)} --reason WHY"
        )
    dataset = f" --dataset {config.dataset}" if config.dataset else ""
    return f"alchemist night publish{dataset}{rater_option(config.rater)}" if result.n_nights else None


COMMANDS = {"check-drift": Command(DriftConfig, check_drift, _next_drift)}
