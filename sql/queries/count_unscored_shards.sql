-- Purpose: Count the shards that a rater has not scored yet.
-- Parameters: rater_id integer, dataset_ids integer[], crawl_date date or null (any date), skipped_ids bigint[] (shards that this
--   run could not read).
-- One row is: n_shards and n_samples not scored yet, leased or not.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_shard_scores.
-- Safe to re-run: yes.
SELECT
    count(*) AS n_shards,
    coalesce(sum(shards.n_samples), 0)::bigint AS n_samples
FROM alchemist.shards
LEFT JOIN alchemist.shard_scores
    ON shards.shard_id = shard_scores.shard_id AND shard_scores.rater_id = :rater_id
WHERE
    shards.state = 'verified'
    AND shards.dataset_id = ANY(:dataset_ids)
    AND (CAST(:crawl_date AS date) IS NULL OR shards.crawl_date = :crawl_date)
    AND shard_scores.shard_id IS NULL
    AND shards.shard_id <> all(CAST(:skipped_ids AS bigint[]))
