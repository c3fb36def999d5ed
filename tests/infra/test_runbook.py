"""Whoever is called at night finds a heading: for every DAG, stage, verb and alert; and no link leads nowhere."""

import re

import pytest

from alchemist_core.cli.command_line import STAGES, VERBS

from .test_prometheus import ALERTS, INFRA, anchors

RUNBOOK = INFRA / "RUNBOOK.md"
DAGS = sorted(
    path.stem for path in (INFRA.parent / "dags" / "alchemist_dags").glob("*.py") if "@dag(" in path.read_text()
)
# They start, stop or show things and have nothing to go wrong that their own error does not say.
SELF_EXPLANATORY = {"up", "down", "status", "logs", "demo", "db", "corpus"}


@pytest.mark.parametrize("name", [*DAGS, *STAGES, *(verb for verb in VERBS if verb not in SELF_EXPLANATORY)])
def test_everything_that_can_fail_has_a_heading(name: str) -> None:
    assert name in anchors(RUNBOOK)


def test_every_alert_has_a_heading() -> None:
    assert {name.lower() for name in ALERTS} <= anchors(RUNBOOK)


def test_links_in_the_runbook_resolve() -> None:
    links = set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOK.read_text()))
    assert links
    assert links <= anchors(RUNBOOK)


def test_commands_in_the_runbook_name_verbs_that_exist() -> None:
    named = set(re.findall(r"`alchemist ([a-z-]+)", RUNBOOK.read_text()))
    assert named
    assert {name.replace("-", "_") for name in named} <= {*STAGES, *VERBS}


def test_the_runbooks_airflow_commands_work_beside_the_local_stack() -> None:
    assert re.findall(r"`airflow \w+[^`]*`", RUNBOOK.read_text()) == []
