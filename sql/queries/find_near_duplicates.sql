-- Purpose: Return the near-duplicates of an image, for a person to decide on.
-- Parameters: image_hash bytea (sha256 of the image's bytes), max_distance integer (bits, at most 2).
-- One row is: another image (by its bytes) within the distance, or in the same group: its hash, its distance, the number of its
--   samples, and a caption and URL of one.
-- Relies on: ix_samples_image_hash, ix_duplicate_samples_first_sample_id; reads all of distinct_images (2 s for 30 million),
--   because the group of a near-duplicate may have a first sample that is up to twice as far.
-- Safe to re-run: yes; samples that `alchemist duplicates find` has not compared yet are not found.
WITH given AS MATERIALIZED (
    SELECT DISTINCT perceptual_hash
    FROM alchemist.samples
    WHERE image_hash = :image_hash AND perceptual_hash IS NOT NULL
),

firsts AS (
    SELECT distinct_images.sample_id
    FROM given
    INNER JOIN alchemist.distinct_images
        ON alchemist.hamming_distance(distinct_images.perceptual_hash, given.perceptual_hash) <= 2 * :max_distance
),

members AS (
    SELECT firsts.sample_id FROM firsts
    UNION
    SELECT duplicate_samples.sample_id
    FROM firsts
    INNER JOIN alchemist.duplicate_samples ON firsts.sample_id = duplicate_samples.first_sample_id
)

SELECT
    samples.image_hash,
    min(alchemist.hamming_distance(samples.perceptual_hash, given.perceptual_hash)) AS distance,
    count(DISTINCT samples.sample_id) AS n_pairs,
    min(samples.caption) AS caption,
    min(samples.source_url) AS source_url
FROM members
INNER JOIN alchemist.samples ON members.sample_id = samples.sample_id AND samples.image_hash <> :image_hash
CROSS JOIN given
WHERE alchemist.hamming_distance(samples.perceptual_hash, given.perceptual_hash) <= :max_distance
GROUP BY samples.image_hash
ORDER BY distance, samples.image_hash
