-- Purpose: Return those of given samples that are members of a subset version and can be shown.
-- Parameters: sample_ids bigint[] (drawn at random), subset_id integer.
-- One row is: such a sample, with an image that can be read now, in any dataset.
-- Relies on: the version's partition of pk_subset_samples, ix_sample_locations_sample_id: a few rows for each given sample,
--   independent of the size of the corpus.
-- Safe to re-run: yes.
SELECT wanted.sample_id
FROM unnest(CAST(:sample_ids AS bigint[])) AS wanted (sample_id)
WHERE
    EXISTS (SELECT 1 FROM alchemist.live_locations WHERE live_locations.sample_id = wanted.sample_id)
    AND EXISTS (
        SELECT 1
        FROM alchemist.subset_samples
        WHERE subset_samples.subset_id = CAST(:subset_id AS integer) AND subset_samples.sample_id = wanted.sample_id
    )
ORDER BY wanted.sample_id
