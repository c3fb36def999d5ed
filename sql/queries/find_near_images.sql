-- Purpose: Return the earlier images, first of their groups, that are near-duplicates of new samples' images.
-- Parameters: max_distance integer (bits, at most 2), after_id and last_id bigint (the new samples, which are in distinct_images
--   too).
-- One row is: a new sample and an earlier first sample within the distance, or with the same bytes. Of new samples with equal
--   hashes only the first is looked up, because all would find the same. distance is null where a hash is unknown.
-- Relies on: ix_distinct_images_band_0_perceptual_hash and its two sisters: two hashes that differ in at most 2 of 64 bits agree in
--   one of 3 bands of 22, 21 and 21. pk_distinct_images.
-- Safe to re-run: yes; in the order of the new samples, then of the earlier ones.
WITH fresh AS MATERIALIZED (
    SELECT DISTINCT ON (perceptual_hash)
        sample_id,
        perceptual_hash,
        band_0,
        band_1,
        band_2
    FROM alchemist.distinct_images
    WHERE sample_id > :after_id AND sample_id <= :last_id AND perceptual_hash IS NOT NULL
    ORDER BY perceptual_hash, sample_id
),

-- near-duplicates agree in one band, most in several.
pairs AS (
    SELECT
        fresh.sample_id,
        firsts.sample_id AS first_sample_id,
        alchemist.hamming_distance(fresh.perceptual_hash, firsts.perceptual_hash) AS distance
    FROM fresh
    INNER JOIN alchemist.distinct_images AS firsts ON fresh.band_0 = firsts.band_0
    UNION ALL
    SELECT
        fresh.sample_id,
        firsts.sample_id AS first_sample_id,
        alchemist.hamming_distance(fresh.perceptual_hash, firsts.perceptual_hash) AS distance
    FROM fresh
    INNER JOIN alchemist.distinct_images AS firsts ON fresh.band_1 = firsts.band_1
    UNION ALL
    SELECT
        fresh.sample_id,
        firsts.sample_id AS first_sample_id,
        alchemist.hamming_distance(fresh.perceptual_hash, firsts.perceptual_hash) AS distance
    FROM fresh
    INNER JOIN alchemist.distinct_images AS firsts ON fresh.band_2 = firsts.band_2
)

SELECT DISTINCT
    sample_id,
    first_sample_id,
    distance
FROM pairs
WHERE distance <= :max_distance AND first_sample_id < sample_id
ORDER BY sample_id, first_sample_id
