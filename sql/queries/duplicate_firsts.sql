-- Purpose: Return the first sample of each duplicate's group, for the samples that `store.night_files` gives.
-- Parameters: duplicates text (exact: samples of one image; near: its near-duplicates too), last_compared_id bigint (groups of samples
--   above it do not count).
-- One row is: a duplicate; first is the first sample of its group, 0 where it is that sample itself.
-- Relies on: pk_duplicate_samples, pk_samples, ix_samples_image_hash for near-duplicates.
-- Safe to re-run: yes; no column is null, so that arrays are read from its binary COPY. As in alchemist.candidate_samples.
SELECT
    duplicate_samples.sample_id,
    CASE
        WHEN CAST(:duplicates AS text) = 'near' OR duplicate_samples.is_same_image THEN duplicate_samples.first_sample_id
        -- Near-duplicates of one image can have the same bytes among themselves.
        ELSE coalesce(nullif(
            (SELECT min(same.sample_id) FROM alchemist.samples AS same WHERE same.image_hash = samples.image_hash),
            duplicate_samples.sample_id
        ), 0)
    END AS first
FROM alchemist.duplicate_samples
INNER JOIN alchemist.samples ON duplicate_samples.sample_id = samples.sample_id
WHERE duplicate_samples.sample_id <= CAST(:last_compared_id AS bigint)
