"""Rules and alerts: promtool tests each alert firing and not firing, and each has a receiver and a runbook entry."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from alchemist_core.settings import SITE_OF_VERSION
from alchemist_core.telemetry import CATALOGUE

INFRA = Path(__file__).resolve().parents[2] / "infra"
PROMETHEUS = INFRA / "prometheus"
NAMED_IN_THE_DESIGN = {
    "NightlyStale", "QuarantineRateHigh", "ScoreDrift", "LedgerMismatch", "LeaseLeak", "BacklogGrowing", "EvaluationRegression",
    "CostOverBudget", "TakedownOverdue", "ExporterDown",
}  # fmt: skip
# The address of the documentation as the exporter last published it, or the site's if it never did.
DOCS = (
    '{{ with query "last_over_time(alchemist_docs_info[1d])" }}{{ . | first | label "url" }}{{ else }}'
    + SITE_OF_VERSION
    + "{{ end }}"
)


def needs_promtool(test):
    """Mark a test that runs promtool; without it the test is skipped."""
    reason = "no promtool: apt-get install promtool (make test does as root), or prometheus (make test-e2e does)"
    return pytest.mark.prometheus(pytest.mark.skipif(shutil.which("promtool") is None, reason=reason)(test))


def rules(name):
    groups = yaml.safe_load((PROMETHEUS / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}


def anchors(path):
    """The anchors that a page's headings have where it is shown."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def metric_names(expression):
    """The metrics of an expression: words that are followed by neither a bracket of a call nor a comparison of a label."""
    without_labels = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", expression)
    without_grouping = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", without_labels)
    return set(re.findall(r"\b(?:\w+:)?alchemist_\w+(?::\w+)?", without_grouping))


def test_a_failed_check_is_explained_for_a_night_a_subset_and_an_evaluation():
    _, _, rest = (INFRA / "RUNBOOK.md").read_text().partition("\n## DataCheckFailed\n")
    section, _, _ = rest.partition("\n## ")
    for word in ("night", "subset", "evaluation"):
        assert word in ALERTS["DataCheckFailed"]["annotations"]["summary"]
    for suite in ("shards,samples,scores", "subset", "evaluation"):
        assert f"alchemist check --suite {suite} " in section


def test_every_alert_of_the_design_is_there():
    assert ALERTS.keys() >= NAMED_IN_THE_DESIGN


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_severity_a_summary_and_a_runbook_link(name):
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"]["summary"].endswith(".")
    link = alert["annotations"]["runbook_url"].removeprefix(DOCS)
    page, _, anchor = link.partition("#")
    assert page == "/how-to/runbook.html"
    assert anchor == name.lower()
    assert anchor in anchors(INFRA / "RUNBOOK.md")


@pytest.mark.parametrize(
    "rule", [*rules("recording.yml"), *ALERTS.values()], ids=lambda rule: rule.get("alert") or rule["record"]
)
def test_a_rule_reads_metrics_that_exist(rule):
    known = {metric.name for metric in CATALOGUE} | {recorded["record"] for recorded in rules("recording.yml")}
    used = metric_names(rule["expr"])
    assert used
    assert used <= known


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_tested_where_it_fires_and_where_it_does_not(name):
    cases = [
        case
        for path in PROMETHEUS.glob("*_test.yml")
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == name
    ]
    assert any(case["exp_alerts"] for case in cases)
    assert any(not case["exp_alerts"] for case in cases)


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "recording.yml", "alerts.yml"],
        ["test", "rules", "alerts_test.yml", "alerts_of_days_test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_accepts_config_rules_and_their_tests(arguments):
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
