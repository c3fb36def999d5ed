-- Purpose: Return the shards of a night for your own quality checks. Filter by dataset and crawl_date.
-- One row is: a shard that was read, readable or rejected; n_quarantined counts the records that ingest quarantined.
-- Relies on: uq_datasets_name, ix_shards_dataset_id_crawl_date, uq_quarantined_samples_shard_id_ordinal_rater_id.
CREATE VIEW alchemist.crawled_shards AS
SELECT
    datasets.name AS dataset,
    shards.crawl_date,
    shards.shard_id,
    shards.uri,
    shards.state,
    shards.rejected_reason,
    shards.size_bytes,
    shards.n_samples,
    (
        SELECT count(*)
        FROM alchemist.quarantined_samples
        WHERE quarantined_samples.shard_id = shards.shard_id AND quarantined_samples.rater_id IS NULL
    ) AS n_quarantined
FROM alchemist.datasets
INNER JOIN alchemist.shards ON datasets.dataset_id = shards.dataset_id
WHERE shards.state IN ('registered', 'verified', 'rejected');

COMMENT ON VIEW alchemist.crawled_shards IS 'Shards of each night as quality checks see them, readable and rejected. Filter by dataset and crawl_date';
COMMENT ON COLUMN alchemist.crawled_shards.dataset IS 'Name of the dataset';
COMMENT ON COLUMN alchemist.crawled_shards.crawl_date IS 'Date of the crawl';
COMMENT ON COLUMN alchemist.crawled_shards.shard_id IS 'Key of the shard';
COMMENT ON COLUMN alchemist.crawled_shards.uri IS 'Address of the shard, relative to the root of its dataset';
COMMENT ON COLUMN alchemist.crawled_shards.state IS 'registered, verified or rejected';
COMMENT ON COLUMN alchemist.crawled_shards.rejected_reason IS 'Why the tar was rejected';
COMMENT ON COLUMN alchemist.crawled_shards.size_bytes IS 'Size of the file in bytes';
COMMENT ON COLUMN alchemist.crawled_shards.n_samples IS 'Number of records found in the tar, readable and quarantined';
COMMENT ON COLUMN alchemist.crawled_shards.n_quarantined IS 'Number of records that ingest quarantined';
