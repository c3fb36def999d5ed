"""The tables of the study `worlds`, as research pages 037 and 040 show them, from the trials that git keeps.

`python -m tests.benchmarks.worlds_page` prints them. A test compares them with the page.
"""

from collections.abc import Iterator

from alchemist_core.experiments.results import RANDOM
from tests.benchmarks.methods_page import CONTROLS_SHOWN, OWN_ARMS
from tests.benchmarks.study import OTHERS, PLANS, make_table
from tests.benchmarks.study_page import Trials, accepted, areas, nats, read_trials
from tests.benchmarks.world_tables import gain_of, head, line, n_seeds, rows_of

NAME = "worlds"
WORLDS = {
    "shifted": "shifted", "redundant": "redundant", "skewed": "skewed", "real": "undamaged real", "openclipart": "drawings",
}  # fmt: skip
DRAWINGS = {"openclipart": WORLDS["openclipart"]}
TITLES = CONTROLS_SHOWN | OWN_ARMS
ARMS = {arm: TITLES[arm] for arm in ("planted" if word == "oracle" else word for word in OTHERS)}
RETENTIONS = PLANS[NAME].retentions


def tables(trials: Trials) -> Iterator[str]:
    """Yield the lines of all tables: losses of random samples, gains over them, what the threshold accepts."""
    yield from (*losses(trials), "", *gains(trials), "", *accepted(trials, WORLDS))


def losses(trials: Trials) -> Iterator[str]:
    """Yield the held-out loss of random samples at each retention."""
    yield from head("random: held-out loss", *WORLDS.values())
    for retention in RETENTIONS:
        rows = rows_of(trials, WORLDS, retention)
        yield line(f"{retention:.0%}", [nats(rows[world][RANDOM].loss) for world in WORLDS])


def gains(trials: Trials) -> Iterator[str]:
    """Yield the gain of each arm over random at each retention."""
    yield from head("arm: gain over random", "kept", *WORLDS.values())
    for arm, title in ARMS.items():
        if arm != RANDOM:
            for retention in RETENTIONS:
                rows = rows_of(trials, WORLDS, retention)
                found = [gain_of(rows[world][arm].gain, n_seeds(trials, world)) for world in WORLDS]
                yield line(title, [f"{retention:.0%}", *found])


def best(trials: Trials) -> dict[str, str]:
    """Return the best arm of each world and retention that is shown to be better than random for all arms together, or `not shown`."""
    return {cell: ARMS.get(arm, arm) for cell, arm in make_table(trials)["best"].items()}


if __name__ == "__main__":
    kept = read_trials(NAME)
    print(*tables(kept), "", *areas(kept, DRAWINGS), sep="\n")
    print(best(kept))
