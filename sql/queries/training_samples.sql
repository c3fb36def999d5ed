-- Purpose: Return the distinct readable samples of a dataset; images that were taken down are left out.
-- Parameters: dataset_id integer, max_samples integer or null (all).
-- One row is: a sample with its first readable location.
-- Relies on: live_locations; ix_shards_dataset_id_crawl_date, pk_sample_locations, pk_samples, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by pair_hash, so that the same data gives the same rows on every machine.
SELECT DISTINCT ON (live_locations.pair_hash) live_locations.*
FROM alchemist.live_locations
WHERE live_locations.dataset_id = :dataset_id
ORDER BY live_locations.pair_hash, live_locations.shard_id, live_locations.ordinal
LIMIT :max_samples
