"""The tables of the research page of the study `value` are those of the trials that git keeps."""

from pathlib import Path

from tests.benchmarks.study_page import read_trials, tables

PAGE = Path(__file__).parents[2] / "docs" / "research" / "034-fusion-threshold.md"


def test_every_line_of_the_page_s_tables_is_made_from_the_kept_trials() -> None:
    made = {line for line in tables(read_trials()) if line}
    written = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    assert len(written) > 50
    assert [line for line in written if line not in made] == []
    assert made == set(written)
