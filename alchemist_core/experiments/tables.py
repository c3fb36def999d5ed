"""An experiment's rows as text and as CSV. Figures and the page are drawn elsewhere."""

import csv
import io
from collections.abc import Sequence

from alchemist_core.evaluation.paired import Estimate
from alchemist_core.experiments.results import RANDOM, ArmRow

HEAD = ("arm", "kept", "samples", "steps", "seeds", "held-out loss", "gain over random", "gap closed", "")
COLUMNS = (
    *("retention", "arm", "n_samples", "n_steps", "n_seeds", "loss", "loss_low", "loss_high"),
    *("gain", "gain_low", "gain_high", "gap_closed", "gap_closed_low", "gap_closed_high", "is_noninferior"),
)


def lay_out(lines: Sequence[tuple[str, ...]]) -> str:
    """Put lines of texts beneath one another, each column as wide as its widest text.

    >>> lay_out([("a", "kept"), ("random", "20%")]).splitlines()
    ['a       kept', 'random  20%']
    """
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def csv_table(rows: Sequence[ArmRow]) -> str:
    """Write rows as CSV, an empty field where there is no value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        numbers = (row.retention, row.arm, row.n_samples, row.n_steps, row.loss.n)
        found = (row.loss, row.gain, row.gap_closed)
        writer.writerow([*numbers, *(end for one in found for end in _ends(one)), row.is_noninferior])
    return out.getvalue()


def cells(row: ArmRow) -> tuple[str, ...]:
    """Return a row as texts, in the order of `HEAD`."""
    return (
        row.arm, f"{row.retention:.0%}", f"{row.n_samples:,}", f"{row.n_steps:,}", str(row.loss.n), show(row.loss),
        show(row.gain), show(row.gap_closed, digits=0, scale=100, unit=" %"), verdict(row),
    )  # fmt: skip


def show(found: Estimate | None, *, digits: int = 4, scale: float = 1.0, unit: str = "") -> str:
    """Write a mean with the half-width of its interval; a dash where there is none.

    >>> show(Estimate(0.5, 0.4, 0.6, 3), digits=0, scale=100, unit=" %")
    '50 ± 10 %'
    """
    if found is None:
        return "–"
    error = "" if found.half_width is None else f" ± {found.half_width * scale:.{digits}f}"
    return f"{found.mean * scale:.{digits}f}{error}{unit}".replace("-", "−")


def verdict(row: ArmRow) -> str:
    """Say what the interval of the gain shows, and which of several planted arms the gap is taken to."""
    said = _say_gain(row)
    if not row.is_best_planted:
        return said
    return f"{said}, the best planted arm" if said else "the best planted arm"


def _say_gain(row: ArmRow) -> str:
    if row.gain is None or row.gain.low is None:
        return ""
    if row.gain.low > 0:
        return "better than random"
    if row.arm != RANDOM and row.gain.low == row.gain.high == 0.0:
        return "drawn at random: the same pairs"
    worse = "worse than random" if (row.gain.high or 0.0) < 0 else "no difference shown"
    return f"{worse}, not inferior by 1 %" if row.is_noninferior else worse


def _ends(found: Estimate | None) -> tuple[float | None, ...]:
    return (None, None, None) if found is None else (found.mean, found.low, found.high)
