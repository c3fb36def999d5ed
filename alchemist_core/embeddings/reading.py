"""Reads the embeddings of a scorer: some of them by sample id, or all of them in blocks.

Each file is in the order of its sample ids, and its row in the store says which range of ids it has. So the files are their own index: a
sample is searched in the few files whose range contains its id, and new files are found by reading the rows again. A sample that was
taken down is never returned.

Letters: P samples that were found · K samples asked for, or clusters · B samples of a block · D numbers of an embedding ·
M samples taken down.
"""

import io
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from alchemist_core.embeddings.files import MappedFile, map_embeddings, require_unchanged
from alchemist_core.embeddings.whitening import Whitening, to_unit_length
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import artifact_path, file_sha256
from alchemist_core.store.embeddings import (
    CentroidsRow,
    StoredFile,
    embedding_scorers,
    find_file,
    list_files,
    own_scorers,
    read_taken_down_ids,
)

MAX_MAPPED = 1024
"""Number of files that are mapped at a time."""
BLOCK_BYTES = 1 << 25
"""Size of a block of embeddings."""
_WHITENED_ROWS = 8192


class Embedded(NamedTuple):
    """Samples with their embeddings."""

    sample_id_B: NDArray[np.int64]
    embedding_BD: NDArray[np.float16]


class Embeddings:
    """The kept embeddings of one scorer, as of the moment at which this is made.

    Args:
        engine: The store.
        rater_id: First output of the scorer.

    Raises:
        DataError: Its files have embeddings of different lengths.
    """

    def __init__(self, engine: Engine, rater_id: int) -> None:
        self.rater_id, self._engine = rater_id, engine
        self.files = list_files(engine, rater_id)
        if len(dims := {file.dim for file in self.files}) > 1:
            raise DataError(
                f"Rater {rater_id} has embeddings of {' and '.join(map(str, sorted(dims)))} numbers: one scorer's have one length. Its "
                "rows were changed by hand: restore the database from a backup."
            )
        self.dim = dims.pop() if dims else 0
        self._taken_down_M = read_taken_down_ids(engine)
        self._first_F = np.array([file.first_sample_id for file in self.files], np.int64)
        self._last_F = np.array([file.last_sample_id for file in self.files], np.int64)
        self._rewritten: dict[int, StoredFile] = {}
        self._map = lru_cache(MAX_MAPPED)(map_embeddings)

    def __len__(self) -> int:
        """Count the stored embeddings; of a sample in two files, both count."""
        return sum(file.n_samples for file in self.files)

    def map(self, file: StoredFile, *, should_verify: bool = False) -> MappedFile:
        """Return the columns of a file, taken-down samples included, except those that were removed from it meanwhile.

        Args:
            file: The file.
            should_verify: Compare it with its registered hash first, which reads it once more.

        Raises:
            DataError: It is missing or damaged.
        """
        while True:
            now = self._rewritten.get(file.embedding_file_id, file)
            try:
                if should_verify:
                    require_unchanged(now.uri, now.sha256)
                return self._map(now.uri)
            except DataError:
                # Maintenance removes taken-down samples: it writes the file again under another name, or deletes it with its row.
                newest = find_file(self._engine, file.embedding_file_id)
                if newest is None:
                    return MappedFile(np.empty(0, np.int64), np.empty((0, self.dim), np.float16))
                if newest.uri == now.uri:
                    raise
                self._rewritten[file.embedding_file_id] = newest

    def read(self, sample_id_K: NDArray[np.int64]) -> Embedded:
        """Return the embeddings of samples, in the order of their ids; samples without one are absent."""
        wanted_K = np.unique(sample_id_K)
        wanted_K = wanted_K[~np.isin(wanted_K, self._taken_down_M)]
        ids, rows = [], []
        for file in self.overlapping(wanted_K):
            low, high = np.searchsorted(wanted_K, (file.first_sample_id, file.last_sample_id + 1))
            mapped = self.map(file)
            place_K = find(mapped.sample_id_N, wanted_K[low:high])
            is_found_K = place_K >= 0
            if is_found_K.any():
                ids.append(wanted_K[low:high][is_found_K])
                rows.append(mapped.embedding_ND[place_K[is_found_K]])
        if not ids:
            return Embedded(np.empty(0, np.int64), np.empty((0, self.dim), np.float16))
        # A sample that two shards scored at the same moment is in both files.
        found_P, first_P = np.unique(np.concatenate(ids), return_index=True)
        return Embedded(found_P, np.concatenate(rows)[first_P])

    def read_one(self, sample_id: int, named: str) -> NDArray[np.float32]:
        """Return the embedding of a sample.

        Raises:
            DataError: It has none; the message names the sample as `named` does.
        """
        found_PD = self.read(np.array([sample_id])).embedding_BD
        if not len(found_PD):
            raise DataError(
                f"Sample {named} has no embedding: it was not scored by this scorer, or its image was taken down."
            )
        embedding_D: NDArray[np.float32] = found_PD[0].astype(np.float32)
        return embedding_D

    def overlapping(self, sorted_id_K: NDArray[np.int64]) -> list[StoredFile]:
        """Return the files whose range of ids contains one of the samples, which are given in ascending order."""
        low_F, high_F = np.searchsorted(sorted_id_K, self._first_F), np.searchsorted(sorted_id_K, self._last_F + 1)
        return [self.files[at] for at in np.flatnonzero(low_F < high_F).tolist()]

    def blocks(
        self,
        *,
        should_verify: bool = False,
        n_rows: int | None = None,
        wanted: Callable[[StoredFile], bool] = lambda _file: True,
    ) -> Iterator[Embedded]:
        """Yield each sample's embedding once, file by file.

        Args:
            should_verify: Compare each file with its registered hash first, which reads it once more.
            n_rows: Largest number of samples of a block; None: `BLOCK_BYTES` of embeddings.
            wanted: Whether to read a file.
        """
        n_rows = n_rows or max(1, BLOCK_BYTES // max(1, 2 * self.dim))
        for number, file in enumerate(self.files):
            if not wanted(file):
                continue
            mapped = self.map(file, should_verify=should_verify)
            for start in range(0, len(mapped.sample_id_N), n_rows):
                part = slice(start, start + n_rows)
                ids = mapped.sample_id_N[part]
                is_kept_B = ~(np.isin(ids, self._taken_down_M) | self._is_in_earlier(number, ids))
                yield Embedded(ids[is_kept_B], mapped.embedding_ND[part][is_kept_B])

    def _is_in_earlier(self, number: int, sample_id_B: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which samples a file before this one has too."""
        is_there_B = np.zeros(len(sample_id_B), np.bool_)
        if len(sample_id_B):
            for at in np.flatnonzero(self._last_F[:number] >= sample_id_B[0]).tolist():
                is_there_B |= find(self.map(self.files[at]).sample_id_N, sample_id_B) >= 0
        return is_there_B


def find(sorted_id_N: NDArray[np.int64], sample_id_K: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each sample among sorted ones; −1 where it is not among them.

    >>> find(np.array([2, 5, 9]), np.array([5, 6, 9])).tolist()
    [1, -1, 2]
    """
    if not len(sorted_id_N):
        return np.full(len(sample_id_K), -1, np.int64)
    place_K = np.minimum(np.searchsorted(sorted_id_N, sample_id_K), len(sorted_id_N) - 1)
    return np.where(sorted_id_N[place_K] == sample_id_K, place_K, -1)


def open_embeddings(engine: Engine, scorer: str | None) -> Embeddings:
    """Return the embeddings of a scorer by its name; None: of the user's only one that has some, or of an experiment's if that is alone.

    Raises:
        ConfigError: It has none, or several have some and none is named.
    """
    return Embeddings(engine, find_embedding_scorer(engine, scorer)[1])


def find_embedding_scorer(engine: Engine, scorer: str | None) -> tuple[str, int]:
    """Return the name of a scorer that has embeddings, and the rater_id under which they are stored.

    Raises:
        ConfigError: As `open_embeddings`.
    """
    known = embedding_scorers(engine)
    own = own_scorers(known)
    if scorer is None and len(only := own or list(known)) == 1:
        return only[0], known[only[0]]
    if scorer in known:
        return str(scorer), known[str(scorer)]
    if scorer is None and own:
        raise ConfigError(f"Several scorers have embeddings: {', '.join(own)}. Name one: --scorer NAME.")
    names = ", ".join(known) or "none"
    which = (
        f"No scorer{' of your own' if known else ''} has embeddings"
        if scorer is None
        else f"Scorer {scorer!r} has no embeddings (with embeddings: {names})"
    )
    raise ConfigError(
        f"{which}. Score with a scorer that embeds its samples, such as clip: alchemist score --scorer NAME"
    )


def unit_vectors(embedding_BD: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the embeddings as float32 with length 1; an embedding of zeros stays zero.

    >>> unit_vectors(np.array([[3, 4], [0, 0]], np.float16)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return to_unit_length(embedding_BD.astype(np.float32))


def compared_vectors(embedding_BD: NDArray[np.float16], whitening: Whitening | None) -> NDArray[np.float32]:
    """Return embeddings with length 1, whitened or as they are."""
    if whitening is None:
        return unit_vectors(embedding_BD)
    vector_BD = np.empty(embedding_BD.shape, np.float32)
    # In parts, so that the float32 numbers of all are never in memory beside the whitened ones.
    for start in range(0, len(embedding_BD), _WHITENED_ROWS):
        part = slice(start, start + _WHITENED_ROWS)
        vector_BD[part] = whitening.apply(unit_vectors(embedding_BD[part]))
    return vector_BD


class Clusters(NamedTuple):
    """The centroids of a scorer's embeddings, which have length 1, and how embeddings are compared: whitened, or as they are."""

    centroid_KD: NDArray[np.float32]
    raw_KD: NDArray[np.float32]
    """Mean of the embeddings of each cluster as they are: what a search compares a text with."""
    whitening: Whitening | None

    def compared(self, embedding_BD: NDArray[np.float16]) -> NDArray[np.float32]:
        """Return the vectors of length 1 whose inner products are the cosines of embeddings."""
        return compared_vectors(embedding_BD, self.whitening)

    def save(self) -> bytes:
        """Return the bytes of their file: arrays one after another, as numpy writes them; if not whitened, the centroids alone."""
        data = io.BytesIO()
        arrays = [self.centroid_KD]
        if self.whitening is not None:
            arrays += [self.raw_KD, *self.whitening]
        for array in arrays:
            np.save(data, array)
        return data.getvalue()


def load_clusters(row: CentroidsRow) -> Clusters:
    """Read the centroids of a scorer.

    Raises:
        DataError: Their file is missing, or is not the one that was stored.
    """
    path = artifact_path(row.uri)
    if not path.is_file() or file_sha256(path) != row.sha256:
        raise DataError(
            f"The centroids {path} are missing or were changed. Restore the file from a backup of the artifacts."
        )
    with path.open("rb") as file:
        centroid_KD = np.load(file)
        if not row.is_whitened:
            return Clusters(centroid_KD, centroid_KD, None)
        raw_KD, mean_D, map_DD = (np.load(file) for _ in range(3))
    return Clusters(centroid_KD, raw_KD, Whitening(mean_D, map_DD))
