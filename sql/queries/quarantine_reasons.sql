-- Purpose: Count quarantined locations by reason, for the report.
-- Parameters: dataset text or null (every training dataset that is not removed).
-- One row is: a reason at a stage, the number of locations whose newest quarantine row it is in, under any rater, and the detail of one of them.
-- Relies on: pk_shards, pk_datasets; reads the whole quarantine, which is small beside the samples.
-- Safe to re-run: yes.
WITH newest AS (
    -- Each rater has a row of its own, and may give another reason.
    SELECT DISTINCT ON (quarantined_samples.shard_id, quarantined_samples.ordinal)
        quarantined_samples.reason,
        quarantined_samples.stage,
        quarantined_samples.detail
    FROM alchemist.quarantined_samples
    INNER JOIN alchemist.shards ON quarantined_samples.shard_id = shards.shard_id
    INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
    WHERE
        datasets.role = 'train' AND datasets.removed_at IS NULL
        AND (CAST(:dataset AS text) IS NULL OR datasets.name = :dataset)
        AND shards.state NOT IN ('retired', 'superseded')
    ORDER BY quarantined_samples.shard_id ASC, quarantined_samples.ordinal ASC, quarantined_samples.quarantine_id DESC
)

SELECT
    newest.reason,
    newest.stage,
    count(*) AS n_locations,
    min(newest.detail) AS example
FROM newest
GROUP BY newest.reason, newest.stage
ORDER BY n_locations DESC, newest.reason ASC
