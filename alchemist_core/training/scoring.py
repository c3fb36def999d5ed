"""Scoring of shards: claim a shard and decode its images, rate them in batches, commit its scores. These steps overlap.

The slowest step determines the speed, and the others wait for it: the numbers of decoded tasks, batches and claimed shards are limited.
So decoding and rating share the cores without a setting. A sample's score depends neither on the batch size nor on the order or
composition of batches.

`ScoringPipeline` does not use the database: its caller passes the functions that claim and commit a shard.

Letters: N samples of a shard · B samples in a batch · P samples of a decoded part, or of a batch without its padding.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn import functional

from alchemist_core.errors import DataError
from alchemist_core.heuristics.measures import MEASURES
from alchemist_core.models.images import ImageArray
from alchemist_core.models.text import TextEncoder
from alchemist_core.models.tokenizer import ENCODE_BATCH, Tokenizer
from alchemist_core.rating.rater import SampleRater
from alchemist_core.shards.decoding import TASK_IMAGES, DecodedPart, Decoders, DecodeTask
from alchemist_core.shards.faults import Fault, Reason, make_fault
from alchemist_core.shards.storage import join_uri
from alchemist_core.shards.workers import n_own_cores
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
Claim = Callable[[], "PendingShard | None"]
Commit = Callable[["PendingShard"], None]


class ScoringPipeline:
    """Takes shards from `claim`, scores their samples, and passes each complete shard to `commit`.

    Args:
        scorer: Rates batches.
        decoders: Decode images; closed at the end.
        commit: Stores a complete shard, or releases one that could not be read (its `error`); called in one thread, in the order
            in which shards are completed.
        rater_name: Named in the details of quarantined samples.
    """

    def __init__(self, scorer: "BatchScorer", decoders: Decoders, commit: Commit, *, rater_name: str) -> None:
        self._scorer, self._decoders, self._commit, self._rater_name = scorer, decoders, commit, rater_name
        self._claiming, self._rating, self._writing = (
            ThreadPoolExecutor(n, thread_name_prefix=name)
            for n, name in ((1, "claim"), (scorer.n_threads, "rate"), (1, "commit"))
        )
        self._free: SimpleQueue[ScoreBatch] = SimpleQueue()
        # One that is filled, one that waits, and one for each thread.
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
        """Block until the decoders are ready. Only benchmarks need it, before they start timing."""
        self._decoders.await_ready()

    def run(self, claim: Claim) -> None:
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
        for first, task in shard.tasks(self._scorer.image_side):
            while not self._decoders.has_room():
                self._collect()
            if shard.error is not None:
                self._settle(shard, shard.n_samples - first)
                return
            self._decoders.submit(task, (shard, first))

    def _collect(self) -> None:
        for part in self._decoders.wait():
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

    def _rate(self, batch: "ScoreBatch") -> None:
        try:
            n_samples = len(batch.captions)
            batch.image_BHWC[n_samples:] = 0
            score_B = self._scorer.score_batch(batch.image_BHWC, batch.captions)
            start = 0
            for shard, at_P in batch.parts:
                shard.store_scores(at_P, score_B[start : start + len(at_P)], self._rater_name)
                start += len(at_P)
                self._settle(shard, len(at_P))
        finally:
            batch.clear()
            self._free.put(batch)

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
        while not self._decoders.is_idle():
            self._collect()
        if self._batch.captions:
            self._send_batch()
        while self._awaited:
            self._awaited.popleft().result()
        while self._commits:
            self._commits[0].result()
            self._check_commits()


class PendingShard:
    """A claimed shard and its unscored samples, each once however many locations it has in the shard.

    Args:
        claimed: The shard and its lease.
        rows: Locations of unscored samples, from `ledger.read_unscored_pairs`.
        has_heuristics: Also compute the heuristics of images that have none.
    """

    def __init__(self, claimed: ClaimedShard, rows: Sequence[UnscoredLocation], *, has_heuristics: bool) -> None:
        self.claimed = claimed
        self._rows = rows
        self.sample_id_N, first_N = np.unique(np.array([row.sample_id for row in rows], np.int64), return_index=True)
        # In the order of the tar, so that it is read sequentially.
        order_N = np.argsort(first_N)
        self.sample_id_N = self.sample_id_N[order_N]
        samples = [rows[at] for at in first_N[order_N]]
        self.captions = [sample.caption for sample in samples]
        self._image_hashes = [bytes(sample.image_hash) for sample in samples]
        self._ranges = [(sample.byte_offset, sample.size_bytes) for sample in samples]
        self._is_measured = [has_heuristics and not sample.is_measured for sample in samples]
        if any(offset is None for offset, _ in self._ranges):
            raise DataError(
                f"A record of shard {self.uri} has no image among its files. Its row was changed by hand: restore it, or retire the shard."
            )
        self.score_N = np.full(len(samples), np.nan, np.float32)
        self.measure_NM = np.full((len(samples), len(MEASURES)), np.nan, np.float32)
        self._bad: dict[int, tuple[Reason, str]] = {}
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

    def tasks(self, side: int) -> Iterator[tuple[int, DecodeTask]]:
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
                DecodeTask(self.uri, self._ranges[part], self._image_hashes[part], side, self._is_measured[part]),
            )
            start = stop

    def quarantine(self, at: int, reason: Reason, detail: str) -> None:
        """Quarantine a sample that cannot be scored."""
        self._bad[at] = (reason, detail)

    def store_scores(self, at_B: NDArray[np.int64], score_B: NDArray[np.float32], rater_name: str) -> None:
        """Keep scores; a sample whose score is not finite is quarantined."""
        self.score_N[at_B] = score_B
        for at in at_B[~np.isfinite(score_B)]:
            self.quarantine(int(at), Reason.SCORE_NOT_FINITE, f"rater {rater_name} gave {self.score_N[at]}")

    def settle(self, n_samples: int) -> bool:
        """Count samples that are scored or quarantined; return whether these were the last."""
        with self._lock:
            self._n_left -= n_samples
            return self._n_left == 0

    def outcome(self) -> ShardOutcome:
        """Return what `commit` stores."""
        is_scored_N = np.ones(self.n_samples, np.bool_)
        is_scored_N[list(self._bad)] = False
        is_measured_N = ~np.isnan(self.measure_NM).any(1)
        return ShardOutcome(
            self.sample_id_N[is_scored_N], self.score_N[is_scored_N],
            self.sample_id_N[is_measured_N], self.measure_NM[is_measured_N], self._faults(),
        )  # fmt: skip

    def _faults(self) -> list[Fault]:
        """Return one fault for each location of a quarantined sample."""
        if not self._bad:
            return []
        rows_of: dict[int, list[UnscoredLocation]] = defaultdict(list)
        for row in self._rows:
            rows_of[row.sample_id].append(row)
        return [
            make_fault(row.ordinal, row.key, *self._bad[at])
            for at in sorted(self._bad)
            for row in rows_of[int(self.sample_id_N[at])]
        ]


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

    def clear(self) -> None:
        """Empty the batch; its pixels are overwritten."""
        self.captions, self.parts = [], []


class BatchScorer(Protocol):
    """Interface of a scorer: it rates batches of one shape, in several threads at a time."""

    @property
    def n_threads(self) -> int:
        """How many threads may rate at a time."""
        ...

    @property
    def image_side(self) -> int:
        """Side of the images in pixels."""
        ...

    def make_buffer(self) -> NDArray[np.uint8]:
        """Allocate the pixels of one batch."""
        ...

    def score_batch(self, image_BHWC: NDArray[np.uint8], captions: list[str]) -> NDArray[np.float32]:
        """Return the score of each caption with the image at its index."""
        ...


class Scorer:
    """A rater with its frozen encoders, in eval mode: fp32 on a CPU, bf16 for the rater alone on a GPU.

    Args:
        rater: The trained rater.
        tokenizer: Its image tokenizer, always in fp32, because rounding could change a code.
        encoder: Its text encoder.
        device: Where the forward runs.
        batch: Batch size of every forward; smaller batches are padded, because kernels depend on the shape, and scores must not.
    """

    def __init__(
        self,
        rater: SampleRater,
        tokenizer: Tokenizer,
        encoder: TextEncoder,
        *,
        device: torch.device | None = None,
        batch: int = ENCODE_BATCH,
    ) -> None:
        self._device = device or torch.device("cpu")
        self._rater, self._tokenizer = rater.eval().to(self._device), tokenizer.to(self._device)
        self._encoder, self.batch = encoder, batch
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
        return cls(rater, tokenizer, encoder, device=device)

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

    @property
    def n_threads(self) -> int:
        """Batches rated at a time: one per core, or two on a GPU, where one is copied while the other is computed."""
        return 2 if self.device == "cuda" else min(n_own_cores(), _MAX_THREADS)

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
            text = self._encoder.encode([*captions, *[""] * (self.batch - len(captions))]).to(self._device)
            # The padding is not encoded: large images take most of the time, and no code depends on its batch.
            code_PS = self._tokenizer.encode(image_BHWC[: len(captions)])
            tokens = self._tokenizer.tokens(functional.pad(code_PS, (0, 0, 0, self.batch - len(captions))))
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                score_B = self._rater.score(tokens, text)
            return score_B[: len(captions)].float().numpy(force=True)

    def _own_stream(self) -> AbstractContextManager[object]:
        if self.device != "cuda":
            return nullcontext()
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._local.stream)
