"""The tables of the study `methods`, as research page 036 shows them, from the trials that git keeps.

`python -m tests.benchmarks.methods_page` prints them and draws the page's figure. A test compares both with the page.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from alchemist_core.experiments.results import RANDOM, LossOfSeed, losses_by_arm
from alchemist_core.statistics import estimate_gain
from tests.benchmarks.study import CONTROLS, FUSION, FUSIONS, RECIPES, draw, make_table, selection_seconds
from tests.benchmarks.study_page import Trials, cells_of, nats, read_trials, span
from tests.benchmarks.world_tables import gain_of, head, line, n_seeds, rows_of

NAME = "methods"
FIGURE_PATH = Path(__file__).parents[2] / "docs" / "research" / "036-damaged.svg"
WORLDS = {"scenes": "synthetic", "redundant": "redundant", "skewed": "skewed", "damaged": "damaged"}
LEARNABILITY, _, ACCEPTED = RECIPES
CONTROLS_SHOWN = {
    RANDOM: "random",
    "random;variety=1": "random, balanced over clusters",
    "planted": "oracle",
    "validation": "validation dataset alone",
}
OWN_ARMS = {
    LEARNABILITY: "`learnability/auto`",
    "pmi/auto": "`pmi/auto`",
    "learnability+pmi/head_gsample": "learnability and PMI",
    FUSIONS[1]: "learnability and critic",
    FUSIONS[0]: "critic and density ratio, no rater",
    FUSION: "fusion",
    ACCEPTED: "fusion, accepted, repeated",
    CONTROLS[3]: "fusion, accepted, repeated + validation dataset",
}
FIELD_ARMS = {
    "loss/paper": "the paper: rule `loss` at its window",
    "seal/auto": "SEAL",
    "two_steps/auto": "DataRater to first order",
    "rho_batches/top_k": "RHO-LOSS",
    "jest/top_k": "JEST",
    "trained_critic/top_k": "critic, trained on validation data",
    "crossed_critic/top_k": "critic, trained on the corpus too",
    "clip_validation/top_k": "CLIP filter, trained on validation data",
    "clip_corpus/top_k": "CLIP filter, trained on the corpus",
    "density_ratio/top_k": "density ratio, image and caption",
    "image_density/top_k": "density ratio, image",
    "dsir/top_k": "DSIR",
    "semdedup/top_k": "SemDeDup",
    "clarity/top_k": "clarity",
}
ARMS = CONTROLS_SHOWN | OWN_ARMS | FIELD_ARMS
COMPARED = (
    *(FUSIONS[1], FUSIONS[0], FUSION, ACCEPTED),
    *("rho_batches/top_k", "trained_critic/top_k", "clip_validation/top_k"),
)
"""Arms that are compared with rule `learnability`."""
CONTRASTED = {"scenes": "synthetic", "damaged": "damaged"}
"""Worlds on which they are compared with it one by one: on the others little can be gained."""
FIGURE = "damaged"
"""The world whose gains are drawn: the others have too few seeds for an interval that can be seen."""


def tables(trials: Trials) -> Iterator[str]:
    """Yield the lines of all tables: losses of the controls, gains with their costs, differences to rule `learnability`."""
    for table in (losses, gains, against_learnability):
        yield from (*table(trials), "")


def losses(trials: Trials) -> Iterator[str]:
    """Yield the held-out loss of each control."""
    rows = rows_of(trials, WORLDS)
    yield from head("arm: held-out loss", *WORLDS.values())
    for arm, title in CONTROLS_SHOWN.items():
        yield line(title, [nats(rows[world][arm].loss) for world in WORLDS])


def gains(trials: Trials) -> Iterator[str]:
    """Yield the gain of each arm over random, and what its selection costs: seconds of the trials that had the machine alone."""
    rows = rows_of(trials, WORLDS)
    alone = [trial for trial in trials if not trial.get("beside_other_work")] or trials
    yield from head("arm: gain over random", *WORLDS.values(), "seconds")
    for arm, title in ARMS.items():
        if arm != RANDOM:
            seconds = [selection_seconds(arm, trial["costs"]) for trial in alone]
            found = [gain_of(rows[world][arm].gain, n_seeds(trials, world)) for world in WORLDS]
            yield line(title, [*found, span(seconds, "{:,.0f}")])


def against_learnability(trials: Trials) -> Iterator[str]:
    """Yield by how much each arm has a lower loss than rule `learnability`, paired by seed: on each world, and on all of them pooled."""
    of = {world: losses_by_arm(cells_of(trials, world)) for world in WORLDS}
    yield from head("arm: lower loss than rule `learnability`", *CONTRASTED.values(), "all four pooled")
    for arm in COMPARED:
        found = [
            (estimate_gain(of[world][arm], of[world][LEARNABILITY]), n_seeds(trials, world)) for world in CONTRASTED
        ]
        pooled = (estimate_gain(_pool(of, arm), _pool(of, LEARNABILITY)), len(trials))
        yield line(ARMS[arm], [gain_of(gain, n) for gain, n in (*found, pooled)])


def _pool(of: Mapping[str, Mapping[str, LossOfSeed]], arm: str) -> LossOfSeed:
    """Return the losses of an arm on all worlds: seed 40 of the second world is 1040."""
    return {
        1000 * number + seed: loss
        for number, losses in enumerate(of.values())
        for seed, loss in losses.get(arm, {}).items()
    }


def best(trials: Trials) -> dict[str, str]:
    """Return the arm with the largest gain of each world, where one is shown to be above 0 for all arms together; else `not shown`."""
    return {world: ARMS.get(arm, arm) for world, arm in make_table(trials)["best"].items()}


def figure(trials: Trials) -> str:
    """Draw the gains of one world as SVG."""
    (_, _, svg), *_ = draw([trial for trial in trials if trial["world"] == FIGURE])
    return svg


if __name__ == "__main__":
    kept = read_trials(NAME)
    FIGURE_PATH.write_text(figure(kept), encoding="utf-8")
    print(*tables(kept), sep="\n")
    print(best(kept))
