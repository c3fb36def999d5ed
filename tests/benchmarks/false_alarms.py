"""How often the search for a recipe finds one where there is nothing to find.

`python -m tests.benchmarks.false_alarms [--workers 2] [--quick] [--keep]` searches on eight groups of corpora of the world `alike`, whose
samples are drawn as those of the validation and the test dataset are. A recipe that a search chooses there is a false alarm. Each group has
its own corpora, four that search and four that test. Writes `.alchemist/bench/false_alarms.json`; a rerun does only what is missing.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from alchemist_core.experiments.recipes import BALANCED
from alchemist_core.statistics import Estimate, estimate
from alchemist_core.store.engine import create_store
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.study import RECIPES, Plan, Trial, search_recipe

N_GROUPS, N_SEEDS, FIRST_SEED = 8, 4, 100
KEPT_SEARCHES = Path(__file__).with_name("tables") / "false-alarms.json"
"""The searches that git keeps, which research page 041 shows."""
# Small corpora and short trainings: less is learnt, but nothing can be learnt here, and there is more noise to be taken for a gain.
SMALL = Plan(
    "alike", ("alike",), RECIPES, retentions=(0.5,), n_train=1_200, validation_share=0.25, trainings=1, epochs=20, drawn_resolution=64,
    training="proxy_warmup_steps=200,max_train_steps=200", searched=(*RECIPES, BALANCED),
)  # fmt: skip


def main() -> None:
    """Search where a search is missing, and count those that chose a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="two groups at the smallest size; their figures mean nothing"
    )
    parser.add_argument("--keep", action="store_true", help="write the searches to where git keeps them")
    given = parser.parse_args()
    create_store()
    groups = make_groups()
    if given.quick:
        groups = [replace(group, plan=group.plan.quick()) for group in groups[:2]]
    with ThreadPoolExecutor(given.workers) as pool:
        found = list(pool.map(find_or_search, groups))
    # A try must not replace what was measured.
    write_rows("false_alarms_quick" if given.quick else "false_alarms", judge(found))
    if given.keep and not given.quick:
        KEPT_SEARCHES.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def make_groups() -> list[Trial]:
    """Return a trial of each group; no two of them share a corpus."""
    firsts = [FIRST_SEED + 2 * N_SEEDS * group for group in range(N_GROUPS)]
    plans = [
        replace(
            SMALL,
            name=f"alike-{group}",
            search_seeds=tuple(range(first, first + N_SEEDS)),
            confirmation_seeds=tuple(range(first + N_SEEDS, first + 2 * N_SEEDS)),
        )
        for group, first in enumerate(firsts)
    ]
    return [Trial(plan, "alike", plan.search_seeds[0]) for plan in plans]


def find_or_search(trial: Trial) -> dict[str, Any]:
    """Return what the search of a group found.

    Raises:
        SystemExit: The search failed; what it said is printed.
    """
    if trial.find_search() is None:
        search_recipe(trial, None)
    found = trial.find_search()
    assert found is not None
    return found


def judge(found: Sequence[dict[str, Any]]) -> list[Row]:
    """Count the searches that chose a recipe, and average what they promised for their winners: without a signal that is 0."""
    alarms = [one["recipe"] for one in found if one["recipe"] is not None]
    promised = estimate([Estimate(**one["promised"]).mean for one in found])
    searched = estimate([one["searched"] for one in found])
    title = f"false alarms of {len(found)} searches"
    return [
        Row(title, len(alarms), "", "0", not alarms, ", ".join(alarms) or "each of them chose random samples"),
        Row("gain promised for the winners", round(promised.mean, 4), "", None, None, _ends(promised)),
        Row(
            "gain of the winners on the seeds that chose them", round(searched.mean, 4), "", None, None, _ends(searched)
        ),
    ]


def _ends(found: Estimate) -> str:
    ends = "no interval" if found.low is None else f"[{found.low:.4f}, {found.high:.4f}]"
    return f"{ends} in log(loss of random / loss), over {found.n} groups of corpora"


if __name__ == "__main__":
    main()
