-- Purpose: Return the first readable location of each member of a subset; images that were taken down are left out.
-- Parameters: none; reads the temporary table wanted (number integer, pair_hash bytea).
-- One row is: a wanted sample's number and its first readable location; samples without one are absent.
-- Relies on: live_locations; uq_samples_pair_hash, ix_sample_locations_sample_id, pk_shards, uq_takedowns_image_hash.
-- Safe to re-run: yes; ordered by number. It reads no captions and no addresses: 15 million of them would be sorted too.
SELECT DISTINCT ON (wanted.number)
    wanted.number,
    live_locations.shard_id,
    live_locations.ordinal,
    live_locations.key,
    live_locations.file_exts,
    live_locations.file_offsets,
    live_locations.file_sizes,
    live_locations.content_hash,
    live_locations.content_checksum,
    live_locations.repair
FROM wanted
INNER JOIN alchemist.live_locations ON wanted.pair_hash = live_locations.pair_hash
ORDER BY wanted.number, live_locations.shard_id, live_locations.ordinal
