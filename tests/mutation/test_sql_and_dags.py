"""The list of changes is current: each text to change occurs once in its file, and each DAG file has a change."""

import pytest

from tests.mutation.sql_and_dags import ROOT, Change, read_changes


@pytest.mark.parametrize("change", read_changes(), ids=lambda change: change.name[:80])
def test_the_text_of_a_change_occurs_once_in_its_file(change: Change) -> None:
    assert (ROOT / change.file).read_text(encoding="utf-8").count(change.before) == 1
    assert change.after not in (None, change.before)
    assert all((ROOT / word).is_file() for word in change.tests.split() if "/" in word)


def test_every_dag_file_is_changed_somewhere() -> None:
    changed = {change.file for change in read_changes()}
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "dags").rglob("*.py")}
    # `make generate` writes these two.
    written = ("forms.py", "schedules.py")
    assert {file for file in files - changed if not file.endswith((*written, "__init__.py"))} == set()
