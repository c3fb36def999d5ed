"""The gate: run a suite on what one night or one subset left in the store, and keep every outcome there.

An empty night passes: nothing came, so nothing is wrong with it. Knows no pipeline: what a failure stops is the caller's.
"""

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from sqlalchemy import Engine

from alchemist_core.data.artifacts import artifact_path
from alchemist_core.data.manifests import read_manifest
from alchemist_core.errors import ConfigError
from alchemist_core.quality import suites
from alchemist_core.quality.suites import FAIL, WARN, Check
from alchemist_core.quality.validation import CheckOutcome, validate
from alchemist_core.store.checks import Columns, read_members, read_slice, store_check_results
from alchemist_core.store.engine import make_engine
from alchemist_core.store.subsets import find_subset

NIGHT_FRAMES = {"shards": ("check_shards",), "samples": ("check_samples",), "scores": ("check_ledger", "check_scores")}
SUITES = (*NIGHT_FRAMES, "subset")


def run_suite(
    url: str,
    suite: str,
    *,
    dataset: str | None = None,
    crawl_date: date | None = None,
    subset: str | None = None,
    run_id: int | None = None,
) -> list[CheckOutcome]:
    """Test a suite, store the outcomes in `check_results` and return them.

    Args:
        url: The store.
        suite: `shards`, `samples` or `scores` of a night, or `subset`.
        dataset: Whose night; none: every training dataset.
        crawl_date: Which night; none: all of them.
        subset: Name of the subset whose newest version the suite `subset` looks at.
        run_id: The run that asked, if one did.

    Raises:
        ConfigError: The suite is unknown, or the suite `subset` was asked for without a name.
    """
    engine = make_engine(url)
    try:
        if suite == "subset":
            outcomes = _check_subset(engine, subset)
        elif suite in NIGHT_FRAMES:
            outcomes = _check_night(engine, suite, {"dataset": dataset, "crawl_date": crawl_date})
        else:
            raise ConfigError(f"There is no suite {suite!r}. Suites: {', '.join(SUITES)}.")
        where = {"dataset_name": dataset, "crawl_date": crawl_date, "subset_name": subset, "run_id": run_id}
        store_check_results(engine, [_row(suite, outcome, where) for outcome in outcomes])
    finally:
        engine.dispose()
    return outcomes


def failures(outcomes: list[CheckOutcome]) -> list[CheckOutcome]:
    """Return the outcomes that stop the pipeline."""
    return [outcome for outcome in outcomes if outcome.severity == FAIL and not outcome.is_success]


def _check_night(engine: Engine, suite: str, night: Mapping[str, Any]) -> list[CheckOutcome]:
    frames = {name: read_slice(engine, name, night) for name in NIGHT_FRAMES[suite]}
    checks: Callable[[], list[Check]] = {
        "shards": suites.shards,
        "samples": suites.samples,
        "scores": lambda: suites.scores(_n_rows(frames["check_scores"])),
    }[suite]
    return _validate_all(frames, checks())


def _check_subset(engine: Engine, name: str | None) -> list[CheckOutcome]:
    if name is None:
        raise ConfigError("The suite 'subset' needs the name of a subset.")
    row = find_subset(engine, name)
    manifest = read_manifest(artifact_path(row.manifest_uri), sha256=row.manifest_sha256)
    frame = read_members(engine, manifest.pair_hashes(), row.subset_id)
    return validate(frame, suites.subset(row.n_samples))


def _validate_all(frames: Mapping[str, Columns], checks: list[Check]) -> list[CheckOutcome]:
    outcomes = []
    for name, columns in frames.items():
        if _n_rows(columns):
            outcomes += validate(columns, [check for check in checks if check.frame == name])
    # A night without rows leaves a trace too, so that it shows as checked.
    return outcomes or [CheckOutcome("there_is_nothing_to_check", WARN, is_success=True, observed={"n_rows": 0})]


def _n_rows(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _row(suite: str, outcome: CheckOutcome, where: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "suite": suite,
        "expectation": outcome.expectation,
        "severity": outcome.severity,
        "is_success": outcome.is_success,
        "observed": outcome.observed,
        **where,
    }
