-- Purpose: Return those of given samples that a blind comparison can show: members of a subset version, or, for its random
--   counterpart, samples that it could have been selected from.
-- Parameters: sample_ids bigint[] (drawn at random), subset_id integer or null (its members; null: scored samples), rater_id integer
--   and dataset_names text[] (whose scored samples).
-- One row is: such a sample, with an image that can be read now.
-- Relies on: the version's partition of pk_subset_samples, the rater's of pk_scores, ix_sample_locations_sample_id: a few rows for
--   each given sample, independent of the size of the corpus.
-- Safe to re-run: yes.
SELECT wanted.sample_id
FROM unnest(CAST(:sample_ids AS bigint[])) AS wanted (sample_id)
WHERE
    EXISTS (
        SELECT 1
        FROM alchemist.live_locations
        INNER JOIN alchemist.datasets ON live_locations.dataset_id = datasets.dataset_id
        WHERE live_locations.sample_id = wanted.sample_id AND datasets.name = ANY(CAST(:dataset_names AS text[]))
    )
    AND CASE
        WHEN CAST(:subset_id AS integer) IS NULL
            THEN
                EXISTS (
                    SELECT 1
                    FROM alchemist.scores
                    WHERE scores.rater_id = CAST(:rater_id AS integer) AND scores.sample_id = wanted.sample_id
                )
        ELSE EXISTS (
            SELECT 1
            FROM alchemist.subset_samples
            WHERE subset_samples.subset_id = CAST(:subset_id AS integer) AND subset_samples.sample_id = wanted.sample_id
        )
    END
ORDER BY wanted.sample_id
