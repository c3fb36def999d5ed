-- Purpose: Return the samples of a dataset without an aesthetic score, a range of ids at a time; images that were taken down are
--   left out.
-- Parameters: dataset_id integer, after_id and last_id bigint.
-- One row is: a sample with its first readable location in the dataset.
-- Relies on: live_locations; pk_samples, ix_sample_locations_sample_id, pk_shards, pk_heuristic_scores, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by sample_id.
SELECT DISTINCT ON (live_locations.sample_id) live_locations.*
FROM alchemist.live_locations
LEFT JOIN alchemist.heuristic_scores ON live_locations.sample_id = heuristic_scores.sample_id
WHERE
    live_locations.sample_id > :after_id
    AND live_locations.sample_id <= :last_id
    AND live_locations.dataset_id = :dataset_id
    AND heuristic_scores.aesthetic IS NULL
ORDER BY live_locations.sample_id, live_locations.shard_id, live_locations.ordinal
