"""The tables of the study `value`, as its research pages show them, from the trials that git keeps.

`python -m tests.benchmarks.study_page` prints them. A test finds every line of them in the pages, so no figure in its tables is typed by
hand.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from alchemist_core.experiments.results import compare_cells, losses_by_arm
from alchemist_core.experiments.trial import Cell
from alchemist_core.statistics import Estimate, estimate, estimate_gain
from tests.benchmarks.study import CONTROLS, FUSED, FUSION, KEPT, RECIPES, SIGNAL, mean_aucs

FIRST = Path(__file__).with_name("tables") / "study-value.json"
WORLDS = {"scenes": "synthetic", "damaged": "damaged"}
LEARNABILITY, _, ACCEPTED = RECIPES
ARMS = {
    "random": "random", "planted": "oracle", LEARNABILITY: "`learnability/auto`", FUSION: "fusion",
    ACCEPTED: "fusion, accepted, repeated", CONTROLS[3]: "fusion, accepted, repeated + validation dataset",
    "validation": "validation dataset alone",
}  # fmt: skip
PAIRS = (
    (FUSION, LEARNABILITY),
    (ACCEPTED, FUSION),
    (CONTROLS[3], ACCEPTED),
    (CONTROLS[3], LEARNABILITY),
)
SCORES = (SIGNAL, "trained_critic", "image_density", "+".join(FUSED))
Trials = Sequence[dict[str, Any]]


def read_trials(name: str = "value") -> list[dict[str, Any]]:
    """Return the kept trials of a study, by world and seed."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((KEPT / name).glob("*-s[0-9]*.json"))]


def table_lines(page: Path) -> list[str]:
    """Return the lines of all tables of a page."""
    return [line for line in page.read_text("utf-8").splitlines() if line.startswith("|")]


def read_first_trials() -> list[dict[str, Any]]:
    """Return the trials of the study's first seeds, those of page 031."""
    found: list[dict[str, Any]] = json.loads(FIRST.read_text("utf-8"))["trials"]
    return found


def tables(trials: Trials) -> Iterator[str]:
    """Yield the lines of all tables: gains, differences of arms, areas under the curve, what is accepted, costs."""
    for table in (gains, differences, areas, accepted, costs):
        yield from (*table(trials), "")


def gains(trials: Trials) -> Iterator[str]:
    """Yield a line for each world, retention and arm."""
    yield "| corpus | kept | arm | held-out loss | gain over random | gap closed |"
    yield "| --- " * 6 + "|"
    for world, title in WORLDS.items():
        for row in compare_cells(cells_of(trials, world)):
            is_control = row.arm in ("random", "planted")
            gain = "–" if row.gain is None or row.arm == "random" else nats(row.gain)
            gap = "–" if row.gap_closed is None or is_control else percent(row.gap_closed)
            yield f"| {title} | {row.retention:.0%} | {ARMS[row.arm]} | {nats(row.loss)} | {gain} | {gap} |"


def differences(trials: Trials) -> Iterator[str]:
    """Yield a line for each pair of arms: by how much the first has the lower loss, paired by seed."""
    yield "| arm | against | synthetic 20% | synthetic 50% | damaged 20% | damaged 50% |"
    yield "| --- " * 6 + "|"
    cells = {world: cells_of(trials, world) for world in WORLDS}
    for arm, other in PAIRS:
        found = []
        for world in WORLDS:
            for retention in (0.2, 0.5):
                losses = losses_by_arm([cell for cell in cells[world] if cell.retention == retention])
                gain = estimate_gain(losses[arm], losses[other])
                found.append("–" if gain is None else nats(gain))
        yield f"| {ARMS[arm]} | {ARMS[other]} | {' | '.join(found)} |"


def areas(trials: Trials, worlds: Mapping[str, str] = WORLDS) -> Iterator[str]:
    """Yield a line for each kind of sample that is not good: the chance that a score ranks a good sample above it."""
    yield "| corpus | kind | learnability | critic | density ratio | fusion |"
    yield "| --- " * 6 + "|"
    for world, title in worlds.items():
        found = mean_aucs([trial for trial in trials if trial["world"] == world])[world]
        for kind in sorted(found[SIGNAL]):
            shown = " | ".join(two(Estimate(**found[score][kind])) for score in SCORES)
            yield f"| {title} | {kind.replace('_', ' ')} | {shown} |"


def accepted(trials: Trials, worlds: Mapping[str, str] = WORLDS) -> Iterator[str]:
    """Yield a line for each world: what the threshold of the fusion accepts."""
    yield "| corpus | accepted share of the corpus | accepted share of the good samples | good share of the accepted samples |"
    yield "| --- " * 4 + "|"
    for world, title in worlds.items():
        shown = " | ".join(
            percent(estimate([trial["accepted"][name] for trial in trials if trial["world"] == world]))
            for name in ("share", "good_kept", "precision")
        )
        yield f"| {title} | {shown} |"


def kept_good(trials: Trials) -> dict[str, str]:
    """Return for each world the share of the good samples that the threshold of the fusion keeps, as the pages quote it."""
    return {
        world: percent(estimate([trial["accepted"]["good_kept"] for trial in trials if trial["world"] == world]))
        for world in WORLDS
    }


def replication(first: Trials, second: Trials) -> Iterator[str]:
    """Yield a line for each world and retention: the gap that rule `learnability` closes on either set of seeds and on both together."""
    sets = (first, second, [*first, *second])
    names = [name_seeds(trials) for trials in sets]
    yield f"| corpus | kept | {names[0]} | {names[1]} | all |"
    yield "| --- " * 5 + "|"
    for world, title in WORLDS.items():
        gaps = [learnability_gaps(trials, world) for trials in sets]
        for retention in gaps[0]:
            yield f"| {title} | {retention:.0%} | {' | '.join(of[retention] for of in gaps)} |"


def learnability_gaps(trials: Trials, world: str) -> dict[float, str]:
    """Return the gap that rule `learnability` closes, by retention."""
    rows = compare_cells(cells_of(trials, world))
    return {row.retention: percent(row.gap_closed) for row in rows if row.arm == LEARNABILITY and row.gap_closed}


def shared_seed(trials: Trials) -> Iterator[str]:
    """Yield a line for each world and retention: how much more the rule gains with the seed of its rater than with others.

    Networks of one size and seed start from the same weights, so a rater may suit the model of its own seed.
    """
    yield "| corpus | kept | more gain over random | more gain over the oracle |"
    yield "| --- " * 4 + "|"
    for world, title in WORLDS.items():
        for retention in (0.2, 0.5):
            found = [_more_in_first(trials, world, retention, other) for other in ("random", "planted")]
            yield f"| {title} | {retention:.0%} | {' | '.join(map(nats, found))} |"


def _more_in_first(trials: Trials, world: str, retention: float, other: str) -> Estimate:
    differences = []
    for trial in trials:
        if trial["world"] == world:
            losses = {
                cell["arm"]: cell["losses"]
                for cell in trial["cells"]
                if (cell["retention"], cell["length"]) == (retention, 1.0)
            }
            first, *others = (b - a for a, b in zip(losses[LEARNABILITY], losses[other], strict=True))
            differences.append(first - fmean(others))
    return estimate(differences)


def count_aims(trials: Trials) -> dict[str, tuple[int, int]]:
    """Return for each world in how many selections the gap closed has a mean of 100% and a lower end of 90%, and how many there are.

    Two arms of a retention with the same losses trained on the same samples: they are one selection.
    """
    found = {}
    for world in WORLDS:
        cells = cells_of(trials, world)
        aims = {
            (row.retention, *(cell.loss for cell in cells if (cell.arm, cell.retention) == (row.arm, row.retention))): (
                row.gap_closed.mean >= 1 and (row.gap_closed.low or 0) >= 0.9
            )
            for row in compare_cells(cells)
            if row.arm in (*RECIPES, CONTROLS[3]) and row.gap_closed
        }
        found[world] = sum(aims.values()), len(aims)
    return found


def name_seeds(trials: Trials) -> str:
    """Return the first and the last seed of trials, as pages write them."""
    seeds = sorted({trial["seed"] for trial in trials})
    return f"seeds {seeds[0]}–{seeds[-1]}"


def costs(trials: Trials) -> Iterator[str]:
    """Yield a line for each world: seconds of work of the rater and of each other signal, training and scoring together."""
    yield "| corpus | rater | critic | density ratio |"
    yield "| --- " * 4 + "|"
    for world, title in WORLDS.items():
        here = [trial["costs"] for trial in trials if trial["world"] == world]
        shown = " | ".join(span([one[name] for one in here], "{:,.0f}") for name in FUSED)
        yield f"| {title} | {shown} |"


def cells_of(trials: Trials, world: str) -> list[Cell]:
    return [Cell(**cell) for trial in trials if trial["world"] == world for cell in trial["cells"]]


def nats(found: Estimate) -> str:
    return _ends(found, lambda value: f"{value:.3f}")


def two(found: Estimate) -> str:
    return _ends(found, lambda value: f"{value:.2f}")


def percent(found: Estimate) -> str:
    # The ends have no sign of their own.
    return _ends(found, lambda value: f"{value:.0%}").replace("%,", ",").replace("%]", "]")


def _ends(found: Estimate, show: Callable[[float], str]) -> str:
    ends = "" if found.low is None or found.high is None else f" [{show(found.low)}, {show(found.high)}]"
    return f"{show(found.mean)}{ends}".replace("-", "−")


def span(values: Sequence[float], show: str) -> str:
    return f"{show.format(min(values))}–{show.format(max(values))}"


if __name__ == "__main__":
    both = [*read_first_trials(), *read_trials()]
    for line in (*tables(read_trials()), *replication(read_first_trials(), read_trials()), "", *shared_seed(both)):
        print(line)
    print(count_aims(read_trials()))
