-- Purpose: which earlier pictures, first of their groups, look like those of new pairs.
-- Parameters: max_distance integer (bits, at most 2), after_id and last_id bigint (the new pairs, which stand in distinct_images too).
-- One row is: a new pair and an earlier first pair within the distance, or with the same bytes; of new pairs with one and the same
--   hash only the first is looked up, for all of them find the same. distance is null where a hash is not known.
-- Relies on: ix_distinct_images_band_0_perceptual_hash and its two sisters: two hashes that differ in at most 2 of 64 bits agree in
--   one of 3 bands of 22, 21 and 21. pk_distinct_images.
-- Safe to re-run: yes; in the order of the new pairs, then of the earlier ones.
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

-- Lookalikes agree in one band, most in several.
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
