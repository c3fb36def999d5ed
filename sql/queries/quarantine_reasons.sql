-- Purpose: Count quarantined locations by reason, for the report.
-- Parameters: dataset text or null (every training dataset).
-- One row is: a reason at a stage, the number of its locations under any rater, and the detail of one of them.
-- Relies on: pk_shards, pk_datasets; reads the whole quarantine, which is small beside the samples.
-- Safe to re-run: yes.
SELECT
    quarantined_samples.reason,
    quarantined_samples.stage,
    count(DISTINCT row(quarantined_samples.shard_id, quarantined_samples.ordinal)) AS n_locations,
    min(quarantined_samples.detail) AS example
FROM alchemist.quarantined_samples
INNER JOIN alchemist.shards ON quarantined_samples.shard_id = shards.shard_id
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
WHERE
    datasets.role = 'train'
    AND (CAST(:dataset AS text) IS NULL OR datasets.name = :dataset)
    AND shards.state NOT IN ('retired', 'superseded')
GROUP BY quarantined_samples.reason, quarantined_samples.stage
ORDER BY n_locations DESC, quarantined_samples.reason ASC
