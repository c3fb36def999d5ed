"""The tables of research page 041: what tuning promised and what came, and the searches where there was nothing to find.

`python -m tests.benchmarks.promises_page` prints them and draws the page's figures. A test compares both with the page.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alchemist_core.experiments.results import RANDOM, compare_cells
from alchemist_core.experiments.trial import Cell
from alchemist_core.statistics import Estimate
from tests.benchmarks.false_alarms import KEPT_SEARCHES
from tests.benchmarks.study import KEPT, compare_promises, draw_promises
from tests.benchmarks.study_page import nats, read_trials
from tests.benchmarks.tables import FOLDER
from tests.benchmarks.world_tables import head, line
from tests.benchmarks.worlds_page import ARMS, NAME, WORLDS

RESEARCH = Path(__file__).parents[2] / "docs" / "research"
WINDOWS = {
    "value-scenes-r20-s3-4-5-6-7": "synthetic", "value-scenes-r50-s3-4-5-6-7": "synthetic", "value-damaged-both-s3-4-5-6-7": "damaged",
}  # fmt: skip
"""Kept tables whose rank windows were tuned, and measured on other seeds; those of the undamaged corpus were not used, so nothing came."""
Searches = Sequence[Mapping[str, Any]]


def read_searches() -> dict[str, dict[str, Any]]:
    """Return the kept searches of the study `worlds`, by world."""
    paths = {world: KEPT / NAME / f"search-{world}.json" for world in WORLDS}
    return {world: json.loads(path.read_text("utf-8")) for world, path in paths.items() if path.exists()}


def read_alarms() -> list[dict[str, Any]]:
    """Return the kept searches on corpora whose samples are drawn as those of their validation datasets are."""
    found: list[dict[str, Any]] = json.loads(KEPT_SEARCHES.read_text("utf-8"))
    return found


def read_windows() -> list[dict[str, Any]]:
    """Return what was measured for the tuned rank window of each rule, and what the window gave on the reported seeds, in nats."""
    found = []
    for name, world in WINDOWS.items():
        kept = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))["result"]
        gains = {(row.arm, row.retention): row.gain for row in compare_cells([Cell(**cell) for cell in kept["cells"]])}
        for window in kept["regions"]:
            rule, retention = window["rater"], window["fit"]["retention"]
            came = gains[f"{rule}/auto", retention]
            assert came is not None
            title = f"{world}, {retention:.0%}, {rule}"
            found.append({"world": title, "promised": window["measured"], "came": asdict(came)})
    return found


def read_promises() -> list[dict[str, Any]]:
    """Return what each kept search promised, and what came; the corpora have their names of the pages."""
    found = compare_promises(read_trials(NAME), read_searches())
    return [one | {"world": WORLDS[one["world"]]} for one in found]


def windows(found: Searches) -> Iterator[str]:
    """Yield a line for each tuned rank window: what was measured on the tuning seeds, and what came."""
    yield from head("corpus, kept, rule", "promised", "came")
    for one in found:
        yield line(one["world"], [nats(Estimate(**one[name])) for name in ("promised", "came")])


def promises(found: Searches) -> Iterator[str]:
    """Yield a line for each corpus: the best recipe of its search, what was promised for it, and what came."""
    yield from head("corpus", "best recipe of the search", "on the seeds that chose it", "promised", "came", "chosen")
    for one in found:
        values = [nats(Estimate(**one[name])) for name in ("promised", "came")]
        yield line(one["world"], [*_named(one), *values, _title(one["recipe"])])


def alarms(found: Searches) -> Iterator[str]:
    """Yield a line for each group of corpora: what its search promised for its best recipe and for the fallback, and what it chose."""
    yield from head(
        "group", "best recipe of the search", "on the seeds that chose it", "promised", "fallback", "chosen"
    )
    for number, one in enumerate(found, start=1):
        fallback = "–" if one["fallback"] is None else nats(Estimate(**one["fallback"]))
        yield line(str(number), [*_named(one), nats(Estimate(**one["promised"])), fallback, _title(one["recipe"])])


def _named(one: Mapping[str, Any]) -> tuple[str, str]:
    return _title(one["winner"]), f"{one['searched']:.3f}".replace("-", "−")


def _title(recipe: str | None) -> str:
    return ARMS[recipe or RANDOM]


def figures() -> dict[str, str]:
    """Return the figures of the page by the names of their files."""
    return {
        "041-windows.svg": draw_promises(read_windows(), "nats per token"),
        "041-recipes.svg": draw_promises(read_promises()),
    }


if __name__ == "__main__":
    print(*windows(read_windows()), "", *promises(read_promises()), "", *alarms(read_alarms()), sep="\n")
    for name, svg in figures().items():
        (RESEARCH / name).write_text(svg, encoding="utf-8")
