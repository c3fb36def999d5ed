-- Purpose: Return the stored subset versions that contain given images, and the models trained on them.
-- Parameters: image_hashes bytea[] (sha256 of each image's bytes).
-- One row is: a subset version with such a sample: the number of its samples, and its models (arms subset and subset+validation, which
--   were trained on them). Models of other arms are those of the query find_possible_models.
-- Relies on: ix_samples_image_hash, pk_subset_samples (one lookup per partition), ix_models_subset_id.
-- Safe to re-run: yes.
WITH pairs AS MATERIALIZED (
    SELECT sample_id
    FROM alchemist.samples
    WHERE image_hash = ANY(CAST(:image_hashes AS bytea[]))
),

reached AS (
    SELECT
        subset_samples.subset_id,
        count(*) AS n_members
    FROM pairs
    INNER JOIN alchemist.subset_samples ON pairs.sample_id = subset_samples.sample_id
    GROUP BY subset_samples.subset_id
)

SELECT
    subsets.name,
    subsets.version,
    subsets.state,
    reached.n_members,
    subsets.all_materialized_uris,
    coalesce(
        array_agg(models.checkpoint_uri ORDER BY models.model_id)
        FILTER (WHERE models.arm IN ('subset', 'subset+validation')), '{}'
    ) AS models
FROM reached
INNER JOIN alchemist.subsets ON reached.subset_id = subsets.subset_id
LEFT JOIN alchemist.models ON subsets.subset_id = models.subset_id
GROUP BY subsets.subset_id, subsets.name, subsets.version, subsets.state, subsets.all_materialized_uris, reached.n_members
ORDER BY subsets.name, subsets.version
