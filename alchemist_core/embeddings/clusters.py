"""Clusters of embeddings: centroids by k-means on a sample of them, made once, and the nearest centroids of each embedding.

Embeddings are compared by their directions: all have length 1 here, and so have the centroids (spherical k-means).

Letters: N embeddings of the sample · B samples of a block · K clusters · P nearest clusters of each · D numbers of an embedding.

Source: Abbas et al. 2023 (SemDeDup), Algorithm A7.
"""

import hashlib
import io
import math

import faiss
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from alchemist_core.embeddings.files import FOLDER
from alchemist_core.embeddings.reading import Embeddings, unit_vectors
from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path, write_bytes_atomically
from alchemist_core.store.embeddings import CentroidsRow, find_centroids, insert_centroids

MAX_CLUSTERS = 16_384
SAMPLE_BYTES = 1 << 29
"""Largest size of the sample that centroids are made from, as float32."""
SAMPLES_A_CLUSTER = 256
"""More embeddings for a cluster do not move its centroid."""
ITERATIONS = 20


def usual_clusters(n_samples: int) -> int:
    """Return the number of clusters for a number of samples: its square root, at most `MAX_CLUSTERS`.

    >>> usual_clusters(1_000_000), usual_clusters(10**10)
    (1000, 16384)
    """
    return min(max(1, round(math.sqrt(n_samples))), MAX_CLUSTERS)


def fit_centroids(unit_ND: NDArray[np.float32], n_clusters: int, *, seed: int) -> NDArray[np.float32]:
    """Return the centroids of k-means, which have length 1. On a GPU if the installed FAISS finds one (not tested)."""
    kmeans = faiss.Kmeans(
        unit_ND.shape[1], n_clusters, niter=ITERATIONS, seed=seed % 2**31, spherical=True, min_points_per_centroid=1,
        max_points_per_centroid=SAMPLES_A_CLUSTER, gpu=hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0,
    )  # fmt: skip
    kmeans.train(unit_ND)
    centroid_KD: NDArray[np.float32] = np.ascontiguousarray(kmeans.centroids, np.float32)
    return centroid_KD


def nearest_clusters(
    centroid_KD: NDArray[np.float32], unit_BD: NDArray[np.float32], n_probes: int
) -> NDArray[np.int32]:
    """Return the nearest clusters of each embedding, the nearest first."""
    if not len(unit_BD):
        return np.empty((0, n_probes), np.int32)
    index = faiss.IndexFlatIP(centroid_KD.shape[1])
    index.add(centroid_KD)
    _, cluster_BP = index.search(unit_BD, n_probes)
    return np.asarray(cluster_BP, np.int32)


def make_centroids(  # noqa: PLR0913  the options of one command
    engine: Engine, embeddings: Embeddings, *, n_clusters: int | None, n_probes: int, threshold: float, seed: int,
    is_restart: bool = False,
) -> CentroidsRow:  # fmt: skip
    """Return the centroids of a scorer: the stored ones, else made from a sample of its embeddings and stored.

    Args:
        engine: The store.
        embeddings: The scorer's embeddings.
        n_clusters: Number of clusters; None: `usual_clusters`.
        n_probes: Number of nearest clusters in which a sample is compared.
        threshold: Lowest cosine of semantic duplicates.
        seed: Seed of the sample and of k-means.
        is_restart: Replace the stored ones, and forget what was compared with them.

    Raises:
        ConfigError: There are fewer embeddings than clusters.
    """
    if not is_restart and (known := find_centroids(engine, embeddings.rater_id)) is not None:
        return known
    n_clusters = n_clusters or usual_clusters(len(embeddings))
    unit_ND = _sample(embeddings, n_clusters, seed)
    if len(unit_ND) < n_clusters:
        raise ConfigError(
            f"--clusters {n_clusters:,} is more than the {len(unit_ND):,} embeddings. Give fewer, or omit it."
        )
    centroid_KD = fit_centroids(unit_ND, n_clusters, seed=seed)
    data = io.BytesIO()
    np.save(data, centroid_KD)
    digest = hashlib.sha256(data.getvalue())
    uri = f"{FOLDER}/{embeddings.rater_id}/centroids-{digest.hexdigest()[:16]}.npy"
    write_bytes_atomically(artifact_path(uri), data.getvalue())
    row = CentroidsRow(
        embeddings.rater_id,
        uri,
        digest.digest(),
        n_clusters,
        min(n_probes, n_clusters),
        len(unit_ND),
        seed,
        threshold,
        0,
    )
    insert_centroids(engine, row, is_restart=is_restart)
    # Another run may have stored its own at the same moment.
    stored = find_centroids(engine, embeddings.rater_id)
    assert stored is not None
    return stored


def _sample(embeddings: Embeddings, n_clusters: int, seed: int) -> NDArray[np.float32]:
    """Return embeddings chosen at random, as many as k-means uses and memory allows."""
    n_rows = len(embeddings)
    n_wanted = min(n_rows, n_clusters * SAMPLES_A_CLUSTER, SAMPLE_BYTES // (4 * max(1, embeddings.dim)))
    n_wanted = max(n_wanted, min(n_rows, n_clusters))
    chosen = np.sort(np.random.default_rng(seed).choice(n_rows, n_wanted, replace=False))
    ends = np.cumsum([file.n_samples for file in embeddings.files])
    parts = []
    for number, file in enumerate(embeddings.files):
        low, high = np.searchsorted(chosen, (ends[number] - file.n_samples, ends[number]))
        if low < high:
            parts.append(embeddings.map(file).sample_id_N[chosen[low:high] - (ends[number] - file.n_samples)])
    if not parts:
        return np.empty((0, embeddings.dim), np.float32)
    return unit_vectors(embeddings.read(np.concatenate(parts)).embedding_BD)
