"""The tables of the research pages of the study `value` are those of the trials that git keeps."""

from pathlib import Path

from tests.benchmarks.study import KEPT
from tests.benchmarks.study_page import (
    count_aims,
    kept_good,
    learnability_gaps,
    name_seeds,
    read_first_trials,
    read_trials,
    replication,
    shared_seed,
    tables,
)

DOCS = Path(__file__).parents[2] / "docs"
RESEARCH = DOCS / "research"


def test_every_line_of_the_pages_tables_is_made_from_the_kept_trials() -> None:
    made = {line for line in tables(read_trials()) if line}
    pages = "".join((RESEARCH / name).read_text("utf-8") for name in ("034-fusion-threshold.md", "035-fused-scores.md"))
    written = [line for line in pages.splitlines() if line.startswith("|")]
    assert len(written) > 50
    assert [line for line in written if line not in made] == []
    assert made == set(written)


def test_every_page_that_quotes_the_threshold_says_what_it_kept_of_the_good_samples() -> None:
    kept = kept_good(read_trials())
    assert set(kept) == {"scenes", "damaged"}
    for name in (
        "research/034-fusion-threshold.md",
        "research/035-fused-scores.md",
        "how-to/choose-a-validation-dataset.md",
    ):
        text = (DOCS / name).read_text("utf-8")
        assert [shown for shown in kept.values() if shown not in text] == [], name
        assert "said nothing about its rank by another" in " ".join(text.split()), name


def test_results_show_rule_learnability_on_both_sets_of_seeds() -> None:
    first, second = read_first_trials(), read_trials()
    assert {trial["seed"] for trial in first} & {trial["seed"] for trial in second} == set()
    results = (RESEARCH / "results.md").read_text("utf-8")
    assert "\n".join(replication(first, second)) in results
    assert "\n".join(shared_seed([*first, *second])) in results
    # Rows that name no seeds are of those that the head names for their page.
    head = results.partition("\n## ")[0]
    assert f"on page 031 {name_seeds(first)}, on 034 and 035 {name_seeds(second)}," in head


def test_pages_that_sum_up_quote_all_ten_seeds_of_rule_learnability() -> None:
    trials = [*read_first_trials(), *read_trials()]
    quoted = [gap for world in ("scenes", "damaged") for gap in learnability_gaps(trials, world).values()]
    assert len(quoted) == 4
    for page in (DOCS.parent / "README.md", DOCS / "explanation" / "adopt.md", RESEARCH / "results.md"):
        assert [gap for gap in quoted if gap not in page.read_text("utf-8")] == [], page


def test_results_name_the_page_of_every_study_whose_trials_are_kept() -> None:
    results = (RESEARCH / "results.md").read_text("utf-8")
    pages = {path.name: path.read_text("utf-8") for path in RESEARCH.glob("0*.md")}
    for study in sorted(folder.name for folder in KEPT.iterdir() if folder.is_dir()):
        names = [name for name, page in pages.items() if f"`tests/benchmarks/trials/{study}`" in page]
        assert names, study
        # A choice reports nothing.
        assert study == "choice" or [name for name in names if f"({name})" not in results] == [], study


def test_equal_selections_count_once_among_those_that_reach_the_aim() -> None:
    aims = count_aims(read_trials())
    n_met, n = (sum(counts) for counts in zip(*aims.values(), strict=True))
    for page in ("034-fusion-threshold.md", "not-reproduced.md"):
        assert f"in {n_met} of {n} cells" in (RESEARCH / page).read_text("utf-8"), page
    text = " ".join((RESEARCH / "not-reproduced.md").read_text("utf-8").split())
    assert f"{aims['scenes'][0]} on the synthetic corpus" in text
    assert f"{aims['damaged'][0]} on damaged images" in text
