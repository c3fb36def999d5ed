-- Purpose: where a pair can be read now; its first live location, by shard_id and ordinal, is the one that stages read.
-- One row is: a location in a verified shard of a dataset that was not removed, of a pair whose picture was not taken down.
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
    sample_locations.member_exts,
    sample_locations.member_offsets,
    sample_locations.member_sizes,
    sample_locations.content_hash,
    sample_locations.repair
FROM alchemist.samples
INNER JOIN alchemist.sample_locations ON samples.sample_id = sample_locations.sample_id
INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id AND shards.state = 'verified'
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id AND datasets.removed_at IS NULL
WHERE NOT EXISTS (SELECT 1 FROM alchemist.takedowns WHERE takedowns.image_hash = samples.image_hash);
