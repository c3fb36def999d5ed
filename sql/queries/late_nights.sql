-- Purpose: Return earlier nights that must run again because shards arrived late: uploads that were in progress, or shards not
--   scored yet.
-- Parameters: dataset_ids integer[], before date (nights of earlier crawl dates).
-- One row is: a dataset and a crawl date with a growing shard, or with a verified shard that the production rater has not scored
--   although it has a night of that date or was in production when the shard arrived. A new rater scores all other dates anyway.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_shard_scores, uq_nights_dataset_id_crawl_date_rater_id_revision; reads all shards.
-- Safe to re-run: yes.
SELECT DISTINCT
    datasets.name AS dataset,
    shards.crawl_date
FROM alchemist.shards
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
LEFT JOIN alchemist.raters ON raters.state = 'production'
WHERE
    shards.dataset_id = any(:dataset_ids)
    AND shards.crawl_date < :before
    AND (
        shards.state = 'growing'
        OR (
            shards.state = 'verified'
            AND NOT EXISTS (
                SELECT 1
                FROM alchemist.shard_scores
                WHERE shard_scores.shard_id = shards.shard_id AND shard_scores.rater_id = raters.rater_id
            )
            AND (
                shards.created_at > raters.promoted_at
                OR EXISTS (
                    SELECT 1
                    FROM alchemist.nights
                    WHERE
                        nights.dataset_id = shards.dataset_id
                        AND nights.crawl_date = shards.crawl_date
                        AND nights.rater_id = raters.rater_id
                )
            )
        )
    )
ORDER BY datasets.name, shards.crawl_date
