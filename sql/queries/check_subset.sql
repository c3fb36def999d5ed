-- Purpose: Count what is wrong with the members of a manifest now: taken down, from evaluation data, or not in the store; for the
--   suite `subset`.
-- Parameters: subset_id integer; reads the temporary table wanted (number integer, pair_hash bytea).
-- One row is: the version; n_not_stored is null unless the version is published or has members in the store, because garbage
--   collection removes those of other versions.
-- Relies on: uq_samples_pair_hash, ix_samples_image_hash, uq_takedowns_image_hash, ix_sample_locations_sample_id,
--   pk_subset_samples.
-- Safe to re-run: yes.
WITH members AS (
    SELECT
        EXISTS(SELECT 1 FROM alchemist.takedowns WHERE takedowns.image_hash = samples.image_hash) AS is_taken_down,
        EXISTS(
            SELECT 1
            FROM alchemist.sample_locations
            INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id
            INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
            INNER JOIN alchemist.subsets ON subsets.subset_id = :subset_id
            INNER JOIN alchemist.rank_snapshots ON subsets.snapshot_id = rank_snapshots.snapshot_id
            WHERE
                sample_locations.sample_id = samples.sample_id
                AND datasets.role = 'train'
                AND datasets.name = ANY(rank_snapshots.dataset_names)
        ) AS is_of_training_data,
        EXISTS(
            SELECT 1
            FROM alchemist.samples AS twins
            INNER JOIN alchemist.sample_locations ON twins.sample_id = sample_locations.sample_id
            INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id
            INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
            WHERE twins.image_hash = samples.image_hash AND datasets.role = 'evaluation'
        ) AS is_of_evaluation_data,
        CASE
            WHEN
                (SELECT subsets.state FROM alchemist.subsets WHERE subsets.subset_id = :subset_id) = 'published'
                OR EXISTS (SELECT 1 FROM alchemist.subset_samples WHERE subset_samples.subset_id = :subset_id)
                THEN EXISTS (
                    SELECT 1
                    FROM alchemist.subset_samples
                    WHERE subset_samples.subset_id = :subset_id AND subset_samples.sample_id = samples.sample_id
                )
        END AS is_stored
    FROM wanted
    LEFT JOIN alchemist.samples ON wanted.pair_hash = samples.pair_hash
)

SELECT
    count(*) AS n_members,
    count(*) FILTER (WHERE is_taken_down) AS n_taken_down,
    count(*) FILTER (WHERE NOT is_of_training_data) AS n_not_of_training_data,
    count(*) FILTER (WHERE is_of_evaluation_data) AS n_of_evaluation_data,
    CASE WHEN count(is_stored) > 0 THEN count(*) FILTER (WHERE NOT is_stored) END AS n_not_stored
FROM members
