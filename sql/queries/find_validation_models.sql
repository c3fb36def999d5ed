-- Purpose: Return the models that were trained on validation datasets with given images: those of the arms with validation data.
-- Parameters: image_hashes bytea[] (sha256 of each image's bytes).
-- One row is: a model of the arm validation or subset+validation, whose rater's validation dataset has such an image.
-- Relies on: ix_samples_image_hash, ix_sample_locations_sample_id.
-- Safe to re-run: yes.
WITH holding AS MATERIALIZED (
    SELECT DISTINCT datasets.name
    FROM alchemist.samples
    INNER JOIN alchemist.sample_locations ON samples.sample_id = sample_locations.sample_id
    INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id
    INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
    WHERE samples.image_hash = ANY(CAST(:image_hashes AS bytea[]))
)

SELECT models.checkpoint_uri
FROM alchemist.models
INNER JOIN alchemist.raters ON models.config ->> 'rater' = raters.name
INNER JOIN holding ON raters.config ->> 'validation' = holding.name
WHERE models.arm IN ('validation', 'subset+validation')
ORDER BY models.checkpoint_uri
