-- Purpose: the distinct pairs of a dataset that may be read: one good location each, taken-down images left out.
-- Parameters: dataset_id integer, max_pairs integer or null (all).
-- One row is: a pair with its first live location.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_sample_locations, pk_samples, uq_takedowns_image_hash.
-- Safe to re-run: yes; the order is by pair_hash, so that the same data gives the same rows on every machine.
SELECT DISTINCT ON (samples.pair_hash)
    samples.sample_id,
    samples.pair_hash,
    samples.image_hash,
    samples.perceptual_hash,
    samples.caption,
    shards.uri,
    datasets.root_uri,
    sample_locations.key,
    sample_locations.member_exts,
    sample_locations.member_offsets,
    sample_locations.member_sizes
FROM alchemist.datasets
INNER JOIN alchemist.shards ON datasets.dataset_id = shards.dataset_id AND shards.state = 'verified'
INNER JOIN alchemist.sample_locations ON shards.shard_id = sample_locations.shard_id
INNER JOIN alchemist.samples ON sample_locations.sample_id = samples.sample_id
WHERE
    datasets.dataset_id = :dataset_id
    AND NOT EXISTS (SELECT 1 FROM alchemist.takedowns WHERE takedowns.image_hash = samples.image_hash)
ORDER BY samples.pair_hash, shards.shard_id, sample_locations.ordinal
LIMIT :max_pairs
