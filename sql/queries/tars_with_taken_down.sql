-- Purpose: Return the materialized datasets that still contain images that were taken down and must be removed.
-- Parameters: name text or null (all subsets).
-- One row is: a version whose materialized datasets contain such images, and the number of those members. Versions of a name that
--   is being materialized are left out: a later call finds what is written now.
-- Relies on: ix_samples_image_hash, pk_subset_samples (one lookup per partition).
-- Safe to re-run: yes.
SELECT
    subsets.subset_id,
    subsets.name,
    subsets.version,
    subsets.state,
    subsets.all_materialized_uris,
    count(*) AS n_taken_down
FROM alchemist.takedowns
INNER JOIN alchemist.samples ON takedowns.image_hash = samples.image_hash
INNER JOIN alchemist.subset_samples ON samples.sample_id = subset_samples.sample_id
INNER JOIN alchemist.subsets ON subset_samples.subset_id = subsets.subset_id
WHERE
    subsets.all_materialized_uris <> '{}'
    AND (CAST(:name AS text) IS NULL OR subsets.name = :name)
    AND NOT EXISTS (
        SELECT 1 FROM alchemist.runs
        WHERE runs.state = 'running' AND runs.stage = 'materialize' AND runs.config ->> 'subset' = subsets.name
    )
GROUP BY subsets.subset_id, subsets.name, subsets.version, subsets.state, subsets.all_materialized_uris
ORDER BY subsets.name, subsets.version
