-- Purpose: Return the typical size of a dataset's images, to compare it with the resolution that a rater reads.
-- Parameters: dataset_id integer.
-- One row is: the median of the shorter side in pixels, null without samples, over the first 100 records of each of 100 shards.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_sample_locations, pk_samples.
-- Safe to re-run: yes; shards are chosen by the hash of their address, so that the same data gives the same rows.
WITH chosen AS (
    SELECT shard_id
    FROM alchemist.shards
    WHERE dataset_id = :dataset_id AND state = 'verified'
    ORDER BY md5(uri), shard_id
    LIMIT 100
)

SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY least(samples.width, samples.height)) AS median_side
FROM chosen
INNER JOIN alchemist.sample_locations ON chosen.shard_id = sample_locations.shard_id AND sample_locations.ordinal < 100
INNER JOIN alchemist.samples ON sample_locations.sample_id = samples.sample_id
