"""Tables with a column for each world, as research pages 036 and 037 show them."""

from collections.abc import Iterator, Mapping, Sequence

from alchemist_core.experiments.results import ArmRow, compare_cells
from alchemist_core.statistics import Estimate
from tests.benchmarks.study_page import Trials, cells_of, nats


def rows_of(trials: Trials, worlds: Mapping[str, str], retention: float | None = None) -> dict[str, dict[str, ArmRow]]:
    """Return the rows of each world by arm, at one retention; None: the only one there is."""
    return {
        world: {row.arm: row for row in compare_cells(cells_of(trials, world)) if retention in (None, row.retention)}
        for world in worlds
    }


def n_seeds(trials: Trials, world: str) -> int:
    """Return the corpus seeds of a world."""
    return sum(trial["world"] == world for trial in trials)


def gain_of(found: Estimate | None, n: int) -> str:
    """Show a gain; with fewer seeds than the world has, their number, too."""
    if found is None:
        return "–"
    return nats(found) if found.n == n else f"{nats(found)}, {found.n} of {n} seeds"


def head(*columns: str) -> Iterator[str]:
    """Yield the head of a table."""
    yield line(columns[0], columns[1:])
    yield "| --- " * len(columns) + "|"


def line(title: str, cells: Sequence[str]) -> str:
    """Return a line of a table."""
    return f"| {title} | {' | '.join(cells)} |"
