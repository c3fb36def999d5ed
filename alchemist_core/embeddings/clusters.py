"""Clusters of embeddings: centroids by k-means on a sample of them, made once, and the nearest centroids of each embedding.

Embeddings are compared by their directions, whitened or as they are: all have length 1 here, and so have the centroids (spherical k-means).

Letters: N embeddings of the sample · B samples of a block · K clusters · P nearest clusters of each · D numbers of an embedding.

Source: Abbas et al. 2023 (SemDeDup), Algorithm A7.
"""

import hashlib
import math
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from alchemist_core.embeddings.files import FOLDER
from alchemist_core.embeddings.reading import Clusters, Embeddings, compared_vectors, unit_vectors
from alchemist_core.embeddings.whitening import MAX_ROWS, MIN_DIM, MIN_ROWS, Whitening, fit_whitening, to_unit_length
from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path, write_bytes_atomically
from alchemist_core.store.embeddings import CentroidsRow, find_centroids, insert_centroids

MAX_CLUSTERS = 16_384
SAMPLE_BYTES = 1 << 29
"""Largest size of the sample that centroids are made from, as float32."""
SAMPLES_A_CLUSTER = 256
"""More embeddings for a cluster do not move its centroid."""
ITERATIONS = 20
THRESHOLD = 0.95
"""Lowest cosine of semantic duplicates."""
WHITENED_THRESHOLD = 0.4
"""The same for up to 10,000 whitened embeddings, chosen on planted copies of half of some images: research page 030."""


class FirstRun(NamedTuple):
    """Options of the run that makes the centroids.

    Attributes:
        n_clusters: Number of clusters; None: `usual_clusters`.
        n_probes: Number of nearest clusters in which a sample is compared.
        threshold: Lowest cosine of semantic duplicates; None: `usual_threshold`.
        seed: Seed of the sample, of the whitening's sample and of k-means.
        is_whitened: Whether embeddings are whitened; None: if they have `MIN_DIM` numbers, and `MIN_ROWS` of them differ.
    """

    n_clusters: int | None
    n_probes: int
    threshold: float | None
    seed: int
    is_whitened: bool | None


def usual_clusters(n_samples: int) -> int:
    """Return the number of clusters for a number of samples: its square root, at most `MAX_CLUSTERS`.

    >>> usual_clusters(1_000_000), usual_clusters(10**10)
    (1000, 16384)
    """
    return min(max(1, round(math.sqrt(n_samples))), MAX_CLUSTERS)


def usual_threshold(n_samples: int, *, is_whitened: bool) -> float:
    """Return the lowest cosine of semantic duplicates for a number of samples.

    In ten times as many samples, each has ten times as many that are not copies of it but might be as near. So that of whitened embeddings
    grows by 0.1 for each factor of 10 above 10,000, up to 0.8. This growth is a precaution, which was not measured.

    >>> [usual_threshold(n, is_whitened=True) for n in (5000, 100_000, 30_000_000)], usual_threshold(5000, is_whitened=False)
    ([0.4, 0.5, 0.75], 0.95)
    """
    if not is_whitened:
        return THRESHOLD
    return round(min(0.8, WHITENED_THRESHOLD + 0.1 * max(0, math.log10(max(1, n_samples) / 10_000))), 2)


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


def make_centroids(
    engine: Engine, embeddings: Embeddings, options: FirstRun, *, is_restart: bool = False
) -> CentroidsRow:
    """Return the centroids of a scorer: the stored ones, else made from a sample of its embeddings and stored.

    Args:
        engine: The store.
        embeddings: The scorer's embeddings.
        options: How to make them if they are not stored.
        is_restart: Replace the stored ones, and forget what was compared with them.

    Raises:
        ConfigError: There are fewer embeddings than clusters, or too few different ones to whiten them.
    """
    if not is_restart and (known := find_centroids(engine, embeddings.rater_id)) is not None:
        return known
    n_clusters = options.n_clusters or usual_clusters(len(embeddings))
    embedding_ND = _sample(embeddings, n_clusters, options.seed)
    if len(embedding_ND) < n_clusters:
        raise ConfigError(
            f"--clusters {n_clusters:,} is more than the {len(embedding_ND):,} embeddings. Give fewer, or omit it."
        )
    clusters = _fit(embedding_ND, n_clusters, options)
    data = clusters.save()
    digest = hashlib.sha256(data)
    uri = f"{FOLDER}/{embeddings.rater_id}/centroids-{digest.hexdigest()[:16]}.npy"
    write_bytes_atomically(artifact_path(uri), data)
    is_whitened = clusters.whitening is not None
    row = CentroidsRow(
        rater_id=embeddings.rater_id, uri=uri, sha256=digest.digest(), n_clusters=n_clusters,
        n_probes=min(options.n_probes, n_clusters), n_sampled=len(embedding_ND), seed=options.seed,
        threshold=options.threshold or usual_threshold(len(embeddings), is_whitened=is_whitened),
        last_block_id=0, is_whitened=is_whitened,
    )  # fmt: skip
    insert_centroids(engine, row, is_restart=is_restart)
    # Another run may have stored its own at the same moment.
    stored = find_centroids(engine, embeddings.rater_id)
    assert stored is not None
    return stored


def _fit(embedding_ND: NDArray[np.float16], n_clusters: int, options: FirstRun) -> Clusters:
    is_wanted = embedding_ND.shape[1] >= MIN_DIM if options.is_whitened is None else options.is_whitened
    whitening = _fit_whitening(embedding_ND, options.seed) if is_wanted else None
    if options.is_whitened and whitening is None:
        raise ConfigError(
            f"--whiten needs {MIN_ROWS:,} embeddings that differ; this scorer has fewer. Omit it, or score more samples."
        )
    vector_ND = compared_vectors(embedding_ND, whitening)
    centroid_KD = fit_centroids(vector_ND, n_clusters, seed=options.seed)
    if whitening is None:
        return Clusters(centroid_KD, centroid_KD, None)
    cluster_N = nearest_clusters(centroid_KD, vector_ND, 1)[:, 0]
    return Clusters(centroid_KD, _means(embedding_ND, cluster_N, n_clusters), whitening)


def _fit_whitening(embedding_ND: NDArray[np.float16], seed: int) -> Whitening | None:
    if len(embedding_ND) > MAX_ROWS:
        chosen = np.random.default_rng(seed).choice(len(embedding_ND), MAX_ROWS, replace=False)
        embedding_ND = embedding_ND[np.sort(chosen)]
    return fit_whitening(unit_vectors(embedding_ND))


def _means(embedding_ND: NDArray[np.float16], cluster_N: NDArray[np.int32], n_clusters: int) -> NDArray[np.float32]:
    """Return the mean direction of each cluster's embeddings as they are; zeros for a cluster of which the sample has none."""
    mean_KD = np.zeros((n_clusters, embedding_ND.shape[1]), np.float32)
    for start in range(0, len(embedding_ND), MAX_ROWS):
        part = slice(start, start + MAX_ROWS)
        np.add.at(mean_KD, cluster_N[part], unit_vectors(embedding_ND[part]))
    return to_unit_length(mean_KD)


def _sample(embeddings: Embeddings, n_clusters: int, seed: int) -> NDArray[np.float16]:
    """Return embeddings chosen at random, as many as k-means or a whitening uses and memory allows."""
    n_rows = len(embeddings)
    n_wanted = min(n_rows, max(n_clusters * SAMPLES_A_CLUSTER, MAX_ROWS), SAMPLE_BYTES // (4 * max(1, embeddings.dim)))
    n_wanted = max(n_wanted, min(n_rows, n_clusters))
    chosen = np.sort(np.random.default_rng(seed).choice(n_rows, n_wanted, replace=False))
    ends = np.cumsum([file.n_samples for file in embeddings.files])
    parts = []
    for number, file in enumerate(embeddings.files):
        low, high = np.searchsorted(chosen, (ends[number] - file.n_samples, ends[number]))
        if low < high:
            ids, place_P = embeddings.map(file).sample_id_N, chosen[low:high] - (ends[number] - file.n_samples)
            # A file that maintenance has written again meanwhile is shorter.
            parts.append(ids[place_P[place_P < len(ids)]])
    if not parts:
        return np.empty((0, embeddings.dim), np.float16)
    return embeddings.read(np.concatenate(parts)).embedding_BD
