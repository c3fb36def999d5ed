"""The runbook has a heading for every DAG, stage, command and alert, and no dead link."""

import re

import pytest

from alchemist_core.cli.verbs import VERBS, load_commands
from alchemist_core.project import Project

from .test_prometheus import ALERTS, INFRA, anchors

RUNBOOK = INFRA / "RUNBOOK.md"
DAGS = sorted(
    path.stem for path in (INFRA.parent / "dags" / "alchemist_dags").glob("*.py") if "@dag(" in path.read_text()
)
# Commands whose own error messages explain every failure.
SELF_EXPLANATORY = {"demo", "db", "corpus"}


@pytest.mark.parametrize("name", [*DAGS, *(verb for verb in VERBS if verb not in SELF_EXPLANATORY)])
def test_everything_that_can_fail_has_a_heading(name: str) -> None:
    assert name in anchors(RUNBOOK)


def test_the_table_of_the_project_file_has_each_of_its_sections() -> None:
    table = RUNBOOK.read_text().partition("\n## config\n")[2].partition("\n## ")[0]
    assert set(Project.model_fields) - set(re.findall(r"`\[(\w+)[.\]]", table)) == set()


def test_every_alert_has_a_heading() -> None:
    assert {name.lower() for name in ALERTS} <= anchors(RUNBOOK)


PARTS = ("Severity", "Meaning", "Impact", "Diagnosis", "Mitigation", "Verification")


@pytest.mark.parametrize("name", ALERTS)
def test_the_entry_of_an_alert_says_what_it_means_and_what_to_do_and_see(name: str) -> None:
    entry = re.split(r"^#+ ", RUNBOOK.read_text().partition(f"\n## {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    assert tuple(re.findall(r"^- \*\*(\w+)\*\*:", entry, re.MULTILINE)) == PARTS
    assert re.findall(r"^- \*\*Severity\*\*: (\w+)\.", entry, re.MULTILINE) == [ALERTS[name]["labels"]["severity"]]


def test_links_in_the_runbook_resolve() -> None:
    links = set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOK.read_text()))
    assert links
    assert links <= anchors(RUNBOOK)


def test_commands_in_the_runbook_name_verbs_that_exist() -> None:
    named = set(re.findall(r"`alchemist ([a-z-]+)", RUNBOOK.read_text()))
    assert named
    assert named <= VERBS.keys()


def test_commands_in_the_runbook_name_sub_commands_that_exist() -> None:
    for verb, name in re.findall(r"alchemist ([a-z-]+) ([a-z][a-z-]+)", RUNBOOK.read_text()):
        if verb in VERBS and "" not in (commands := load_commands(verb)):
            assert name in commands, f"alchemist {verb} {name}"


def test_the_runbooks_airflow_commands_work_beside_the_local_stack() -> None:
    assert re.findall(r"`airflow \w+[^`]*`", RUNBOOK.read_text()) == []
