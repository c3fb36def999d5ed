"""How many fewer steps a subset needs to reach the final loss of random samples, as in the paper's Fig. 6.

`python -m tests.benchmarks.steps_to_random [--corpus FOLDER] [--workers 2]` trains random samples and the default recipe
for shares of their usual length, on the corpora of `study value`, whose raters and windows it finds in the store. It writes
`.alchemist/bench/steps_to_random.json`: for each corpus and retention the ratio of steps, over corpus seeds.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from alchemist_core.statistics import estimate
from alchemist_core.store.engine import create_store, open_store
from alchemist_core.store.experiments import find_experiment
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.study import PLANS, RECIPES, Study, Trial, make_trial, run_alchemist

SHARES = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
"""Lengths of both arms' trainings as shares of ten epochs: 0.2 and 0.4 are about the paper's 5 and 2.33 times."""
AIMS = {0.2: 2.33, 0.5: 5.0}
"""The paper's ratios by retention."""


def main() -> None:
    """Train what is missing and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="folder of real tars, for the damaged corpus")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    trials = Study(PLANS["value"], given.corpus, given.workers).trials
    create_store()
    with ThreadPoolExecutor(given.workers) as pool:
        results = list(pool.map(partial(measure, corpus=given.corpus), trials))
    rows = []
    for world in dict.fromkeys(trial.world for trial in trials):
        found = [cells for trial, cells in zip(trials, results, strict=True) if trial.world == world]
        rows += [judge(world, retention, found) for retention in PLANS["value"].retentions]
    write_rows("steps_to_random", rows)


def measure(trial: Trial, corpus: Path | None) -> list[dict[str, Any]]:
    """Train a trial's arms for all lengths; return the cells."""
    root, name = make_trial(trial, corpus), f"steps-{trial.world}-s{trial.seed}"
    lengths = ",".join(map(str, SHARES))
    options = trial.options(root / "truth.parquet") | {
        "experiment": "training_time", "name": name, "arms": f"random,{RECIPES[-1]}", "budget-multiples": lengths,
        "trainings": "2",
    }  # fmt: skip
    words = [word for option, value in options.items() for word in (f"--{option}", value)]
    run_alchemist(["experiment", "run", *words], name)
    result = find_experiment(open_store(), name).result
    assert result is not None
    cells: list[dict[str, Any]] = result["cells"]
    return cells


def judge(world: str, retention: float, found: Sequence[Sequence[Mapping[str, Any]]]) -> Row:
    """Return the ratio of steps over corpus seeds; a seed whose recipe never reaches random's loss counts as 1."""
    ratios = [
        steps_ratio({(cell["arm"], cell["length"]): cell["loss"] for cell in cells if cell["retention"] == retention})
        for cells in found
    ]
    mean, aim = estimate(ratios), AIMS[retention]
    ends = "" if mean.low is None else f" [{mean.low:.2f}, {mean.high:.2f}]"
    detail = f"{mean.mean:.2f}{ends}, {mean.n} corpus seeds: {', '.join(f'{ratio:.2f}' for ratio in ratios)}"
    title = f"{world}: steps of random to those of {RECIPES[-1]} at {retention:.0%}"
    return Row(title, round(mean.mean, 3), "x", f">= {aim} (the paper's)",
               mean.mean >= aim, detail)  # fmt: skip


def steps_ratio(loss_of: Mapping[tuple[str, float], float]) -> float:
    """Return how many times the steps random needs, by log-linear interpolation between the lengths; at most the shortest length shows.

    >>> round(steps_ratio({("random", 1.0): 0.5, ("x", 0.25): 0.6, ("x", 0.5): 0.5, ("x", 1.0): 0.4}), 3)
    2.0
    """
    aim = loss_of["random", 1.0]
    curve = sorted((length, loss) for (arm, length), loss in loss_of.items() if arm != "random")
    if curve[0][1] <= aim:
        return 1 / curve[0][0]
    for (short, before), (long, after) in pairwise(curve):
        if after <= aim:
            part = (before - aim) / (before - after)
            return 1 / math.exp(math.log(short) + part * (math.log(long) - math.log(short)))
    return 1.0


if __name__ == "__main__":
    main()
