"""The gate: run a suite of checks on the stored rows of a night or a subset, and store every outcome.

Without a date, each night that is not decided yet is checked, and then all nights together, which only warns and recounts: only an
outcome with a date stops a night.
A night without rows passes. Checks that a person has released still run, but a failure is only a warning.
The caller decides the effect of a failure.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from sqlalchemy import Engine

from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path
from alchemist_core.quality import suites
from alchemist_core.quality.limits import AppliedLimits, CheckLimits
from alchemist_core.quality.own_suites import GATES, OwnChecks, is_own, run_own_suites
from alchemist_core.quality.suites import FAIL, WARN, Check
from alchemist_core.quality.validation import CheckOutcome, validate
from alchemist_core.selection.curves import read_curve
from alchemist_core.store.checks import (
    Columns,
    Rows,
    count_members,
    failed_checks,
    read_slice,
    read_time,
    rejected_checks,
    released_checks,
    store_check_results,
    undecided_dates,
)
from alchemist_core.store.engine import make_engine
from alchemist_core.store.manifests import Manifest, read_manifest
from alchemist_core.store.rank_windows import describe_pairing, expected_gain
from alchemist_core.store.registry import list_datasets
from alchemist_core.store.snapshots import read_dataset_names
from alchemist_core.store.subsets import SubsetRow, rater_of_subset

NIGHT_SUITES: dict[str, tuple[tuple[str, ...], Callable[[CheckLimits], list[Check]]]] = {
    "shards": (("check_shards",), suites.shards),
    "samples": (("check_samples",), suites.samples),
    "scores": (("check_ledger", "check_scores"), suites.scores),
}
SUBSET_SUITES = ("subset", "evaluation")
SUITES = (*NIGHT_SUITES, *SUBSET_SUITES)


def run_suite(
    url: str,
    suite: str,
    *,
    dataset: str | None = None,
    crawl_date: date | None = None,
    subset: SubsetRow | None = None,
    limits_of: Callable[[str | None], AppliedLimits] = lambda _: AppliedLimits(),
) -> list[CheckOutcome]:
    """Run a suite, store the outcomes in `check_results` and return them.

    Args:
        url: URL of the store.
        suite: `shards`, `samples` or `scores` of a night, `subset`, or `evaluation` of a subset.
        dataset: Dataset of the night. None: every training dataset, one after the other.
        crawl_date: Crawl date of the night. None: each undecided night, then all nights together.
        subset: The version to check, for the suites `subset` and `evaluation`.
        limits_of: Returns the limits of a dataset, or those of the project for None.

    Raises:
        ConfigError: The suite is unknown, or needs a subset and none was given.
    """
    engine = make_engine(url)
    try:
        if suite in SUBSET_SUITES:
            began_at = read_time(engine)
            outcomes = _check_subset(engine, suite, subset, limits_of)
            where = {
                "crawl_date": crawl_date,
                "subset_name": subset.name if subset else None,
                "created_at": began_at,
            }
            store_check_results(engine, [_row(suite, outcome, where) for outcome in outcomes])
        elif suite in NIGHT_SUITES:
            outcomes = _check_nights(engine, suite, dataset, crawl_date, limits_of)
        else:
            raise ConfigError(f"There is no suite {suite!r}. Suites: {', '.join(SUITES)}.")
    finally:
        engine.dispose()
    return outcomes


def failures(outcomes: list[CheckOutcome]) -> list[CheckOutcome]:
    """Return the outcomes that stop the pipeline; a night that a person has rejected is decided, so it fails no task."""
    return [
        outcome
        for outcome in outcomes
        if outcome.severity == FAIL and not outcome.is_success and "rejected_by" not in outcome.observed
    ]


def _check_nights(
    engine: Engine,
    suite: str,
    dataset: str | None,
    crawl_date: date | None,
    limits_of: Callable[[str | None], AppliedLimits],
) -> list[CheckOutcome]:
    names = [dataset] if dataset is not None else [row.name for row in list_datasets(engine, role="train")]
    outcomes = []
    for name in names:
        undecided = [] if crawl_date is not None else undecided_dates(engine, suite, name)
        for day in (*undecided, crawl_date):
            # What arrives while the check reads must make its results outdated.
            began_at = read_time(engine)
            found = _check_night(engine, suite, name, day, limits_of(name))
            if crawl_date is None:
                found = [_milder(outcome) for outcome in found]
            store_check_results(
                engine, [_row(suite, outcome, {"crawl_date": day, "created_at": began_at}) for outcome in found]
            )
            outcomes += found
    return outcomes


def _milder(outcome: CheckOutcome) -> CheckOutcome:
    """Only warn, in a run over all nights, of what is not finished or is decided for each night by itself.

    Nights that are being scored are not published before every shard is scored. All nights together contain released, rejected and
    stopped ones, which a person decides or has decided: only a recount that does not add up still fails.
    """
    is_mild = outcome.expectation == suites.SCORED if outcome.crawl_date else outcome.expectation != suites.RECOUNTED
    return replace(outcome, severity=WARN) if is_mild else outcome


def _check_night(
    engine: Engine, suite: str, dataset: str, crawl_date: date | None, applied: AppliedLimits
) -> list[CheckOutcome]:
    frames, checks = NIGHT_SUITES[suite]
    night = {"dataset": dataset, "crawl_date": crawl_date, **applied.limits.as_json()}
    outcomes = _validate_all({name: read_slice(engine, name, night) for name in frames}, checks(applied.limits))
    rows = Rows(engine, applied.limits.suite_timeout_s, dataset=dataset, crawl_date=crawl_date)
    outcomes += _check_own(suite, applied, {dataset}, rows)
    if crawl_date is not None:
        outcomes += _dropped(engine, suite, dataset, crawl_date, outcomes)
    mild, rejected = released_checks(engine, suite, dataset, crawl_date), dict[str, dict[str, Any]]()
    if crawl_date is not None:
        rejected = rejected_checks(engine, suite, dataset, crawl_date)
        if any(one.stops_scoring for one in failed_checks(engine, dataset, crawl_date)):
            # It is not scored because it is stopped: that is no second failure, which would still stop it after the first is repaired.
            mild = mild | {suites.SCORED}
    return [
        _decided(
            replace(
                _with_limits(outcome, applied),
                dataset=dataset,
                crawl_date=crawl_date,
                severity=WARN if outcome.expectation in mild else outcome.severity,
            ),
            rejected.get(outcome.expectation),
        )
        for outcome in outcomes
    ]


def _decided(outcome: CheckOutcome, rejection: Mapping[str, Any] | None) -> CheckOutcome:
    """Keep a rejected check failed, even if it would pass now."""
    if rejection is None:
        return outcome
    return replace(outcome, severity=FAIL, is_success=False, observed={**outcome.observed, **rejection})


def _check_own(suite: str, applied: AppliedLimits, datasets: set[str], rows: Rows) -> list[CheckOutcome]:
    """Run the user's own suites after the built-in one."""
    if applied.folder is None or suite not in GATES:
        return []
    known = frozenset(row.name for row in list_datasets(rows.engine))
    return run_own_suites(
        OwnChecks(suite, applied.folder, frozenset(datasets), known, applied.limits.max_examples), rows
    )


def _dropped(
    engine: Engine, suite: str, dataset: str, crawl_date: date, outcomes: list[CheckOutcome]
) -> list[CheckOutcome]:
    """Return a success for each failed expectation that is in no suite any more: otherwise it would stop the night forever."""
    now = {outcome.expectation for outcome in outcomes}
    dropped = [
        row.expectation
        for row in failed_checks(engine, dataset, crawl_date)
        if row.suite == suite and is_own(row.expectation) and row.expectation not in now
    ]
    return [CheckOutcome(name, WARN, is_success=True, observed={"note": "no longer in any suite"}) for name in dropped]


def _with_limits(outcome: CheckOutcome, applied: AppliedLimits) -> CheckOutcome:
    """Add the limits that were applied, and where each is set, so that an outcome can be explained later."""
    if not outcome.settings:
        return outcome
    limits = {key: getattr(applied.limits, key) for key in outcome.settings}
    origins = {key: applied.origin(key) for key in outcome.settings}
    return replace(outcome, observed=outcome.observed | {"limits": limits, "limits_from": origins})


def _check_subset(
    engine: Engine, suite: str, row: SubsetRow | None, limits_of: Callable[[str | None], AppliedLimits]
) -> list[CheckOutcome]:
    if row is None:
        raise ConfigError(f"Suite {suite!r} requires --subset: name the subset to check.")
    if suite == "evaluation":
        columns = read_slice(engine, "check_evaluation", {"subset_id": row.subset_id})
        return _validate_all({"check_evaluation": columns}, suites.evaluation())
    manifest = read_manifest(artifact_path(row.manifest_uri), sha256=row.manifest_sha256)
    frames = {
        "check_subset": count_members(engine, manifest.pair_hash_K32, row.subset_id),
        "manifest": _rank_figures(engine, row, manifest),
    }
    applied = limits_of(None)
    checks = suites.subset(
        row.n_samples, applied.limits,
        drop_top_ratio=row.spec.get("drop_top_ratio") or 0.0, usual_share=(row.curves or {}).get("usual_dropped_share"),
    )  # fmt: skip
    outcomes = _validate_all(frames, checks, is_whole=True)
    if probe := _predicted_gain(engine, row):
        outcomes += [_with_limits(outcome, applied) for outcome in _validate_all({"probe": probe}, checks)]
    rows = Rows(engine, applied.limits.suite_timeout_s, pair_hash_K32=manifest.pair_hash_K32)
    return outcomes + _check_own(suite, applied, {*read_dataset_names(engine, row.snapshot_id)}, rows)


def _rank_figures(engine: Engine, row: SubsetRow, manifest: Manifest) -> Columns:
    """Return figures of the ranks of a version's members, as columns of one row; no row for a version without members."""
    if not len(manifest):
        return {"rank": [], "dropped_share": [], "is_mixed": []}
    # Older versions do not have the share; nothing contradicts what they asked for.
    dropped = (row.curves or {}).get("dropped_share", row.spec.get("drop_top_ratio") or 0.0)
    warning = describe_pairing(engine, row)
    # The lowest rank is enough for the check of the drop-top ratio, so the frame does not need millions of ranks.
    return {"rank": [float(manifest.rank_K.min())], "dropped_share": [dropped], "is_mixed": [warning is not None]}


def _predicted_gain(engine: Engine, row: SubsetRow) -> Columns:
    """Return the gain over a random subset that the rater's rank window predicts, as columns of one row; no columns without a window."""
    if not row.curves:
        return {}
    spec = {"strategy": row.strategy, "retention": row.retention, **row.spec}
    gain = expected_gain(engine, rater_of_subset(engine, row).rater_id, spec, read_curve(row.curves))
    if gain is None or gain.high is None:
        return {}
    return {"expected_gain": [gain.mean], "expected_gain_low": [gain.low], "expected_gain_high": [gain.high]}


def _validate_all(frames: Mapping[str, Columns], checks: list[Check], *, is_whole: bool = False) -> list[CheckOutcome]:
    """Validate each frame against its checks; skip empty frames unless `is_whole`."""
    outcomes = []
    for name, columns in frames.items():
        if is_whole or _n_rows(columns):
            outcomes += validate(columns, [check for check in checks if check.frame == name])
    # Store an outcome for a night without rows too, so that it counts as checked.
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
        "dataset_name": outcome.dataset,
        **where,
    }
