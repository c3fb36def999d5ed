-- Purpose: Return earlier nights that must run again, because uploads were in progress or shards have no scores of the production rater.
-- Parameters: dataset_ids integer[], before date (nights of earlier crawl dates).
-- One row is: a dataset and a crawl date with a growing shard, or with a verified shard that the production rater has not scored, whenever
--   it arrived: a rater that was promoted, or came back, lacks what only another one has scored. Not if a person has rejected its night.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_shard_scores, ix_shard_scores_night_id; reads all shards.
-- Safe to re-run: yes.
SELECT DISTINCT
    datasets.name AS dataset,
    shards.crawl_date
FROM alchemist.shards
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
LEFT JOIN alchemist.raters ON raters.state = 'production'
LEFT JOIN alchemist.shard_scores ON shards.shard_id = shard_scores.shard_id AND raters.rater_id = shard_scores.rater_id
WHERE
    shards.dataset_id = any(:dataset_ids)
    AND shards.crawl_date < :before
    AND (
        shards.state = 'growing'
        OR (
            shards.state = 'verified'
            AND raters.rater_id IS NOT NULL
            AND shard_scores.shard_id IS NULL
            AND NOT EXISTS (
                SELECT 1
                FROM alchemist.shard_scores AS of_rejected
                INNER JOIN alchemist.nights ON of_rejected.night_id = nights.night_id
                WHERE of_rejected.shard_id = shards.shard_id AND nights.state = 'rejected'
            )
        )
    )
ORDER BY datasets.name, shards.crawl_date
