"""Several scorers share a pass: one decode, bits as if each ran alone, and one that fails costs the others nothing."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alchemist_core.config import Config
from alchemist_core.errors import DataError
from alchemist_core.scorers import Batch, Scorer, ScorerUnavailableError
from alchemist_core.scorers.running import ScorerRunner
from alchemist_core.scorers.scorer import Rated, TransientFault
from alchemist_core.shards import decoding
from alchemist_core.shards.decoding import InlineDecoders
from alchemist_core.store.leases import LeaseClaim
from alchemist_core.store.ledger import ClaimedShard
from alchemist_core.training.scoring import BatchScorer, Claim, PendingShard, ScoringPipeline
from tests.training.test_scoring_pipeline import SIDE, PixelScorer, make_shard


class Redness(Scorer):
    """Reads pixels; its network-like arithmetic depends on nothing but the sample."""

    image_side, batch_size = SIDE, 3

    def score(self, batch: Batch) -> np.ndarray:
        assert len(batch.image_BHWC) == len(batch.captions) == self.batch_size
        mean_B3 = batch.image_BHWC.mean((1, 2), dtype=np.float32)
        return mean_B3[:, 0] - mean_B3[:, 1:].mean(1)


class Words(Scorer):
    """Two outputs, of which one refuses a sample; reads hashes to check that they are the sample's own."""

    image_side, batch_size, is_padded, outputs = SIDE, 4, False, ("length", "first_byte")

    def score(self, batch: Batch) -> np.ndarray:
        found = np.array(
            [
                [len(caption), image_hash[0]]
                for caption, image_hash in zip(batch.captions, batch.image_hashes, strict=True)
            ],
            np.float32,
        )
        for at, caption in enumerate(batch.captions):
            if caption == "xx":
                found[at], batch.faults[at] = np.nan, "it has two letters"
        return found


class Raising(Scorer):
    """Fails on the samples whose caption is in `bad`; None: on all."""

    image_side, batch_size = SIDE, 4
    bad: tuple[str, ...] | None = None

    def score(self, batch: Batch) -> np.ndarray:
        if self.bad is None or set(self.bad) & set(batch.captions):
            raise ValueError("no such thing")
        return np.ones(len(batch), np.float32)


def share(shard: PendingShard, columns: int) -> PendingShard:
    """The same shard, claimed for several raters."""
    only = shard.shares[0]
    claims = [Claim(ClaimedShard(only.claimed.shard, LeaseClaim("s", n)), only.rows, n) for n in range(columns)]
    return PendingShard(claims, has_heuristics=True)


def score(
    root: Path,
    scorers: list[BatchScorer],
    picked: list[list[int]],
    edit: Callable[[PendingShard], PendingShard] | None = None,
    may_fail: tuple[int, ...] = (),
) -> tuple[dict[tuple[int, int], list], dict[int, DataError]]:
    """Score shards; return what is stored for each shard and column, and why columns failed."""
    n_columns = sum(scorer.n_outputs for scorer in scorers)
    shards = iter(
        [(edit or (lambda one: one))(share(make_shard(root, n, one), n_columns)) for n, one in enumerate(picked)]
    )
    stored: dict[tuple[int, int], list] = {}

    def commit(shard: PendingShard) -> None:
        for part, outcome in shard.outcomes():
            faults = [(fault.ordinal, fault.reason, fault.detail) for fault in outcome.faults]
            kept = sorted(zip(outcome.sample_id_N.tolist(), outcome.score_N.tolist(), strict=True))
            stored[shard.claimed.shard.shard_id, part.column] = [kept, faults, len(outcome.measured_id_N)]

    names = [f"s{n}" for n in range(n_columns)]
    with ScoringPipeline(scorers, InlineDecoders(SIDE), commit, rater_names=names, may_fail=may_fail) as pipeline:
        pipeline.run(lambda: next(shards, None))
    return stored, dict(pipeline.failed)


PICKED = [[0, 1, 2, 3, 2], [4, 5], [], [6, 7, 1]]


def run_of(kind: type[Scorer]) -> ScorerRunner:
    return ScorerRunner(kind(Config()), kind.__name__)


def test_three_scorers_decode_each_image_once_and_give_the_bits_that_each_gives_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_decoded = 0
    decode = decoding.decode_views

    def count(*args: object, **options: object) -> object:
        nonlocal n_decoded
        n_decoded += 1
        return decode(*args, **options)

    monkeypatch.setattr(decoding, "decode_views", count)
    together, failed = score(tmp_path, [PixelScorer(5), run_of(Redness), run_of(Words)], PICKED)
    assert failed == {}
    assert n_decoded == len({(n, one) for n, shard in enumerate(PICKED) for one in shard})
    for first, scorer in ((0, PixelScorer(7)), (1, run_of(Redness)), (2, run_of(Words))):
        alone, _ = score(tmp_path, [scorer], PICKED)
        for (shard_id, column), (kept, _faults, _n) in alone.items():
            assert together[shard_id, first + column][0] == kept


def test_a_scorer_that_changes_its_batch_changes_no_score_of_another(tmp_path: Path) -> None:
    class Inverting(Words):
        outputs = ("score",)

        def score(self, batch: Batch) -> np.ndarray:
            np.subtract(255, batch.image_BHWC, out=batch.image_BHWC)
            for said in batch.metadata:
                said.clear()  # type: ignore[attr-defined]
            return batch.image_BHWC.mean((1, 2, 3), dtype=np.float32)

    class Wide(Words):
        outputs = ("score",)

        def score(self, batch: Batch) -> np.ndarray:
            return np.array([said["width"] for said in batch.metadata], np.float32)

    def describe(shard: PendingShard) -> PendingShard:
        shard.metadata = [{"width": 7} for _ in range(shard.n_samples)]
        return shard

    picked = [[0, 1, 2, 3], [4, 5, 6, 7]]
    alone, _ = score(tmp_path, [PixelScorer(4)], picked)
    together, failed = score(tmp_path, [run_of(Inverting), PixelScorer(4), run_of(Wide)], picked, describe)
    assert failed == {}
    for shard_id in (0, 1):
        assert together[shard_id, 1][0] == alone[shard_id, 0][0]
        assert {value for _, value in together[shard_id, 2][0]} == {7.0}


def test_heuristics_are_stored_once_with_the_first_scorer(tmp_path: Path) -> None:
    together, _ = score(tmp_path, [PixelScorer(5), run_of(Redness)], [[0, 1, 2]])
    assert [together[0, column][2] for column in (0, 1)] == [3, 0]


def test_what_a_scorer_says_about_a_sample_is_its_quarantine_reason(tmp_path: Path) -> None:
    together, _ = score(tmp_path, [PixelScorer(5), run_of(Words)], [[0, 2, 3]])
    assert [sample_id for sample_id, _ in together[0, 0][0]] == [0, 2, 3]
    for column in (1, 2):
        assert [sample_id for sample_id, _ in together[0, column][0]] == [0, 3]
        assert together[0, column][1] == [(1, "refused_by_scorer", f"scorer s{column}: it has two letters")]


def test_a_scorer_that_raises_on_one_sample_loses_that_one_alone(tmp_path: Path) -> None:
    class Picky(Raising):
        bad = ("xxx",)

    together, failed = score(tmp_path, [PixelScorer(8), run_of(Picky)], [[0, 1, 2, 3, 4]])
    assert failed == {}
    assert [sample_id for sample_id, _ in together[0, 1][0]] == [0, 1, 2, 4]
    assert together[0, 1][1] == [(3, "refused_by_scorer", "scorer s1: ValueError: no such thing")]


def test_a_scorer_that_always_raises_stops_and_the_others_score_everything(tmp_path: Path) -> None:
    together, failed = score(tmp_path, [PixelScorer(2), run_of(Raising), run_of(Redness)], PICKED)
    assert list(failed) == [1]
    assert "no such thing" in str(failed[1])
    # A shard without samples has nothing that could fail.
    assert {key for key in together if key[1] == 1} == {(2, 1)}
    assert {key for key in together if key[1] != 1} == {(n, column) for n in range(4) for column in (0, 2)}


def test_a_scorer_that_is_unavailable_stores_nothing_of_the_shards_that_it_did_not_finish(tmp_path: Path) -> None:
    class Gone(Redness):
        n_calls = 0

        def score(self, batch: Batch) -> np.ndarray:
            type(self).n_calls += 1
            if self.n_calls > 1:
                raise ScorerUnavailableError("the server does not answer")
            return super().score(batch)

    together, failed = score(tmp_path, [PixelScorer(3), run_of(Gone)], [[0, 1, 2], [3, 4, 5], [6, 7]])
    # Batches come from threads that read: the shard that came first is the one that was finished.
    assert len({key for key in together if key[1] == 1}) == 1
    assert "does not answer" in str(failed[1])
    assert {key for key in together if key[1] == 0} == {(0, 0), (1, 0), (2, 0)}


def test_a_scorer_is_given_only_the_samples_that_it_has_not_scored(tmp_path: Path) -> None:
    given: list[str] = []

    class Noting(Words):
        outputs = ("score",)

        def score(self, batch: Batch) -> np.ndarray:
            given.extend(batch.captions)
            return np.zeros(len(batch), np.float32)

    def keep_even(shard: PendingShard) -> PendingShard:
        part = shard.shares[1]
        part.rows = [row for row in part.rows if row.sample_id % 2 == 0]
        part.wanted_N = shard.sample_id_N % 2 == 0
        return shard

    together, _ = score(tmp_path, [PixelScorer(8), run_of(Noting)], [[0, 1, 2, 3, 4]], keep_even)
    assert given == ["", "xx", "xxxx"]
    assert [sample_id for sample_id, _ in together[0, 1][0]] == [0, 2, 4]
    assert [sample_id for sample_id, _ in together[0, 0][0]] == [0, 1, 2, 3, 4]


def test_a_scorer_that_returns_another_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    class Flat(Redness):
        def score(self, batch: Batch) -> np.ndarray:
            return np.zeros(2, np.float32)

    _, failed = score(tmp_path, [PixelScorer(3), run_of(Flat)], [[0, 1, 2]])
    assert "shape (2, 1) for 3 samples; expected (3, 1)" in str(failed[1])


def test_a_bad_sample_alone_in_its_batch_is_quarantined_as_one_beside_good_samples(tmp_path: Path) -> None:
    class Picky(Raising):
        bad = ("xxxx",)

    together, failed = score(tmp_path, [PixelScorer(8), run_of(Picky)], [[0, 1, 2, 3, 4]])
    assert failed == {}
    assert [sample_id for sample_id, _ in together[0, 1][0]] == [0, 1, 2, 3]
    assert together[0, 1][1] == [(4, "refused_by_scorer", "scorer s1: ValueError: no such thing")]


def test_a_scorer_that_breaks_after_a_good_batch_refuses_no_sample(tmp_path: Path) -> None:
    class Worn(Redness):
        n_calls = 0

        def score(self, batch: Batch) -> np.ndarray:
            type(self).n_calls += 1
            if self.n_calls > 1:
                raise ValueError("out of memory")
            return super().score(batch)

    together, failed = score(tmp_path, [PixelScorer(3), run_of(Worn)], [[0, 1, 2], [3]])
    assert {key: rows[1] for key, rows in together.items() if key[1] == 1} == {(0, 1): []}
    assert "out of memory" in str(failed[1])


def test_a_shortage_of_memory_that_passes_refuses_no_sample(tmp_path: Path) -> None:
    class Short(Redness):
        n_calls = 0

        def score(self, batch: Batch) -> np.ndarray:
            type(self).n_calls += 1
            if self.n_calls == 1:
                raise MemoryError("for the other job")
            return super().score(batch)

    together, failed = score(tmp_path, [PixelScorer(3), run_of(Short)], [[0, 1, 2]])
    assert [key for key, rows in together.items() if rows[1]] == []
    assert isinstance(failed[1], ScorerUnavailableError)
    assert "MemoryError: for the other job. No sample is to blame" in str(failed[1])


def test_any_error_of_a_shadow_stops_the_shadow_alone_and_one_of_the_others_the_run(tmp_path: Path) -> None:
    class Short(PixelScorer):
        def rate(self, batch: Batch) -> Rated:
            raise RuntimeError("CUDA error: out of memory")

    stored, failed = score(tmp_path, [PixelScorer(3), Short(3)], PICKED, may_fail=(1,))
    alone, _ = score(tmp_path, [PixelScorer(3)], PICKED)
    assert {key: rows[0] for key, rows in stored.items() if key[1] == 0} == {
        key: rows[0] for key, rows in alone.items()
    }
    assert str(failed[1]) == "RuntimeError: CUDA error: out of memory"
    with pytest.raises(RuntimeError, match="out of memory"):
        score(tmp_path, [Short(3), PixelScorer(3)], PICKED, may_fail=(1,))


def test_embeddings_that_change_their_length_stop_their_scorer_alone(tmp_path: Path) -> None:
    class Growing(Redness):
        n_calls = 0

        def embed(self, batch: Batch) -> np.ndarray:
            type(self).n_calls += 1
            return np.ones((len(batch), self.n_calls), np.float32)

    together, failed = score(tmp_path, [PixelScorer(3), run_of(Growing)], [[0, 1, 2, 3]])
    assert "embeddings of 1 numbers, and then of 2" in str(failed[1])
    assert [sample_id for sample_id, _ in together[0, 0][0]] == [0, 1, 2, 3]


def test_a_transient_fault_is_quarantined_for_a_retry(tmp_path: Path) -> None:
    class Absent(Words):
        def score(self, batch: Batch) -> np.ndarray:
            found = super().score(batch)
            found[0], batch.faults[0] = np.nan, TransientFault("no answer")
            return found

    together, _ = score(tmp_path, [run_of(Absent)], [[0, 1]])
    assert together[0, 0][1] == [(0, "unanswered_by_scorer", "scorer s0: no answer")]


def test_each_scorer_of_a_pass_rates_in_no_more_threads_than_it_allows(tmp_path: Path) -> None:
    class Counting(PixelScorer):
        n_now = most = 0

        def __init__(self, n_threads: int) -> None:
            super().__init__(2)
            self.n_threads, self.meeting = n_threads, threading.Barrier(n_threads)

        def rate(self, batch: Batch) -> Rated:
            with self.lock:
                self.n_now += 1
                self.most = max(self.most, self.n_now)
            # It opens when all threads that the scorer allows are here: fewer would fail, more would be counted.
            self.meeting.wait(30)
            with self.lock:
                self.n_now -= 1
            return super().rate(batch)

    narrow, wide = Counting(1), Counting(4)
    score(tmp_path, [wide, narrow], [list(range(8))] * 4)
    assert (narrow.most, wide.most) == (1, 4)
