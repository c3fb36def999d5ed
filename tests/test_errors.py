"""Exit codes: each error has its own, and the table names those that a scheduler must not retry."""

import importlib
import pkgutil
import re

import pytest

import alchemist_core
from alchemist_core import errors
from alchemist_core.__main__ import main
from alchemist_core.errors import FINAL_EXIT_CODES, AlchemistError

ROW = re.compile(r"\| (\d+) \| (\w+)[^|]* \| (yes|no) \|")


def all_errors() -> list[type[AlchemistError]]:
    """Find the error classes that have an exit code of their own, those outside `errors` included."""
    importlib.import_module("alchemist_core.local.airflow_client")
    for module in pkgutil.iter_modules(alchemist_core.__path__):
        if not module.ispkg and module.name != "__main__":
            importlib.import_module(f"alchemist_core.{module.name}")
    return [AlchemistError, *(error for error in AlchemistError.__subclasses__() if "exit_code" in vars(error))]


def test_the_table_of_exit_codes_names_every_error_and_whether_a_retry_can_help() -> None:
    documented = {(int(code), name, answer == "yes") for code, name, answer in ROW.findall(errors.__doc__ or "")}
    assert documented == {(error.exit_code, error.__name__, error.is_retryable) for error in all_errors()}


def test_each_error_has_an_exit_code_of_its_own_and_none_is_airflows_code_for_skipped() -> None:
    codes = [error.exit_code for error in all_errors()]
    assert len(set(codes)) == len(codes)
    assert 99 not in codes


def test_the_codes_that_no_retry_helps_are_known_before_any_other_module_is_imported() -> None:
    assert {error.exit_code for error in all_errors() if not error.is_retryable} == set(FINAL_EXIT_CODES)
    assert FINAL_EXIT_CODES == (2, 5, 7, 9)


@pytest.mark.db
@pytest.mark.usefixtures("database_url")
@pytest.mark.parametrize(
    "words",
    [
        "rater certify newest",
        "rater promote newest",
        "plan promote newest",
        "select --dataset web --retention 0.2",
        "night release --dataset web --crawl-date 2026-11-01 --reason looked",
        "export scores --out scores.csv",
    ],
)
def test_a_command_that_needs_a_rater_is_refused_for_good_where_there_is_none(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) in FINAL_EXIT_CODES
    assert "There is no rater" in capsys.readouterr().err
