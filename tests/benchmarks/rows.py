"""Rows of a benchmark: what was measured, what was aimed at, and whether it was reached; written as JSON and shown as lines."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alchemist_core.settings import load_settings

# Two-sided 95 % points of Student's t by degrees of freedom.
_STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


class Row(NamedTuple):
    """One figure; without a target it stands for information."""

    name: str
    value: float
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
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.inf
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, _STUDENT[len(values) - 1] * math.sqrt(variance / len(values))


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
        print(f"{mark:4} {row.name:<44} {row.value:>12g} {row.unit:<12} {row.target or '':<10} {row.detail}")
    return path
