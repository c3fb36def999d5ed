"""Gives the corpus of a seed clusters of similar images, for arms with `variety` and others that read clusters.

Each image is embedded once, by the frozen encoders of the methods; a scorer then stores the embeddings, and they are clustered as
`alchemist duplicates find-semantic --no-whiten` does.

Letters: N samples of the corpus · B samples of a batch · D numbers of an embedding.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from alchemist_core.config import Config, Result, fingerprint
from alchemist_core.experiments.method_scores import encode, members_sha256
from alchemist_core.files import CLUSTER_FILES, artifact_path, atomic_write, file_sha256
from alchemist_core.models.critic_config import OFFLINE
from alchemist_core.scorers.registration import register
from alchemist_core.scorers.scorer import NOT_IDENTITY, Batch, Scorer
from alchemist_core.stages import score
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store.embeddings import (
    CLUSTERS_OF_EXPERIMENTS,
    count_unclustered,
    embedding_scorers,
    find_centroids,
    own_scorers,
)
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import find_outputs
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.samples import read_training_samples

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float32
    from numpy.typing import NDArray

PROBES, THRESHOLD = 2, 0.95
"""Of `make_centroids`: clusters probed for near-duplicates, and their lowest cosine, without whitening."""


class KeptOptions(Config):
    """Where the embeddings are."""

    dataset: str = Field(description="Dataset whose images they are of: each has clusters of its own")
    file: str = Field(
        description="File with embeddings and the sha256 of their images; its hash is part of the identity",
        json_schema_extra=NOT_IDENTITY,
    )


class KeptEmbeddings(Scorer):
    """Embeddings from a file, found by the sha256 of the image. Its score is always 0."""

    Options: ClassVar[type[Config]] = KeptOptions
    batch_size = 1024
    is_padded = False

    def __init__(self, options: Config, device: str = "cpu") -> None:
        assert isinstance(options, KeptOptions)
        super().__init__(options, device)
        path = artifact_path(options.file)
        self._sha256 = file_sha256(path).hex()
        with np.load(path) as kept:
            self._embedding_ND: NDArray[np.float16] = kept["embedding"]
            self._place_of = {row.tobytes(): place for place, row in enumerate(kept["image_hash"])}

    def identity(self) -> dict[str, str]:
        """Return the hash of the file."""
        return {"embeddings_sha256": self._sha256}

    def score(self, batch: Batch) -> Float32[np.ndarray, " B"]:
        """Return 0 for each sample."""
        return np.zeros(len(batch), np.float32)

    def embed(self, batch: Batch) -> Float32[np.ndarray, "B D"]:
        """Return the embedding of each image; NaN where the file has none."""
        found_BD = np.full((len(batch), self._embedding_ND.shape[1]), np.nan, np.float32)
        for at, image_hash in enumerate(batch.image_hashes):
            if (place := self._place_of.get(bytes(image_hash))) is not None:
                found_BD[at] = self._embedding_ND[place]
        return found_BD


class ClusterConfig(Config):
    """Which corpus is clustered, and how."""

    dataset: str = Field(..., description="Training dataset")
    encoders: str = Field(OFFLINE, description="Frozen encoders, as for alchemist scorer train")
    resolution: int = Field(224, ge=32, le=1024, description="Side of the images in pixels, for the encoders offline")


class ClusterResult(Result):
    """The scorer whose clusters the corpus has."""

    scorer: str
    # Seconds in which images and captions were encoded, which methods need not repeat.
    encoding_seconds: float = 0.0


def cluster_corpus(config: ClusterConfig) -> str:
    """Give every sample of a dataset a cluster, unless it has one, and return the scorer whose embeddings were clustered."""
    engine = open_store()
    rows = read_training_samples(engine, find_dataset(engine, config.dataset).dataset_id)
    name = f"{CLUSTERS_OF_EXPERIMENTS}{fingerprint([config.as_json(), members_sha256(rows)])[:12]}"
    if not find_outputs(engine, name):
        execute("cluster_corpus", config, lambda run: _register(config, run, name), ClusterResult)
    score.run(score.ScoreConfig(dataset=config.dataset, scorer=name))
    _find_clusters(name)
    return name


def find_user_clusters(dataset: str) -> str | None:
    """Return the scorer whose clusters all scored samples of a dataset have, if they were not made here and it is the only one.

    Samples without a cluster are one group to `variety`, so an arm would vary nothing among them.
    """
    engine = open_store()
    scorers = embedding_scorers(engine)
    own = [name for name in own_scorers(scorers) if find_centroids(engine, scorers[name]) is not None]
    if len(own) != 1 or count_unclustered(engine, scorers[own[0]], find_dataset(engine, dataset).dataset_id):
        return None
    return own[0]


def _register(config: ClusterConfig, run: StageRun, name: str) -> ClusterResult:
    """Embed the images, write the file, and register the scorer that reads it."""
    hold_device(run, is_on_cpu=True)
    from alchemist_core.models.critic import load_encoders  # noqa: PLC0415  torch only when there is work

    rows = read_training_samples(run.engine, find_dataset(run.engine, config.dataset).dataset_id)
    encoders, began = load_encoders(config.encoders, config.resolution), time.monotonic()
    index_M, encoded = encode(run, rows, encoders, config.dataset)
    encoding_s = time.monotonic() - began
    file = f"{CLUSTER_FILES}/{name}.npz"
    _write(artifact_path(file), rows.hashes("image_hash")[index_M], encoded.image_ND)
    use = f"{KeptEmbeddings.__module__}:{KeptEmbeddings.__qualname__}"
    register(run.engine, name, use, {"dataset": config.dataset, "file": file}, run_id=run.run_id, is_shadow=False)
    return ClusterResult(scorer=name, encoding_seconds=round(encoding_s, 2))


def _write(path: Path, image_hash_N32: NDArray[np.uint8], embedding_ND: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(file, image_hash=np.ascontiguousarray(image_hash_N32), embedding=embedding_ND.astype(np.float16))


def _find_clusters(scorer: str) -> None:
    from alchemist_core.embeddings.clusters import FirstRun, make_centroids  # noqa: PLC0415  imports faiss
    from alchemist_core.embeddings.duplicates import find_semantic_duplicates  # noqa: PLC0415  as above
    from alchemist_core.embeddings.reading import Embeddings  # noqa: PLC0415  imports pyarrow

    embeddings = Embeddings(engine := open_store(), embedding_scorers(engine)[scorer])
    # Not whitened, so that trials stay comparable with those that were measured before whitening existed.
    options = FirstRun(n_clusters=None, n_probes=PROBES, threshold=THRESHOLD, seed=0, is_whitened=False)
    centroids = make_centroids(engine, embeddings, options)
    find_semantic_duplicates(engine, embeddings, centroids)
