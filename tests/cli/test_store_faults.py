"""If Postgres fails during a stage, the stage ends with one line, in the terminal and in the ledger; the next run resumes."""

import pytest
from sqlalchemy import text

from alchemist_core.__main__ import main
from alchemist_core.store.backups import checksum
from alchemist_core.store.engine import make_engine
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.e2e]

# The server's error when it cannot extend a file, in the middle of the COPY of a shard's scores.
FULL = """
CREATE FUNCTION pg_temp_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE 'could not extend file "base/1/2": No space left on device' USING ERRCODE = 'disk_full', HINT = 'Check free disk space.';
END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON alchemist.scores FOR EACH ROW EXECUTE FUNCTION pg_temp_full();
"""


def test_a_full_disk_of_postgres_ends_a_score_in_one_line_and_the_next_one_resumes(
    trained_store: TrainedStore, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = make_engine(trained_store.url)
    with engine.begin() as connection:
        connection.exec_driver_sql(FULL)
    before = checksum(trained_store.url)
    assert main(["score", "--dataset", "scenes"]) == 3
    said = capsys.readouterr().err.partition("error: ")[2].strip()
    assert said.startswith('The disk of Postgres is full: could not extend file "base/1/2": No space left on device.')
    assert len(said.splitlines()) == 1
    assert checksum(trained_store.url) == before
    with engine.begin() as connection:
        state, error, code = connection.execute(
            text(
                "SELECT state, error, exit_code FROM alchemist.runs WHERE stage = 'score' ORDER BY run_id DESC LIMIT 1"
            )
        ).one()
        connection.exec_driver_sql("DROP TRIGGER full_disk ON alchemist.scores")
    assert (state, code, error) == ("failed", 3, f"StoreError: {said}")
    assert main(["score", "--dataset", "scenes"]) == 0
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.scores")).scalar_one() > 0
    engine.dispose()


def test_a_session_that_the_server_ends_in_the_middle_of_a_score_is_one_line(
    trained_store: TrainedStore, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = make_engine(trained_store.url)
    with engine.begin() as connection:
        connection.exec_driver_sql(FULL.replace("RAISE", "PERFORM pg_terminate_backend(pg_backend_pid()); RAISE"))
    assert main(["score", "--dataset", "scenes"]) == 3
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "SystemError" not in said
    assert len(said.partition("error: ")[2].strip().splitlines()) == 1
    engine.dispose()
