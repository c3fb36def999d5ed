"""One shard on its way through scoring: its pairs, what became of each, and when it is complete. No torch, no database.

Letters: N pairs of the shard · B pairs of a part · M measures.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from alchemist_core.data.decoders import TASK_PICTURES
from alchemist_core.data.decoding import DecodeTask
from alchemist_core.data.faults import Fault, Reason, make_fault
from alchemist_core.data.storage import join_uri
from alchemist_core.errors import DataError
from alchemist_core.heuristics.measures import MEASURES
from alchemist_core.store.ledger import ClaimedShard, ShardOutcome
from alchemist_core.store.tables import AnyRow

_TASK_BYTES = 1 << 24
"""Most encoded bytes of a task of several pictures: what a worker holds is bounded by it, or by one large picture."""


class PendingShard:
    """A claimed shard and its unscored pairs, each pair once, whatever number of locations it has in the shard.

    Args:
        claimed: The shard and its lease.
        rows: Locations of unscored pairs, as `ledger.read_unscored_pairs` gives them.
        has_heuristics: Whether pictures that were never measured are to be.
    """

    def __init__(self, claimed: ClaimedShard, rows: Sequence[AnyRow], *, has_heuristics: bool) -> None:
        self.claimed = claimed
        self._rows = rows
        self.sample_id_N, first_N = np.unique(np.array([row.sample_id for row in rows], np.int64), return_index=True)
        # In the tar's order, so that it is read from its beginning to its end.
        order_N = np.argsort(first_N)
        self.sample_id_N = self.sample_id_N[order_N]
        pairs = [rows[at] for at in first_N[order_N]]
        self.captions = [pair.caption for pair in pairs]
        self._image_hashes = [bytes(pair.image_hash) for pair in pairs]
        self._ranges = [(pair.byte_offset, pair.size_bytes) for pair in pairs]
        self._is_measured = [has_heuristics and not pair.is_measured for pair in pairs]
        if any(offset is None for offset, _ in self._ranges):
            raise DataError(
                f"A record of shard {self.uri} has no picture among its members: its row was changed by hand."
            )
        self.score_N = np.full(len(pairs), np.nan, np.float32)
        self.measure_NM = np.full((len(pairs), len(MEASURES)), np.nan, np.float32)
        self._bad: dict[int, tuple[Reason, str]] = {}
        self.error: DataError | None = None
        """Why the shard cannot be read; it is complete then, and nothing of it is stored."""
        self._n_left = len(pairs)
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        """Where the tar lies."""
        return join_uri(self.claimed.shard.root_uri, self.claimed.shard.uri)

    @property
    def n_pairs(self) -> int:
        """How many pairs are to be scored."""
        return len(self.captions)

    def tasks(self, side: int) -> Iterator[tuple[int, DecodeTask]]:
        """Cut the pairs into decode tasks; yield each with the place of its first pair."""
        start = 0
        while start < self.n_pairs:
            stop, n_bytes = start + 1, self._ranges[start][1]
            while stop < min(self.n_pairs, start + TASK_PICTURES) and n_bytes + self._ranges[stop][1] <= _TASK_BYTES:
                n_bytes += self._ranges[stop][1]
                stop += 1
            part = slice(start, stop)
            yield (
                start,
                DecodeTask(self.uri, self._ranges[part], self._image_hashes[part], side, self._is_measured[part]),
            )
            start = stop

    def set_aside(self, at: int, reason: Reason, detail: str) -> None:
        """Note that a pair cannot be scored."""
        self._bad[at] = (reason, detail)

    def store_scores(self, at_B: NDArray[np.int64], score_B: NDArray[np.float32], rater_name: str) -> None:
        """Keep scores; one that is no finite number sets its pair aside."""
        self.score_N[at_B] = score_B
        for at in at_B[~np.isfinite(score_B)]:
            self.set_aside(int(at), Reason.SCORE_NOT_FINITE, f"rater {rater_name} gave {self.score_N[at]}")

    def settle(self, n_pairs: int) -> bool:
        """Count pairs that are scored or set aside; true when these were the last."""
        with self._lock:
            self._n_left -= n_pairs
            return self._n_left == 0

    def outcome(self) -> ShardOutcome:
        """Return what is to be stored."""
        is_scored_N = np.ones(self.n_pairs, np.bool_)
        is_scored_N[list(self._bad)] = False
        is_measured_N = ~np.isnan(self.measure_NM).any(1)
        return ShardOutcome(
            self.sample_id_N[is_scored_N], self.score_N[is_scored_N],
            self.sample_id_N[is_measured_N], self.measure_NM[is_measured_N], self._faults(),
        )  # fmt: skip

    def _faults(self) -> list[Fault]:
        """Return one fault for each location of a bad pair."""
        if not self._bad:
            return []
        rows_of: dict[int, list[AnyRow]] = defaultdict(list)
        for row in self._rows:
            rows_of[row.sample_id].append(row)
        return [
            make_fault(row.ordinal, row.key, *self._bad[at])
            for at in sorted(self._bad)
            for row in rows_of[int(self.sample_id_N[at])]
        ]
