-- Purpose: what the suite `samples` looks at: every location of a night, good or set aside at ingest.
-- Parameters: dataset text or null (every training dataset), crawl_date date or null (any date).
-- One row is: a location in a verified shard; the pair's columns are null where it was set aside.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_sample_locations, uq_quarantined_samples_shard_id_ordinal_rater_id, pk_samples.
-- Safe to re-run: yes.
WITH night AS (
    SELECT shards.shard_id
    FROM alchemist.shards
    INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
    WHERE
        shards.state = 'verified'
        AND coalesce(datasets.name = CAST(:dataset AS text), datasets.role = 'train')
        AND (CAST(:crawl_date AS date) IS NULL OR shards.crawl_date = :crawl_date)
)

SELECT
    0 AS is_quarantined,
    char_length(btrim(samples.caption)) AS caption_length,
    least(samples.width, samples.height) AS short_side,
    samples.width::float8 / samples.height AS aspect_ratio
FROM night
INNER JOIN alchemist.sample_locations ON night.shard_id = sample_locations.shard_id
INNER JOIN alchemist.samples ON sample_locations.sample_id = samples.sample_id
UNION ALL
SELECT
    1 AS is_quarantined,
    NULL AS caption_length,
    NULL AS short_side,
    NULL AS aspect_ratio
FROM night
INNER JOIN alchemist.quarantined_samples ON night.shard_id = quarantined_samples.shard_id
WHERE quarantined_samples.rater_id IS NULL
