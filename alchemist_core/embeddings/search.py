"""Search: the samples whose embeddings have the largest inner product with that of a text or of a sample.

Up to some millions of embeddings all are compared, streamed from their files. Above that, if there are clusters, only those of the nearest
clusters and those that have no cluster yet. Embeddings are compared as they are, even if clusters and semantic duplicates are those of
whitened ones.

Letters: B samples of a block · L samples found · D numbers of an embedding.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from alchemist_core.embeddings.reading import Embedded, Embeddings, load_clusters
from alchemist_core.store.embeddings import find_centroids, read_cluster_members, read_matching

EXACT_UP_TO = 2_000_000
"""Number of embeddings up to which all are compared."""
N_PROBES = 16
"""Nearest clusters that are searched above that; twice as many of whitened ones, in which similar embeddings are less close together."""
_IDS_A_READ = 50_000


class Nearest(NamedTuple):
    """Samples and the inner products of their embeddings with the searched one, the largest first."""

    sample_id_L: NDArray[np.int64]
    similarity_L: NDArray[np.float32]
    n_compared: int


def search(
    engine: Engine, embeddings: Embeddings, query_D: NDArray[np.float32], *, limit: int,
    where: str | None = None, is_exact: bool = False,
) -> Nearest:  # fmt: skip
    """Return the samples nearest to an embedding; equal ones in the order of their ids.

    Args:
        engine: The store.
        embeddings: The embeddings to search in.
        query_D: The embedding to search for.
        limit: Largest number of samples to return.
        where: Condition on the samples; it is evaluated for those alone whose embeddings are compared.
        is_exact: Compare all embeddings, however many there are.

    Raises:
        ConfigError: The condition is not valid.
    """
    best = Nearest(np.empty(0, np.int64), np.empty(0, np.float32), 0)
    for block in _candidates(engine, embeddings, query_D, is_exact=is_exact or len(embeddings) <= EXACT_UP_TO):
        best = _merge(best, _only_matching(engine, block, where), query_D, limit)
    return best


def _candidates(
    engine: Engine, embeddings: Embeddings, query_D: NDArray[np.float32], *, is_exact: bool
) -> Iterator[Embedded]:
    centroids = None if is_exact else find_centroids(engine, embeddings.rater_id)
    if centroids is None:
        yield from embeddings.blocks()
        return
    n_probes = N_PROBES * (2 if centroids.is_whitened else 1)
    # One product needs no FAISS, which the server of the explorer may lack. A text must not be whitened: it is no image.
    probes = np.argsort(-(load_clusters(centroids).raw_KD @ query_D), kind="stable")[:n_probes].tolist()
    members = read_cluster_members(engine, embeddings.rater_id, probes)
    for start in range(0, len(members), _IDS_A_READ):
        yield embeddings.read(members[start : start + _IDS_A_READ])
    # In a file that is half compared, a sample may come twice.
    for block in embeddings.blocks(wanted=lambda file: not file.is_compared):
        is_new_B = ~np.isin(block.sample_id_B, members)
        yield Embedded(block.sample_id_B[is_new_B], block.embedding_BD[is_new_B])


def _only_matching(engine: Engine, block: Embedded, where: str | None) -> Embedded:
    if where is None:
        return block
    is_kept_B = read_matching(engine, where, block.sample_id_B)
    return Embedded(block.sample_id_B[is_kept_B], block.embedding_BD[is_kept_B])


def _merge(best: Nearest, block: Embedded, query_D: NDArray[np.float32], limit: int) -> Nearest:
    similarity_B = block.embedding_BD.astype(np.float32) @ query_D
    ids = np.concatenate([best.sample_id_L, block.sample_id_B])
    similarity = np.concatenate([best.similarity_L, similarity_B])
    order = np.lexsort((ids, -similarity))[:limit]
    return Nearest(ids[order], similarity[order], best.n_compared + len(block.sample_id_B))
