"""Airflow through its published client, without knowledge of the platform: log in by name and password, trigger, wait."""

import json
import time
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import pytest

from alchemist_core.local.airflow_environment import USERNAME, passwords_path
from alchemist_core.local.processes import read_state

TIMEOUT_S = 900


class Airflow:
    """The published client, logged in with a name and a password."""

    def __init__(self, home: Path, username: str = USERNAME) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the client's own, at its import
            self.client = pytest.importorskip("airflow_client.client")
        self.url = f"http://127.0.0.1:{read_state(home).ports.airflow}"
        password = json.loads(passwords_path(home).read_text())[username]
        body = json.dumps({"username": username, "password": password}).encode()
        request = urllib.request.Request(f"{self.url}/auth/token", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            self.token = str(json.load(answer)["access_token"])
        self.api = self.client.ApiClient(self.client.Configuration(host=self.url, access_token=self.token))
        self.runs, self.tasks = self.client.DagRunApi(self.api), self.client.TaskInstanceApi(self.api)

    def trigger(self, dag_id: str, conf: dict[str, Any], *, partition_key: str | None = None) -> str:
        body = self.client.TriggerDAGRunPostBody(logical_date=None, conf=conf, partition_key=partition_key)
        return str(self.runs.trigger_dag_run(dag_id, body).dag_run_id)

    def wait(self, dag_id: str, run_id: str) -> str:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            state = str(self.runs.get_dag_run(dag_id, run_id).state.value)
            if state in ("success", "failed"):
                return state
            time.sleep(1)
        return "too slow"

    def run(self, dag_id: str, conf: dict[str, Any], **options: Any) -> str:
        return self.wait(dag_id, self.trigger(dag_id, conf, **options))

    def wait_for_task(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            found = self.tasks.get_task_instance(dag_id, run_id, task_id).state
            if found is not None and found.value == state:
                return
            time.sleep(1)
        raise AssertionError(f"{dag_id}.{task_id} never was {state}")
