-- Purpose: where the bytes of given pairs lie now: the first live location of each, taken-down images left out.
-- Parameters: none; reads the temporary table wanted (pair_hash bytea).
-- One row is: a wanted pair with its first live location; a pair without one is absent.
-- Relies on: live_locations; uq_samples_pair_hash, ix_sample_locations_sample_id, pk_shards, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by pair_hash.
SELECT DISTINCT ON (live_locations.pair_hash) live_locations.*
FROM wanted
INNER JOIN alchemist.live_locations ON wanted.pair_hash = live_locations.pair_hash
ORDER BY live_locations.pair_hash, live_locations.shard_id, live_locations.ordinal
