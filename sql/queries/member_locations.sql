-- Purpose: where the bytes of a subset's members lie now: the first live location of each, taken-down images left out.
-- Parameters: none; reads the temporary table wanted (number integer, pair_hash bytea).
-- One row is: a wanted pair's number and its first live location; a pair without one is absent.
-- Relies on: live_locations; uq_samples_pair_hash, ix_sample_locations_sample_id, pk_shards, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by number. Of 15 million members no text is read: it is sorted with them.
SELECT DISTINCT ON (wanted.number)
    wanted.number,
    live_locations.root_uri,
    live_locations.uri,
    live_locations.key,
    live_locations.file_exts,
    live_locations.file_offsets,
    live_locations.file_sizes,
    live_locations.content_hash,
    live_locations.repair
FROM wanted
INNER JOIN alchemist.live_locations ON wanted.pair_hash = live_locations.pair_hash
ORDER BY wanted.number, live_locations.shard_id, live_locations.ordinal
