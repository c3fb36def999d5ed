"""A command that fails costs no other command of the benchmark, and is named."""

import pytest

from tests.benchmarks.selection_value import run_chain


def test_commands_after_one_that_fails_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    chain = [["experiment", "run", "--no-such-option", "first"], ["docs", "--help"]]
    assert run_chain(chain) == ["first"]
    said = capsys.readouterr().out
    assert "first failed:" in said
    assert "--help\n" in said
