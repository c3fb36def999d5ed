-- Purpose: Return the new samples whose image has the same bytes, or the same perceptual hash, as an earlier sample's.
-- Parameters: after_id and last_id bigint (the new samples, which are in distinct_images too).
-- One row is: a new sample and an earlier one with the same bytes (for samples compared before: the first of its group), else with
--   the same hash among the new ones.
-- Relies on: pk_distinct_images, pk_samples, ix_samples_image_hash, pk_duplicate_samples.
-- Safe to re-run: yes.
WITH fresh AS MATERIALIZED (
    SELECT
        distinct_images.sample_id,
        samples.image_hash,
        CASE
            WHEN distinct_images.perceptual_hash IS NOT NULL
                THEN min(distinct_images.sample_id) OVER (PARTITION BY distinct_images.perceptual_hash)
        END AS first_of_hash
    FROM alchemist.distinct_images
    INNER JOIN alchemist.samples ON distinct_images.sample_id = samples.sample_id
    WHERE distinct_images.sample_id > :after_id AND distinct_images.sample_id <= :last_id
),

-- Each image once, however many samples have it, so that many copies of one image are not compared with each other.
images AS (
    SELECT DISTINCT image_hash
    FROM fresh
),

first_of_bytes AS (
    SELECT
        images.image_hash,
        min(samples.sample_id) AS sample_id
    FROM images
    INNER JOIN alchemist.samples ON images.image_hash = samples.image_hash
    GROUP BY images.image_hash
),

matched AS (
    SELECT
        fresh.sample_id,
        coalesce(
            nullif(first_of_bytes.sample_id, fresh.sample_id), nullif(fresh.first_of_hash, fresh.sample_id)
        ) AS earlier_id
    FROM fresh
    INNER JOIN first_of_bytes ON fresh.image_hash = first_of_bytes.image_hash
)

SELECT
    matched.sample_id,
    coalesce(duplicate_samples.first_sample_id, matched.earlier_id) AS earlier_id
FROM matched
LEFT JOIN alchemist.duplicate_samples ON matched.earlier_id = duplicate_samples.sample_id
WHERE matched.earlier_id IS NOT NULL
ORDER BY matched.sample_id
