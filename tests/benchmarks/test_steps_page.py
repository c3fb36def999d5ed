"""The tables and figures of research page 042 are those of what git keeps."""

from alchemist_core.statistics import Estimate
from tests.benchmarks.promises_page import RESEARCH
from tests.benchmarks.steps_page import figures, losses, read_steps, shares, times
from tests.benchmarks.steps_to_random import SHARES
from tests.benchmarks.study import PLANS
from tests.benchmarks.study_page import WORLDS, table_lines

PAGE = RESEARCH / "042-steps-to-random.md"


def test_the_lines_of_the_page_are_made_from_what_is_kept() -> None:
    kept = read_steps()
    made = [*shares(kept), *losses(kept)]
    assert len(made) > 10
    assert table_lines(PAGE) == made


def test_the_figures_are_made_from_what_is_kept() -> None:
    for name, svg in figures(read_steps()).items():
        assert (RESEARCH / name).read_text("utf-8") == svg
        assert f"]({name})" in PAGE.read_text("utf-8")


def test_the_kept_seeds_are_those_of_the_study_and_have_every_length() -> None:
    kept, plan = read_steps(), PLANS["value"]
    assert {(one["world"], one["seed"]) for one in kept} <= {
        (world, seed) for world in plan.worlds for seed in plan.seeds
    }
    for one in kept:
        assert {cell["length"] for cell in one["cells"]} == {*SHARES}
    page = " ".join(PAGE.read_text("utf-8").split())
    assert f"{len(kept)} of {len(plan.worlds) * len(plan.seeds)} trials" in page
    assert {one["world"] for one in kept} == {*WORLDS}


def test_fewer_steps_are_the_reciprocal_of_the_share_and_so_are_the_ends() -> None:
    assert times(Estimate(0.25, 0.2, 0.5, 5)) == "4.00 [2.00, 5.00]"
    assert times(Estimate(0.25, -0.1, 0.5, 5)) == "4.00 [2.00, ∞]"
    assert times(Estimate(0.25, None, None, 1)) == "4.00"
