-- Purpose: Return shards by address or id, by dataset and by state, for `alchemist shard list`.
-- Parameters: dataset text or null (any but removed ones), states text[] or null (any but superseded), subject text or null (an id, an address below
--   its root with or without the dataset before it, or a whole address).
-- One row is: a shard with its dataset and, where it is not read, the reason; records that several raters quarantined count once.
-- Relies on: pk_shards, uq_shards_dataset_id_uri; without a subject it reads all shards.
-- Safe to re-run: yes.
SELECT
    shards.shard_id,
    datasets.name AS dataset,
    datasets.root_uri,
    shards.uri,
    shards.crawl_date,
    shards.state,
    coalesce(shards.state_reason, shards.rejected_reason) AS reason,
    coalesce(shards.state_changed_at, shards.verified_at, shards.created_at) AS since,
    shards.size_bytes,
    shards.n_samples,
    shards.sha256,
    shards.verified_at,
    (
        SELECT count(DISTINCT quarantined_samples.ordinal)
        FROM alchemist.quarantined_samples
        WHERE quarantined_samples.shard_id = shards.shard_id
    ) AS n_quarantined,
    (
        SELECT count(*)
        FROM alchemist.quarantined_samples
        WHERE quarantined_samples.shard_id = shards.shard_id AND quarantined_samples.stage = 'ingest'
    ) AS n_unreadable,
    (SELECT count(*) FROM alchemist.shard_scores WHERE shard_scores.shard_id = shards.shard_id) AS n_raters
FROM alchemist.shards
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
WHERE
    (CAST(:dataset AS text) IS NULL OR datasets.name = :dataset)
    AND (datasets.removed_at IS NULL OR CAST(:dataset AS text) IS NOT NULL OR CAST(:subject AS text) IS NOT NULL)
    AND coalesce(shards.state = ANY(CAST(:states AS text[])), shards.state <> 'superseded')
    AND (
        CAST(:subject AS text) IS NULL
        OR shards.shard_id::text = :subject
        OR shards.uri = :subject
        OR datasets.name || '/' || shards.uri = :subject
        OR rtrim(datasets.root_uri, '/') || '/' || shards.uri = :subject
    )
ORDER BY datasets.name, shards.crawl_date, shards.uri, shards.shard_id
