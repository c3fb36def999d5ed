"""The tables of the research pages of the study `value` are those of the trials that git keeps."""

from pathlib import Path

from tests.benchmarks.study_page import kept_good, read_trials, tables

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
