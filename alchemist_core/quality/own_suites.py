"""The user's own suites of expectations: find the files for a gate and run them. Outcomes have the form of built-in checks.

A gate is the built-in suite that the own suite extends. A suite reads one view of the store, limited to a night or to the members of a
subset. A suite that cannot be read or run fails its gate with the reason: a silently skipped check would let any data pass.
Suites in Python are executed, so write access to the folder means code execution.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from alchemist_core.config import Config
from alchemist_core.errors import DataError
from alchemist_core.quality.suites import FAIL, WARN
from alchemist_core.quality.validation import CheckOutcome, OwnSuite, load_suite, validate_slice
from alchemist_core.quality.wording import in_words
from alchemist_core.store.checks import Rows, Slice, open_slice

Gate = Literal["shards", "samples", "scores", "subset"]
GATES: tuple[Gate, ...] = get_args(Gate)
VIEWS: dict[Gate, str] = {
    "shards": "crawled_shards", "samples": "crawled_samples", "scores": "scored_samples", "subset": "samples",
}  # fmt: skip
KINDS = (".json", ".py")
CAN_BE_RUN, DATASETS_EXIST = "can_be_run", "its_datasets_exist"
LONGEST_TEXT = 200
FIGURES = ("observed_value", "element_count", "unexpected_count", "missing_count")


class SuiteMeta(Config):
    """Settings in the `meta` of a suite: `{"alchemist": {"gate": "samples", "datasets": ["web"]}}`."""

    gate: Gate | None = Field(None, description="Gate of the suite; absent: by the beginning of the file name")
    datasets: tuple[str, ...] | None = Field(None, description="Datasets that it checks; absent: all")
    view: str | None = Field(None, description="View of the store to read; absent: the default view of the gate")


@dataclass(frozen=True, slots=True)
class OwnChecks:
    """The checks to run: the gate, the folder of suites, the datasets of the night or subset, and all registered datasets."""

    gate: Gate
    folder: Path
    datasets: frozenset[str]
    known_datasets: frozenset[str]
    max_examples: int


def run_own_suites(wanted: OwnChecks, rows: Rows) -> list[CheckOutcome]:
    """Run every suite of the gate in the folder, and return the outcomes."""
    files = sorted(path for path in wanted.folder.iterdir() if path.suffix in KINDS and path.name[0] not in "._")
    return [outcome for path in files for outcome in _run_file(path, wanted, rows)]


def is_own(expectation: str) -> bool:
    """Return whether an expectation belongs to a suite of the user's own, by its name.

    >>> is_own("samples_web.json/can_be_run"), is_own("captions_are_not_empty")
    (True, False)
    """
    return "/" in expectation and expectation.partition("/")[0].endswith(KINDS)


def _run_file(path: Path, wanted: OwnChecks, rows: Rows) -> list[CheckOutcome]:
    # If the file name gives the gate, a broken file fails only this gate.
    by_name = next((gate for gate in GATES if path.name.startswith(gate)), None)
    if by_name not in (None, wanted.gate):
        return []
    name = _printable(path.name)
    try:
        suite = load_suite(path)
        meta = _read_meta(suite.meta)
        if _gate_of(by_name, meta) != wanted.gate or not (meta.datasets is None or wanted.datasets & {*meta.datasets}):
            return _note_unknown(name, meta, wanted)
        with open_slice(meta.view or VIEWS[wanted.gate], rows) as slice_:
            return [*_note_unknown(name, meta, wanted), *_run_suite(name, suite, slice_, wanted)]
    except DataError as error:
        return [
            CheckOutcome(
                f"{name}/{CAN_BE_RUN}",
                FAIL,
                is_success=False,
                observed={
                    "exception": (reason := _printable(str(error))),
                    "in_words": f"could not be run: {reason}",
                },
            )
        ]


def _read_meta(meta: Mapping[str, Any]) -> SuiteMeta:
    try:
        return SuiteMeta.model_validate(meta.get("alchemist", {}))
    except ValidationError as error:
        (fault, *_) = error.errors()
        place = ".".join(["meta", "alchemist", *map(str, fault["loc"])])
        raise DataError(f"{place} is not allowed: {fault['msg']}. Keys: {', '.join(SuiteMeta.model_fields)}.") from None


def _gate_of(by_name: Gate | None, meta: SuiteMeta) -> Gate:
    if by_name and meta.gate and by_name != meta.gate:
        raise DataError(
            f"The file name gives the gate {by_name}, but meta.alchemist.gate is {meta.gate}. Change one of them."
        )
    if gate := meta.gate or by_name:
        return gate
    gates = ", ".join(GATES)
    raise DataError(f"The gate is not given. Start the file name with one of {gates}, or set meta.alchemist.gate.")


def _note_unknown(name: str, meta: SuiteMeta, wanted: OwnChecks) -> list[CheckOutcome]:
    """Warn about unregistered datasets: with a misspelt name the suite would never run."""
    unknown = sorted({*(meta.datasets or ())} - wanted.known_datasets)
    observed: dict[str, Any] = {"examples": [_shortened(dataset) for dataset in unknown]}
    observed["in_words"] = in_words(observed, value="only registered datasets")
    return [CheckOutcome(f"{name}/{DATASETS_EXIST}", WARN, is_success=False, observed=observed)] if unknown else []


def _run_suite(name: str, suite: OwnSuite, slice_: Slice, wanted: OwnChecks) -> Iterator[CheckOutcome]:
    has_rows = slice_.has_rows()
    yield CheckOutcome(f"{name}/{CAN_BE_RUN}", FAIL, is_success=True, observed={"has_rows": has_rows})
    if not has_rows:
        return
    named = dict(_named(name, suite))
    results = validate_slice(slice_, named, max_examples=wanted.max_examples)
    for title in named:
        yield _outcome(title, results[title], wanted.max_examples)


def _named(name: str, suite: OwnSuite) -> Iterator[tuple[str, Any]]:
    seen: dict[str, int] = {}
    for expectation in suite.expectations:
        config = expectation.configuration
        columns = [str(config.kwargs[key]) for key in ("column", "column_A", "column_B") if key in config.kwargs]
        title = _printable(f"{name}/{config.type}" + (f"({', '.join(columns)})" if columns else ""))
        seen[title] = seen.get(title, 0) + 1
        yield (title if seen[title] == 1 else f"{title} #{seen[title]}"), expectation


def _outcome(title: str, result: Mapping[str, Any], max_examples: int) -> CheckOutcome:
    found, config = result["result"], result["expectation_config"]
    arguments = {key: value for key, value in config["kwargs"].items() if key != "batch_id"}
    observed = {figure: found[figure] for figure in FIGURES if figure in found} | {"expected": arguments}
    rows = found.get("partial_unexpected_index_list") or found.get("details", {}).get("unexpected_rows")
    if examples := rows or found.get("partial_unexpected_list"):
        observed["examples"] = examples[:max_examples]
    reason = _reason(result["exception_info"])
    if reason:
        observed["exception"] = reason
    # An expectation of any severity that could not be tested counts as failed.
    severity = FAIL if reason or config.get("severity", "critical") == "critical" else WARN
    kept = _shortened(observed)
    if not result["success"]:
        kept["in_words"] = in_words(kept, value=_printable(_expectation_in_words(config["type"], arguments)))
    return CheckOutcome(title, severity, is_success=bool(result["success"]), observed=kept)


def _expectation_in_words(kind: str, arguments: Mapping[str, Any]) -> str:
    """Return the name of an expectation as words, with its columns.

    >>> _expectation_in_words("expect_column_values_to_be_between", {"column": "width", "min_value": 60})
    'column values to be between (width)'
    """
    columns = ", ".join(str(arguments[key]) for key in ("column", "column_A", "column_B") if key in arguments)
    words = kind.removeprefix("expect_").replace("_", " ")
    return f"{words} ({columns})" if columns else words


def _reason(info: Mapping[str, Any]) -> str | None:
    """Return why an expectation could not be tested: one exception, or one for each metric."""
    each = [info] if "exception_message" in info else [one for one in info.values() if isinstance(one, Mapping)]
    messages = dict.fromkeys(
        str(one["exception_message"]).strip().partition("\n")[0] for one in each if one["exception_message"]
    )
    return _printable("; ".join(messages)) or None


def _printable(value: str) -> str:
    """Return a text on one line with control characters escaped, safe for a terminal or a table."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in value)


def _shortened(value: Any) -> Any:
    """Return a value that jsonb can store: without NaN and NUL, long texts shortened."""
    if isinstance(value, Mapping):
        return {_shortened(str(key)): _shortened(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shortened(item) for item in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = _printable(str(value))
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"
