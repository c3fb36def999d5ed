-- Purpose: Return the first location that each member of a subset ever had, readable or not: an order of the members that never changes.
-- Parameters: none; reads the temporary table wanted (number integer, pair_hash bytea).
-- One row is: a wanted sample's number, and its first shard and position in it.
-- Relies on: uq_samples_pair_hash, ix_sample_locations_sample_id.
-- Safe to re-run: yes; ordered by number.
SELECT DISTINCT ON (wanted.number)
    wanted.number,
    sample_locations.shard_id,
    sample_locations.ordinal
FROM wanted
INNER JOIN alchemist.samples ON wanted.pair_hash = samples.pair_hash
INNER JOIN alchemist.sample_locations ON samples.sample_id = sample_locations.sample_id
ORDER BY wanted.number, sample_locations.shard_id, sample_locations.ordinal
