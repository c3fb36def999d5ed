-- Purpose: move new pairs that look like an earlier one from the first pairs to the duplicates.
-- Parameters: sample_ids and first_ids bigint[], aligned: a pair, and the first pair that it stands behind.
-- One row is: a pair that was moved.
-- Relies on: pk_distinct_images, pk_samples.
-- Safe to re-run: no, a pair is moved once; it runs in the transaction that registered the new pairs.
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
