"""Ingest, scoring and materializing on a faulty object store end as undisturbed ones, or report clearly that they cannot."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import text

from alchemist_core.__main__ import main
from alchemist_core.errors import DataError, UnreachableRootError
from alchemist_core.settings import load_settings
from alchemist_core.shards import s3
from alchemist_core.shards.storage import sha256_of
from alchemist_core.shards.survey import survey_root
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import open_store
from alchemist_core.store.score_files import find_files, read_scores
from tests.object_store import BUCKET
from tests.shards.faulty_proxy import FAULTS, FaultyProxy, faulty_proxy
from tests.trained_store import TrainedStore, copy_trained, corpus, trained_once, use_store

__all__ = ["copy_trained", "corpus", "trained_once"]

pytestmark = [pytest.mark.db, pytest.mark.faults]

NAME = "crawl-auto-r50"
INGEST = ("ingest", "--dataset", "crawl", "--root", f"s3://{BUCKET}/train")
SCORE = ("score", "--dataset", "crawl")
CHOOSE = (
    ("night", "publish", "--dataset", "crawl"),
    ("select", "--dataset", "crawl", "--retention", "0.5"),
)
COPY = ("materialize", NAME, "--shard-size", "20", "--to", f"s3://{BUCKET}/copies")
# With this share of damaged answers, of seven kinds in turn.
SHARES = (0.01, 0.05, 0.2)
LONGEST_S = 120
"""Longest duration of a command with these pauses, for every behaviour of the store."""


class Ending(NamedTuple):
    """The result of a chain of commands."""

    tables: dict[str, str]
    copies: dict[str, bytes]


@pytest.fixture
def crawl(object_store: str, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The training scenes in a bucket, read without worker processes, in small parts and without long pauses."""
    monkeypatch.setenv("ALCHEMIST_DECODE_WORKERS", "0")
    # Ledger rows contain the code version; fixed here, so that a commit during the test changes nothing.
    monkeypatch.setenv("ALCHEMIST_CODE_VERSION", "as tested")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    monkeypatch.setattr(s3, "_PART_BYTES", 1 << 14)
    monkeypatch.setattr(s3, "_MAX_GAP_BYTES", 0)
    monkeypatch.setattr(s3, "_LONGEST_PAUSE_S", 0.1)
    for path in (corpus / "train").rglob("*.tar"):
        key = path.relative_to(corpus).as_posix()
        s3._client().put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    return f"{object_store}/train"


@contextmanager
def through(
    endpoint: str, patch: pytest.MonkeyPatch, *, share: float, seed: int = 0, faults: tuple[str, ...] = FAULTS
) -> Iterator[FaultyProxy]:
    """Let settings name a proxy that damages a share of the answers, and afterwards the store itself."""
    with faulty_proxy(endpoint, fault_ratio=share, seed=seed, faults=faults) as proxy:
        patch.setenv("ALCHEMIST_S3_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
        load_settings.cache_clear()
        try:
            yield proxy
        finally:
            s3._client().close()
            patch.setenv("ALCHEMIST_S3_ENDPOINT_URL", endpoint)
            load_settings.cache_clear()


def run(*words: str) -> None:
    began = time.monotonic()
    assert main(words) == 0, words
    assert time.monotonic() - began < LONGEST_S, words


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the output of a command that must fail within the limit."""
    began = time.monotonic()
    assert main(words) == DataError.exit_code, words
    assert time.monotonic() - began < LONGEST_S, words
    return capsys.readouterr().err


def run_all() -> Ending:
    for words in (INGEST, SCORE, *CHOOSE, COPY):
        run(*words)
    return Ending(table_checksums(open_store().url.render_as_string(hide_password=False)), copied())


def copied() -> dict[str, bytes]:
    found = [uri for uri, _, _ in s3.find_objects(f"s3://{BUCKET}/copies")]
    client = s3._client()
    keys = [uri.removeprefix(f"s3://{BUCKET}/") for uri in found]
    return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


def count(sql: str) -> int:
    with open_store().connect() as connection:
        return int(connection.execute(text(sql)).scalar_one())


@pytest.fixture
def calm(crawl: str, copy_trained: Callable[[], TrainedStore], monkeypatch: pytest.MonkeyPatch) -> Ending:
    """The result of the undisturbed chain; its materialized datasets are deleted from the bucket."""
    use_store(monkeypatch, copy_trained())
    ending = run_all()
    s3.remove_objects(f"s3://{BUCKET}/copies")
    return ending


@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", SHARES)
def test_a_chain_over_a_store_that_damages_answers_leaves_what_an_undisturbed_one_does(
    calm: Ending, endpoint: str, copy_trained: Callable[[], TrainedStore], monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    use_store(monkeypatch, copy_trained())
    with through(endpoint, monkeypatch, share=share, seed=round(share * 100)) as proxy:
        for words in (INGEST, SCORE, *CHOOSE, COPY):
            run(*words)
    found = Ending(table_checksums(open_store().url.render_as_string(hide_password=False)), copied())
    assert found.tables == calm.tables
    assert found.copies == calm.copies
    assert sum(proxy.counts.values()) >= proxy.n_requests * share / 2, "the proxy must have damaged what it was to"
    assert share < max(SHARES) or min(proxy.counts.values()) >= 2, f"every kind must have been met: {proxy.counts}"
    print(f"{proxy.n_requests} requests, {proxy.counts}")


@pytest.mark.timeout(600)
def test_a_store_that_only_fails_is_named_and_what_was_stored_before_stays(
    crawl: str,
    endpoint: str,
    copy_trained: Callable[[], TrainedStore],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_store(monkeypatch, copy_trained())
    errors = ("500", "503", "reset")
    with through(endpoint, monkeypatch, share=1, faults=errors):
        assert crawl in refuse(capsys, *INGEST)
    assert (
        count("SELECT count(*) FROM alchemist.shards JOIN alchemist.datasets USING (dataset_id) WHERE name = 'crawl'")
        == 0
    )
    run(*INGEST)
    n_scored = count("SELECT count(*) FROM alchemist.scores")
    with through(endpoint, monkeypatch, share=1, faults=errors):
        assert f"s3://{BUCKET}/train" in refuse(capsys, *SCORE)
    assert count("SELECT count(*) FROM alchemist.scores") == n_scored
    assert count("SELECT count(*) FROM alchemist.quarantined_samples") == 0, "the store's failure is no record's fault"
    for words in (SCORE, *CHOOSE):
        run(*words)
    with through(endpoint, monkeypatch, share=1, faults=errors):
        assert f"s3://{BUCKET}/copies" in refuse(capsys, *COPY)
    assert copied() == {}
    assert count("SELECT count(*) FROM alchemist.subsets WHERE materialized_uri IS NOT NULL") == 0
    run(*COPY)


@pytest.mark.timeout(600)
def test_a_store_that_dies_amid_ingest_rejects_no_shard(
    calm: Ending, crawl: str, endpoint: str, copy_trained: Callable[[], TrainedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that was read in part is not marked as damaged, and running the command again gives the undisturbed result."""
    use_store(monkeypatch, copy_trained())
    for n_answers in (3, 8, 20):
        with through(endpoint, monkeypatch, share=0, faults=("503", "reset")) as proxy:
            proxy.fail_after(n_answers)
            main(INGEST)
        assert count("SELECT count(*) FROM alchemist.shards WHERE state = 'rejected'") == 0
        assert count("SELECT count(*) FROM alchemist.quarantined_samples") == 0
    assert run_all() == calm


@pytest.mark.timeout(120)
def test_a_store_that_falls_silent_is_named_within_the_limit(
    crawl: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No command waits longer for an answer than the timeout times the number of attempts."""
    monkeypatch.setattr(s3, "_SILENCE_S", 0.2)
    monkeypatch.setattr(s3, "_GIVE_UP_S", 1.0)
    s3._make_client.cache_clear()
    (shard, *_) = [uri for uri, _, _ in s3.find_objects(crawl)]
    began = time.monotonic()
    with (
        through(endpoint, monkeypatch, share=1, faults=("stall",)),
        pytest.raises(DataError, match="cannot be reached"),
    ):
        sha256_of(shard)
    # One second and the last attempt: six requests of 0.2 s, plus a margin for a busy machine.
    assert time.monotonic() - began < 30


@pytest.mark.timeout(120)
def test_a_busy_store_is_named_with_what_helps(
    object_store: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    s3._client().put_object(Bucket=BUCKET, Key="train/a.tar", Body=b"bytes")
    (tmp_path / "b.tar").write_bytes(b"bytes")

    def upload() -> None:
        s3.put_file(f"{object_store}/train/b.tar", tmp_path / "b.tar", {})

    for ask in (
        lambda: sha256_of(f"{object_store}/train/a.tar"),
        lambda: s3.find_objects(f"{object_store}/train"),
        upload,
    ):
        with (
            through(endpoint, monkeypatch, share=1, faults=("503",)),
            pytest.raises(DataError, match=r"train.* the store answers 503\. Run the command again") as caught,
        ):
            ask()
        assert "credentials" not in str(caught.value)
    # A store that does not know a request answers the same to the next.
    with (
        through(endpoint, monkeypatch, share=1, faults=("501",)),
        pytest.raises(DataError, match=r"cannot be read: 501\. Check the address and the credentials"),
    ):
        sha256_of(f"{object_store}/train/a.tar")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("n_answers", [0, 1])
def test_an_unreachable_store_is_waited_for_once(
    object_store: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, n_answers: int
) -> None:
    """By the survey of several tars, and by the search for files of scores, which asks for a folder and then for a file."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    monkeypatch.setattr(s3, "_LONGEST_PAUSE_S", 0.1)
    for name in ("a.tar", "b.tar"):
        s3._client().put_object(Bucket=BUCKET, Key=f"train/{name}", Body=b"bytes")
    ask = (
        lambda: list(read_scores(*find_files(f"{object_store}/a.csv"), {}, "score")),
        lambda: survey_root(f"{object_store}/train"),
    )
    with (
        through(endpoint, monkeypatch, share=1, faults=("reset",)) as once,
        pytest.raises(UnreachableRootError),
    ):
        s3.has_objects(object_store)
    with through(endpoint, monkeypatch, share=0, faults=("reset",)) as proxy:
        proxy.fail_after(n_answers)
        with pytest.raises(UnreachableRootError, match="cannot be reached"):
            ask[n_answers]()
    assert proxy.counts["reset"] == once.counts["reset"]


@pytest.mark.timeout(300)
def test_an_upload_in_parts_whose_last_answer_is_lost_is_there(
    crawl: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, labels = tmp_path / "000000.tar", {"alchemist-sha256": "of the whole"}
    path.write_bytes(bytes(range(256)) * (1 << 16))
    for seed in range(6):
        uri = f"s3://{BUCKET}/parts/{seed}.tar"
        with through(endpoint, monkeypatch, share=0.4, seed=seed, faults=("unanswered",)) as proxy:
            s3.put_file(uri, path, labels)
        assert proxy.n_requests >= 4, "more than one part"
        assert s3.read_labels(uri) == (path.stat().st_size, labels)
        assert s3._client().get_object(Bucket=BUCKET, Key=f"parts/{seed}.tar")["Body"].read() == path.read_bytes()
