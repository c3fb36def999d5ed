-- Purpose: a night's shards as a user's own suite of expectations sees them. Ask with WHERE dataset = … AND crawl_date = ….
-- One row is: a shard that was read, good or rejected; n_quarantined counts what ingest quarantined in it.
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
