"""The tables of the study `choice`, as research page 039 shows them, from the trials that git keeps.

`python -m tests.benchmarks.choice_page` prints them. A test compares them with the page.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from alchemist_core.statistics import Estimate, estimate
from tests.benchmarks.study import BY_RULE, PLANS, RECIPES
from tests.benchmarks.study_page import Trials, nats, read_trials
from tests.benchmarks.world_tables import gain_of, head, line, n_seeds, rows_of

NAME = "choice"
WORLDS = {"scenes": "synthetic", "damaged": "damaged", "shifted": "shifted", "skewed": "skewed"}
ARMS = {
    "planted": "oracle",
    BY_RULE[0]: "rule `alignment`",
    RECIPES[0]: "rule `learnability`",
    BY_RULE[1]: "fusion with `alignment`, accepted, repeated",
    RECIPES[2]: "fusion with `learnability`, accepted, repeated",
}
PAIRS = {
    "`learnability` than `alignment`, alone": (BY_RULE[0], RECIPES[0]),
    "`learnability` than `alignment`, in the fusion": (BY_RULE[1], RECIPES[2]),
    "the fusion with `alignment` than `alignment` alone": (BY_RULE[0], BY_RULE[1]),
    "the fusion with `alignment` than `learnability` alone": (RECIPES[0], BY_RULE[1]),
    "the fusion with `learnability` than `learnability` alone": (RECIPES[0], RECIPES[2]),
}
RETENTIONS = PLANS[NAME].retentions


def tables(trials: Trials) -> Iterator[str]:
    """Yield the lines of all tables: gains over random samples, and pairs of arms."""
    yield from (*gains(trials), "", *differences(trials))


def gains(trials: Trials) -> Iterator[str]:
    """Yield the gain of each arm over random at each retention."""
    yield from head("arm: gain over random", "kept", *WORLDS.values())
    for arm, title in ARMS.items():
        for retention in RETENTIONS:
            rows = rows_of(trials, WORLDS, retention)
            found = [gain_of(rows[world][arm].gain, n_seeds(trials, world)) for world in WORLDS]
            yield line(title, [f"{retention:.0%}", *found])


def differences(trials: Trials) -> Iterator[str]:
    """Yield how much lower the loss of one arm is than that of another, over all trials and over those of each world."""
    yield from head("better by", "kept", "all trials", *WORLDS.values())
    for title in PAIRS:
        for retention in RETENTIONS:
            of = [better_by(trials, title, retention, world) for world in ("", *WORLDS)]
            yield line(title, [f"{retention:.0%}", *(nats(one) for one in of)])


def better_by(trials: Trials, pair: str, retention: float, world: str = "", *, confidence: float = 0.95) -> Estimate:
    """Return the difference of a pair of arms over the trials of a world, or over all."""
    first, second = PAIRS[pair]
    losses = [_losses(trial, retention) for trial in trials if world in ("", trial["world"])]
    return estimate([of[first] - of[second] for of in losses], confidence)


def _losses(trial: Mapping[str, Any], retention: float) -> dict[str, float]:
    return {cell["arm"]: cell["loss"] for cell in trial["cells"] if cell["retention"] == retention}


if __name__ == "__main__":
    print(*tables(read_trials(NAME)), sep="\n")
