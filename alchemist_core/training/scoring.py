"""Scoring of shards: claim a shard and decode its images, rate them in batches, commit its scores. These steps overlap.

The slowest step determines the speed, and the others wait for it: the numbers of decoded tasks, batches and claimed shards are limited.
So decoding and rating share the cores without a setting. A sample's score depends neither on the batch size nor on the order or
composition of batches, nor on which other scorers rate beside it.

Several scorers that read images of the same side and decode share one pass: each image is decoded once. Each of their outputs has its
own lease and its own row in the ledger, so that one that fails costs the others nothing.

`ScoringPipeline` does not use the database: its caller passes the functions that claim and commit a shard.

Letters: N samples of a shard · B samples in a batch · P samples of a decoded part, or of a batch without its padding · M outputs.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional

from alchemist_core.cores import n_own_cores
from alchemist_core.errors import DataError
from alchemist_core.heuristics.measures import MEASURES
from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.images import ImageArray
from alchemist_core.models.text import TextEncoder
from alchemist_core.models.tokenizer import ENCODE_BATCH, Tokenizer
from alchemist_core.rating.rater import SampleRater
from alchemist_core.scorers.scorer import Batch, Rated, TransientFault
from alchemist_core.shards.decode_versions import UNPINNED, DecodeVersion, canvas_side
from alchemist_core.shards.decoding import TASK_IMAGES, DecodedPart, Decoders, DecodeTask
from alchemist_core.shards.faults import Fault, Reason, make_fault
from alchemist_core.shards.storage import join_uri
from alchemist_core.store.ledger import ClaimedShard, ShardOutcome, UnscoredLocation
from alchemist_core.training.bilevel import make_scoring_rater
from alchemist_core.training.checkpoints import read_json
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.pinning import open_text_encoder
from alchemist_core.training.samples import Samples

BF16_TOLERANCE = 0.02
"""Largest difference, in spreads of the scores, between a bf16 score of a GPU and the fp32 score of the same sample."""
_MAX_THREADS = 16
_TASK_BYTES = 1 << 24
"""Largest number of encoded bytes of a decode task, unless its only image is larger. It limits the memory of a worker."""
MAX_OPEN_SHARDS = 128
"""Number of shards that may be claimed at a time; each holds a lease."""
ClaimNext = Callable[[], "PendingShard | None"]
Commit = Callable[["PendingShard"], None]


class ScoringPipeline:
    """Takes shards from `claim`, scores their samples, and passes each complete shard to `commit`.

    Args:
        scorers: Rate batches; their outputs, one after the other, are the columns of a claim.
        decoders: Decode images; closed at the end. None if the scorers read no images.
        commit: Stores a complete shard, or releases one that could not be read (its `error`); called in one thread, in the order
            in which shards are completed.
        rater_names: Name of each column, for the details of quarantined samples.
        may_fail: Columns whose scorer stops alone at any error, such as too little memory; an error of the others ends the run.
    """

    def __init__(
        self,
        scorers: Sequence["BatchScorer"],
        decoders: Decoders | None,
        commit: Commit,
        *,
        rater_names: Sequence[str],
        may_fail: Collection[int] = (),
    ) -> None:
        self._scorers, self._decoders, self._commit, self._rater_names = scorers, decoders, commit, rater_names
        self._may_fail = may_fail
        ends = np.cumsum([scorer.n_outputs for scorer in scorers]).tolist()
        self._columns = [range(end - scorer.n_outputs, end) for scorer, end in zip(scorers, ends, strict=True)]
        self.failed: dict[int, DataError] = {}
        """Why a scorer stopped, by each of its columns; the others go on."""
        # In a shared pass there are as many threads as the scorer with the most of them may have.
        self._turns = [threading.BoundedSemaphore(scorer.n_threads) for scorer in scorers]
        assert len(sizes := set(map(_decoded_size, scorers))) == 1, f"one pass for images of different sizes: {sizes}"
        self._side, self._decode_version = scorers[0].image_side, scorers[0].decode_version
        n_threads = max(scorer.n_threads for scorer in scorers)
        self._claiming, self._rating, self._writing = (
            ThreadPoolExecutor(n, thread_name_prefix=name)
            for n, name in ((1, "claim"), (n_threads, "rate"), (1, "commit"))
        )
        self._free: SimpleQueue[ScoreBatch] = SimpleQueue()
        # The largest batch: a smaller one is a part of it.
        make_buffer = max(scorers, key=lambda scorer: scorer.batch).make_buffer
        # One that is filled, one that waits, and one for each thread.
        for _ in range(n_threads + 2):
            self._free.put(ScoreBatch(make_buffer()))
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
        if self._decoders is not None:
            self._decoders.close()

    def await_ready(self) -> None:
        """Block until the decoders are ready. Only benchmarks need it, before they start timing."""
        if self._decoders is not None:
            self._decoders.await_ready()

    def run(self, claim: ClaimNext) -> None:
        """Score shards until `claim` returns None; every claimed shard is committed on return."""
        coming = self._claiming.submit(claim)
        while (shard := coming.result()) is not None:
            coming = self._claiming.submit(claim)
            self._feed(shard)
        self._drain()

    def _feed(self, shard: "PendingShard") -> None:
        if self._n_open >= MAX_OPEN_SHARDS:
            self._drain()
        self._n_open += 1
        if shard.n_samples == 0:
            self._complete(shard)
        elif self._decoders is None or self._side is None:
            self._fill(shard, np.arange(shard.n_samples), np.zeros((shard.n_samples, 0, 0, 3), np.uint8))
        else:
            self._decode(shard, self._decoders, self._side)

    def _decode(self, shard: "PendingShard", decoders: Decoders, side: int) -> None:
        for first, task in shard.tasks(side, self._decode_version):
            while not decoders.has_room():
                self._collect(decoders)
            if shard.error is not None:
                self._settle(shard, shard.n_samples - first)
                return
            decoders.submit(task, (shard, first))

    def _collect(self, decoders: Decoders) -> None:
        for part in decoders.wait():
            self._take(part)

    def _take(self, part: DecodedPart) -> None:
        """Record a part's faults and measures, and copy its good images into batches."""
        shard, first = part.ticket
        if part.error is not None:
            shard.error = part.error
            self._settle(shard, part.n_images)
            return
        first += part.first
        decoded, n_images = part.decoded, len(part.image_BHWC)
        for at, (reason, detail) in decoded.faults.items():
            shard.quarantine(first + at, reason, detail)
        if decoded.measure_BM is not None:
            shard.measure_NM[first : first + n_images] = decoded.measure_BM
        if decoded.faults:
            self._settle(shard, len(decoded.faults))
        good_P = np.delete(np.arange(n_images), list(decoded.faults))
        image_PHWC = part.image_BHWC[good_P] if decoded.faults else part.image_BHWC
        self._fill(shard, first + good_P, image_PHWC)

    def _fill(self, shard: "PendingShard", at_P: NDArray[np.int64], image_PHWC: NDArray[np.uint8]) -> None:
        """Copy samples into batches, and send each that is full."""
        while len(at_P):
            n_taken = self._batch.take(shard, at_P, image_PHWC)
            at_P, image_PHWC = at_P[n_taken:], image_PHWC[n_taken:]
            if self._batch.n_free == 0:
                self._send_batch()

    def _send_batch(self) -> None:
        self._awaited.append(self._rating.submit(self._rate, self._batch))
        self._batch = self._free.get()
        while self._awaited and self._awaited[0].done():
            self._awaited.popleft().result()
        self._check_commits()

    def _rate(self, batch: "ScoreBatch") -> None:
        try:
            batch.image_BHWC[len(batch.captions) :] = 0
            for scorer, columns, turn in zip(self._scorers, self._columns, self._turns, strict=True):
                with turn:
                    self._rate_with(scorer, columns, batch)
            for shard, at_P in batch.parts:
                self._settle(shard, len(at_P))
        finally:
            batch.clear()
            self._free.put(batch)

    def _rate_with(self, scorer: "BatchScorer", columns: range, batch: "ScoreBatch") -> None:
        """Rate the samples of a batch that one of the scorer's outputs still has to score."""
        wanted_P = np.concatenate([shard.wants(columns, at_P) for shard, at_P in batch.parts])
        if not wanted_P.any():
            return
        if columns[0] not in self.failed:
            try:
                rated = scorer.rate(batch.inputs(wanted_P))
            except Exception as error:
                if not isinstance(error, DataError) and columns[0] not in self._may_fail:
                    raise
                failure = error if isinstance(error, DataError) else DataError(f"{type(error).__name__}: {error}")
                self.failed |= dict.fromkeys(columns, failure)
        if columns[0] in self.failed:
            for shard, _ in batch.parts:
                shard.fail(columns, self.failed[columns[0]])
            return
        self._keep(rated, wanted_P, columns, batch)

    def _keep(self, rated: Rated, wanted_P: NDArray[np.bool_], columns: range, batch: "ScoreBatch") -> None:
        """Give each shard the scores and embeddings of its samples."""
        score_PM = np.full((len(wanted_P), len(columns)), np.nan, np.float32)
        score_PM[wanted_P] = rated.score_PM
        embedding_PD = _spread_embeddings(rated, wanted_P)
        places_P = np.cumsum(wanted_P) - 1
        start = 0
        for shard, at_P in batch.parts:
            part = slice(start, start + len(at_P))
            details = {
                at: rated.faults[int(places_P[start + at])]
                for at in range(len(at_P))
                if wanted_P[start + at] and int(places_P[start + at]) in rated.faults
            }
            for column, score_P in zip(columns, score_PM[part].T, strict=True):
                shard.store_scores(column, at_P, score_P, self._rater_names[column], details)
            if embedding_PD is not None:
                shard.store_embeddings(columns[0], at_P, embedding_PD[part])
            start += len(at_P)

    def _settle(self, shard: "PendingShard", n_samples: int) -> None:
        if shard.settle(n_samples):
            self._complete(shard)

    def _complete(self, shard: "PendingShard") -> None:
        self._commits.append(self._writing.submit(self._commit, shard))

    def _check_commits(self) -> None:
        while self._commits and self._commits[0].done():
            self._commits.popleft().result()
            self._n_open -= 1

    def _drain(self) -> None:
        """Finish all decoding, rating and committing; the last batch is padded."""
        while self._decoders is not None and not self._decoders.is_idle():
            self._collect(self._decoders)
        if self._batch.captions:
            self._send_batch()
        while self._awaited:
            self._awaited.popleft().result()
        while self._commits:
            self._commits[0].result()
            self._check_commits()


class Claim(NamedTuple):
    """A shard that is claimed for one rater, with the locations of its unscored samples, from `ledger.read_unscored_pairs`."""

    claimed: ClaimedShard
    rows: Sequence[UnscoredLocation]
    column: int = 0
    """The rater's place among the outputs of all scorers of the pass."""


class Share:
    """What one rater has to score of a shard."""

    def __init__(self, claim: Claim, sample_id_N: NDArray[np.int64]) -> None:
        self.claimed, self.rows, self.column = claim
        self.wanted_N = np.isin(sample_id_N, [row.sample_id for row in self.rows if not row.is_withheld])
        self.score_N = np.full(len(sample_id_N), np.nan, np.float32)
        withheld_N = np.isin(sample_id_N, [row.sample_id for row in self.rows if row.is_withheld])
        self.bad: dict[int, tuple[Reason, str]] = dict.fromkeys(
            np.flatnonzero(withheld_N).tolist(), (Reason.TAKEN_DOWN, "its image was taken down")
        )
        self.embedding_ND: NDArray[np.float16] | None = None
        """Embeddings of the samples, NaN where there is none; only of a scorer's first output."""
        self.error: DataError | None = None
        """Why the scorer stopped; none of the share's scores are stored."""

    def outcome(
        self, sample_id_N: NDArray[np.int64], measured_id_N: NDArray[np.int64], measure_NM: NDArray[np.float32]
    ) -> ShardOutcome:
        """Return what `commit` stores for this rater."""
        is_scored_N = self.wanted_N.copy()
        is_scored_N[list(self.bad)] = False
        faults = self._faults(sample_id_N)
        return ShardOutcome(sample_id_N[is_scored_N], self.score_N[is_scored_N], measured_id_N, measure_NM, faults)

    def embeddings(self, sample_id_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float16]] | None:
        """Return the scored samples that have an embedding, and their embeddings; None if there are none."""
        if self.embedding_ND is None:
            return None
        is_kept_N = self.wanted_N & np.isfinite(self.embedding_ND).all(1)
        is_kept_N[list(self.bad)] = False
        return (sample_id_N[is_kept_N], self.embedding_ND[is_kept_N]) if is_kept_N.any() else None

    def _faults(self, sample_id_N: NDArray[np.int64]) -> list[Fault]:
        """Return one fault for each location of a quarantined sample."""
        if not self.bad:
            return []
        rows_of: dict[int, list[UnscoredLocation]] = defaultdict(list)
        for row in self.rows:
            rows_of[row.sample_id].append(row)
        return [
            make_fault(row.ordinal, row.key, *self.bad[at])
            for at in sorted(self.bad)
            for row in rows_of[int(sample_id_N[at])]
        ]


class PendingShard:
    """A claimed shard and its unscored samples, each once however many locations it has in the shard and however many raters score it.

    Args:
        claims: The shard's claims, at least one.
        has_heuristics: Also compute the heuristics of images that have none.
    """

    def __init__(self, claims: Sequence[Claim], *, has_heuristics: bool) -> None:
        self.claimed = claims[0].claimed
        # In the order of the tar, so that it is read sequentially; the first location of each sample.
        first_of: dict[int, UnscoredLocation] = {}
        for row in sorted((row for claim in claims for row in claim.rows), key=lambda row: row.ordinal):
            first_of.setdefault(row.sample_id, row)
        samples = list(first_of.values())
        self.sample_id_N = np.array([sample.sample_id for sample in samples], np.int64)
        self.shares = [Share(claim, self.sample_id_N) for claim in claims]
        self.captions = [sample.caption for sample in samples]
        self.image_hashes = [bytes(sample.image_hash) for sample in samples]
        self.metadata: list[Mapping[str, Any]] = []
        """What the crawl says about each sample; empty unless a scorer of the pass reads it."""
        self._ranges = [(sample.byte_offset or 0, sample.size_bytes or 0) for sample in samples]
        self._is_measured = [has_heuristics and not sample.is_measured for sample in samples]
        if any(sample.byte_offset is None for sample in samples):
            raise DataError(
                f"A record of shard {self.uri} has no image among its files. Its row was changed by hand: restore it, or retire the shard."
            )
        self.measure_NM = np.full((len(samples), len(MEASURES)), np.nan, np.float32)
        self.error: DataError | None = None
        """Why the shard cannot be read. Such a shard is complete, and none of its scores are stored."""
        self._n_left = len(samples)
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        """URI of the tar."""
        return join_uri(self.claimed.shard.root_uri, self.claimed.shard.uri)

    @property
    def n_samples(self) -> int:
        """Number of samples to score."""
        return len(self.captions)

    def tasks(self, side: int, version: DecodeVersion) -> Iterator[tuple[int, DecodeTask]]:
        """Split the samples into decode tasks; yield each with the index of its first sample."""
        start = 0
        while start < self.n_samples:
            stop, n_bytes = start + 1, self._ranges[start][1]
            while stop < min(self.n_samples, start + TASK_IMAGES) and n_bytes + self._ranges[stop][1] <= _TASK_BYTES:
                n_bytes += self._ranges[stop][1]
                stop += 1
            part = slice(start, stop)
            yield (
                start,
                DecodeTask(
                    self.uri, self._ranges[part], self.image_hashes[part], side, self._is_measured[part], version
                ),
            )
            start = stop

    def quarantine(self, at: int, reason: Reason, detail: str) -> None:
        """Quarantine a sample that cannot be decoded, for every rater."""
        for share in self.shares:
            if share.wanted_N[at]:
                share.bad[at] = (reason, detail)

    def wants(self, columns: range, at_P: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which samples one of the columns still has to score."""
        is_wanted_P = np.zeros(len(at_P), np.bool_)
        for share in self._of(columns):
            is_wanted_P |= share.wanted_N[at_P]
        return is_wanted_P

    def fail(self, columns: range, error: DataError) -> None:
        """Record that a scorer stopped: the scores of its columns are not stored."""
        for share in self._of(columns):
            share.error = error

    def _of(self, columns: range) -> list[Share]:
        return [share for share in self.shares if share.column in columns]

    def store_scores(
        self,
        column: int,
        at_P: NDArray[np.int64],
        score_P: NDArray[np.float32],
        rater_name: str,
        details: Mapping[int, str],
    ) -> None:
        """Keep a rater's scores; a sample whose score is not finite is quarantined.

        Args:
            column: The rater's column.
            at_P: The samples' indices in the shard.
            score_P: Their scores.
            rater_name: Named in the details of quarantined samples.
            details: What the scorer says about samples without a score, by their place in `at_P`.
        """
        for share in self._of(range(column, column + 1)):
            wanted_P = share.wanted_N[at_P]
            share.score_N[at_P[wanted_P]] = score_P[wanted_P]
            for place in np.flatnonzero(wanted_P & ~np.isfinite(score_P)).tolist():
                if place in details:
                    is_transient = isinstance(details[place], TransientFault)
                    reason = Reason.UNANSWERED_BY_SCORER if is_transient else Reason.REFUSED_BY_SCORER
                    fault = (reason, f"scorer {rater_name}: {details[place]}")
                else:
                    fault = (Reason.SCORE_NOT_FINITE, f"rater {rater_name} gave {score_P[place]}")
                share.bad[int(at_P[place])] = fault

    def store_embeddings(self, column: int, at_P: NDArray[np.int64], embedding_PD: NDArray[np.float16]) -> None:
        """Keep a scorer's embeddings; `column` is that of its first output."""
        for share in self._of(range(column, column + 1)):
            with self._lock:
                if share.embedding_ND is None:
                    share.embedding_ND = np.full((self.n_samples, embedding_PD.shape[1]), np.nan, np.float16)
            wanted_P = share.wanted_N[at_P]
            share.embedding_ND[at_P[wanted_P]] = embedding_PD[wanted_P]

    def settle(self, n_samples: int) -> bool:
        """Count samples that are scored or quarantined; return whether these were the last."""
        with self._lock:
            self._n_left -= n_samples
            return self._n_left == 0

    def outcomes(self) -> list[tuple[Share, ShardOutcome]]:
        """Return what `commit` stores for each rater that scored the shard; the heuristics belong to the first of them."""
        measured_N = ~np.isnan(self.measure_NM).any(1)
        found: list[tuple[Share, ShardOutcome]] = []
        for share in self.shares:
            if share.error is None:
                is_measured_N = measured_N & (not found)
                measures = self.sample_id_N[is_measured_N], self.measure_NM[is_measured_N]
                found.append((share, share.outcome(self.sample_id_N, *measures)))
        return found


def _spread_embeddings(rated: Rated, wanted_P: NDArray[np.bool_]) -> NDArray[np.float16] | None:
    """Return the embeddings at the places of the samples that were rated, in fp16; a value beyond its range becomes infinite."""
    if rated.embedding_PD is None:
        return None
    embedding_PD = np.full((len(wanted_P), rated.embedding_PD.shape[1]), np.nan, np.float16)
    with np.errstate(over="ignore"):
        embedding_PD[wanted_P] = rated.embedding_PD
    return embedding_PD


@dataclass(slots=True)
class ScoreBatch:
    """A batch that is being filled: images, captions, and the shard and index that each score belongs to."""

    image_BHWC: NDArray[np.uint8]
    captions: list[str] = field(default_factory=list)
    parts: list[tuple[PendingShard, NDArray[np.int64]]] = field(default_factory=list)

    @property
    def n_free(self) -> int:
        """How many more samples fit."""
        return len(self.image_BHWC) - len(self.captions)

    def take(self, shard: PendingShard, at_P: NDArray[np.int64], image_PHWC: NDArray[np.uint8]) -> int:
        """Copy as many samples as fit; return how many."""
        start, n_taken = len(self.captions), min(self.n_free, len(at_P))
        self.image_BHWC[start : start + n_taken] = image_PHWC[:n_taken]
        self.captions += [shard.captions[at] for at in at_P[:n_taken]]
        self.parts.append((shard, at_P[:n_taken]))
        return n_taken

    def inputs(self, wanted_P: NDArray[np.bool_]) -> Batch:
        """Return the wanted samples; without others among them, the pixels are the batch's own, with its padding."""
        placed = [(shard, at) for shard, at_P in self.parts for at in at_P.tolist()]
        image_BHWC = self.image_BHWC
        if not wanted_P.all():
            placed = [place for place, is_wanted in zip(placed, wanted_P.tolist(), strict=True) if is_wanted]
            image_BHWC = np.zeros_like(self.image_BHWC)
            image_BHWC[: len(placed)] = self.image_BHWC[: len(wanted_P)][wanted_P]
        return Batch(
            image_BHWC,
            [shard.captions[at] for shard, at in placed],
            [shard.image_hashes[at] for shard, at in placed],
            [shard.metadata[at] for shard, at in placed if shard.metadata],
        )

    def clear(self) -> None:
        """Empty the batch; its pixels are overwritten."""
        self.captions, self.parts = [], []


class BatchScorer(Protocol):
    """Interface of a scorer in the pipeline: it rates batches, in several threads at a time."""

    @property
    def n_threads(self) -> int:
        """How many threads may rate at a time."""
        ...

    @property
    def image_side(self) -> int | None:
        """Side of the images in pixels; None if it reads none."""
        ...

    @property
    def decode_version(self) -> DecodeVersion:
        """Version of the decode of its images."""
        ...

    @property
    def n_outputs(self) -> int:
        """How many scores it gives each sample."""
        ...

    @property
    def batch(self) -> int:
        """How many samples fill its buffer."""
        ...

    @property
    def device(self) -> str:
        """Device type of its forward; part of a score's provenance."""
        ...

    @property
    def dtype(self) -> str:
        """Number format of its forward; part of a score's provenance."""
        ...

    def make_buffer(self) -> NDArray[np.uint8]:
        """Allocate the pixels of one batch."""
        ...

    def rate(self, batch: Batch) -> Rated:
        """Return the scores of the samples; images beyond the captions are padding.

        Raises:
            DataError: The scorer cannot go on. The others of the pass do.
        """
        ...


def _decoded_size(scorer: BatchScorer) -> tuple[int, int] | None:
    """Return the side of a scorer's images, and the least side to which a JPEG is decoded for it; None if it reads none."""
    side = scorer.image_side
    return None if side is None else (side, canvas_side(side, scorer.decode_version))


def read_image_side(path: Path) -> int:
    """Return the side of the images that a rater reads, from the folder that `train_rater` wrote."""
    with safe_open(path / "tokenizer.safetensors", framework="pt") as file:
        return TokenizerConfig.model_validate_json(file.metadata()["config"]).resolution


def count_threads(*, is_gpu: bool) -> int:
    """Return how many batches a rater scores at a time: one per core, or two on a GPU, where one is copied while the other is computed."""
    return 2 if is_gpu else min(n_own_cores(), _MAX_THREADS)


class Scorer:
    """A rater with its frozen encoders, in eval mode: fp32 on a CPU, bf16 for the rater alone on a GPU.

    Args:
        rater: The trained rater.
        tokenizer: Its image tokenizer, always in fp32, because rounding could change a code.
        encoder: Its text encoder.
        device: Where the forward runs.
        batch: Batch size of every forward; smaller batches are padded, because kernels depend on the shape, and scores must not.
        decode_version: Version of the decode that it was trained with.
    """

    def __init__(
        self,
        rater: SampleRater,
        tokenizer: Tokenizer,
        encoder: TextEncoder,
        *,
        device: torch.device | None = None,
        batch: int = ENCODE_BATCH,
        decode_version: DecodeVersion = UNPINNED,
    ) -> None:
        self._device = device or torch.device("cpu")
        self._rater, self._tokenizer = rater.eval().to(self._device), tokenizer.to(self._device)
        self._encoder, self.batch, self.decode_version = encoder, batch, decode_version
        self._local = threading.local()

    @classmethod
    def load(cls, path: Path, device: torch.device | None = None) -> "Scorer":
        """Load a rater from the folder that `train_rater` wrote."""
        config = RaterTrainingConfig.from_stored(read_json(path / "config.json"))
        tokenizer = Tokenizer.load(path / "tokenizer.safetensors")
        device = device or torch.device("cpu")
        encoder = open_text_encoder(config, str(device))
        size = config.rater(tokenizer.config, encoder.dim)
        rater = make_scoring_rater(config, size)
        rater.load_state_dict(load_file(path / "rater.safetensors"))
        return cls(
            rater,
            tokenizer,
            encoder,
            device=device,
            batch=config.score_batch_size,
            decode_version=config.decode_version,
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokenizer."""
        return self._tokenizer

    @property
    def image_side(self) -> int:
        """Side in pixels at which the tokenizer reads images."""
        return self._tokenizer.config.resolution

    @property
    def device(self) -> str:
        """Device type of the forward; part of a score's provenance."""
        return self._device.type

    @property
    def dtype(self) -> str:
        """Number format of the rater's forward; part of a score's provenance."""
        return "bfloat16" if self.device == "cuda" else "float32"

    n_outputs = 1

    def rate(self, batch: Batch) -> Rated:
        """Score the samples of a batch in batches of the fixed size."""
        n_samples, size = len(batch), self.batch
        if len(batch.image_BHWC) == size:
            return Rated(self.score_batch(batch.image_BHWC, list(batch.captions))[:, None])
        return Rated(self.score(batch.image_BHWC[:n_samples], list(batch.captions))[:, None])

    @property
    def n_threads(self) -> int:
        """Batches rated at a time."""
        return count_threads(is_gpu=self.device == "cuda")

    def make_buffer(self) -> ImageArray:
        """Allocate the pixels of one batch; page-locked where they are copied to a GPU."""
        shape = (self.batch, self.image_side, self.image_side, 3)
        return torch.zeros(shape, dtype=torch.uint8, pin_memory=self.device == "cuda").numpy()

    @torch.inference_mode()
    def score(self, image_NHWC: ImageArray, captions: list[str]) -> Float32[np.ndarray, " N"]:
        """Return each sample's instance logit; a higher score is a better sample."""
        samples = Samples(image_NHWC, captions)
        parts = []
        for start in range(0, len(samples), self.batch):
            image_BHWC = samples.image_NHWC[start : start + self.batch]
            padding = ((0, self.batch - len(image_BHWC)), (0, 0), (0, 0), (0, 0))
            parts.append(self.score_batch(np.pad(image_BHWC, padding), samples.captions[start : start + self.batch]))
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    @torch.inference_mode()
    def score_batch(self, image_BHWC: ImageArray, captions: list[str]) -> Float32[np.ndarray, " P"]:
        """Score one batch of the fixed shape; rows beyond the captions are padding.

        Several threads may call it at a time; on a GPU each has its own CUDA stream.
        """
        with self._own_stream():
            # The padding is not encoded: large images take most of the time, and no code depends on its batch.
            return self._score_codes(self._tokenizer.encode(image_BHWC[: len(captions)]), captions)

    @torch.inference_mode()
    def score_codes(self, code_NS: Int64[torch.Tensor, "N S"], captions: list[str]) -> Float32[np.ndarray, " N"]:
        """Return the scores of samples whose images are encoded already: the same bits as `score`."""
        with self._own_stream():
            parts = [
                self._score_codes(code_NS[start : start + self.batch], captions[start : start + self.batch])
                for start in range(0, len(captions), self.batch)
            ]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _score_codes(self, code_PS: Int64[torch.Tensor, "P S"], captions: list[str]) -> Float32[np.ndarray, " P"]:
        n_padding = self.batch - len(captions)
        text = self._encoder.encode([*captions, *[""] * n_padding]).to(self._device)
        tokens = self._tokenizer.tokens(functional.pad(code_PS, (0, 0, 0, n_padding)))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            score_B = self._rater.score(tokens, text)
        return score_B[: len(captions)].float().numpy(force=True)

    def _own_stream(self) -> AbstractContextManager[object]:
        if self.device != "cuda":
            return nullcontext()
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._local.stream)
