"""`make bench-guard`: what disturbs one measurement is measured again, and what stays low fails."""

from collections.abc import Callable

from tests.benchmarks.guard import MOST_ROUNDS, Ratios, compare, measure_again

KEPT = {"commit": 1.0, "draw": 1.0}


def rounds(*figures: Ratios) -> Callable[[], Ratios]:
    """Return a part that finds one figure after the other."""
    left = iter(figures)
    return lambda: next(left)


def test_a_ratio_that_was_low_once_is_measured_again_and_its_best_counts() -> None:
    found = measure_again(rounds({"commit": 0.7, "draw": 1.1}, {"commit": 0.9, "draw": 1.0}), KEPT)
    assert found == {"commit": 0.9, "draw": 1.1}


def test_a_part_without_a_fall_is_measured_once() -> None:
    assert measure_again(rounds({"commit": 0.9, "draw": 0.9}), KEPT) == {"commit": 0.9, "draw": 0.9}


def test_a_ratio_that_is_low_in_every_round_fails() -> None:
    found = measure_again(rounds(*[{"commit": 0.7 + i / 100, "draw": 1.0} for i in range(MOST_ROUNDS)]), KEPT)
    assert [row.name for row in compare(found, KEPT) if row.ok is False] == ["commit"]


def test_a_ratio_that_the_table_lacks_is_not_measured_again() -> None:
    assert measure_again(rounds({"new": 0.1}), KEPT) == {"new": 0.1}
