"""The tables and figures of research page 041 are those of what git keeps."""

from alchemist_core.statistics import Estimate, estimate
from tests.benchmarks.false_alarms import N_GROUPS, N_SEEDS, make_groups
from tests.benchmarks.promises_page import (
    RESEARCH,
    alarms,
    figures,
    promises,
    read_alarms,
    read_promises,
    read_searches,
    read_windows,
    windows,
)
from tests.benchmarks.study import PLANS
from tests.benchmarks.study_page import nats, table_lines
from tests.benchmarks.worlds_page import NAME, WORLDS

PAGE = RESEARCH / "041-promises.md"


def test_the_lines_of_the_page_are_made_from_what_is_kept() -> None:
    made = [*windows(read_windows()), *promises(read_promises()), *alarms(read_alarms())]
    assert len(made) > 15
    assert table_lines(PAGE) == made


def test_the_figures_are_made_from_what_is_kept() -> None:
    for name, svg in figures().items():
        assert (RESEARCH / name).read_text("utf-8") == svg
        assert f"]({name})" in PAGE.read_text("utf-8")


def test_what_came_is_of_seeds_that_neither_chose_nor_tested() -> None:
    plan = PLANS[NAME]
    for search in read_searches().values():
        assert search["search_seeds"] == [*plan.search_seeds]
        assert search["confirmation_seeds"] == [*plan.confirmation_seeds]
    assert not {*plan.search_seeds, *plan.confirmation_seeds} & {*plan.seeds}
    assert {one["came"]["n"] for one in read_promises()} == {len(plan.seeds)}


def test_the_kept_searches_without_a_signal_are_the_first_groups_of_the_program() -> None:
    groups, kept = make_groups(), read_alarms()
    assert [one["search_seeds"] for one in kept] == [[*group.plan.search_seeds] for group in groups[: len(kept)]]
    assert {len(one["confirmation_seeds"]) for one in kept} == {N_SEEDS}


def test_the_page_counts_the_searches_and_the_false_alarms() -> None:
    page = " ".join(PAGE.read_text("utf-8").split())
    chosen = [one["recipe"] for one in read_alarms() if one["recipe"] is not None]
    assert f"{len(read_searches())} of {len(WORLDS)} searches are done" in page
    assert f"{len(read_alarms())} of {N_GROUPS} groups are done" in page
    assert f"{len(chosen)} of {len(read_alarms())} searches chose a recipe" in page


def test_the_page_says_how_much_of_the_promised_gain_came() -> None:
    page = " ".join(PAGE.read_text("utf-8").split())
    shares: dict[str, list[float]] = {"synthetic": [], "damaged": []}
    below = []
    for one in read_windows():
        promised, came = Estimate(**one["promised"]), Estimate(**one["came"])
        shares[one["world"].partition(",")[0]].append(came.mean / promised.mean)
        if not promised.low <= came.mean <= promised.high:
            below.append(one["world"])
    first, second = (
        [f"{least:.0%}"[:-1], f"{most:.0%}"] for least, most in ((min(of), max(of)) for of in shares.values())
    )
    assert f"{' to '.join(first)} of it" in page
    assert f"{' to '.join(second)}, in all four cases" in page
    assert max(shares["damaged"]) < 1
    assert below == ["damaged, 50%, alignment"]


def test_the_page_has_the_means_of_the_winners_where_there_is_nothing_to_find() -> None:
    page, kept = PAGE.read_text("utf-8"), read_alarms()
    searched, promised = (
        nats(estimate(values))
        for values in ([one["searched"] for one in kept], [Estimate(**one["promised"]).mean for one in kept])
    )
    assert f"the winners gain {searched} on the seeds that chose them, and {promised} on the others" in page
