-- Purpose: Return the models and raters that may have been trained on given images: the images were among the samples from which their
--   training samples were drawn.
-- Parameters: image_hashes bytea[] (sha256 of each image's bytes).
-- One row is: a model (kind model) of a control, such as random, of a version whose snapshot has a night of a shard with such an image;
--   a model of arm full under a rater with such a snapshot; or a trained rater (kind rater) with such an image in one of its datasets.
-- Relies on: ix_samples_image_hash, ix_sample_locations_sample_id; small tables otherwise.
-- Safe to re-run: yes.
WITH holding AS MATERIALIZED (
    SELECT DISTINCT
        shards.dataset_id,
        shards.crawl_date
    FROM alchemist.samples
    INNER JOIN alchemist.sample_locations ON samples.sample_id = sample_locations.sample_id
    INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id
    WHERE samples.image_hash = ANY(CAST(:image_hashes AS bytea[]))
),

reached AS MATERIALIZED (
    SELECT DISTINCT
        rank_snapshots.snapshot_id,
        raters.name AS rater
    FROM holding
    INNER JOIN alchemist.nights ON holding.dataset_id = nights.dataset_id AND holding.crawl_date = nights.crawl_date
    INNER JOIN alchemist.rank_snapshots ON nights.night_id = ANY(rank_snapshots.night_ids)
    INNER JOIN alchemist.rank_scales ON rank_snapshots.rank_scale_id = rank_scales.rank_scale_id
    INNER JOIN alchemist.raters ON rank_scales.rater_id = raters.rater_id
)

SELECT
    'model' AS kind,
    models.checkpoint_uri AS name
FROM alchemist.models
LEFT JOIN alchemist.subsets ON models.subset_id = subsets.subset_id
WHERE
    models.arm NOT IN ('subset', 'subset+validation', 'validation')
    AND (
        subsets.snapshot_id IN (SELECT snapshot_id FROM reached)
        OR (models.arm = 'full' AND models.config ->> 'rater' IN (SELECT rater FROM reached))
    )
UNION ALL
SELECT
    'rater' AS kind,
    raters.name
FROM alchemist.raters
WHERE
    raters.kind = 'trained'
    AND EXISTS (
        SELECT FROM holding INNER JOIN alchemist.datasets ON holding.dataset_id = datasets.dataset_id
        WHERE datasets.name IN (raters.config ->> 'dataset', raters.config ->> 'validation')
    )
ORDER BY kind, name
