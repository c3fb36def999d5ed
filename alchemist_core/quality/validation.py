"""Runs checks by Great Expectations on a frame or on rows of the store. Only this module imports the library, when it is first used.

The import takes more than a second; what the library needs only for charts and for tests of distributions is loaded when it is used. The
context is in memory: no project folder, no Data Docs, no analytics.
"""

import json
import os
import runpy
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from alchemist_core.errors import DataError
from alchemist_core.lazy import importing
from alchemist_core.quality.suites import Check
from alchemist_core.store.checks import Slice

KEPT_EXAMPLES = 5
KEPT_FIGURES = ("observed_value", "element_count", "unexpected_count", "missing_count")


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """Outcome of one check. `observed` is JSON, of a failure also in words; `dataset` and `crawl_date` are those of the night."""

    expectation: str
    severity: str
    is_success: bool
    observed: dict[str, Any]
    dataset: str | None = None
    crawl_date: date | None = None
    settings: tuple[str, ...] = ()


def validate(columns: Mapping[str, Sequence[Any]], checks: Sequence[Check]) -> list[CheckOutcome]:
    """Run the checks of one frame; the outcomes have the order of the checks."""
    with _quiet():
        results = _results(columns, checks)
    return [_outcome(check, results[check.name]) for check in checks]


def _results(columns: Mapping[str, Sequence[Any]], checks: Sequence[Check]) -> dict[str, dict[str, Any]]:
    gx = _library()
    import pandas as pd  # type: ignore[import-untyped]  # noqa: PLC0415  installed with Great Expectations

    asset = _context().data_sources.add_pandas("store").add_dataframe_asset("slice")
    whole = asset.add_batch_definition_whole_dataframe("whole")
    batch = whole.get_batch(batch_parameters={"dataframe": pd.DataFrame(columns)})
    suite = gx.ExpectationSuite(name="suite")
    for check in checks:
        kind = getattr(gx.expectations, check.expectation)
        # Not `add_expectation`, which leaves out one that differs from another in its name alone.
        suite.expectations.append(kind(**check.arguments, meta={"check": check.name}))
    return _validated(batch, suite, "BASIC")


def _outcome(check: Check, result: Mapping[str, Any]) -> CheckOutcome:
    found = result["result"]
    observed = {name: found[name] for name in KEPT_FIGURES if name in found}
    if examples := found.get("partial_unexpected_list"):
        observed["examples"] = examples[:KEPT_EXAMPLES]
    if reason := result["exception_info"].get("exception_message"):
        observed["exception"] = reason
    observed["expected"] = {name: value for name, value in check.arguments.items() if not name.startswith("column")}
    if not result["success"]:
        observed["in_words"] = check.describe(observed)
    return CheckOutcome(check.name, check.severity, bool(result["success"]), observed, settings=check.settings)


@dataclass(frozen=True, slots=True)
class OwnSuite:
    """A suite of the user's own, as Great Expectations reads it."""

    expectations: list[Any]
    meta: dict[str, Any]


def load_suite(path: Path) -> OwnSuite:
    """Read a suite: JSON in the library's format, or a Python file that defines `suite`.

    Raises:
        DataError: The file cannot be read, or an expectation in it does not exist or has wrong arguments.
    """
    with _quiet():
        try:
            found = _load_python(path) if path.suffix == ".py" else _load_json(path)
        except (Exception, SystemExit) as error:  # noqa: BLE001  a suite in Python may raise anything
            lines = str(error).strip().splitlines()
            raise DataError(f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}") from None
    if not found.expectations:
        raise DataError("The suite contains no expectations.")
    return found


def _load_json(path: Path) -> OwnSuite:
    _library()
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration  # noqa: PLC0415

    given = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(given, dict) or not isinstance(given.get("expectations"), list):
        raise TypeError(
            'a suite must be an object with a list "expectations", as written by ExpectationSuite.to_json_dict()'
        )
    # Add them one by one: the constructor of the suite would skip an expectation that it cannot read.
    expectations = [ExpectationConfiguration(**each).to_domain_obj() for each in given["expectations"]]
    return OwnSuite(expectations, given.get("meta") or {})


def _load_python(path: Path) -> OwnSuite:
    gx = _library()

    suite = runpy.run_path(str(path)).get("suite")
    if not isinstance(suite, gx.ExpectationSuite):
        raise TypeError("the file must define `suite`, an ExpectationSuite")
    return OwnSuite(list(suite.expectations), dict(suite.meta))


def validate_slice(slice_: Slice, expectations: Mapping[str, Any], *, max_examples: int) -> dict[str, dict[str, Any]]:
    """Test expectations on rows of the store, by the library's SQL data source; return the results by name."""
    gx = _library()
    from great_expectations.expectations.core.unexpected_rows_expectation import (  # noqa: PLC0415
        UnexpectedRowsExpectation,
    )

    with _quiet():
        # Pass connections of `slice_.connect` instead of a URL: the library would search a password for templates.
        source = _context().data_sources.add_postgres(
            "store", connection_string="postgresql+psycopg2://check@store/slice", kwargs={"creator": slice_.connect}
        )
        batch = source.add_query_asset("slice", query=slice_.query).add_batch_definition_whole_table("all").get_batch()
        is_sql = {name: isinstance(each, UnexpectedRowsExpectation) for name, each in expectations.items()}
        found: dict[str, dict[str, Any]] = {}
        # For expectations written in SQL the library returns rows only in the format COMPLETE, and limits their number.
        for is_own_sql, kind in ((False, "SUMMARY"), (True, "COMPLETE")):
            suite = gx.ExpectationSuite(name=f"own {kind}")
            for name, expectation in expectations.items():
                if is_sql[name] is is_own_sql:
                    expectation.meta = {"check": name}
                    suite.expectations.append(expectation)
            if suite.expectations:
                found |= _validated(batch, suite, {
                    "result_format": kind, "unexpected_index_column_names": slice_.row_names,
                    "partial_unexpected_count": max_examples, "return_unexpected_index_query": False,
                })  # fmt: skip
        source.get_execution_engine().close()
    return found


def _validated(batch: Any, suite: Any, result_format: Any) -> dict[str, dict[str, Any]]:
    validated: dict[str, Any] = batch.validate(suite, result_format=result_format).to_json_dict()
    return {result["expectation_config"]["meta"]["check"]: result for result in validated["results"]}


def _context() -> Any:
    gx = _library()
    from great_expectations.data_context.types.base import ProgressBarsConfig  # noqa: PLC0415

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


class _Later(ModuleType):
    """Stands for a module until something in it is used, and then loads it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


@cache
def _library() -> Any:
    """Import Great Expectations without altair and scipy.stats, which take a third of its time and are rarely used."""
    for name in ("altair", "scipy.stats"):
        if name not in sys.modules and find_spec(name.partition(".")[0]) is not None:
            sys.modules[name] = _Later(name)
    with importing():
        return import_module("great_expectations")


@contextmanager
def _quiet() -> Iterator[None]:
    """Redirect the output of the library and of suites to standard error: standard output is for the result."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        # Great Expectations and its dependencies use deprecated features of Python and pandas.
        warnings.simplefilter("ignore")
        yield
