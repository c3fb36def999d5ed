"""A small client of Airflow's REST API: start a DAG run, follow it, and report which task failed and why.

It knows nothing of our DAGs. While it follows a run, it waits for a server that hangs until the supervisor has restarted it.
"""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from alchemist_core.errors import AlchemistError
from alchemist_core.local.airflow_environment import USERNAME, airflow_home, load_passwords, task_log_path

PATIENCE_S = 60.0
# While a run is followed: longer than the supervisor takes to find that the server hangs and to start another on a busy machine.
RESTART_PATIENCE_S = 600.0
POLL_S, QUIET_S = 1.0, 60.0
REQUEST_TIMEOUT_S = 20.0
HEALTH_TIMEOUT_S = 5.0
N_LOG_LINES = 30
PAGE = 100


class AirflowError(AlchemistError):
    """Report a server that does not answer, a refused request or a failed task."""

    exit_code = 8


class _RefusedError(AirflowError):
    """Report a request that the server refused."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class AirflowClient:
    """One user's session with one Airflow. `home` is the folder that contains its task logs."""

    url: str
    username: str
    password: str = field(repr=False)
    home: Path
    _token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, home: Path, port: int) -> "AirflowClient":
        """Return a client of this home's Airflow, with the login of its administrator, who may have changed the password."""
        return cls(f"http://127.0.0.1:{port}", USERNAME, load_passwords(home)[USERNAME], home)

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, *, partition_key: str | None = None) -> str:
        """Start a run and return its id. Waits for a DAG that Airflow has not parsed yet.

        Raises:
            AirflowError: The server refuses the parameters, or has no such DAG.
        """
        body = {"logical_date": None, "conf": conf or {}, "partition_key": partition_key}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return str(self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])
            except _RefusedError as error:
                if error.status != HTTPStatus.NOT_FOUND or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def wait(self, dag_id: str, run_id: str, *, timeout_s: float, on_progress: Callable[[str], None]) -> None:
        """Follow a run until it succeeds; report each change of a task's state, and after a minute without one, what it waits for.

        Raises:
            AirflowError: The run failed or took longer. The message has the task, the path of its log and the log's last lines.
        """
        seen: dict[str, str] = {}
        began = said = time.monotonic()
        deadline = began + timeout_s
        while True:
            # Read the run first: once it has ended, the states of its tasks are final.
            state = self.call("GET", _run_path(dag_id, run_id), patience_s=RESTART_PATIENCE_S)["state"]
            tasks = self._tasks(dag_id, run_id)
            for task in tasks:
                name, now = _label(task), str(task["state"] or "waiting")
                if seen.get(name, "waiting") != now:
                    on_progress(f"{dag_id}.{name}: {now}{_duration(task)}")
                    said = time.monotonic()
                seen[name] = now
            if state == "success":
                return
            if state == "failed":
                raise AirflowError(self._explain(dag_id, run_id, tasks))
            if time.monotonic() > deadline:
                msg = f"{dag_id} run {run_id} is still {state} after {timeout_s:.0f} s. See {self.url}/dags/{dag_id}/runs/{run_id}"
                raise AirflowError(msg)
            if time.monotonic() > said + QUIET_S:
                on_progress(
                    f"{dag_id}: {(time.monotonic() - began) / 60:.0f} min, {self._what_it_waits_for(dag_id, state, seen)}"
                )
                said = time.monotonic()
            time.sleep(POLL_S)

    def ensure_pool(self, name: str, *, n_slots: int, description: str) -> None:
        """Create a pool, or change its size."""
        pool = {"name": name, "slots": n_slots, "description": description, "include_deferred": True}
        try:
            self.call("POST", "/api/v2/pools", pool)
        except _RefusedError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            self.call("PATCH", f"/api/v2/pools/{name}", pool)

    def health(self) -> dict[str, str]:
        """Return the health of each component, by its last heartbeat; empty if the server does not answer."""
        try:
            answer = self._send("GET", "/api/v2/monitor/health", timeout_s=HEALTH_TIMEOUT_S)
            return {name: str(part["status"]) for name, part in answer.items()}
        except (OSError, ValueError, AirflowError):
            return {}

    def import_errors(self) -> list[str]:
        """Return a line for each DAG file that Airflow cannot import."""
        found = self.call("GET", "/api/v2/importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}" for error in found]

    def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, patience_s: float | None = None
    ) -> dict[str, Any]:
        """Send one request and return its JSON. Waits for an absent server, by default a minute, and renews an expired token once.

        Raises:
            AirflowError: The server does not answer, or refuses the request.
        """
        deadline, is_renewed = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s), False
        while True:
            try:
                if self._token is None:
                    self._login()
                return self._send(method, path, body)
            except _RefusedError as error:
                if error.status != HTTPStatus.UNAUTHORIZED or self._token is None or is_renewed:
                    raise
                self._token, is_renewed = None, True
            except OSError as error:
                if time.monotonic() > deadline:
                    msg = f"Airflow at {self.url} does not answer ({error}). See: alchemist stack logs api-server."
                    raise AirflowError(msg) from None
                time.sleep(POLL_S)

    def _login(self) -> None:
        answer = self._send("POST", "/auth/token", {"username": self.username, "password": self.password})
        self._token = str(answer["access_token"])

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310  our own http address
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310  as above
                found: dict[str, Any] = json.load(answer)
                return found
        except http.client.HTTPException as error:
            # The server was killed while it answered: treat it as absent.
            raise OSError(f"the answer is incomplete: {error}") from None
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                # The server's database restarts: treat the server as absent.
                raise OSError(text) from None
            raise _RefusedError(
                error.code, f"Airflow refuses {method} {path} ({error.code}): {_detail(text)}"
            ) from None

    def _tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            query = f"?limit={PAGE}&offset={len(found)}"
            page = self.call("GET", f"{_run_path(dag_id, run_id)}/taskInstances{query}", patience_s=RESTART_PATIENCE_S)
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def _what_it_waits_for(self, dag_id: str, state: str, tasks: dict[str, str]) -> str:
        """Return the tasks that run; for a queued run, the runs of its DAG before it, such as one that a new subset started."""
        if running := ", ".join(sorted(name for name, now in tasks.items() if now == "running")):
            return f"still running: {running}"
        if state != "queued":
            return state
        found = self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns?state=running", patience_s=RESTART_PATIENCE_S)[
            "dag_runs"
        ]
        before = ", ".join(run["dag_run_id"] for run in found)
        return f"queued behind {before}" if before else state

    def _explain(self, dag_id: str, run_id: str, tasks: list[dict[str, Any]]) -> str:
        failed = [task for task in tasks if task["state"] == "failed"]
        if not failed:
            return f"{dag_id} run {run_id} failed. See {self.url}/dags/{dag_id}/runs/{run_id}"
        task = failed[0]
        path = task_log_path(
            airflow_home(self.home) / "logs",
            dag_id=dag_id,
            run_id=run_id,
            task_id=task["task_id"],
            map_index=task["map_index"],
            try_number=task["try_number"],
        )
        names = ", ".join(_label(task) for task in failed)
        return (
            f"{dag_id}: {names} failed after {task['try_number']} tries. Full log: {path}. Last lines:\n{log_end(path)}"
        )


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}"


def _label(task: dict[str, Any]) -> str:
    return f"{task['task_id']}[{task['map_index']}]" if task["map_index"] >= 0 else str(task["task_id"])


def _duration(task: dict[str, Any]) -> str:
    return f" ({task['duration']:.1f} s)" if task["state"] in ("success", "failed") and task["duration"] else ""


def _detail(text: str) -> str:
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        return text[:500]


def log_end(path: Path) -> str:
    """Return the last lines of a task's log, which has one JSON object per line."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"(unreadable: {error})"
    return "\n".join(f"  {_event(line)}" for line in lines[-N_LOG_LINES:])


def _event(line: str) -> str:
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return line
