"""Rows of a benchmark: what was measured, the target, and whether it was reached; written as JSON and printed."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alchemist_core.settings import load_settings
from alchemist_core.statistics import estimate


class Row(NamedTuple):
    """One figure; without a target it is for information only. A value that could not be measured is None; the detail says why."""

    name: str
    value: float | None
    unit: str
    target: str | None
    ok: bool | None
    detail: str = ""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Give the mean of some seeds' values and the half width of its 95 % interval by Student's t.

    >>> mean, half = interval([1.0, 2.0, 3.0])
    >>> (mean, round(half, 3))
    (2.0, 2.484)
    """
    found = estimate(values)
    return found.mean, math.inf if found.half_width is None else found.half_width


def at_least(name: str, value: float, limit: float, unit: str, detail: str = "") -> Row:
    """Make a row that should not fall below a limit."""
    return Row(name, round(value, 4), unit, f"≥ {limit:g}", value >= limit, detail)


def write_rows(bench: str, rows: Sequence[Row]) -> Path:
    """Write `.alchemist/bench/NAME.json` and print a line a row."""
    path = load_settings().home / "bench" / f"{bench}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    listed: list[dict[str, Any]] = [row._asdict() for row in rows]
    path.write_text(json.dumps(listed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for row in rows:
        mark = "" if row.ok is None else ("ok  " if row.ok else "MISS")
        value = f"{'–' if row.value is None else format(row.value, 'g'):>12}"
        print(f"{mark:4} {row.name:<44} {value} {row.unit:<12} {row.target or '':<10} {row.detail}")
    return path
