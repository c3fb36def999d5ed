"""The tables of the research pages of the study `value` are those of the trials that git keeps."""

from pathlib import Path

from tests.benchmarks.study_page import read_trials, tables

RESEARCH = Path(__file__).parents[2] / "docs" / "research"


def test_every_line_of_the_pages_tables_is_made_from_the_kept_trials() -> None:
    made = {line for line in tables(read_trials()) if line}
    pages = "".join((RESEARCH / name).read_text("utf-8") for name in ("034-fusion-threshold.md", "035-fused-scores.md"))
    written = [line for line in pages.splitlines() if line.startswith("|")]
    assert len(written) > 50
    assert [line for line in written if line not in made] == []
    assert made == set(written)
