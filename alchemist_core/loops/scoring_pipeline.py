"""Scoring overlapped: claiming and reading ahead, decoding in processes, rating in threads, committing in one more.

Whatever is slowest sets the pace and the rest waits for it, so that decoding and rating share the cores without being told
how: pictures wait in at most as many places as workers have, pairs in a fixed number of batches, shards up to a limit.
It knows neither raters nor the database: it is handed a scorer, and what claims and what commits a shard.

Letters: B pairs in a batch · P pairs of a decoded part.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alchemist_core.data.decoders import DecodedPart, Decoders
from alchemist_core.loops.scoring_batches import ScoreBatch
from alchemist_core.loops.scoring_shards import PendingShard

MAX_OPEN_SHARDS = 128
"""Shards that may be under way: each holds a lease."""
Claim = Callable[[], PendingShard | None]
Commit = Callable[[PendingShard], None]


class BatchScorer(Protocol):
    """What rates: batches of one shape, from several threads at a time."""

    @property
    def n_threads(self) -> int:
        """How many threads may rate at a time."""
        ...

    @property
    def image_side(self) -> int:
        """Side in pixels of the pictures."""
        ...

    def make_buffer(self) -> NDArray[np.uint8]:
        """Return pixels of the batch's shape."""
        ...

    def score_batch(self, image_BHWC: NDArray[np.uint8], captions: list[str]) -> NDArray[np.float32]:
        """Return a score for each caption and the picture in its place."""
        ...


class ScoringPipeline:
    """Takes shards from `claim`, scores their pairs, and gives each complete shard to `commit`.

    Args:
        scorer: Rates batches.
        decoders: Decode pictures; closed at the end.
        commit: Stores a complete shard, or gives back one that could not be read (its `error`); called in one thread, in the order in
            which shards are completed.
        rater_name: For the text of faults.
    """

    def __init__(self, scorer: BatchScorer, decoders: Decoders, commit: Commit, *, rater_name: str) -> None:
        self._scorer, self._decoders, self._commit, self._rater_name = scorer, decoders, commit, rater_name
        self._claiming, self._rating, self._writing = (
            ThreadPoolExecutor(n, thread_name_prefix=name)
            for n, name in ((1, "claim"), (scorer.n_threads, "rate"), (1, "commit"))
        )
        self._free: SimpleQueue[ScoreBatch] = SimpleQueue()
        # One to fill, one waiting, one in each thread.
        for _ in range(scorer.n_threads + 2):
            self._free.put(ScoreBatch(scorer.make_buffer()))
        self._batch = self._free.get()
        self._awaited: deque[Future[None]] = deque()
        self._commits: deque[Future[None]] = deque()
        self._n_open = 0

    def __enter__(self) -> "ScoringPipeline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in (self._claiming, self._rating, self._writing):
            pool.shutdown(cancel_futures=True)
        self._decoders.close()

    def await_ready(self) -> None:
        """Wait until the decoders stand."""
        self._decoders.await_ready()

    def run(self, claim: Claim) -> None:
        """Score shards until `claim` returns none; every one that was claimed is committed then."""
        coming = self._claiming.submit(claim)
        while (shard := coming.result()) is not None:
            coming = self._claiming.submit(claim)
            self._feed(shard)
        self._drain()

    def _feed(self, shard: PendingShard) -> None:
        if self._n_open >= MAX_OPEN_SHARDS:
            self._drain()
        self._n_open += 1
        if shard.n_pairs == 0:
            self._complete(shard)
        for first, task in shard.tasks(self._scorer.image_side):
            while not self._decoders.has_room():
                self._collect()
            if shard.error is not None:
                self._settle(shard, shard.n_pairs - first)
                return
            self._decoders.submit(task, (shard, first))

    def _collect(self) -> None:
        for part in self._decoders.wait():
            self._take(part)

    def _take(self, part: DecodedPart) -> None:
        """Note a part's faults and measures, and fill its good pictures into batches."""
        shard, first = part.ticket
        if part.error is not None:
            shard.error = part.error
            self._settle(shard, part.n_images)
            return
        first += part.first
        decoded, n_pictures = part.decoded, len(part.image_BHWC)
        for at, (reason, detail) in decoded.faults.items():
            shard.set_aside(first + at, reason, detail)
        if decoded.measure_BM is not None:
            shard.measure_NM[first : first + n_pictures] = decoded.measure_BM
        if decoded.faults:
            self._settle(shard, len(decoded.faults))
        good_P = np.delete(np.arange(n_pictures), list(decoded.faults))
        image_PHWC = part.image_BHWC[good_P] if decoded.faults else part.image_BHWC
        while len(good_P):
            n_taken = self._batch.take(shard, first + good_P, image_PHWC)
            good_P, image_PHWC = good_P[n_taken:], image_PHWC[n_taken:]
            if self._batch.n_free == 0:
                self._send_batch()

    def _send_batch(self) -> None:
        self._awaited.append(self._rating.submit(self._rate, self._batch))
        self._batch = self._free.get()
        while self._awaited and self._awaited[0].done():
            self._awaited.popleft().result()
        self._check_commits()

    def _rate(self, batch: ScoreBatch) -> None:
        try:
            n_pairs = len(batch.captions)
            batch.image_BHWC[n_pairs:] = 0
            score_B = self._scorer.score_batch(batch.image_BHWC, batch.captions)
            start = 0
            for shard, at_P in batch.parts:
                shard.store_scores(at_P, score_B[start : start + len(at_P)], self._rater_name)
                start += len(at_P)
                self._settle(shard, len(at_P))
        finally:
            batch.clear()
            self._free.put(batch)

    def _settle(self, shard: PendingShard, n_pairs: int) -> None:
        if shard.settle(n_pairs):
            self._complete(shard)

    def _complete(self, shard: PendingShard) -> None:
        self._commits.append(self._writing.submit(self._commit, shard))

    def _check_commits(self) -> None:
        while self._commits and self._commits[0].done():
            self._commits.popleft().result()
            self._n_open -= 1

    def _drain(self) -> None:
        """Finish everything that is under way; the last batch is padded."""
        while not self._decoders.is_idle():
            self._collect()
        if self._batch.captions:
            self._send_batch()
        while self._awaited:
            self._awaited.popleft().result()
        while self._commits:
            self._commits[0].result()
            self._check_commits()
