"""One frame against its checks, by Great Expectations: the only module that imports it, and only when there are rows.

Its import costs 4 to 5 seconds. The context lives in memory: no project folder, no Data Docs, no analytics.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alchemist_core.quality.suites import Check

KEPT_EXAMPLES = 5
KEPT_FIGURES = ("observed_value", "element_count", "unexpected_count", "missing_count")


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What came of one expectation; `observed` is JSON, `dataset` whose night it is about."""

    expectation: str
    severity: str
    is_success: bool
    observed: dict[str, Any]
    dataset: str | None = None
    settings: tuple[str, ...] = ()


def validate(columns: Mapping[str, Sequence[Any]], checks: Sequence[Check]) -> list[CheckOutcome]:
    """Test the checks of one frame; the outcomes are in the checks' order."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    with warnings.catch_warnings():
        # Great Expectations and its own imports use what Python and pandas have deprecated; nothing here can help that.
        warnings.simplefilter("ignore")
        results = _results(columns, checks)
    return [_outcome(check, results[check.name]) for check in checks]


def _results(columns: Mapping[str, Sequence[Any]], checks: Sequence[Check]) -> dict[str, dict[str, Any]]:
    import great_expectations as gx  # noqa: PLC0415  4 to 5 seconds
    import pandas as pd  # type: ignore[import-untyped]  # noqa: PLC0415  comes with it
    from great_expectations.data_context.types.base import ProgressBarsConfig  # noqa: PLC0415

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("store").add_dataframe_asset("slice")
    whole = asset.add_batch_definition_whole_dataframe("whole")
    batch = whole.get_batch(batch_parameters={"dataframe": pd.DataFrame(columns)})
    suite = gx.ExpectationSuite(name="suite")
    for check in checks:
        kind = getattr(gx.expectations, check.expectation)
        suite.add_expectation(kind(**check.arguments, meta={"check": check.name}))
    validated: dict[str, Any] = batch.validate(suite, result_format="BASIC").to_json_dict()  # type: ignore[no-untyped-call]
    return {result["expectation_config"]["meta"]["check"]: result for result in validated["results"]}


def _outcome(check: Check, result: Mapping[str, Any]) -> CheckOutcome:
    found = result["result"]
    observed = {name: found[name] for name in KEPT_FIGURES if name in found}
    if examples := found.get("partial_unexpected_list"):
        observed["examples"] = examples[:KEPT_EXAMPLES]
    if reason := result["exception_info"].get("exception_message"):
        observed["exception"] = reason
    bounds = {name: value for name, value in check.arguments.items() if not name.startswith("column")}
    return CheckOutcome(
        check.name, check.severity, bool(result["success"]), {**observed, "expected": bounds}, settings=check.settings
    )
