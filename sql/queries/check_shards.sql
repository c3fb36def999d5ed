-- Purpose: Return every shard of a night and the number of its records, for the suite `shards`.
-- Parameters: dataset text or null (every training dataset), crawl_date date or null (any date).
-- One row is: a shard that was read, readable or rejected; n_accounted is counted from its locations and quarantine rows.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_sample_locations, uq_quarantined_samples_shard_id_ordinal_rater_id.
-- Safe to re-run: yes.
SELECT
    shards.uri,
    shards.state,
    (shards.state = 'rejected')::integer AS is_rejected,
    shards.n_samples,
    CASE
        WHEN shards.state <> 'verified' THEN shards.n_samples
        ELSE (
            SELECT count(*)
            FROM alchemist.sample_locations
            WHERE sample_locations.shard_id = shards.shard_id
        ) + (
            SELECT count(*)
            FROM alchemist.quarantined_samples
            WHERE quarantined_samples.shard_id = shards.shard_id AND quarantined_samples.rater_id IS NULL
        )
    END AS n_accounted
FROM alchemist.shards
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
WHERE
    shards.state IN ('registered', 'verified', 'rejected')
    AND coalesce(datasets.name = CAST(:dataset AS text), datasets.role = 'train')
    AND (CAST(:crawl_date AS date) IS NULL OR shards.crawl_date = :crawl_date)
ORDER BY shards.shard_id
