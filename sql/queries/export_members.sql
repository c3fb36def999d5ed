-- Purpose: who the members of a subset are, for other loaders: ids, address and place; taken-down images are left out.
-- Parameters: none; reads the temporary table wanted (number integer, pair_hash bytea).
-- One row is: a wanted pair's number, what it is, and its first live location (nulls where there is none).
-- Relies on: uq_samples_pair_hash, ix_sample_locations_sample_id, pk_shards, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by number.
SELECT
    wanted.number,
    samples.sample_id,
    samples.source_url,
    samples.licence,
    place.dataset,
    place.crawl_date,
    place.shard,
    place.key
FROM wanted
INNER JOIN alchemist.samples ON wanted.pair_hash = samples.pair_hash
LEFT JOIN LATERAL (
    SELECT
        datasets.name AS dataset,
        shards.crawl_date,
        shards.uri AS shard,
        sample_locations.key
    FROM alchemist.sample_locations
    INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id AND shards.state = 'verified'
    INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
    WHERE sample_locations.sample_id = samples.sample_id
    ORDER BY sample_locations.shard_id, sample_locations.ordinal
    LIMIT 1
) AS place ON TRUE
WHERE NOT EXISTS (SELECT 1 FROM alchemist.takedowns WHERE takedowns.image_hash = samples.image_hash)
ORDER BY wanted.number
