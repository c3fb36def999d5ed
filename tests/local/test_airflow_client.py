"""The client against a scripted server; tests/e2e/test_stack.py drives the real one."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alchemist_core.local import airflow_client, supervisor
from alchemist_core.local.airflow_client import AirflowClient, AirflowError

RUN = "/api/v2/dags/d/dagRuns/r"
# An answer that breaks off: the server was killed while it wrote.
CUT = "cut"


@pytest.fixture
def airflow(tmp_path):
    """Return a client, the answers still to be given (by method and path) and the requests seen."""
    answers, seen = {}, []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append((self.command, self.path, self.headers.get("Authorization"), json.loads(body or b"null")))
            queue = answers[self.command, self.path.partition("?")[0]]
            status, content = queue.pop(0) if len(queue) > 1 else queue[0]
            self.send_response(status)
            if content is CUT:
                self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        do_GET = do_POST = do_PATCH = answer  # noqa: N815  names that the library looks for

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    answers["POST", "/auth/token"] = [(201, {"access_token": "one"}), (201, {"access_token": "two"})]
    yield AirflowClient(f"http://127.0.0.1:{server.server_port}", "admin", "secret", tmp_path), answers, seen
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(airflow_client, "POLL_S", 0.01)


def task(name, state, **fields):
    return {"task_id": name, "state": state, "map_index": -1, "try_number": 1, "duration": 1.5, **fields}


def test_a_run_is_started_without_a_logical_date(airflow):
    client, answers, seen = airflow
    answers["POST", "/api/v2/dags/d/dagRuns"] = [(200, {"dag_run_id": "r"})]
    assert client.trigger("d", {"retention": 0.2}, partition_key="2026-01-02") == "r"
    assert seen[-1][3] == {"logical_date": None, "conf": {"retention": 0.2}, "partition_key": "2026-01-02"}


def test_a_dag_that_is_not_parsed_yet_is_waited_for(airflow):
    client, answers, _ = airflow
    answers["POST", "/api/v2/dags/d/dagRuns"] = [(404, {"detail": "not found"}), (200, {"dag_run_id": "r"})]
    assert client.trigger("d") == "r"


def test_a_refused_form_reports_the_reason(airflow):
    client, answers, _ = airflow
    answers["POST", "/api/v2/dags/d/dagRuns"] = [(400, {"detail": "2.0 is greater than the maximum of 1"})]
    with pytest.raises(AirflowError, match="greater than the maximum of 1"):
        client.trigger("d", {"retention": 2.0})


def test_an_expired_token_is_renewed(airflow):
    client, answers, seen = airflow
    answers["POST", "/api/v2/dags/d/dagRuns"] = [(401, {}), (200, {"dag_run_id": "r"})]
    client.trigger("d")
    assert [request[2] for request in seen if request[1].endswith("dagRuns")] == ["Bearer one", "Bearer two"]


def test_a_server_whose_database_restarts_is_waited_for(airflow):
    client, answers, _ = airflow
    answers["POST", "/api/v2/dags/d/dagRuns"] = [(503, {}), (500, {}), (200, {"dag_run_id": "r"})]
    assert client.trigger("d") == "r"


def test_a_server_is_waited_for_longer_while_a_run_is_followed_until_the_supervisor_has_restarted_it(
    airflow, monkeypatch
):
    client, answers, _ = airflow
    monkeypatch.setattr(airflow_client, "PATIENCE_S", 0.0)
    answers["GET", RUN] = [(503, {}), (503, {}), (200, {"state": "success"})]
    answers["GET", f"{RUN}/taskInstances"] = [(503, {}), (503, {}), (200, {"total_entries": 0, "task_instances": []})]
    client.wait("d", "r", timeout_s=5.0, on_progress=lambda _: None)
    until_restarted_s = supervisor.LOOK_EVERY_S + supervisor.HUNG_AFTER_S + supervisor.START_WITHIN_S
    assert until_restarted_s < airflow_client.RESTART_PATIENCE_S


def test_a_server_that_is_killed_while_it_answers_is_waited_for(airflow):
    client, answers, _ = airflow
    answers["GET", RUN] = [(200, CUT), (200, {"state": "success"})]
    assert client.call("GET", RUN) == {"state": "success"}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("refusing", "n_tokens"), [(("GET", RUN), 2), (("POST", "/auth/token"), 1)])
def test_a_server_that_refuses_a_new_token_too_is_not_asked_for_ever(airflow, refusing, n_tokens):
    client, answers, seen = airflow
    answers["GET", RUN] = [(200, {"state": "success"})]
    answers[refusing] = [(401, {"detail": "signature"})]
    with pytest.raises(AirflowError, match="signature"):
        client.call("GET", RUN)
    assert len([request for request in seen if request[1] == "/auth/token"]) == n_tokens


def test_each_change_of_a_task_is_reported_once(airflow):
    client, answers, _ = airflow
    answers["GET", RUN] = [(200, {"state": "running"}), (200, {"state": "running"}), (200, {"state": "success"})]
    mapped = {"map_index": 3}
    answers["GET", f"{RUN}/taskInstances"] = [
        (200, {"total_entries": 1, "task_instances": [task("score", found, **mapped)]})
        for found in (None, "running", "success")
    ]
    lines = []
    client.wait("d", "r", timeout_s=5.0, on_progress=lines.append)
    assert lines == ["d.score[3]: running", "d.score[3]: success (1.5 s)"]


def test_a_long_silence_is_broken_by_what_the_run_waits_for(airflow, monkeypatch):
    client, answers, seen = airflow
    monkeypatch.setattr(airflow_client, "QUIET_S", 0.0)
    answers["GET", RUN] = [(200, {"state": state}) for state in ("queued", "queued", "running", "success")]
    earlier = "asset_triggered__1"
    answers["GET", "/api/v2/dags/d/dagRuns"] = [(200, {"dag_runs": found}) for found in ([{"dag_run_id": earlier}], [])]
    answers["GET", f"{RUN}/taskInstances"] = [
        (200, {"total_entries": len(tasks), "task_instances": tasks})
        for tasks in ([], [], [task("score", "running")], [task("score", "success")])
    ]
    lines = []
    client.wait("d", "r", timeout_s=5.0, on_progress=lines.append)
    waits = [f"d: 0 min, queued behind {earlier}", "d: 0 min, queued"]
    assert lines[:4] == [*waits, "d.score: running", "d: 0 min, still running: score"]
    assert ("GET", "/api/v2/dags/d/dagRuns?state=running") in [(method, path) for method, path, *_ in seen]


def test_a_failed_task_is_named_with_the_end_of_its_log(airflow, tmp_path):
    client, answers, _ = airflow
    answers["GET", RUN] = [(200, {"state": "failed"})]
    tasks = [task("ingest", "success"), task("check", "failed", try_number=3), task("plan", "upstream_failed")]
    answers["GET", f"{RUN}/taskInstances"] = [(200, {"total_entries": 3, "task_instances": tasks})]
    log = tmp_path / "airflow/logs/dag_id=d/run_id=r/task_id=check/attempt=3.log"
    log.parent.mkdir(parents=True)
    log.write_text('{"event": "error: 12 pairs have no caption"}\nnot json\n')
    with pytest.raises(AirflowError) as caught:
        client.wait("d", "r", timeout_s=5.0, on_progress=lambda _: None)
    assert "check failed after 3 tries" in str(caught.value)
    assert "12 pairs have no caption" in str(caught.value)
    assert str(log) in str(caught.value)


def test_an_existing_pool_is_resized(airflow):
    client, answers, seen = airflow
    answers["POST", "/api/v2/pools"] = [(409, {"detail": "exists"})]
    answers["PATCH", "/api/v2/pools/gpu"] = [(200, {})]
    client.ensure_pool("gpu", n_slots=2, description="devices")
    assert seen[-1][3]["slots"] == 2
