-- Purpose: Return why the record at a location was quarantined.
-- Parameters: dataset text, place text (SHARD/KEY in it).
-- One row is: a quarantine row of the location, by ingest or by scoring; the newest first.
-- Relies on: uq_shards_dataset_id_uri, uq_quarantined_samples_shard_id_ordinal_rater_id.
-- Safe to re-run: yes.
SELECT
    quarantined_samples.reason,
    quarantined_samples.detail,
    quarantined_samples.stage,
    shards.uri
FROM alchemist.datasets
INNER JOIN alchemist.shards ON datasets.dataset_id = shards.dataset_id
INNER JOIN alchemist.quarantined_samples ON shards.shard_id = quarantined_samples.shard_id
WHERE
    datasets.name = CAST(:dataset AS text)
    AND starts_with(CAST(:place AS text), shards.uri || '/')
    AND quarantined_samples.key = substr(CAST(:place AS text), char_length(shards.uri) + 2)
ORDER BY quarantined_samples.quarantine_id DESC
