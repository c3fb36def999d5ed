-- Purpose: Return ids, attributes and first location of a subset's members, for `alchemist export subset`; images that were taken
--   down are left out.
-- Parameters: none; reads the temporary table wanted (number integer, pair_hash bytea).
-- One row is: a wanted sample's number, all its columns, and its first readable location (nulls where there is none).
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
