-- Purpose: the pairs of a dataset whose pictures have no aesthetic score yet, a range of ids at a time, taken-down images left out.
-- Parameters: dataset_id integer, after_id and last_id bigint.
-- One row is: a pair with its first live location in the dataset.
-- Relies on: pk_samples, ix_sample_locations_sample_id, pk_shards, pk_heuristic_scores, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by sample_id.
SELECT DISTINCT ON (samples.sample_id)
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
FROM alchemist.samples
INNER JOIN alchemist.sample_locations ON samples.sample_id = sample_locations.sample_id
INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id AND shards.state = 'verified'
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
LEFT JOIN alchemist.heuristic_scores ON samples.sample_id = heuristic_scores.sample_id
WHERE
    samples.sample_id > :after_id
    AND samples.sample_id <= :last_id
    AND datasets.dataset_id = :dataset_id
    AND heuristic_scores.aesthetic IS NULL
    AND NOT EXISTS (SELECT 1 FROM alchemist.takedowns WHERE takedowns.image_hash = samples.image_hash)
ORDER BY samples.sample_id, sample_locations.shard_id, sample_locations.ordinal
