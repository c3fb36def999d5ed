"""Semantic duplicates: a sample whose embedding is near that of an earlier one joins the group of that one, its first sample.

Every member of a group is near its first sample; being near is not passed on, as in `selection.duplicates`. A sample is compared
with the first samples of its nearest clusters only, in the order of sample ids: with those of earlier blocks, which are streamed from their
files, and with those of its own block. So memory is a block of new embeddings and a chunk of old ones, whatever the size of the corpus.

Letters: B samples of a block · S of a step · C of a chunk of earlier samples · Q near pairs · K clusters · P nearest clusters · D numbers
of an embedding.

Source: Abbas et al. 2023 (SemDeDup), Section 3 and Algorithm A7.
Departs: the paper keeps the sample of a group that is farthest from its centroid, and passes nearness on within a cluster; here the first
sample is kept, and a night is compared with all earlier ones.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from alchemist_core.embeddings.clusters import nearest_clusters
from alchemist_core.embeddings.reading import Clusters, Embedded, Embeddings, find, load_clusters
from alchemist_core.store.embeddings import (
    CentroidsRow,
    ComparedBlock,
    StoredFile,
    last_clustered_id,
    read_clustered,
    store_block,
)

MEMORY_BYTES = 1 << 30
"""Memory of the new embeddings of a block: 8 bytes a number, as they are stored and as they are compared."""
CHUNK_BYTES = 1 << 27
"""Size of a chunk of earlier embeddings, as they are stored."""
STEP = 4096
"""New samples that are compared with each other at a time."""
TILE = 4096
"""Samples of a cluster that are compared at a time: a cluster of equal embeddings must not need the square of its size."""


@dataclass(frozen=True, slots=True)
class FoundCounts:
    """Numbers of samples that were compared, and of semantic duplicates among them."""

    n_compared: int
    n_duplicates: int


_Found = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


class _Pairs(NamedTuple):
    """Near pairs: the row of a new sample, an earlier sample, and their cosine; in the order of rows, then of earlier samples."""

    row_Q: NDArray[np.int64]
    earlier_Q: NDArray[np.int64]
    cosine_Q: NDArray[np.float32]

    def of_rows(self, start: int, stop: int) -> "_Pairs":
        low, high = np.searchsorted(self.row_Q, (start, stop))
        return _Pairs(self.row_Q[low:high], self.earlier_Q[low:high], self.cosine_Q[low:high])


def _join(parts: Sequence[_Found]) -> _Pairs:
    if not parts:
        return _Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    row, earlier, cosine = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((earlier, row))
    return _Pairs(row[order], earlier[order], cosine[order])


def find_semantic_duplicates(
    engine: Engine,
    embeddings: Embeddings,
    centroids: CentroidsRow,
    *,
    memory_bytes: int = MEMORY_BYTES,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> FoundCounts:
    """Compare the samples that were embedded since the last call with all earlier ones; each block is one transaction.

    Args:
        engine: The store.
        embeddings: The scorer's embeddings.
        centroids: Its centroids.
        memory_bytes: Memory of the embeddings of a block.
        on_progress: Called with the numbers of compared samples and of all samples to compare.

    Raises:
        StoreError: Another run compares the same samples.
    """
    clusters = load_clusters(centroids)
    waiting = [file for file in embeddings.files if not file.is_compared]
    n_total, n_seen, counts = sum(file.n_samples for file in waiting), 0, [0, 0]
    n_rows = max(1, memory_bytes // (8 * max(1, embeddings.dim)))
    for block, ended in _blocks(embeddings, waiting, n_rows):
        n_seen += len(block.sample_id_B)
        new = _without_clustered(engine, centroids.rater_id, block)
        compared = _Comparison(centroids, clusters, new).run(engine, embeddings)
        centroids = store_block(engine, centroids, compared, ended)
        counts[0] += len(compared.sample_id_B)
        counts[1] += len(compared.duplicate_id_P)
        on_progress(min(n_seen, n_total), n_total)
    return FoundCounts(*counts)


def _blocks(
    embeddings: Embeddings, waiting: Sequence[StoredFile], n_rows: int
) -> Iterator[tuple[Embedded, list[StoredFile]]]:
    """Yield the samples of files in the order of their ids, with the files that end in each block."""
    after_id = -1
    while waiting:
        ids = _lowest_ids(embeddings, waiting, after_id, n_rows)
        after_id = int(ids[-1]) if len(ids) else max(file.last_sample_id for file in waiting)
        ended = [file for file in waiting if file.last_sample_id <= after_id]
        waiting = [file for file in waiting if file.last_sample_id > after_id]
        yield embeddings.read(ids), ended


def _lowest_ids(embeddings: Embeddings, files: Sequence[StoredFile], after_id: int, n_rows: int) -> NDArray[np.int64]:
    """Return the lowest ids above one; the files are in the order of their first samples."""
    parts, n_found, limit = [np.empty(0, np.int64)], 0, np.iinfo(np.int64).max
    for file in files:
        if file.first_sample_id > limit:
            break
        ids = embeddings.map(file).sample_id_N
        start = int(np.searchsorted(ids, after_id, "right"))
        parts.append(ids[start : start + n_rows])
        n_found += len(parts[-1])
        # Sorted only when there are enough, and not for each of the many files of a block.
        if n_found >= n_rows:
            parts = [np.unique(np.concatenate(parts))[:n_rows]]
            n_found = len(parts[0])
            limit = int(parts[0][-1]) if n_found == n_rows else limit
    return np.unique(np.concatenate(parts))[:n_rows]


def _without_clustered(engine: Engine, rater_id: int, block: Embedded) -> Embedded:
    """Leave out samples that an earlier block, or a run that was killed, has compared."""
    if not len(block.sample_id_B):
        return block
    known = read_clustered(engine, rater_id, block.sample_id_B)
    is_new_B = find(known.sample_id_B, block.sample_id_B) < 0
    return Embedded(block.sample_id_B[is_new_B], block.embedding_BD[is_new_B])


class _Comparison:
    """Compares one block with the earlier first samples and with itself."""

    def __init__(self, centroids: CentroidsRow, clusters: Clusters, block: Embedded) -> None:
        self._centroids, self._clusters, self._id_B = centroids, clusters, block.sample_id_B
        unit_BD = clusters.compared(block.embedding_BD)
        self._cluster_BP = nearest_clusters(clusters.centroid_KD, unit_BD, centroids.n_probes)
        del unit_BD
        # Each cluster's samples lie one after another; its first samples, once they are decided, at its beginning. So they are compared
        # where they are: to gather them at every step would cost the square of a block.
        order_B = np.argsort(self._cluster_BP[:, 0], kind="stable")
        self._unit_BD = clusters.compared(block.embedding_BD[order_B])
        self._place_B = np.empty_like(order_B)
        self._place_B[order_B] = np.arange(len(order_B))
        size_K = np.bincount(self._cluster_BP[:, 0], minlength=len(clusters.centroid_KD))
        self._start_K, self._n_firsts_K = np.cumsum(size_K) - size_K, np.zeros_like(size_K)
        self._row_at_B = order_B
        # The first sample of each semantic duplicate of the block, and their cosine; -1: it is a first sample itself.
        self._first_id_B = np.full(len(self._id_B), -1, np.int64)
        self._cosine_B = np.zeros(len(self._id_B), np.float32)

    def run(self, engine: Engine, embeddings: Embeddings) -> ComparedBlock:
        """Return the clusters of the samples and the semantic duplicates among them."""
        with_earlier = self._with_earlier(engine, embeddings)
        for start in range(0, len(self._id_B), STEP):
            row_S = np.arange(start, min(start + STEP, len(self._id_B)))
            self._assign(row_S, with_earlier.of_rows(start, start + STEP))
            self._add_firsts(row_S[self._first_id_B[row_S] < 0])
        later = np.flatnonzero(self._first_id_B >= 0)
        return ComparedBlock(
            self._id_B,
            self._cluster_BP[:, 0],
            self._id_B[later],
            self._first_id_B[later],
            np.minimum(self._cosine_B[later], 1),
        )

    def _with_earlier(self, engine: Engine, embeddings: Embeddings) -> _Pairs:
        """Return the near pairs of the block and the first samples of earlier blocks."""
        parts: list[_Found] = []
        rows_of = _rows_by_cluster(self._cluster_BP)
        if self._centroids.last_block_id > 0 and len(self._id_B):
            last_id = last_clustered_id(engine, self._centroids.rater_id)
            for chunk in _chunks(embeddings, max(1, CHUNK_BYTES // (2 * embeddings.dim)), last_id):
                for row_C, cluster in self._firsts(engine, chunk, rows_of):
                    earlier_CD = self._clusters.compared(chunk.embedding_BD[row_C])
                    parts += self._near(rows_of[cluster], chunk.sample_id_B[row_C], earlier_CD)
        return _join(parts)

    def _firsts(
        self, engine: Engine, chunk: Embedded, rows_of: dict[int, NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Yield the rows of a chunk that are first samples, by cluster; only of clusters that the block touches."""
        firsts = read_clustered(engine, self._centroids.rater_id, chunk.sample_id_B, only_firsts=True)
        row_C = find(chunk.sample_id_B, firsts.sample_id_B)
        is_met_C = (row_C >= 0) & np.isin(firsts.cluster_B, list(rows_of))
        row_C, cluster_C = row_C[is_met_C], firsts.cluster_B[is_met_C]
        for cluster, at_C in _rows_by_cluster(cluster_C[:, None]).items():
            yield row_C[at_C], cluster

    def _near(
        self, row_S: NDArray[np.int64], earlier_C: NDArray[np.int64], earlier_CD: NDArray[np.float32]
    ) -> Iterator[_Found]:
        """Yield the pairs of rows and earlier samples whose cosine reaches the threshold, tile by tile."""
        for start in range(0, len(row_S), TILE):
            part_S = row_S[start : start + TILE]
            unit_SD = self._unit_BD[self._place_B[part_S]]
            for low in range(0, len(earlier_C), TILE):
                cosine_SC = unit_SD @ earlier_CD[low : low + TILE].T
                at_S, at_C = np.nonzero(cosine_SC >= self._centroids.threshold)
                if len(at_S):
                    yield part_S[at_S], earlier_C[low + at_C], cosine_SC[at_S, at_C]

    def _add_firsts(self, row_S: NDArray[np.int64]) -> None:
        """Put new first samples behind those of their clusters, over samples that are decided."""
        row_S = row_S[np.argsort(self._cluster_BP[row_S, 0], kind="stable")]
        cluster_U, start_U, n_U = np.unique(self._cluster_BP[row_S, 0], return_index=True, return_counts=True)
        at_S = np.repeat(self._start_K[cluster_U] + self._n_firsts_K[cluster_U] - start_U, n_U) + np.arange(len(row_S))
        self._unit_BD[at_S] = self._unit_BD[self._place_B[row_S]]
        self._row_at_B[at_S] = row_S
        self._n_firsts_K[cluster_U] += n_U

    def _assign(self, row_S: NDArray[np.int64], with_old: _Pairs) -> None:
        """Decide which samples of a step are semantic duplicates, and of which first sample: the earliest that is near."""
        before: list[_Found] = [with_old]
        for cluster, at_S in _rows_by_cluster(self._cluster_BP[row_S]).items():
            firsts = slice(self._start_K[cluster], self._start_K[cluster] + self._n_firsts_K[cluster])
            before += self._near(row_S[at_S], self._id_B[self._row_at_B[firsts]], self._unit_BD[firsts])
        self._take_first(_join(before))
        # What is left may be near to one of its own step. A sample that has a first one is none itself.
        left_S = row_S[self._first_id_B[row_S] < 0]
        open_S = row_S[(self._first_id_B[row_S] < 0) | (self._first_id_B[row_S] > self._id_B[row_S[0]])]
        within = self._within(open_S, left_S)
        rows, starts = np.unique(within.row_Q, return_index=True)
        ends = [*starts[1:].tolist(), len(within.row_Q)]
        for row, start, end in zip(rows.tolist(), starts.tolist(), ends, strict=False):
            # In the order of rows, so that earlier samples are already decided.
            is_first = self._first_id_B[within.earlier_Q[start:end]] < 0
            if is_first.any():
                at = [start + int(np.argmax(is_first))]
                self._take_first(_Pairs(np.array([row]), self._id_B[within.earlier_Q[at]], within.cosine_Q[at]))

    def _within(self, open_S: NDArray[np.int64], left_S: NDArray[np.int64]) -> _Pairs:
        """Return the near pairs of the open rows of a step with earlier rows that are left in it."""
        parts: list[_Found] = []
        left_of = _rows_by_cluster(self._cluster_BP[left_S, :1])
        for cluster, at_S in _rows_by_cluster(self._cluster_BP[open_S]).items():
            if cluster in left_of:
                left = left_S[left_of[cluster]]
                for row, earlier, cosine in self._near(open_S[at_S], left, self._unit_BD[self._place_B[left]]):
                    is_earlier = earlier < row
                    parts.append((row[is_earlier], earlier[is_earlier], cosine[is_earlier]))
        return _join(parts)

    def _take_first(self, pairs: _Pairs) -> None:
        """Let each row belong to the earliest of its first samples, by id."""
        row_U, at_U = np.unique(pairs.row_Q, return_index=True)
        first_U = pairs.earlier_Q[at_U]
        is_better_U = (self._first_id_B[row_U] < 0) | (first_U < self._first_id_B[row_U])
        row_U, at_U = row_U[is_better_U], at_U[is_better_U]
        self._first_id_B[row_U] = pairs.earlier_Q[at_U]
        self._cosine_B[row_U] = pairs.cosine_Q[at_U]


def _chunks(embeddings: Embeddings, n_rows: int, last_id: int) -> Iterator[Embedded]:
    """Yield the embeddings of files that have samples up to an id, in chunks of several files, each in the order of sample ids."""
    waiting: list[Embedded] = []
    for block in embeddings.blocks(n_rows=n_rows, wanted=lambda file: file.first_sample_id <= last_id):
        if len(block.sample_id_B):
            waiting.append(block)
        if sum(len(part.sample_id_B) for part in waiting) >= n_rows:
            yield _in_order(waiting)
            waiting = []
    if waiting:
        yield _in_order(waiting)


def _in_order(parts: Sequence[Embedded]) -> Embedded:
    ids, embeddings = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    if (ids[1:] > ids[:-1]).all():
        return Embedded(ids, embeddings)
    order = np.argsort(ids)
    return Embedded(ids[order], embeddings[order])


def _rows_by_cluster(cluster_BP: NDArray[np.int32]) -> dict[int, NDArray[np.int64]]:
    """Return the rows that have each cluster among their nearest ones, ascending."""
    n_probes = cluster_BP.shape[1]
    flat = cluster_BP.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.flatnonzero(np.diff(flat[order], prepend=-1)).tolist()
    return {
        int(flat[order[start]]): order[start:stop] // n_probes
        for start, stop in zip(starts, [*starts[1:], len(order)], strict=False)
    }
