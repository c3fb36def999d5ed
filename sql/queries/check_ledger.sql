-- Purpose: Return for every shard of a night whether the production rater has scored it and whether its counts add up, for the
--   suite `scores`.
-- Parameters: dataset text or null (every training dataset), crawl_date date or null (any date).
-- One row is: a verified shard; n_accounted is recounted from scores and quarantine rows. No rows without a production rater.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_shard_scores, pk_sample_locations, pk_scores.
-- Safe to re-run: yes.
SELECT
    shards.uri,
    shard_scores.shard_id IS NOT NULL AS is_scored,
    shards.n_samples,
    CASE
        WHEN shard_scores.shard_id IS NULL THEN shards.n_samples
        ELSE (
            SELECT count(*)
            FROM alchemist.sample_locations
            INNER JOIN alchemist.scores
                ON sample_locations.sample_id = scores.sample_id AND scores.rater_id = raters.rater_id
            WHERE
                sample_locations.shard_id = shards.shard_id
                AND NOT EXISTS (
                    SELECT 1
                    FROM alchemist.quarantined_samples
                    WHERE
                        quarantined_samples.shard_id = shards.shard_id
                        AND quarantined_samples.ordinal = sample_locations.ordinal
                        AND quarantined_samples.rater_id = raters.rater_id
                )
        ) + (
            SELECT count(*)
            FROM alchemist.quarantined_samples
            WHERE
                quarantined_samples.shard_id = shards.shard_id
                AND (quarantined_samples.rater_id IS NULL OR quarantined_samples.rater_id = raters.rater_id)
        )
    END AS n_accounted
FROM alchemist.shards
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
INNER JOIN alchemist.raters ON raters.state = 'production'
LEFT JOIN alchemist.shard_scores ON shards.shard_id = shard_scores.shard_id AND raters.rater_id = shard_scores.rater_id
WHERE
    shards.state = 'verified'
    AND coalesce(datasets.name = CAST(:dataset AS text), datasets.role = 'train')
    AND (CAST(:crawl_date AS date) IS NULL OR shards.crawl_date = :crawl_date)
ORDER BY shards.shard_id
