-- Purpose: Return where samples can be read now; stages read the first location of a sample by shard_id and ordinal.
-- One row is: a location in a verified shard of a dataset in use, of a sample whose image was not taken down.
-- Relies on: ix_sample_locations_sample_id, pk_sample_locations, pk_samples, pk_shards, pk_datasets, uq_takedowns_image_hash; planned as
-- part of the query that asks.
CREATE VIEW alchemist.live_locations AS
SELECT
    samples.sample_id,
    samples.pair_hash,
    samples.image_hash,
    samples.perceptual_hash,
    samples.caption,
    datasets.dataset_id,
    datasets.root_uri,
    shards.shard_id,
    shards.uri,
    sample_locations.ordinal,
    sample_locations.key,
    sample_locations.file_exts,
    sample_locations.file_offsets,
    sample_locations.file_sizes,
    sample_locations.content_hash,
    sample_locations.repair,
    sample_locations.content_checksum
FROM alchemist.samples
INNER JOIN alchemist.sample_locations ON samples.sample_id = sample_locations.sample_id
INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id AND shards.state = 'verified'
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id AND datasets.removed_at IS NULL
WHERE NOT EXISTS (SELECT 1 FROM alchemist.takedowns WHERE takedowns.image_hash = samples.image_hash);

COMMENT ON VIEW alchemist.live_locations IS 'Locations from which samples can be read now: verified shards of datasets in use, no image that was taken down';
COMMENT ON COLUMN alchemist.live_locations.sample_id IS 'Key of the sample';
COMMENT ON COLUMN alchemist.live_locations.pair_hash IS 'sha256 over image hash and caption hash (32 bytes): the identity of the sample';
COMMENT ON COLUMN alchemist.live_locations.image_hash IS 'sha256 of the image file (32 bytes)';
COMMENT ON COLUMN alchemist.live_locations.perceptual_hash IS '64-bit perceptual hash of the image';
COMMENT ON COLUMN alchemist.live_locations.caption IS 'Caption';
COMMENT ON COLUMN alchemist.live_locations.dataset_id IS 'Key of the dataset';
COMMENT ON COLUMN alchemist.live_locations.root_uri IS 'Folder or object-store prefix of the dataset';
COMMENT ON COLUMN alchemist.live_locations.shard_id IS 'Key of the shard';
COMMENT ON COLUMN alchemist.live_locations.uri IS 'Address of the shard, relative to root_uri';
COMMENT ON COLUMN alchemist.live_locations.ordinal IS 'Position of the record in its shard, from 0';
COMMENT ON COLUMN alchemist.live_locations.key IS 'Name of the record';
COMMENT ON COLUMN alchemist.live_locations.file_exts IS 'Extensions of the record''s files';
COMMENT ON COLUMN alchemist.live_locations.file_offsets IS 'Offset of each file in the tar, in bytes';
COMMENT ON COLUMN alchemist.live_locations.file_sizes IS 'Size of each file in bytes';
COMMENT ON COLUMN alchemist.live_locations.content_hash IS 'sha256 over all files of the record (32 bytes); null for records ingested by older versions';
COMMENT ON COLUMN alchemist.live_locations.repair IS 'What was repaired at ingest; null where nothing was';
COMMENT ON COLUMN alchemist.live_locations.content_checksum IS 'XXH3-128 over all files of the record (16 bytes); null for records of older versions until they are copied';
