"""The pipeline gives every sample its own score and commits every shard once, for all sizes of tasks and batches."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alchemist_core.errors import AlchemistError, DataError
from alchemist_core.scorers import Batch
from alchemist_core.scorers.scorer import Rated
from alchemist_core.shards.decode_versions import DecodeVersion
from alchemist_core.shards.decoding import InlineDecoders, open_decoders
from alchemist_core.store.leases import LeaseClaim
from alchemist_core.store.ledger import ClaimedShard, ShardOutcome
from alchemist_core.training import scoring
from alchemist_core.training.scoring import Claim, PendingShard, ScoringPipeline
from tests.shards.conftest import draw_image

SIDE = 4
PICTURES = [draw_image(seed, size=(SIDE, SIDE)) for seed in range(8)]


class PixelScorer:
    """Scores a sample by its pixels and the length of its caption; counts its batches."""

    image_side, n_threads, n_outputs, device, dtype = SIDE, 2, 1, "cpu", "float32"
    decode_version: DecodeVersion = 1

    def __init__(self, batch: int) -> None:
        self.batch, self.shapes, self.lock = batch, [], threading.Lock()

    def make_buffer(self) -> np.ndarray:
        return np.zeros((self.batch, SIDE, SIDE, 3), np.uint8)

    def rate(self, batch: Batch) -> Rated:
        with self.lock:
            self.shapes.append((len(batch.image_BHWC), len(batch.captions)))
        scores = [score_of(image, caption) for image, caption in zip(batch.image_BHWC, batch.captions, strict=False)]
        return Rated(np.array(scores, np.float32)[:, None])


def outcome_of(shard: PendingShard) -> ShardOutcome:
    ((_, outcome),) = shard.outcomes()
    return outcome


def score_of(image_HWC: np.ndarray, caption: str) -> float:
    return float(image_HWC.astype(int).sum() + 1000 * len(caption))


def make_shard(root: Path, shard_id: int, picked: list[int], *, bad: frozenset[int] = frozenset()) -> PendingShard:
    """A shard of the named images; sample ids are unique in the test, a repeated image is a second location."""
    data = [PICTURES[number] if number not in bad else PICTURES[number][:40] for number in picked]
    (root / f"{shard_id}.tar").write_bytes(b"".join(data))
    offsets = np.cumsum([0, *map(len, data)]).tolist()
    rows = [
        SimpleNamespace(
            ordinal=at, key=f"{at:03d}", sample_id=100 * shard_id + number, caption="x" * number, is_measured=False, is_withheld=False,
            image_hash=hashlib.sha256(data[at]).digest(), byte_offset=offsets[at], size_bytes=len(data[at]),
        )
        for at, number in enumerate(picked)
    ]  # fmt: skip
    shard = SimpleNamespace(
        shard_id=shard_id, root_uri=str(root), uri=f"{shard_id}.tar", dataset_id=1, crawl_date=date(2026, 1, 1)
    )
    return PendingShard([Claim(ClaimedShard(shard, LeaseClaim("shard", 1)), rows)], has_heuristics=True)  # type: ignore[arg-type]


def run(
    shards: list[PendingShard], scorer: PixelScorer, commit: Callable[[PendingShard], None], n_workers: int = 0
) -> None:
    waiting: Iterator[PendingShard] = iter(shards)
    decoders = open_decoders(n_workers, SIDE)
    with ScoringPipeline([scorer], decoders, commit, rater_names=["r"]) as pipeline:
        pipeline.run(lambda: next(waiting, None))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: tmp_path_factory.mktemp("shards")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shards=st.lists(st.lists(st.integers(0, 7), max_size=12), max_size=6),
    batch=st.integers(1, 9),
    task_pictures=st.integers(1, 5),
    bad=st.frozensets(st.integers(0, 7), max_size=2),
)
def test_every_sample_is_scored_or_quarantined_and_every_shard_committed_once(
    folder: Callable[[], Path], shards: list[list[int]], batch: int, task_pictures: int, bad: frozenset[int]
) -> None:
    root, committed = folder(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "TASK_IMAGES", task_pictures)
        made = [make_shard(root, number, picked, bad=bad) for number, picked in enumerate(shards)]
        scorer = PixelScorer(batch)
        run(made, scorer, committed.append)
    assert sorted(shard.claimed.shard.shard_id for shard in committed) == list(range(len(shards)))
    for shard in committed:
        number = shard.claimed.shard.shard_id
        outcome = outcome_of(shard)
        good = {picture for picture in shards[number] if picture not in bad}
        assert set(outcome.sample_id_N.tolist()) == {100 * number + picture for picture in good}
        assert [fault.ordinal for fault in sorted(outcome.faults, key=lambda fault: fault.ordinal)] == [
            at for at, picture in enumerate(shards[number]) if picture in bad
        ]
        assert set(outcome.measured_id_N.tolist()) == set(outcome.sample_id_N.tolist())
        for sample_id, score in zip(outcome.sample_id_N.tolist(), outcome.score_N.tolist(), strict=True):
            assert score == expected_score(sample_id % 100)


def expected_score(number: int) -> float:
    part = next(iter_decoded(number))
    return score_of(part, "x" * number)


def iter_decoded(number: int) -> Iterator[np.ndarray]:
    from alchemist_core.shards.images import decode_image

    yield decode_image(PICTURES[number], SIDE)


def test_batches_have_one_shape_and_are_filled_across_shards(tmp_path: Path) -> None:
    scorer = PixelScorer(8)
    run([make_shard(tmp_path, number, [0, 1, 2]) for number in range(5)], scorer, lambda _: None)
    assert sorted(scorer.shapes) == [(8, 7), (8, 8)]


def test_workers_change_no_score_and_no_measure(tmp_path: Path) -> None:
    outcomes = []
    for n_workers in (0, 1, 2):
        done: dict[int, list] = {}
        shards = [make_shard(tmp_path, number, list(range(8))) for number in range(4)]
        run(
            shards,
            PixelScorer(5),
            lambda shard, done=done: done.update({shard.claimed.shard.shard_id: shard}),
            n_workers,
        )
        outcomes.append(
            {number: (s.shares[0].score_N.tolist(), s.measure_NM.tolist()) for number, s in sorted(done.items())}
        )
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_more_shards_than_may_be_open_are_all_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_OPEN_SHARDS", 3)
    committed: list[PendingShard] = []
    run([make_shard(tmp_path, number, [0]) for number in range(20)], PixelScorer(256), committed.append)
    assert len(committed) == 20


def test_a_score_that_is_not_a_number_quarantines_its_sample(tmp_path: Path) -> None:
    class Broken(PixelScorer):
        def rate(self, batch: Batch) -> Rated:
            is_bad_B = np.array([caption == "xx" for caption in batch.captions])
            return Rated(np.where(is_bad_B[:, None], np.nan, super().rate(batch).score_PM).astype(np.float32))

    shard = make_shard(tmp_path, 1, [1, 2, 3])
    run([shard], Broken(4), lambda _: None)
    assert outcome_of(shard).sample_id_N.tolist() == [101, 103]
    (fault,) = outcome_of(shard).faults
    assert (fault.key, fault.reason, fault.detail) == ("001", "score_not_finite", "rater r gave nan")


def test_an_error_of_the_rater_ends_the_run(tmp_path: Path) -> None:
    class Failing(PixelScorer):
        def rate(self, batch: Batch) -> Rated:
            raise AlchemistError("out of memory")

    committed: list[PendingShard] = []
    with pytest.raises(AlchemistError, match="out of memory"):
        run([make_shard(tmp_path, number, list(range(8))) for number in range(9)], Failing(4), committed.append)
    assert committed == []


def test_an_error_of_a_commit_ends_the_run(tmp_path: Path) -> None:
    def refuse(shard: PendingShard) -> None:
        raise AlchemistError(f"shard {shard.claimed.shard.shard_id} refused")

    with pytest.raises(AlchemistError, match="shard 0 refused"):
        run([make_shard(tmp_path, number, list(range(8))) for number in range(9)], PixelScorer(4), refuse)


def test_an_error_of_the_claim_ends_the_run_and_a_shard_that_is_gone_only_its_own(tmp_path: Path) -> None:
    def fail() -> PendingShard:
        raise AlchemistError("no database")

    with (
        ScoringPipeline([PixelScorer(4)], InlineDecoders(SIDE), lambda _: None, rater_names=["r"]) as pipeline,
        pytest.raises(AlchemistError, match="no database"),
    ):
        pipeline.run(fail)
    shards = [make_shard(tmp_path, number, list(range(8))) for number in range(3)]
    (tmp_path / "1.tar").unlink()
    ended: dict[int, DataError | None] = {}
    run(shards, PixelScorer(4), lambda shard: ended.update({shard.claimed.shard.shard_id: shard.error}))
    assert sorted(ended) == [0, 1, 2]
    assert [number for number, error in ended.items() if error is not None] == [1]
    assert "1.tar" in str(ended[1])


def test_a_commit_runs_beside_the_next_shard_s_forward(tmp_path: Path) -> None:
    """The first commit waits until a later shard is rated: in one thread this would never end."""
    rated = threading.Event()

    class Telling(PixelScorer):
        def rate(self, batch: Batch) -> Rated:
            if len(self.shapes) >= 3:
                rated.set()
            return super().rate(batch)

    def commit(shard: PendingShard) -> None:
        assert rated.wait(20)

    run([make_shard(tmp_path, number, list(range(8))) for number in range(6)], Telling(4), commit)
