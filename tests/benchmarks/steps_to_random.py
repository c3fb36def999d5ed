"""After which share of their steps a subset reaches the final loss of random samples, as in the paper's Fig. 6.

`python -m tests.benchmarks.steps_to_random [--corpus FOLDER] [--workers 2] [--seeds 35,36] [--keep]` trains random samples and the
accepted, repeated fusion for shares of their usual length, on the corpora of `study value`, whose raters and windows it finds in the
store. It writes `.alchemist/bench/steps_to_random.json`: for each corpus and retention the share of steps, over corpus seeds. A trial
that fails is left out and named, and the exit status is 1.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from alchemist_core.errors import AlchemistError
from alchemist_core.experiments.results import share_of_steps
from alchemist_core.experiments.trial import Cell
from alchemist_core.store.engine import create_store, open_store
from alchemist_core.store.experiments import find_experiment
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.study import PLANS, RECIPES, Study, Trial, limit_seeds, make_trial, run_alchemist

Cells = list[dict[str, Any]]
SHARES = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
"""Lengths of both arms' trainings as shares of ten epochs: 0.2 and 0.4 are about the paper's 5 and 2.33 times."""
AIMS = {0.2: 2.33, 0.5: 5.0}
"""The paper's ratios by retention."""
KEPT_STEPS = Path(__file__).with_name("tables") / "steps-to-random.json"
"""The losses that git keeps, which research page 042 shows."""


def main() -> None:
    """Train what is missing and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="folder of real tars, for the damaged corpus")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", default="", help="only these seeds of the plan, separated by commas")
    parser.add_argument("--keep", action="store_true", help="add the losses to those that git keeps")
    given = parser.parse_args()
    trials = Study(limit_seeds(PLANS["value"], given.seeds), given.corpus, given.workers).trials
    create_store()
    found, failed = measure_all(trials, given.corpus, given.workers)
    if given.keep:
        keep(found)
    rows = []
    for world in dict.fromkeys(trial.world for trial in found):
        cells = [cell for trial, own in found.items() if trial.world == world for cell in own]
        rows += [judge(world, retention, cells) for retention in PLANS["value"].retentions]
    write_rows("steps_to_random", rows)
    if failed:
        raise SystemExit(f"Failed and left out: {', '.join(failed)}.")


def keep(found: Mapping[Trial, Cells]) -> None:
    """Write the losses of the trials to where git keeps them; those of other trials stay, so that another clone can go on."""
    kept = json.loads(KEPT_STEPS.read_text("utf-8")) if KEPT_STEPS.exists() else []
    of_trial = {(one["world"], one["seed"]): one for one in kept}
    for trial, cells in found.items():
        of_trial[trial.world, trial.seed] = {"world": trial.world, "seed": trial.seed, "cells": cells}
    KEPT_STEPS.write_text(json.dumps([*of_trial.values()], indent=1, sort_keys=True) + "\n", encoding="utf-8")


def measure_all(trials: Sequence[Trial], corpus: Path | None, workers: int) -> tuple[dict[Trial, Cells], list[str]]:
    """Return the cells of the trials that can be measured, and the names of the others: one failure must not cost a night."""
    with ThreadPoolExecutor(workers) as pool:
        found = dict(zip(trials, pool.map(partial(attempt, corpus=corpus), trials), strict=True))
    measured = {trial: cells for trial, cells in found.items() if cells is not None}
    return measured, [trial.name for trial in trials if trial not in measured]


def attempt(trial: Trial, corpus: Path | None) -> Cells | None:
    """Return the cells of a trial; None if it fails."""
    try:
        return measure(trial, corpus)
    except (SystemExit, AlchemistError) as error:
        print(f"{trial.name} failed: {error}", flush=True)
        return None


def measure(trial: Trial, corpus: Path | None) -> Cells:
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
    cells: Cells = result["cells"]
    return cells


def judge(world: str, retention: float, found: Sequence[Mapping[str, Any]]) -> Row:
    """Return the share of random's steps over corpus seeds; the upper end of its interval is judged, because a mean may pass by chance.

    There is no share if a seed never reaches random's loss. The detail names these seeds, and those that reach it at the shortest
    length, whose share is at most that.
    """
    cells = [Cell(**cell) for cell in found]
    arm, aim = RECIPES[-1], AIMS[retention]
    share = share_of_steps(cells, arm, retention)
    of_seed = {
        seed: share_of_steps([cell for cell in cells if cell.seed == seed], arm, retention)
        for seed in sorted({cell.seed for cell in cells})
    }
    reached = {seed: one.mean for seed, one in of_seed.items() if one is not None}
    at_first = [seed for seed in reached if _is_reached_at_first(cells, retention, seed)]
    notes = [
        "no interval" if share is None or share.low is None else f"[{share.low:.3f}, {share.high:.3f}]",
        f"{len(of_seed)} corpus seeds: {', '.join(f'{one:.3f}' for one in reached.values())}",
        *([f"never reached: seeds {_join(seed for seed in of_seed if seed not in reached)}"] if share is None else []),
        *([f"at most, since reached at the shortest length: seeds {_join(at_first)}"] if at_first else []),
    ]
    title = f"{world}: share of random's steps that {arm} needs at {retention:.0%}"
    is_shown = share is not None and share.high is not None and share.high <= 1 / aim
    value = None if share is None else round(share.mean, 4)
    return Row(title, value, "", f"upper end <= {1 / aim:.3f} (the paper's {aim:g} times)", is_shown, "; ".join(notes))


def _is_reached_at_first(cells: Sequence[Cell], retention: float, seed: int) -> bool:
    own = [cell for cell in cells if (cell.retention, cell.seed) == (retention, seed)]
    aim = max((cell for cell in own if cell.arm == "random"), key=lambda cell: cell.n_steps).loss
    return min((cell for cell in own if cell.arm == RECIPES[-1]), key=lambda cell: cell.n_steps).loss <= aim


def _join(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))


if __name__ == "__main__":
    main()
