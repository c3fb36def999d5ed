-- Purpose: where the bytes of given pairs lie now: the first live location of each, taken-down images left out.
-- Parameters: none; reads the temporary table wanted (pair_hash bytea).
-- One row is: a wanted pair with its first live location; a pair without one is absent.
-- Relies on: uq_samples_pair_hash, ix_sample_locations_sample_id, pk_shards, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by pair_hash.
SELECT DISTINCT ON (samples.pair_hash)
    samples.sample_id,
    samples.pair_hash,
    samples.image_hash,
    samples.caption,
    shards.uri,
    datasets.root_uri,
    sample_locations.key,
    sample_locations.member_exts,
    sample_locations.member_offsets,
    sample_locations.member_sizes
FROM wanted
INNER JOIN alchemist.samples ON wanted.pair_hash = samples.pair_hash
INNER JOIN alchemist.sample_locations ON samples.sample_id = sample_locations.sample_id
INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id AND shards.state = 'verified'
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
WHERE NOT EXISTS (SELECT 1 FROM alchemist.takedowns WHERE takedowns.image_hash = samples.image_hash)
ORDER BY samples.pair_hash, shards.shard_id, sample_locations.ordinal
