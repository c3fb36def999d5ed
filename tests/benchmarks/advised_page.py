"""The tables of the studies `default`, `sizes-N` and `topics`, as research pages 043 to 045 show them, from the trials that git keeps.

`python -m tests.benchmarks.advised_page {default,sizes,topics}` prints those of one page. A test compares them with the pages.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from alchemist_core.experiments.results import RANDOM, ArmRow, losses_by_arm
from alchemist_core.statistics import Estimate, estimate, estimate_gain
from tests.benchmarks.promises_page import RESEARCH
from tests.benchmarks.study import ADVISED, BY_CLUSTER, BY_RULE, BY_TOPIC, PLANS, RECIPES, SIZES, WITHOUT_RATER
from tests.benchmarks.study_page import Trials, cells_of, nats, percent, read_trials, two
from tests.benchmarks.world_tables import gain_of, head, line, n_seeds, rows_of

PAGES = {
    "default": RESEARCH / "043-default-reported.md",
    "sizes": RESEARCH / "044-validation-sizes.md",
    "topics": RESEARCH / "045-unseen-topics.md",
}
BALANCED = "random;variety=1"
WITH_VALIDATION = ADVISED[3]
WEIGHTED = f"{BY_RULE[1]};weight_by=rank"
TITLES = {
    RANDOM: "random",
    BALANCED: "random, balanced over clusters",
    "planted": "oracle",
    "validation": "validation dataset alone",
    BY_RULE[0]: "rule `alignment`",
    RECIPES[0]: "rule `learnability`",
    BY_RULE[1]: "recipe `fusion`",
    RECIPES[2]: "recipe `fusion` with `learnability`",
    WITHOUT_RATER: "recipe `fusion` without a rater",
    WEIGHTED: "recipe `fusion`, weights by rank",
    WITH_VALIDATION: "recipe `fusion` + validation dataset",
    BY_TOPIC[0]: "critic",
    f"{BY_TOPIC[0]};{BY_CLUSTER}": "critic, within clusters",
    BY_TOPIC[1]: "`learnability`, critic and density ratio",
    f"{BY_TOPIC[1]};{BY_CLUSTER}": "the same, within clusters",
}
PAIRS = (
    (BY_RULE[1], BY_RULE[0]),
    (BY_RULE[1], RECIPES[0]),
    (RECIPES[0], BY_RULE[0]),
    (BY_RULE[1], WITHOUT_RATER),
    (BY_RULE[1], "validation"),
    (WEIGHTED, BY_RULE[1]),
    (BALANCED, RANDOM),
)
"""Arms that are compared: the first one's gain over the second."""
AREAS = {
    "damaged": (
        ("rule `alignment`, noise", "alignment", "noise"),
        ("rule `learnability`, noise", "learnability", "noise"),
        ("critic, wrong captions", "trained_critic", "wrong_caption"),
        ("density ratio, blur", "image_density", "blur"),
    ),
    "scenes": (
        ("rule `alignment`, wrong captions", "alignment", "wrong_caption"),
        ("rule `learnability`, wrong captions", "learnability", "wrong_caption"),
        ("critic, wrong captions", "trained_critic", "wrong_caption"),
        ("density ratio, plain", "image_density", "plain"),
    ),
}
"""What a score finds, by corpus: title, score, kind of sample."""
WORLDS = {"scenes": "synthetic", "damaged": "damaged"}
UNSEEN = {
    "informative_unseen": "right captions of shown concepts above right ones of others (0.5: no preference)",
    "wrong_caption": "right captions above wrong ones, shown concepts",
    "wrong_caption_unseen": "the same, other concepts",
}
SCORES = {
    "trained_critic": "critic", "image_density": "density ratio", "learnability": "`learnability`",
    "learnability+trained_critic+image_density": "fusion",
}  # fmt: skip


def default_tables(trials: Trials) -> Iterator[str]:
    """Yield gains over random with the share of the gap that they close, and pairs of arms."""
    yield from head(
        "arm", "kept", *(f"{title}: {what}" for title in WORLDS.values() for what in ("gain", "gap closed"))
    )
    for arm, retention in _arms_of("default"):
        shown = [cell for world in WORLDS for cell in (of(trials, world, arm, retention) for of in (_gain, _gap))]
        yield line(TITLES[arm], [f"{retention:.0%}", *shown])
    yield ""
    yield from head("arm", "against", *(f"{title} {kept:.0%}" for title in WORLDS.values() for kept in (0.2, 0.5)))
    for arm, other in PAIRS:
        shown = [nats(better_by(trials, world, arm, other, kept)) for world in WORLDS for kept in (0.2, 0.5)]
        yield line(TITLES[arm], [TITLES[other], *shown])


def better_by(trials: Trials, world: str, arm: str, other: str, retention: float) -> Estimate:
    """Return by how much the loss of an arm is lower than that of another, over the corpus seeds of a world."""
    losses = losses_by_arm([cell for cell in cells_of(trials, world) if cell.retention == retention])
    found = estimate_gain(losses[arm], losses[other])
    assert found is not None
    return found


def sizes_tables(of_size: Mapping[int, Trials]) -> Iterator[str]:
    """Yield for each corpus the gain of each arm by size of the validation dataset, and what its scores find."""
    worlds = [world for world in ("damaged", "scenes") if any(n_seeds(trials, world) for trials in of_size.values())]
    for world in worlds:
        yield from head(f"{WORLDS[world]}, gain over random", *map("{:,}".format, of_size))
        for arm in (arm for arm, _ in _arms_of("sizes-100")):
            yield line(TITLES[arm], [_gain(trials, world, arm, 0.2) for trials in of_size.values()])
        yield ""
        yield from head(f"{WORLDS[world]}, AUC", *map("{:,}".format, of_size))
        for title, score, kind in AREAS[world]:
            yield line(title, [_area(trials, world, score, kind) for trials in of_size.values()])
        yield ""


def topics_tables(trials: Trials) -> Iterator[str]:
    """Yield gains over random, what shares of clusters add, and whether a score prefers what the validation dataset shows."""
    yield from head("arm", "gain over random")
    for arm, retention in _arms_of("topics"):
        yield line(TITLES[arm], [_gain(trials, "half_seen", arm, retention)])
    yield ""
    yield from head("within clusters, against without", "lower loss")
    for arm in BY_TOPIC:
        yield line(TITLES[arm], [nats(better_by(trials, "half_seen", f"{arm};{BY_CLUSTER}", arm, 0.5))])
    yield ""
    yield from head("AUC", *SCORES.values())
    for kind, title in UNSEEN.items():
        yield line(title, [_area(trials, "half_seen", score, kind) for score in SCORES])


def read_sizes() -> dict[int, Trials]:
    """Return the kept trials of each size that has some."""
    found = {n: read_trials(f"sizes-{n}") for n in SIZES}
    return {n: trials for n, trials in found.items() if trials}


def _arms_of(plan: str) -> list[tuple[str, float]]:
    """Return the arms of a plan with its retentions, without random, which gains nothing over itself."""
    arms = ["planted" if arm == "oracle" else arm for arm in PLANS[plan].arms if arm != RANDOM]
    return [(arm, retention) for arm in arms for retention in PLANS[plan].retentions]


def _row(trials: Trials, world: str, arm: str, retention: float) -> ArmRow | None:
    return rows_of(trials, {world: ""}, retention)[world].get(arm)


def _gain(trials: Trials, world: str, arm: str, retention: float) -> str:
    row = _row(trials, world, arm, retention)
    return gain_of(row.gain if row else None, n_seeds(trials, world))


def _gap(trials: Trials, world: str, arm: str, retention: float) -> str:
    row = _row(trials, world, arm, retention)
    return "–" if row is None or row.gap_closed is None or arm == "planted" else percent(row.gap_closed)


def _area(trials: Trials, world: str, score: str, kind: str) -> str:
    areas: list[dict[str, Any]] = [trial["aucs"].get(score, {}) for trial in trials if trial["world"] == world]
    found = [area[kind] for area in areas if kind in area]
    return two(estimate(found)) if found else "–"


MADE: dict[str, Callable[[], Iterator[str]]] = {
    "default": lambda: default_tables(read_trials("default")),
    "sizes": lambda: sizes_tables(read_sizes()),
    "topics": lambda: topics_tables(read_trials("topics")),
}

if __name__ == "__main__":
    print(*MADE[sys.argv[1]](), sep="\n")
