"""Unusual samples: those whose embedding is least like the centroid of their own cluster.

Centroids are made once from the whole corpus and then frozen, so a new kind of image is far from each of them.

Letters: N samples asked for · P those that have an embedding and a cluster · D numbers of an embedding · K clusters.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from alchemist_core.embeddings.reading import Embeddings, find, load_clusters
from alchemist_core.store.embeddings import CentroidsRow, read_clustered


class Unusual(NamedTuple):
    """Samples with the cosine of their embedding and their cluster's centroid, the lowest first; and how many were measured."""

    similarity_of: dict[int, float]
    n_measured: int


def find_unusual(engine: Engine, centroids: CentroidsRow, sample_id_N: NDArray[np.int64], *, limit: int) -> Unusual:
    """Return the samples that are least like the centroid of their cluster; samples without a cluster are absent.

    Args:
        engine: The store.
        centroids: Of the scorer whose embeddings are compared.
        sample_id_N: The samples.
        limit: Largest number of samples to return.

    Raises:
        DataError: A file is missing or was changed.
    """
    found = Embeddings(engine, centroids.rater_id).read(sample_id_N)
    if not len(found.sample_id_B):
        return Unusual({}, 0)
    clustered = read_clustered(engine, centroids.rater_id, found.sample_id_B)
    at_P = find(found.sample_id_B, clustered.sample_id_B)
    clusters = load_clusters(centroids)
    unit_PD = clusters.compared(found.embedding_BD[at_P])
    similarity_P = np.einsum("pd,pd->p", unit_PD, clusters.centroid_KD[clustered.cluster_B])
    order = np.lexsort((clustered.sample_id_B, similarity_P))[:limit]
    pairs = zip(clustered.sample_id_B[order].tolist(), similarity_P[order].tolist(), strict=True)
    return Unusual(dict(pairs), len(similarity_P))
