"""A failed night is cleared as a person does it in the UI: only failed tasks run again, and the tables end as they should."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, text

from alchemist_core.local import stack
from alchemist_core.local.airflow_client import AirflowClient, AirflowError
from alchemist_core.settings import load_settings
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import make_engine
from alchemist_core.store.postgres import start_postgres

from .calm import NIGHTS, run_first_days, run_second_night

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]
SUCCEEDED = (
    "SELECT stage, count(*) AS n_runs FROM alchemist.runs "
    "WHERE state = 'succeeded' AND config ->> 'crawl_date' = :night GROUP BY stage"
)
FAILED = "SELECT subject FROM alchemist.audit_events WHERE action = 'task failed' ORDER BY audit_event_id"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose stack goes down with the test."""
    tmp_path.chmod(0o755)
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path / "stack"))
    load_settings.cache_clear()
    yield tmp_path / "stack"
    stack.down(tmp_path / "stack")


def count_successes(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {row.stage: row.n_runs for row in connection.execute(text(SUCCEEDED), {"night": NIGHTS[1]})}


def clear(airflow: AirflowClient, run_id: str) -> set[str]:
    """Press "Clear" on the run's failed tasks; return the tasks that Airflow resets."""
    body = {"dry_run": False, "dag_run_id": run_id, "only_failed": True, "reset_dag_runs": True}
    found = airflow.call("POST", "/api/v2/dags/nightly_rescore/clearTaskInstances", body)
    return {task["task_id"] for task in found["task_instances"]}


def test_a_failed_night_that_is_cleared_ends_in_the_tables_of_one_that_never_failed(home: Path, corpus: Path) -> None:
    server = start_postgres(home)
    run_first_days(server.url(), home, corpus)
    server.run_sql("CREATE DATABASE calm TEMPLATE alchemist OWNER alchemist")
    run_second_night(server.url("calm"), home, corpus)
    stack.up(home)
    engine, airflow = make_engine(server.url()), stack.client(home)

    raters, away = home / "artifacts" / "raters", home / "artifacts" / "raters-unmounted"
    raters.rename(away)
    run_id = airflow.trigger(
        "nightly_rescore", {"dataset": "scenes", "root": str(corpus / "train")}, partition_key=NIGHTS[1]
    )
    with pytest.raises(AirflowError, match="score"):
        airflow.wait("nightly_rescore", run_id, timeout_s=300, on_progress=print)
    assert count_successes(engine) == {"ingest": 1}
    assert table_checksums(server.url()) != table_checksums(server.url("calm"))
    with engine.connect() as connection:
        failed = list(connection.execute(text(FAILED)).scalars())
    # The cause, the night without scores, and the end of the run; `drift` and `publish`, which did not run, are not reported.
    assert failed == ["nightly_rescore.score", "nightly_rescore.check_scores", "nightly_rescore.summary"]

    away.rename(raters)
    assert clear(airflow, run_id) == {"score", "check_scores", "drift", "publish", "summary"}
    airflow.wait("nightly_rescore", run_id, timeout_s=300, on_progress=print)

    assert count_successes(engine) == {"ingest": 1, "score": 1}
    engine.dispose()
    assert table_checksums(server.url()) == table_checksums(server.url("calm"))


def times_of(airflow: AirflowClient, run_id: str) -> dict[str, tuple[str, str]]:
    """Return when each task started and ended, as text that sorts by time."""
    found = airflow.call("GET", f"/api/v2/dags/nightly_rescore/dagRuns/{quote(run_id, safe='')}/taskInstances")
    return {task["task_id"]: (task["start_date"], task["end_date"]) for task in found["task_instances"]}


def write_broken_shard(path: Path, n: int = 5) -> None:
    """Write a tar whose images are no images."""
    with tarfile.open(path, "w") as target:
        for number in range(n):
            for name, content in ((f"{number}.jpg", b"\xff\xd8"), (f"{number}.txt", b"a caption")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                target.addfile(info, io.BytesIO(content))


def test_a_stopped_night_that_is_cleared_before_it_is_decided_fails_again(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "crawl"
    root.mkdir()
    write_broken_shard(root / "a.tar")
    stack.up(home)
    airflow = stack.client(home)
    run_id = airflow.trigger("nightly_rescore", {"dataset": "web", "root": str(root)}, partition_key=NIGHTS[1])
    for _ in range(2):
        with pytest.raises(AirflowError, match="check_samples"):
            airflow.wait("nightly_rescore", run_id, timeout_s=300, on_progress=print)
        with make_engine(start_postgres(home).url()).connect() as connection:
            failed = connection.execute(text("SELECT suite, expectation FROM alchemist.failed_checks")).all()
        assert [tuple(row) for row in failed] == [("samples", "most_locations_are_usable")]
        ended = times_of(airflow, run_id)
        first = ended.pop("summary")[0]
        assert first >= max(end for _, end in ended.values() if end)
        cleared = clear(airflow, run_id)
        assert cleared == {"check_samples", "check_scores", "drift", "publish", "summary"}
