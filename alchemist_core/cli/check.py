"""Run suites of data checks on nights or on a subset; a failed check stops the pipeline, a warning is only counted.

`[checks]` of the project file sets the limits, `[datasets.NAME.checks]` those of one dataset. Your own suites in the folder
`suites/` beside the project file run after the built-in suite that they extend.
"""

from datetime import date
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, model_validator
from sqlalchemy import Engine

from alchemist_core.config import Command, Config, Result, Words
from alchemist_core.errors import CheckFailedError
from alchemist_core.project import load_project
from alchemist_core.quality.limits import AppliedLimits
from alchemist_core.quality.wording import in_words
from alchemist_core.store.checks import SUITES
from alchemist_core.store.engine import database_url, open_store
from alchemist_core.store.registry import find_dataset, list_datasets
from alchemist_core.store.subsets import NEWEST_TEXT, VERSION_TEXT, choose_version, refuse_two_versions
from alchemist_core.telemetry import warn

if TYPE_CHECKING:
    from alchemist_core.quality.validation import CheckOutcome


NIGHT_REMEDY = "Inspect the data. If it is correct, release the night: alchemist night release. If it is wrong: alchemist night reject"
REMEDIES = {
    "subset": "Select it again: the new version excludes samples that were taken down or are no longer training data. If it is expected "
    "to be worse than random, use strategy auto or fewer samples; [checks] min_expected_gain sets the limit",
    "evaluation": "Run alchemist train-downstream and alchemist evaluate again, for every arm and for the random subset",
}


def _require_known(suites: tuple[str, ...]) -> tuple[str, ...]:
    for suite in suites or ("",):
        if suite not in SUITES:
            near = get_close_matches(suite, SUITES, n=1)
            raise ValueError(
                f"unknown suite {suite!r}. " + (f"Did you mean {near[0]}?" if near else "Give at least one.")
            )
    return suites


class CheckConfig(Config):
    """Which suites to run, and on which nights or subset."""

    suite: Annotated[Words, AfterValidator(_require_known)] = Field(
        ...,
        description="Suites of checks, separated by commas. shards: the tars of a night. samples: captions and images. "
        "scores: scores of a night. subset: members of a version. evaluation: measured values. [checks] in alchemist.toml "
        "sets their limits and the folder of your own suites",
    )
    dataset: str | None = Field(None, description="Dataset; none: every training dataset")
    crawl_date: date | None = Field(
        None,
        description="Crawl date (YYYY-MM-DD); none: each night that is not decided yet, where a failure stops this night alone, "
        "and then all nights together, where checks only warn; of these, scores that do not add up fail the command, but stop no night",
    )
    subset: str | None = Field(None, description="Name of the subset, for the suites subset and evaluation")
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)
    newest: bool = Field(False, description=NEWEST_TEXT)

    _names_one_version = model_validator(mode="after")(refuse_two_versions)


class CheckResult(Result):
    """Outcomes."""

    suite: str
    n_checks: int
    n_warnings: int
    warnings: list[str]


def run(config: CheckConfig) -> CheckResult:
    """Run the suites, store every outcome in `check_results`, and raise if a check failed."""
    # Great Expectations takes seconds to import.
    from alchemist_core.quality.gate import failures, run_suite  # noqa: PLC0415

    engine = open_store()
    if config.dataset is not None:
        # A dataset with a misspelt name has no nights, so no check would fail.
        find_dataset(engine, config.dataset)
    _warn_of_unknown_sections(engine)
    subset = None
    if config.subset is not None:
        subset = choose_version(engine, config.subset, version=config.version, is_newest=config.newest)
    outcomes, lines, warnings = [], [], list[str]()
    for suite in config.suite:
        found = run_suite(
            database_url(), suite, dataset=config.dataset, crawl_date=config.crawl_date, subset=subset,
            limits_of=_limits_of,
        )  # fmt: skip
        outcomes += found
        failed = failures(found)
        warnings += [describe(outcome) for outcome in found if not outcome.is_success and outcome not in failed]
        if failed:
            lines += [
                f"{len(failed)} of {len(found)} checks of suite {suite} failed. {REMEDIES.get(suite, NIGHT_REMEDY)}."
            ]
            # Failed checks come last, because the end of a log is read first.
            lines += [f"  {describe(outcome)}" for outcome in failed]
    for warning in warnings:
        warn(f"warning: {warning}")
    if lines:
        raise CheckFailedError("\n".join(lines))
    return CheckResult(
        suite=", ".join(config.suite), n_checks=len(outcomes), n_warnings=len(warnings), warnings=warnings
    )


def _warn_of_unknown_sections(engine: Engine) -> None:
    """Warn about sections of unknown datasets: if a name is misspelt, its limits have no effect."""
    project, known = load_project(), [row.name for row in list_datasets(engine)]
    for name in sorted(set(project.datasets) - set(known)):
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        warn(f"Warning: {project.path} has a section for the dataset {name!r}, which is not registered.{hint}")


def _limits_of(dataset: str | None) -> AppliedLimits:
    project = load_project()
    limits = project.of_dataset(dataset).checks
    return AppliedLimits(
        limits, lambda key: project.origin("checks", key, dataset), folder=project.suites_folder(dataset)
    )


def describe(outcome: "CheckOutcome") -> str:
    """Describe a failed expectation: what was expected, what was found, and where the limit is set."""
    night = (
        f"{outcome.dataset} {outcome.crawl_date}" if outcome.crawl_date else f"{outcome.dataset}, all nights together"
    )
    title = f"{night}: {outcome.expectation}" if outcome.dataset else outcome.expectation
    seen = outcome.observed
    if reason := seen.get("exception"):
        return f"{title}: {reason}"
    limits = ", ".join(f"{key} = {value} ({seen['limits_from'][key]})" for key, value in seen.get("limits", {}).items())
    rejection = f"; rejected by {seen['rejected_by']}: {seen['rejected_for']}" if "rejected_by" in seen else ""
    return f"{title}: {seen.get('in_words') or in_words(seen)}" + (f"; limit: {limits}" if limits else "") + rejection


def _next(config: CheckConfig, result: CheckResult) -> str | None:
    which = f" --dataset {config.dataset}" if config.dataset else ""
    which += f" --crawl-date {config.crawl_date}" if config.crawl_date else ""
    if not result.n_checks or not {"shards", "samples", "scores"}.intersection(config.suite):
        return None
    return f"alchemist night check-drift{which}" if "scores" in config.suite else f"alchemist score{which}"


COMMANDS = {"": Command(CheckConfig, run, _next)}
