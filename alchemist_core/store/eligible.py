"""The pool of a snapshot as arrays: every scored pair of its nights, and what excludes some of them.

Knows what a pool depends on and what can be asked of it, not how it is read. Letters: N pairs of the pool, K wanted ones.
"""

import hashlib
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Moment:
    """All that a pool depends on, so that it can be read again: what a snapshot stores."""

    rater_id: int
    night_ids: tuple[int, ...]
    last_takedown_id: int
    score: str = "rater"
    # Of pairs beyond it no duplicate counts; 0: duplicates are kept.
    last_compared_id: int = 0
    # What counts as one: the same picture (exact), or also one that looks alike (near).
    duplicates: str = "exact"
    decontaminate: tuple[str, ...] = ()
    last_evaluation_shard_id: int = 0
    where: str | None = None
    # Whether each pair's source counts, for a cap.
    with_sources: bool = False
    # Shards that were retired or superseded up to it do not count.
    last_retirement_id: int = 0

    @property
    def is_fixed(self) -> bool:
        """Tell whether nothing that it names can change: scores and hashes never do; captions, addresses and heuristics may."""
        return self.where is None and self.score == "rater" and not self.with_sources

    def options(self) -> dict[str, Any]:
        """Return what has no column of its own in `rank_snapshots`, defaults left out."""
        own = {"rater_id", "night_ids", "last_takedown_id"}
        return {
            field.name: value
            for field in fields(self)
            if field.name not in own and (value := getattr(self, field.name)) != field.default
        }

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the query `eligible_pairs`."""
        names = ("rater_id", "last_takedown_id", "last_compared_id", "duplicates", "score", "last_retirement_id")
        return {"night_ids": list(self.night_ids)} | {name: asdict(self)[name] for name in names}


@dataclass(frozen=True, slots=True, eq=False)
class EligiblePairs:
    """Aligned arrays of a pool, in the order of pair_hash."""

    pair_hash_N32: NDArray[np.uint8]
    pair_hash64_N: NDArray[np.int64]
    score_N: NDArray[np.float64]
    night_N: NDArray[np.int32]
    # A code of selection/exclusions.py: only pairs with 0 are eligible.
    excluded_N: NDArray[np.uint8]
    # Sources by number, from 1 as they come; 0 where it is not known. Read only where sources are capped.
    source_N: NDArray[np.int64] | None = None
    n_taken_down: int = 0
    n_unscored: int = 0

    def __len__(self) -> int:
        """Count the pairs of the pool, excluded ones too."""
        return len(self.score_N)

    def open_mask(self) -> NDArray[np.bool_]:
        """Tell which pairs are eligible."""
        return np.equal(self.excluded_N, 0)

    def count_open(self) -> int:
        """Count the eligible pairs."""
        return int(np.count_nonzero(self.open_mask())) if self.excluded_N.any() else len(self)

    def open_pairs(self) -> "EligiblePairs":
        """Return the eligible pairs alone; itself where nothing is excluded."""
        return self if not self.excluded_N.any() else self.take(np.flatnonzero(self.open_mask()))

    def take(self, place_K: NDArray[np.int64]) -> "EligiblePairs":
        """Return some of the pairs."""
        columns = {name: None if column is None else column[place_K] for name, column in self.columns().items()}
        return EligiblePairs(**columns, n_taken_down=self.n_taken_down, n_unscored=self.n_unscored)  # type: ignore[arg-type]

    def columns(self) -> dict[str, NDArray[Any] | None]:
        """Return the arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name.endswith(("_N", "_N32"))}

    def find(self, pair_hash_K32: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return where pairs stand, ascending; those that are not in the pool are left out."""
        own_N, wanted_K = (_prefix(hashes) for hashes in (self.pair_hash_N32, pair_hash_K32))
        place_K = np.minimum(np.searchsorted(own_N, wanted_K), len(own_N) - 1)
        found = place_K[own_N[place_K] == wanted_K] if len(own_N) else np.empty(0, np.int64)
        return np.sort(found)

    def sha256(self) -> str:
        """Hash the pool: every pair's hash with its score, what excludes it where anything does, and its source where that counts."""
        digest = hashlib.sha256(np.ascontiguousarray(self.pair_hash_N32).data)
        digest.update(np.ascontiguousarray(self.score_N, "<f8").data)
        if self.excluded_N.any():
            digest.update(np.ascontiguousarray(self.excluded_N).data)
        if self.source_N is not None:
            digest.update(np.ascontiguousarray(self.source_N, "<i8").data)
        return digest.hexdigest()


def _prefix(pair_hash_N32: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(pair_hash_N32[:, :8]).view(">u8").ravel().astype(np.uint64)
