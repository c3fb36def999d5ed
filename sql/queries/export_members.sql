-- Purpose: who the members of a subset are, for other loaders: ids, address and place; taken-down images are left out.
-- Parameters: none; reads the temporary table wanted (number integer, pair_hash bytea).
-- One row is: a wanted pair's number, what it is, and its first live location (nulls where there is none).
-- Relies on: uq_samples_pair_hash, alchemist.first_location, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by number.
SELECT
    wanted.number,
    samples.*,
    place.dataset,
    place.crawl_date,
    place.shard,
    place.key
FROM wanted
INNER JOIN alchemist.samples ON wanted.pair_hash = samples.pair_hash
LEFT JOIN LATERAL alchemist.first_location(samples.sample_id) AS place ON TRUE
WHERE NOT EXISTS (SELECT 1 FROM alchemist.takedowns WHERE takedowns.image_hash = samples.image_hash)
ORDER BY wanted.number
