"""Read a pool from Postgres by binary COPY, a range of samples at a time: neither side holds more than a range as rows.

Letters: N pairs of a range or of the pool.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from alchemist_core.data.manifests import hash_order
from alchemist_core.selection.duplicates import later_in_group
from alchemist_core.selection.exclusions import Exclusion
from alchemist_core.store.copy_out import copy_out
from alchemist_core.store.eligible import EligiblePairs, Moment
from alchemist_core.store.export import filter_rows
from alchemist_core.store.queries import load_query

RANGE = 1_000_000
PAIR_FIELDS = {
    "sample_id": ">i8", "pair_hash": "(32,)u1", "score": ">f8", "night_id": ">i4", "first_sample_id": ">i8", "is_taken_down": "?",
}  # fmt: skip
# What a condition may name.
FILTER_COLUMNS: Mapping[str, type[Any]] = {
    "sample_id": int, "caption": str, "width": int, "height": int, "format": str, "source_url": str, "licence": str,
    "metadata": str, "aesthetic": float, "clarity": float, "frequency": float, "edge_density": float,
}  # fmt: skip
Columns = dict[str, NDArray[Any]]


def read_pool(connection: Connection, moment: Moment) -> EligiblePairs:
    """Read a pool as it was at a moment.

    Args:
        connection: Open in a transaction that sees one snapshot of the store.
        moment: What the pool depends on.

    Raises:
        ConfigError: If the moment's condition is none.
    """
    # The joins of a range fit into memory; no statement here is asked often enough to be compiled.
    connection.execute(text("SET LOCAL work_mem = '256MB'"))
    connection.execute(text("SET LOCAL jit = off"))
    reader = _Reader(connection, moment)
    parts = [reader.read(span) for span in _spans(connection)]
    columns = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    _exclude_duplicates(columns, has_duplicates=moment.last_compared_id > 0)
    order_N = hash_order(columns["pair_hash_N32"])
    for name in list(columns):
        columns[name] = columns[name][order_N]
    if moment.with_sources:
        columns["source_N"] = _number(columns["source_N"])
    first_bits_N = np.ascontiguousarray(columns["pair_hash_N32"][:, :8]).view(">i8").ravel().astype(np.int64)
    return EligiblePairs(
        pair_hash64_N=first_bits_N, n_taken_down=reader.n_taken_down, n_unscored=reader.n_unscored, **columns
    )


def _spans(connection: Connection) -> Iterator[dict[str, int]]:
    last = connection.execute(text("SELECT coalesce(max(sample_id), 0) FROM alchemist.samples")).scalar_one()
    # From before 0, which a sample made by hand may have.
    for start in range(-1, last + 1, RANGE):
        yield {"after_sample_id": start, "last_sample_id": start + RANGE}


def _exclude_duplicates(columns: Columns, *, has_duplicates: bool) -> None:
    sample_id_N, first_id_N = columns.pop("sample_id"), columns.pop("first_sample_id")
    if has_duplicates:
        later = later_in_group(sample_id_N, first_id_N, columns["excluded_N"] == 0)
        columns["excluded_N"][later] = Exclusion.DUPLICATE


def _number(label_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number labels from 1 as they come, 0 stays 0 and uses up its number: the server's hash of a host is no part of a snapshot."""
    _, first, group_N = np.unique(label_N, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(1, len(first) + 1)
    return np.where(label_N == 0, 0, number[group_N])


class _Reader:
    """Reads ranges of samples, and counts what never comes into the pool."""

    def __init__(self, connection: Connection, moment: Moment) -> None:
        self._connection, self._moment = connection, moment
        self._contaminated = self._read_contaminated()
        self.n_taken_down = self.n_unscored = 0

    def read(self, span: dict[str, int]) -> Columns:
        """Return one range as columns, in no order."""
        rows = copy_out(self._connection, load_query("eligible_pairs"), self._moment.parameters | span, PAIR_FIELDS)
        is_unscored = np.isnan(rows["score"]) & ~rows["is_taken_down"]
        self.n_taken_down += int(rows["is_taken_down"].sum())
        self.n_unscored += int(is_unscored.sum())
        kept = rows[~(rows["is_taken_down"] | is_unscored)]
        sample_id = kept["sample_id"].astype(np.int64)
        columns: Columns = {
            "sample_id": sample_id,
            "first_sample_id": kept["first_sample_id"].astype(np.int64),
            "pair_hash_N32": np.ascontiguousarray(kept["pair_hash"]),
            "score_N": kept["score"].astype(np.float64),
            "night_N": kept["night_id"].astype(np.int32),
            "excluded_N": self._exclude(sample_id, span),
        }
        return columns | ({"source_N": self._sources(sample_id, span)} if self._moment.with_sources else {})

    def _exclude(self, sample_id_N: NDArray[np.int64], span: dict[str, int]) -> NDArray[np.uint8]:
        excluded_N = np.zeros(len(sample_id_N), np.uint8)
        if self._moment.where is not None:
            statement = filter_rows("filterable_samples", FILTER_COLUMNS, self._moment.where, span)
            matching = copy_out(self._connection, statement, span, {"sample_id": ">i8"})["sample_id"]
            excluded_N[~np.isin(sample_id_N, matching.astype(np.int64))] = Exclusion.PREDICATE
        excluded_N[np.isin(sample_id_N, self._contaminated)] = Exclusion.CONTAMINATED
        return excluded_N

    def _read_contaminated(self) -> NDArray[np.int64]:
        if not self._moment.decontaminate:
            return np.empty(0, np.int64)
        parameters = {
            "dataset_names": list(self._moment.decontaminate),
            "last_shard_id": self._moment.last_evaluation_shard_id,
        }
        found = copy_out(self._connection, load_query("contaminated_samples"), parameters, {"sample_id": ">i8"})
        return found["sample_id"].astype(np.int64)

    def _sources(self, sample_id_N: NDArray[np.int64], span: dict[str, int]) -> NDArray[np.int64]:
        found = copy_out(self._connection, load_query("sample_sources"), span, {"sample_id": ">i8", "source": ">i8"})
        order = np.argsort(found["sample_id"])
        known, source = found["sample_id"][order].astype(np.int64), found["source"][order].astype(np.int64)
        place_N = np.searchsorted(known, sample_id_N)
        is_known_N = place_N < len(known)
        is_known_N[is_known_N] = known[place_N[is_known_N]] == sample_id_N[is_known_N]
        source_N = np.zeros(len(sample_id_N), np.int64)
        source_N[is_known_N] = source[place_N[is_known_N]]
        return source_N
