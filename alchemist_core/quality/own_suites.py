"""A user's own suites of expectations: which files gate what, and what came of each, in the same form as the built-in checks.

A suite looks at one view of the store, limited to one night or to the members of one subset. A suite that cannot be read or
run fails its gate with a line that says why: a check that is skipped in silence would let anything pass. A Python file is
code of whoever may write into the folder.
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
    """What a suite says of itself: `{"alchemist": {"gate": "samples", "datasets": ["web"]}}` in its `meta`."""

    gate: Gate | None = Field(None, description="What it gates; absent: the beginning of the file's name says it")
    datasets: tuple[str, ...] | None = Field(None, description="Datasets that it is about; absent: all")
    view: str | None = Field(None, description="View of the store to look at; absent: the gate's own")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be checked: the datasets of the night or subset, and all that the store knows."""

    gate: Gate
    folder: Path
    datasets: frozenset[str]
    known_datasets: frozenset[str]
    max_examples: int


def run_own_suites(asked: Asked, rows: Rows) -> list[CheckOutcome]:
    """Run every suite in the folder that gates this, and return what came of each."""
    files = sorted(path for path in asked.folder.iterdir() if path.suffix in KINDS and path.name[0] not in "._")
    return [outcome for path in files for outcome in _run_file(path, asked, rows)]


def is_own(expectation: str) -> bool:
    """Tell whether an expectation's name is that of a user's own suite.

    >>> is_own("samples_web.json/can_be_run"), is_own("captions_are_not_empty")
    (True, False)
    """
    return "/" in expectation and expectation.partition("/")[0].endswith(KINDS)


def _run_file(path: Path, asked: Asked, rows: Rows) -> list[CheckOutcome]:
    # A broken file whose name says what it gates stops nothing else.
    by_name = next((gate for gate in GATES if path.name.startswith(gate)), None)
    if by_name not in (None, asked.gate):
        return []
    name = _printable(path.name)
    try:
        suite = load_suite(path)
        meta = _read_meta(suite.meta)
        if _gate_of(by_name, meta) != asked.gate or not (meta.datasets is None or asked.datasets & {*meta.datasets}):
            return _note_unknown(name, meta, asked)
        with open_slice(meta.view or VIEWS[asked.gate], rows) as slice_:
            return [*_note_unknown(name, meta, asked), *_run_suite(name, suite, slice_, asked)]
    except DataError as error:
        return [
            CheckOutcome(f"{name}/{CAN_BE_RUN}", FAIL, is_success=False, observed={"exception": _printable(str(error))})
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
        raise DataError(f"Its name says that it gates {by_name}, its meta.alchemist.gate says {meta.gate}.")
    if gate := meta.gate or by_name:
        return gate
    gates = ", ".join(GATES)
    raise DataError(f"It does not say what it gates: begin its name with one of {gates}, or set meta.alchemist.gate.")


def _note_unknown(name: str, meta: SuiteMeta, asked: Asked) -> list[CheckOutcome]:
    """Warn of a misspelt dataset: such a suite would never run."""
    unknown = sorted({*(meta.datasets or ())} - asked.known_datasets)
    observed = {"examples": [_shortened(dataset) for dataset in unknown]}
    return [CheckOutcome(f"{name}/{DATASETS_EXIST}", WARN, is_success=False, observed=observed)] if unknown else []


def _run_suite(name: str, suite: OwnSuite, slice_: Slice, asked: Asked) -> Iterator[CheckOutcome]:
    has_rows = slice_.has_rows()
    yield CheckOutcome(f"{name}/{CAN_BE_RUN}", FAIL, is_success=True, observed={"has_rows": has_rows})
    if not has_rows:
        return
    named = dict(_named(name, suite))
    results = validate_slice(slice_, named, max_examples=asked.max_examples)
    for title in named:
        yield _outcome(title, results[title], asked.max_examples)


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
    # What could not be tested did not hold, whatever it weighs.
    severity = FAIL if reason or config.get("severity", "critical") == "critical" else WARN
    return CheckOutcome(title, severity, is_success=bool(result["success"]), observed=_shortened(observed))


def _reason(info: Mapping[str, Any]) -> str | None:
    """Return why an expectation could not be tested, of one exception or of one a metric."""
    each = [info] if "exception_message" in info else [one for one in info.values() if isinstance(one, Mapping)]
    said = dict.fromkeys(
        str(one["exception_message"]).strip().partition("\n")[0] for one in each if one["exception_message"]
    )
    return _printable("; ".join(said)) or None


def _printable(value: str) -> str:
    """Write a text on one line, with its control signs escaped; a terminal or a table shows it as it is."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in value)


def _shortened(value: Any) -> Any:
    """Return what jsonb takes: no NaN, no NUL, no endless text."""
    if isinstance(value, Mapping):
        return {_shortened(str(key)): _shortened(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shortened(item) for item in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = _printable(str(value))
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"
