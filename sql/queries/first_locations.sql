-- Purpose: Return the first readable location of given samples; images that were taken down are left out.
-- Parameters: none; reads the temporary table wanted (number integer, pair_hash bytea).
-- One row is: a wanted sample with its first readable location; samples without one are absent.
-- Relies on: live_locations; uq_samples_pair_hash, ix_sample_locations_sample_id, pk_shards, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by pair_hash.
SELECT DISTINCT ON (live_locations.pair_hash) live_locations.*
FROM wanted
INNER JOIN alchemist.live_locations ON wanted.pair_hash = live_locations.pair_hash
ORDER BY live_locations.pair_hash, live_locations.shard_id, live_locations.ordinal
