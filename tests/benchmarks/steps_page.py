"""The tables of research page 042: after which share of random's steps a subset reaches random's final loss.

`python -m tests.benchmarks.steps_page` prints them and draws the page's figures. A test compares both with the page.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from alchemist_core.experiments.results import RANDOM, compare_cells, share_of_steps
from alchemist_core.experiments.sheets import draw_times
from alchemist_core.statistics import Estimate
from tests.benchmarks.promises_page import RESEARCH
from tests.benchmarks.steps_to_random import AIMS, KEPT_STEPS, SHARES
from tests.benchmarks.study import RECIPES
from tests.benchmarks.study_page import WORLDS, Trials, cells_of, nats
from tests.benchmarks.world_tables import head, line

RECIPE = RECIPES[-1]
NAMES = {RANDOM: "random", RECIPE: "fusion"}


def read_steps() -> list[dict[str, Any]]:
    """Return the kept losses of each corpus seed."""
    found: list[dict[str, Any]] = json.loads(KEPT_STEPS.read_text("utf-8"))
    return found


def shares(trials: Trials) -> Iterator[str]:
    """Yield a line for each corpus and retention: the share of random's steps, and how many times fewer steps that is."""
    yield from head("corpus", "kept", "share of random's steps", "times fewer steps", "the paper")
    for world, title in WORLDS.items():
        for retention, aim in AIMS.items():
            share = share_of_steps(cells_of(trials, world), RECIPE, retention)
            values = ("not reached", "–") if share is None else (nats(share), times(share))
            yield line(title, [f"{retention:.0%}", *values, f"{aim:g}"])


def times(share: Estimate) -> str:
    """Return how many times fewer steps a share is, with its interval."""
    low, high = share.low, share.high
    ends = "" if low is None or high is None else f" [{1 / high:.2f}, {f'{1 / low:.2f}' if low > 0 else '∞'}]"
    return f"{1 / share.mean:.2f}{ends}"


def losses(trials: Trials) -> Iterator[str]:
    """Yield a line for each corpus, retention and arm: the held-out loss at each length."""
    yield from head("corpus", "kept", "arm", *(f"{share:.0%}" for share in SHARES))
    for world, title in WORLDS.items():
        rows = compare_cells(cells_of(trials, world))
        for retention in AIMS:
            for arm, name in NAMES.items():
                of = sorted(
                    (row for row in rows if (row.arm, row.retention) == (arm, retention)), key=lambda row: row.n_steps
                )
                yield line(title, [f"{retention:.0%}", name, *(f"{row.loss.mean:.3f}" for row in of)])


def figures(trials: Trials) -> dict[str, str]:
    """Return the figures of the page by the names of their files."""
    found = {}
    for world, title in WORLDS.items():
        # The word of the recipe is longer than a legend is wide.
        rows = [replace(row, arm=NAMES[row.arm]) for row in compare_cells(cells_of(trials, world))]
        for retention in AIMS:
            drawn = draw_times(
                [row for row in rows if row.retention == retention], f"Held-out loss, {title}, {retention:.0%}"
            )
            found[f"042-{world}-r{retention * 100:g}.svg"] = drawn
    return found


if __name__ == "__main__":
    kept = read_steps()
    print(*shares(kept), "", *losses(kept), sep="\n")
    for name, svg in figures(kept).items():
        (RESEARCH / name).write_text(svg, encoding="utf-8")
