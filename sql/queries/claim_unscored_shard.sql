-- Purpose: Return the next shard that a rater has not scored and that no live lease protects, locked.
-- Parameters: rater_id integer, dataset_ids integer[], crawl_date date or null (any date), skipped_ids bigint[] (shards that this
--   run could not read).
-- One row is: a shard, locked until the transaction ends; none when no shard is free.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_shard_scores, pk_leases.
-- Safe to re-run: yes, it changes nothing; the claim is the lease that the same transaction writes.
SELECT shards.shard_id
FROM alchemist.shards
LEFT JOIN alchemist.shard_scores
    ON shards.shard_id = shard_scores.shard_id AND shard_scores.rater_id = :rater_id
LEFT JOIN alchemist.leases
    ON
        leases.resource = 'shard:' || :rater_id || ':' || shards.shard_id
        AND alchemist.is_live_lease(leases.expires_at)
WHERE
    shards.state = 'verified'
    AND shards.dataset_id = ANY(:dataset_ids)
    AND (CAST(:crawl_date AS date) IS NULL OR shards.crawl_date = :crawl_date)
    AND shard_scores.shard_id IS NULL
    AND shards.shard_id <> ALL(CAST(:skipped_ids AS bigint[]))
    AND leases.resource IS NULL
ORDER BY shards.shard_id
LIMIT 1
-- NO KEY: a ledger row that commits references its shard, and must not wait for a claim that waits for the row's lease.
FOR NO KEY UPDATE OF shards SKIP LOCKED
