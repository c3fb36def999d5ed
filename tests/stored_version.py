"""A subset version written directly into a store, with the members that a test needs."""

import hashlib

import numpy as np
from sqlalchemy import Engine, text

from alchemist_core.files import artifact_path
from alchemist_core.store.manifests import Manifest, hash_rows, write_manifest
from alchemist_core.store.subsets import SubsetRow, store_subset
from tests.given import sha256

PAIRS = """
SELECT DISTINCT samples.pair_hash FROM alchemist.samples
INNER JOIN alchemist.sample_locations USING (sample_id) INNER JOIN alchemist.shards USING (shard_id)
INNER JOIN alchemist.datasets USING (dataset_id)
WHERE datasets.name = :dataset ORDER BY samples.pair_hash
"""
SOURCE = """
WITH rated AS (
    INSERT INTO alchemist.raters (name, rule, config, identity_hash, checkpoint_uri, checkpoint_sha256)
    SELECT 'by hand', 'loss', '{}', 'by hand', 'none', :sha256
    WHERE NOT EXISTS (SELECT FROM alchemist.rank_snapshots WHERE eligible_hash = 'by hand')
    RETURNING rater_id
), scaled AS (
    INSERT INTO alchemist.rank_scales (rater_id, knot_scores, knot_ranks, n_reference)
    SELECT rater_id, '{1}', '{0}', 1 FROM rated RETURNING rank_scale_id
)
INSERT INTO alchemist.rank_snapshots (rank_scale_id, dataset_names, night_ids, n_eligible, eligible_hash)
SELECT rank_scale_id, '{pool}', '{}', 1, 'by hand' FROM scaled
"""
SNAPSHOT = "SELECT snapshot_id FROM alchemist.rank_snapshots WHERE eligible_hash = 'by hand'"


def share_of(engine: Engine, dataset: str, share: float) -> Manifest:
    """A share of an ingested dataset's samples: those with a hash below it, like a random selection."""
    with engine.connect() as connection:
        found = connection.execute(text(PAIRS), {"dataset": dataset}).scalars().all()
    hashes = hash_rows([bytes(pair_hash) for pair_hash in found])
    chosen = hashes[hashes[:, 31] < 256 * share]
    return Manifest(chosen, np.linspace(0, 1, len(chosen)), np.zeros(len(chosen)))


def add_version(engine: Engine, name: str, manifest: Manifest) -> SubsetRow:
    """Store the next version of a subset with its manifest."""
    with engine.begin() as connection:
        connection.execute(text(SOURCE), {"sha256": sha256("by hand")})
        snapshot_id = connection.execute(text(SNAPSHOT)).scalar_one()
        versions = text("SELECT count(*) FROM alchemist.subsets WHERE name = :name")
        spec_hash = hashlib.sha256(f"{name} {connection.execute(versions, {'name': name}).scalar_one()}".encode())
    uri = f"subsets/{name}/{spec_hash.hexdigest()}.parquet"
    write_manifest(artifact_path(uri), manifest)
    epoch_size = None if manifest.weight_K is None else int(manifest.weight_K.sum())
    subset, _ = store_subset(
        engine, name=name, snapshot_id=snapshot_id, strategy="random", retention=0.5, seed=0, spec={},
        spec_hash=spec_hash.hexdigest(), n_samples=len(manifest), epoch_size=epoch_size,
        manifest_sha256=manifest.sha256(), manifest_uri=uri,
        created_by="test",
    )  # fmt: skip
    return subset
