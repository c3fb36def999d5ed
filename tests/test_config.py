"""The result of a command is readable on a terminal: names in one column, values in the next."""

from alchemist_core.config import LINE_LENGTH, lay_out


def test_values_are_in_one_column_and_long_lists_below_each_other() -> None:
    checks = {"recall_of_plain": 0.93848712, "batch_invariance": 0.0, "caption_sensitivity": None, "stability": 1.5}
    lines = lay_out({"rater": "scenes", "checks": checks, "histogram": list(range(40)), "ready": True}).splitlines()
    assert lines[:3] == [
        "rater:     scenes",
        "checks:    recall_of_plain     0.938487",
        "           batch_invariance    0",
    ]
    assert lines[-1] == "ready:     yes"
    assert all(line[11] != " " for line in lines)
    assert max(map(len, lines)) <= LINE_LENGTH


def test_a_sentence_has_a_line_of_its_own_and_is_never_cut() -> None:
    sentence = "Run alchemist duplicates find first, " + "then this again, " * 10
    assert lay_out({"warnings": ["One.", sentence]}).splitlines() == ["warnings: One.", f"          {sentence}"]


def test_a_text_of_several_lines_keeps_its_place() -> None:
    assert lay_out({"question": "Promote?\n- spread: 1"}).splitlines() == [
        "question: Promote?",
        "          - spread: 1",
    ]
