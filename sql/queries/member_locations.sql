-- Purpose: where the bytes of a subset's members lie now: the first live location of each, taken-down images left out.
-- Parameters: none; reads the temporary table wanted (number integer, pair_hash bytea).
-- One row is: a wanted pair's number and its first live location; a pair without one is absent.
-- Relies on: uq_samples_pair_hash, ix_sample_locations_sample_id, pk_shards, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by number. Of 15 million members no text is read: it is sorted with them.
SELECT DISTINCT ON (wanted.number)
    wanted.number,
    datasets.root_uri,
    shards.uri,
    sample_locations.key,
    sample_locations.member_exts,
    sample_locations.member_offsets,
    sample_locations.member_sizes,
    sample_locations.content_hash
FROM wanted
INNER JOIN alchemist.samples ON wanted.pair_hash = samples.pair_hash
INNER JOIN alchemist.sample_locations ON samples.sample_id = sample_locations.sample_id
INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id AND shards.state = 'verified'
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
WHERE NOT EXISTS (SELECT 1 FROM alchemist.takedowns WHERE takedowns.image_hash = samples.image_hash)
ORDER BY wanted.number, shards.shard_id, sample_locations.ordinal
