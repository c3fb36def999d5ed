"""Hostile values from a user of Airflow, against the real scheduler: nothing is interpreted a second time, and no secret is shown.

The attacker has Airflow's role "user", which can start runs, answer questions and read logs, and nothing else.
"""

import itertools
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alchemist_core.cli.forms import build_forms
from alchemist_core.local import stack
from alchemist_core.local.airflow_environment import airflow_home, load_secrets, passwords_path
from alchemist_core.settings import load_settings

from .browser import DESKTOP, PHONE, Browser, needs_chromium
from .published_client import Airflow

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]

PICTURES = Path(".alchemist/screenshots")
# Every field of every form but the switches.
FIELDS = {
    dag_id: tuple(name for name, field in fields.items() if field.get("type") != "boolean")
    for dag_id, fields in {**build_forms(), "maintenance": {}}.items()
}
# Airflow itself refuses what does not fit one of these.
CHECKED = ("enum", "pattern", "format", "else")
VALID = {
    "nightly_rescore": {"dataset": "nowhere"},
    "train_rater": {"preset": "tiny", "dataset": "nowhere", "validation": "nowhere"},
    "build_subset": {"dataset": "nowhere"},
    "evaluate_subset": {"preset": "tiny"},
    "maintenance": {},
}
TYPED = [("35", False), ("1.5", False), ("0", False), ("-1", False), ("20%", True), ("0.35", True)]


def hostile_values(mark: Path) -> list[str]:
    """Return values that a shell, a template, an option parser, a terminal or a Unicode renderer could interpret."""
    return [
        f'{{{{ "\\x27; touch {mark}; echo \\x27" }}}}',
        f"{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}{{% raw %}}'; touch {mark}; '",
        "{{ conf.get('core', 'fernet_key') }}{{ var.value.x }}{{ macros }}",
        f"'; touch {mark}; echo '",
        f"$(touch {mark})`touch {mark}`",
        f"a\nb; touch {mark}\n",
        "--role=evaluation",
        "\x1b]0;title\x07\x1b[2J",
        "ｎｏｗｈｅｒｅ\u202egnp",
        "a\x00b",
        "x" * 200_000,
    ]


@dataclass
class Attack:
    """The values that were tried, and their results."""

    home: Path
    mark: Path
    refusals: list[int] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reached: dict[str, dict[str, str]] = field(default_factory=dict)

    def logs(self) -> str:
        """Return every log line that a task wrote, and every result that it left."""
        return "\n".join(path.read_text(errors="replace") for path in (airflow_home(self.home) / "logs").rglob("*.log"))


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    folder = tmp_path_factory.mktemp("attack")
    folder.chmod(0o755)
    home = folder / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALCHEMIST_HOME", str(home))
        patch.setenv("ALCHEMIST_AIRFLOW_USERS", "admin:admin,mallory:user,watcher:viewer,keeper:op")
        load_settings.cache_clear()
        try:
            stack.up(home)
            yield run_attack(Attack(home, folder / "OWNED"))
        finally:
            stack.down(home)
    load_settings.cache_clear()


def run_attack(attack: Attack) -> Attack:
    airflow = Airflow(attack.home, "mallory")
    runs: list[tuple[str, str]] = []
    for dag_id, conf in itertools.chain(values_of_fields(attack.mark), keys(attack.mark)):
        try:
            runs.append((dag_id, airflow.trigger(dag_id, conf)))
        except airflow.client.ApiException as refused:
            attack.refusals.append(int(refused.status))
    for dag_id, run_id in runs:
        attack.states[f"{dag_id} {run_id}"] = airflow.wait(dag_id, run_id)
    attack.reached = {name: probe(Airflow(attack.home, name)) for name in ("watcher", "mallory", "keeper", "admin")}
    return attack


def values_of_fields(mark: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each field once with the worst value, and all fields of a form at once with each."""
    for dag_id, names in FIELDS.items():
        worst, *others = hostile_values(mark)
        for name in names:
            yield dag_id, {**VALID[dag_id], name: worst}
        for value in others:
            texts = [name for name in names if not build_forms()[dag_id][name].keys() & set(CHECKED)]
            if texts:
                yield dag_id, {**VALID[dag_id], **dict.fromkeys(texts, value)}


def keys(mark: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A hostile key beside a valid form, of each DAG."""
    for dag_id in FIELDS:
        for value in hostile_values(mark)[:5]:
            yield dag_id, {**VALID[dag_id], value: value}
        yield dag_id, {**VALID[dag_id], "dry-run": "x", "json": True}


def probe(airflow: Airflow) -> dict[str, str]:
    """Return the API's answers to this user's token, for every path that could contain settings or results."""
    found = {}
    (run, *_) = airflow.runs.get_dag_runs("build_subset", limit=1).dag_runs
    task = f"/api/v2/dags/build_subset/dagRuns/{run.dag_run_id}/taskInstances"
    for path in (
        "/api/v2/connections", "/api/v2/variables", "/api/v2/config", "/api/v2/providers", "/api/v2/plugins", "/api/v2/pools",
        task, f"{task}/preview", f"{task}/preview/xcomEntries", f"{task}/preview/logs/1", "/api/v2/importErrors", "/api/v2/eventLogs",
    ):  # fmt: skip
        request = urllib.request.Request(airflow.url + path, headers={"Authorization": f"Bearer {airflow.token}"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                found[path] = answer.read().decode(errors="replace")
        except urllib.error.HTTPError as refused:
            found[path] = refused.read().decode(errors="replace")
    return found


def secrets_of(home: Path) -> set[str]:
    """Return every password and key of an installation."""
    found = {value for name, value in load_secrets(home).items() if name != "stack"}
    found |= set(json.loads(passwords_path(home).read_text()).values())
    return found | {path.read_text().strip() for path in (home / "postgres").glob("password*")}


def test_no_hostile_value_is_executed(attack: Attack) -> None:
    assert not attack.mark.exists()
    assert not list(attack.home.rglob("OWNED*"))


def test_every_hostile_value_is_refused_or_fails_its_run(attack: Attack) -> None:
    assert len(attack.refusals) > 10
    # Airflow's database refuses NUL, so its API returns 500.
    assert set(attack.refusals) <= {400, 422, 500}
    assert len(attack.states) > 40
    # An evaluation with an unknown dataset name finds no waiting subset, which is not an error.
    assert {state for name, state in attack.states.items() if not name.startswith("evaluate_subset")} == {"failed"}


def test_no_template_was_rendered(attack: Attack) -> None:
    logs = attack.logs()
    assert "__subclasses__()" in logs, "the value reached the command as it was typed"
    assert "<class '" not in logs


def test_no_secret_of_the_installation_is_in_a_log_a_result_or_an_answer_of_the_api(attack: Attack) -> None:
    everything = attack.logs() + "\n".join(text for answers in attack.reached.values() for text in answers.values())
    assert len(secrets_of(attack.home)) >= 9
    assert not [secret for secret in secrets_of(attack.home) if secret in everything]


def test_a_run_with_an_unknown_key_lists_the_allowed_keys(attack: Attack) -> None:
    assert "Unknown key in the run's configuration: 'dry-run', 'json'. Allowed: dataset, retention" in attack.logs()


def test_airflows_configuration_is_never_shown(attack: Attack) -> None:
    assert all("sql_alchemy_conn" not in answers["/api/v2/config"] for answers in attack.reached.values())


def test_a_user_reads_neither_connections_nor_variables_and_an_op_does(attack: Attack) -> None:
    for path in ("/api/v2/connections", "/api/v2/variables"):
        assert "orbidden" in attack.reached["mallory"][path]
        assert "orbidden" not in attack.reached["keeper"][path]


def test_a_viewer_starts_and_clears_no_run_and_answers_no_question(attack: Attack) -> None:
    airflow = Airflow(attack.home, "watcher")
    (run, *_) = airflow.runs.get_dag_runs("build_subset", limit=1).dag_runs
    cleared = airflow.client.ClearTaskInstancesBody(dag_run_id=run.dag_run_id, dry_run=False)
    answer = airflow.client.UpdateHITLDetailPayload(chosen_options=["Approve"], params_input={})
    for ask in (
        lambda: airflow.trigger("maintenance", {}),
        lambda: airflow.tasks.post_clear_task_instances("build_subset", cleared),
        lambda: airflow.tasks.update_hitl_detail("build_subset", run.dag_run_id, "approve", -1, answer),
    ):
        with pytest.raises(airflow.client.ApiException) as refused:
            ask()
        assert refused.value.status == 403


@needs_chromium
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_retention_that_is_typed_is_the_one_that_is_used_or_is_refused(
    attack: Attack, tmp_path: Path, size: tuple[int, int]
) -> None:
    airflow = Airflow(attack.home)
    with Browser(tmp_path / "chromium") as browser:
        browser.log_in(airflow.url, airflow.token)
        for typed, is_accepted in TYPED:
            before = airflow.runs.get_dag_runs("build_subset").total_entries
            browser.open(f"{airflow.url}/dags/build_subset", until="Trigger")
            browser.resize(*size)
            browser.click("Trigger", until="Fraction of the eligible samples")
            browser.type("dataset", "nowhere")
            assert browser.type("retention", typed) == typed
            browser.press_last("Trigger")
            browser.picture(PICTURES / f"typed-{typed.strip('%')}-{size[0]}.png")
            newest = airflow.runs.get_dag_runs("build_subset", order_by=["-id"])
            assert (newest.total_entries > before) == is_accepted
            if is_accepted:
                assert newest.dag_runs[0].conf["retention"] == typed
            else:
                assert "above 0, at most 1" in browser.text()


@needs_chromium
@pytest.mark.parametrize(
    ("dag_id", "section", "name", "allowed"),
    [("train_rater", "Training", "seed", "at least 0"), ("build_subset", "Sampling", "seed", "at least 0")],
)
def test_a_negative_seed_is_refused_with_what_is_allowed(
    attack: Attack, tmp_path: Path, dag_id: str, section: str, name: str, allowed: str
) -> None:
    airflow = Airflow(attack.home)
    with Browser(tmp_path / "chromium") as browser:
        browser.log_in(airflow.url, airflow.token)
        browser.open(f"{airflow.url}/dags/{dag_id}", until="Trigger")
        browser.click("Trigger", until=section)
        browser.type("dataset", "nowhere")
        if dag_id == "train_rater":
            browser.type("validation", "nowhere")
        browser.click(section, until="Seed")
        assert browser.type(name, "-3") == "-3"
        browser.press_last("Trigger")
        assert allowed in browser.text()
