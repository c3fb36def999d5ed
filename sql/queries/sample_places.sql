-- Purpose: Return where the bytes of a sample are, and what happened to it there.
-- Parameters: sample_id bigint, rater_id integer or null (whose nights and quarantine; null: only the quarantine of ingest).
-- One row is: a location of the sample, in any state of its shard, at most 50; the newest first. night_state is that of the revision
--   of its night in which the record was scored, by a retry or with its shard, or quarantined (null: not scored); quarantine_reason
--   why the record has no score by the rater.
-- Relies on: ix_sample_locations_sample_id, pk_shards, pk_datasets, pk_shard_scores, pk_retried_samples, pk_nights,
--   uq_quarantined_samples_shard_id_ordinal_rater_id.
-- Safe to re-run: yes.
SELECT
    datasets.name AS dataset,
    datasets.role,
    shards.crawl_date,
    shards.shard_id,
    shards.uri,
    shards.state,
    sample_locations.key,
    sample_locations.repair,
    nights.state AS night_state,
    nights.reason AS night_reason,
    quarantined_samples.reason AS quarantine_reason,
    quarantined_samples.detail AS quarantine_detail
FROM alchemist.sample_locations
INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
LEFT JOIN alchemist.shard_scores
    ON shards.shard_id = shard_scores.shard_id AND shard_scores.rater_id = CAST(:rater_id AS integer)
LEFT JOIN alchemist.retried_samples
    ON
        sample_locations.shard_id = retried_samples.shard_id
        AND sample_locations.ordinal = retried_samples.ordinal
        AND retried_samples.rater_id = CAST(:rater_id AS integer)
LEFT JOIN alchemist.nights ON coalesce(retried_samples.night_id, shard_scores.night_id) = nights.night_id
LEFT JOIN alchemist.quarantined_samples
    ON
        sample_locations.shard_id = quarantined_samples.shard_id
        AND sample_locations.ordinal = quarantined_samples.ordinal
        AND coalesce(quarantined_samples.rater_id = CAST(:rater_id AS integer), quarantined_samples.rater_id IS NULL)
WHERE sample_locations.sample_id = CAST(:sample_id AS bigint)
ORDER BY sample_locations.shard_id DESC, sample_locations.ordinal DESC
LIMIT 50
