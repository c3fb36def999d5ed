-- Purpose: Move new samples with near-duplicate images from distinct_images to duplicate_samples.
-- Parameters: sample_ids and first_ids bigint[], aligned: a sample, and the first sample of its duplicate group.
-- One row is: a sample that was moved.
-- Relies on: pk_distinct_images, pk_samples.
-- Safe to re-run: no, a sample is moved once; it runs in the transaction that registers the new samples.
WITH moved AS (
    SELECT
        pair.sample_id,
        pair.first_id
    FROM unnest(CAST(:sample_ids AS bigint[]), CAST(:first_ids AS bigint[])) AS pair (sample_id, first_id)
),

gone AS (
    DELETE FROM alchemist.distinct_images
    USING moved
    WHERE distinct_images.sample_id = moved.sample_id
)

INSERT INTO alchemist.duplicate_samples (sample_id, first_sample_id, distance, is_same_image)
SELECT
    moved.sample_id,
    moved.first_id,
    alchemist.hamming_distance(samples.perceptual_hash, firsts.perceptual_hash),
    samples.image_hash = firsts.image_hash
FROM moved
INNER JOIN alchemist.samples ON moved.sample_id = samples.sample_id
INNER JOIN alchemist.samples AS firsts ON moved.first_id = firsts.sample_id
RETURNING sample_id
