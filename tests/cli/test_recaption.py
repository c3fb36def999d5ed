"""New captions are new samples beside the present ones: same images, provenance, each asked and paid once, also after a kill."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from alchemist_core.__main__ import main
from alchemist_core.cli.duplicates import FindConfig, find
from alchemist_core.cli.recaption import RecaptionConfig, Recaptioning, RecaptionResult, run
from alchemist_core.cli.sample import TakedownConfig, takedown
from alchemist_core.cli.shard import ChangeConfig, reread
from alchemist_core.config import fingerprint
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.scorers import vlm
from alchemist_core.settings import load_settings
from alchemist_core.shards import captions
from alchemist_core.shards.pictures import PictureWorkers
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.materialize import MaterializeConfig
from alchemist_core.stages.materialize import run as materialize
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.store.engine import open_store
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.samples import read_training_samples
from tests.scorers.vlm_server import VlmServer, serving
from tests.shards.conftest import draw_image, make_record, make_tar
from tests.shards.slow_images import bomb, slow_jpeg
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.e2e]

N, PROMPT = 240, "Describe the image. It was captioned: {caption}"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm, "BACKOFF_S", 0.001)


def options(server: VlmServer, **fields: Any) -> RecaptionConfig:
    given = {
        "dataset": "scenes", "endpoint": server.url, "model": "painter-1", "prompt": PROMPT, "concurrency": 4, "timeout_s": 60,
        "retries": 1, "image_side": 32,
    }  # fmt: skip
    return RecaptionConfig.model_validate(given | fields)


def recaption(server: VlmServer, **fields: Any) -> RecaptionResult:
    return run(options(server, **fields))


def well(_sample: int, _n_before: int) -> str:
    return "ok"


def ask(query: str, **parameters: Any) -> list[Any]:
    with open_store().connect() as connection:
        return list(connection.execute(text(query), parameters))


def samples_of(dataset: str) -> list[Any]:
    return list(read_training_samples(open_store(), find_dataset(open_store(), dataset).dataset_id))


def tars(root: str) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


@pytest.mark.slow
def test_each_image_gets_a_new_pair_that_says_where_it_came_from_and_nothing_present_changes(
    ingest_corpus: Callable[[], Any], tmp_path: Path
) -> None:
    ingest_corpus()
    before = samples_of("scenes")
    with serving(well) as server:
        first = recaption(server, root=str(tmp_path / "new"), price_per_1000_output_tokens=2.0)
        assert (first.n_shards, first.n_samples, first.n_new_pairs, first.n_refused) == (6, N, N, 0)
        assert first.cost == pytest.approx(N * 10 / 1000 * 2.0)
        written = tars(first.root)
        again = recaption(server, root=str(tmp_path / "new"))
        assert (again.n_known, again.n_samples, again.n_new_pairs, again.n_requests) == (6, 0, 0, 0)
    assert tars(first.root) == written
    assert samples_of("scenes") == before
    new = {row.image_hash: row for row in samples_of("scenes-recaptioned")}
    assert new.keys() == {row.image_hash for row in before}
    origins = dict(ask("SELECT pair_hash, metadata -> 'recaption' FROM alchemist.samples WHERE metadata ? 'recaption'"))
    origin_of = {bytes(pair_hash): origin for pair_hash, origin in origins.items()}
    for row in before:
        made = new[row.image_hash]
        assert made.caption.startswith("What the model sees in ")
        assert made.pair_hash != row.pair_hash
        origin = origin_of[made.pair_hash]
        assert (origin["of_pair"], origin["caption"]) == (row.pair_hash.hex(), row.caption)
        assert (origin["model"], origin["prompt"]) == ("painter-1", PROMPT)
    # The nights stay those of the source.
    dates = "SELECT count(DISTINCT crawl_date) FROM alchemist.shards JOIN alchemist.datasets USING (dataset_id) WHERE name = :name"
    assert ask(dates, name="scenes") == ask(dates, name="scenes-recaptioned")


@pytest.mark.slow
def test_another_prompt_makes_further_pairs_and_a_prompt_without_captions_asks_once_for_an_image(
    ingest_corpus: Callable[[], Any], tmp_path: Path
) -> None:
    ingest_corpus()
    with serving(well) as server:
        recaption(server, root=str(tmp_path), crawl_date="2026-01-01", into="new")
        n_first = len(samples_of("new"))
        other = recaption(
            server, root=str(tmp_path), crawl_date="2026-01-01", into="new", prompt="Describe the image in ten words."
        )
    assert (n_first, other.n_samples, other.n_new_pairs) == (120, 120, 120)
    assert len(samples_of("new")) == 240


def test_a_dataset_without_samples_is_answered_with_zeros(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl" / "a.tar").write_bytes(make_tar(make_record("a", 1))[:600])
    ingest(IngestConfig(dataset="crawl", root=str(tmp_path / "crawl")))
    with serving(well) as server:
        for crawl_date in (None, "2026-01-02"):
            found = recaption(server, dataset="crawl", root=str(tmp_path / "new"), crawl_date=crawl_date)
            assert (found.n_shards, found.n_samples) == (0, 0)


@pytest.mark.slow
def test_refused_samples_are_counted_and_left_out_and_failed_ones_hold_their_shard_back(
    ingest_corpus: Callable[[], Any], tmp_path: Path
) -> None:
    ingest_corpus()
    seen: list[int] = []

    def misbehave(sample: int, _n_before: int) -> str:
        if sample not in seen:
            seen.append(sample)
        return {3: "refusal", 5: "not json", 7: "500"}.get(seen.index(sample), "ok")

    with serving(misbehave) as server:
        given = {"root": str(tmp_path), "where": "width = 32", "concurrency": 1}
        with pytest.raises(DataError, match=r"failed for 1 sample: 1 x status 500.*add --skip-failed"):
            recaption(server, **given)
        assert len(samples_of("scenes-recaptioned")) == 200
        n_paid = server.n_paid.total()
        found = recaption(server, **given, skip_failed=True)
        # Only the failed sample was asked for again.
        assert server.n_paid.total() == n_paid
    assert (found.n_known, found.n_shards, found.n_samples, found.n_refused, found.n_failed) == (5, 1, 37, 2, 1)
    assert len(samples_of("scenes-recaptioned")) == 237
    assert any("the model refused it" in reason for reason in found.reasons)


@pytest.mark.slow
def test_a_takedown_of_an_image_reaches_its_new_caption_and_deletes_the_answer(
    ingest_corpus: Callable[[], Any], tmp_path: Path
) -> None:
    ingest_corpus()
    with serving(well) as server:
        first = recaption(server, root=str(tmp_path))
        gone = samples_of("scenes")[0]
        takedown(TakedownConfig(image_hash=gone.image_hash.hex(), reason="asked for by its author"))
        assert len(samples_of("scenes-recaptioned")) == N - 1
        assert gone.image_hash not in {row.image_hash for row in samples_of("scenes-recaptioned")}
        assert first.n_requests == N
        # Its answer is gone, and nothing asks about it any more.
        again = recaption(server, root=str(tmp_path / "other"), into="other")
        assert (again.n_samples, again.n_requests) == (N - 1, 0)


def write_web(folder: Path, *entries: tuple[str, bytes]) -> Path:
    """Write a root of one shard."""
    folder.mkdir(exist_ok=True)
    (folder / "a.tar").write_bytes(make_tar(entries))
    return folder


@pytest.mark.usefixtures("database_url")
def test_samples_of_a_later_revision_get_captions_and_a_root_that_moved_changes_nothing(tmp_path: Path) -> None:
    odd = ("b.png", draw_image(2)), ("b.txt", "Un café crème".encode("latin-1"))
    web = write_web(tmp_path / "web", *make_record("a", 1), *odd)
    ingest(IngestConfig(dataset="web", root=str(web), repair=False))
    with serving(well) as server:
        given = {"dataset": "web", "root": str(tmp_path / "new")}
        assert recaption(server, **given).n_new_pairs == 1
        # The same bytes, of which one more record can be read.
        reread(ChangeConfig(shard="a.tar", reason="repairs are on again"))
        assert recaption(server, **given).n_new_pairs == 1
        write_web(web, *make_record("a", 1), *odd, *make_record("c", 3))
        reread(ChangeConfig(shard="a.tar", reason="it has grown"))
        grown = recaption(server, **given)
        assert (grown.n_shards, grown.n_known, grown.n_new_pairs) == (1, 0, 1)
        assert server.n_paid.total() == 3
        written = tars(grown.root)
        web.rename(tmp_path / "moved")
        ingest(IngestConfig(dataset="web", root=str(tmp_path / "moved"), move_root=True))
        moved = recaption(server, **given)
    assert (moved.n_shards, moved.n_known) == (0, 1)
    assert tars(moved.root) == written


@pytest.mark.usefixtures("database_url")
def test_a_home_that_moved_is_refused_before_the_model_is_asked_and_the_printed_command_moves_the_new_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(IngestConfig(dataset="web", root=str(write_web(tmp_path / "web", *make_record("a", 1))), role="validation"))
    with serving(well) as server:
        first = recaption(server, dataset="web")
        written = tars(first.root)
        write_web(tmp_path / "web", *make_record("a", 1), *make_record("b", 2))
        reread(ChangeConfig(shard="a.tar", reason="it has grown"))
        moved = load_settings().home.resolve().rename(tmp_path / "a new home")
        monkeypatch.setenv("ALCHEMIST_HOME", str(moved))
        load_settings.cache_clear()
        with pytest.raises(ConfigError, match=f"has the root {first.root}, but") as refused:
            recaption(server, dataset="web")
        assert server.n_paid.total() == 1
        assert tars(str(moved / "artifacts/recaptioned/web-recaptioned")) == written
        (command,) = re.findall(r"run: (alchemist ingest .*?)\. Otherwise", str(refused.value))
        assert main(shlex.split(command)[1:]) == 0
        assert recaption(server, dataset="web").n_new_pairs == 1
    assert len(samples_of("web-recaptioned")) == 2


@pytest.mark.usefixtures("database_url")
def test_a_dataset_that_cannot_take_the_new_samples_is_refused_before_the_model_is_asked(tmp_path: Path) -> None:
    web = write_web(tmp_path / "web", *make_record("a", 1))
    ingest(IngestConfig(dataset="web", root=str(web)))
    ingest(IngestConfig(dataset="held-out", root=str(web), role="validation"))
    with serving(well) as server:
        for into, why in {
            "my captions": "not a valid dataset name",
            "held-out": "registered with role 'validation'",
        }.items():
            with pytest.raises(ConfigError, match=why):
                recaption(server, dataset="web", into=into, root=str(tmp_path / "new"))
        assert server.n_paid.total() == 0
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("database_url")
def test_the_former_name_of_the_new_dataset_is_refused_before_the_model_is_asked(tmp_path: Path) -> None:
    ingest(IngestConfig(dataset="web", root=str(write_web(tmp_path / "web", *make_record("a", 1)))))
    with serving(well) as server:
        recaption(server, dataset="web")
        assert main(["dataset", "rename", "web-recaptioned", "web-captions"]) == 0
        write_web(tmp_path / "web", *make_record("a", 1), *make_record("b", 2))
        reread(ChangeConfig(shard="a.tar", reason="it has grown"))
        with pytest.raises(ConfigError, match="Give the name web-captions"):
            recaption(server, dataset="web")
        assert server.n_paid.total() == 1


@pytest.mark.usefixtures("database_url")
def test_a_tar_that_an_earlier_version_named_by_its_root_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = write_web(tmp_path / "web", *make_record("a", 1))
    ingest(IngestConfig(dataset="web", root=str(web)))
    with serving(well) as server:
        config = options(server, dataset="web", root=str(tmp_path / "new"))
        with monkeypatch.context() as earlier:
            earlier.setattr(Recaptioning, "_name", Recaptioning._former_name)
            run(config)
        asked = config.model_dump(mode="json", include={"model", "prompt", "where", "image_side", "image_format"})
        what = fingerprint(asked | config.request_fields())
        digest = sha256(f"{web}\na.tar\n{what}".encode()).hexdigest()
        (written,) = (tmp_path / "new").rglob("*.tar")
        assert written.name == f"a-{digest[:16]}.tar"
        again = run(config)
    assert (again.n_known, again.n_shards) == (1, 0)


@pytest.mark.usefixtures("database_url")
def test_an_image_that_cannot_be_decoded_counts_as_refused_and_holds_no_shard_back(tmp_path: Path) -> None:
    cut = ("b.png", draw_image(2)[:-300]), ("b.txt", b"picture number 2")
    web = write_web(tmp_path / "web", *make_record("a", 1), *cut)
    ingest(IngestConfig(dataset="web", root=str(web), perceptual_hash=False))
    with serving(well) as server:
        found = recaption(server, dataset="web", root=str(tmp_path / "new"))
        assert (found.n_shards, found.n_samples, found.n_refused, found.n_failed) == (1, 1, 1, 0)
        assert "its image cannot be sent: truncated_image" in found.reasons[0]
        assert recaption(server, dataset="web", root=str(tmp_path / "new")).n_known == 1


@pytest.mark.usefixtures("database_url")
def test_an_image_that_takes_its_decoder_too_long_is_refused_and_the_others_get_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = ("b.jpg", slow_jpeg()), ("b.txt", b"a slow picture")
    web = write_web(tmp_path / "web", *make_record("a", 1), *slow, *make_record("c", 3))
    ingest(IngestConfig(dataset="web", root=str(web), perceptual_hash=False))
    monkeypatch.setenv("ALCHEMIST_DECODE_LIMIT_S", "0.5")
    load_settings.cache_clear()
    with serving(well) as server:
        found = recaption(server, dataset="web", root=str(tmp_path / "new"))
        assert (found.n_shards, found.n_samples, found.n_refused, found.n_failed) == (1, 2, 1, 0)
        assert "its image cannot be sent: too_slow" in found.reasons[0]
        # The refusal holds for this run only, and no answer is paid twice.
        monkeypatch.setenv("ALCHEMIST_DECODE_LIMIT_S", "100")
        load_settings.cache_clear()
        again = recaption(server, dataset="web", into="patient")
    assert (again.n_samples, again.n_refused, again.n_requests) == (3, 0, 1)


@pytest.mark.usefixtures("database_url")
def test_a_decoder_that_is_killed_from_outside_costs_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = ("b.jpg", bomb((4000, 4000), 60)), ("b.txt", b"a slow picture")
    web = write_web(tmp_path / "web", *make_record("a", 1), *slow, *make_record("c", 3))
    ingest(IngestConfig(dataset="web", root=str(web), perceptual_hash=False))
    decode, n_begun = PictureWorkers.fit, 0

    def disturb(workers: PictureWorkers, data: bytes, side: int) -> Any:
        """Kill the decoder while it works on the second picture, and before the third."""
        nonlocal n_begun
        n_begun += 1
        if n_begun > 1:
            decoders = workers._free.queue[-1]
            assert decoders is not None
            (pid,) = decoders.pids
            killer = threading.Timer(0.3 if n_begun == 2 else 0.0, os.kill, (pid, signal.SIGKILL))
            killer.start()
            if n_begun == 3:
                killer.join()
        return decode(workers, data, side)

    monkeypatch.setattr(PictureWorkers, "fit", disturb)
    with serving(well) as server:
        found = recaption(server, dataset="web", root=str(tmp_path / "new"))
    assert (n_begun, found.n_samples, found.n_refused) == (3, 3, 0)


@pytest.mark.usefixtures("database_url")
def test_numbers_of_a_record_that_an_earlier_version_registered_end_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = ("a.json", json.dumps({"seen": [1e308] * 4000}).encode())
    web = write_web(tmp_path / "web", *make_record("a", 1)[:2], grown)
    with monkeypatch.context() as earlier:
        earlier.setattr(captions, "MAX_JSON_BYTES", 1 << 30)
        ingest(IngestConfig(dataset="web", root=str(web)))
    assert ask("SELECT repair FROM alchemist.sample_locations") == [(None,)]
    with serving(well) as server:
        found = recaption(server, dataset="web", root=str(tmp_path / "new"))
    assert (found.n_shards, found.n_new_pairs) == (1, 1)
    ((origin,),) = ask(
        "SELECT metadata -> 'recaption' ->> 'dataset' FROM alchemist.samples WHERE metadata ? 'recaption'"
    )
    assert origin == "web"


def processes(server: VlmServer, root: Path) -> list[str]:
    options = {
        "dataset": "scenes", "root": root, "endpoint": server.url, "model": "painter-1", "prompt": PROMPT, "concurrency": 4,
        "image-side": 32, "timeout-s": 60,
    }  # fmt: skip
    return [
        sys.executable,
        "-m",
        "alchemist_core",
        "recaption",
        *(f"--{name}={value}" for name, value in options.items()),
    ]


@pytest.mark.slow
def test_a_killed_run_resumes_pays_no_answer_twice_and_ends_with_the_same_tars(
    ingest_corpus: Callable[[], Any], tmp_path: Path
) -> None:
    ingest_corpus()
    with serving(lambda _sample, _n_before: "late") as server:
        running = subprocess.Popen(
            processes(server, tmp_path / "new"), stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_for(lambda: server.n_requests.total() >= 60, running)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        n_asked = server.n_requests.total()
        assert n_asked < N
        recaption(server, root=str(tmp_path / "new"))
        # What was under way when the process died is asked again: at most one request a connection.
        assert server.n_requests.total() <= N + 4
        assert sum(n > 1 for n in server.n_paid.values()) <= 4
        undisturbed = recaption(server, root=str(tmp_path / "undisturbed"), into="undisturbed")
    assert undisturbed.n_requests == 0
    assert tars(str(tmp_path / "new")) == tars(str(tmp_path / "undisturbed"))
    assert len(samples_of("scenes-recaptioned")) == N
    # The same pairs: the second dataset brought no new ones.
    assert undisturbed.n_new_pairs == 0


def wait_for(is_done: Callable[[], bool], running: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while not is_done():
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_new_captions_are_scored_selected_and_materialized_like_others(
    scored_store: TrainedStore, tmp_path: Path
) -> None:
    with serving(well) as server:
        recaption(server, root=str(tmp_path / "new"))
    score(ScoreConfig(dataset="scenes-recaptioned"))
    publish_night(PublishNightConfig(dataset="scenes-recaptioned"))
    policy = {"retention": 0.25, "strategy": "top_k"}
    chosen = select(SelectConfig.model_validate({"dataset": "scenes-recaptioned", "name": "new", "policy": policy}))
    assert chosen.n_samples == N // 4
    # Of an image with two captions, one is kept, once the images were compared.
    find(FindConfig())
    both = select(
        SelectConfig.model_validate(
            {"dataset": "scenes,scenes-recaptioned", "name": "both", "policy": policy | {"retention": 1.0}}
        )
    )
    assert both.n_samples == N
    copied = materialize(MaterializeConfig(subset="new"))
    captions = list(texts(Path(copied.folder)))
    assert len(captions) == N // 4
    assert all(caption.startswith("What the model sees in ") for caption in captions)


def texts(folder: Path) -> Iterator[str]:
    import tarfile

    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                if member.name.endswith(".txt"):
                    yield file.read().decode()
                elif member.name.endswith(".json"):
                    assert json.loads(file.read())["recaption"]["model"] == "painter-1"
