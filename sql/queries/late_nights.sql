-- Purpose: Return earlier nights that must run again, because uploads were in progress or shards lack scores.
-- Parameters: dataset_ids integer[], before date (nights of earlier crawl dates).
-- One row is: a dataset and a crawl date with a growing shard, or with a verified shard that a rater has not scored and no person rejected last:
--   the production rater, whenever the shard arrived; a shadow rater or a nightly scorer, if the shard arrived between the time since
--   when it scores every night and its last scores of the dataset: the past is not its task, and one that is broken is not asked again
--   before it works.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_shard_scores, ix_shard_scores_night_id; reads all shards and the ledger of these raters.
-- Safe to re-run: yes.
WITH nightly AS (
    SELECT
        raters.rater_id,
        raters.state = 'production' AS is_production,
        greatest(raters.created_at, max(began.happened_at)) AS began_at
    FROM alchemist.raters
    LEFT JOIN alchemist.audit_events AS began
        ON began.action = 'shadow' AND began.subject = 'rater ' || raters.name
    WHERE
        raters.kind <> 'imported'
        AND (raters.state = 'production' OR (raters.state = 'candidate' AND raters.is_shadow))
    GROUP BY raters.rater_id
),

worked AS (
    SELECT
        shard_scores.rater_id,
        shards.dataset_id,
        max(shard_scores.scored_at) AS worked_at
    FROM nightly
    INNER JOIN alchemist.shard_scores ON nightly.rater_id = shard_scores.rater_id
    INNER JOIN alchemist.shards ON shard_scores.shard_id = shards.shard_id
    WHERE NOT nightly.is_production
    GROUP BY shard_scores.rater_id, shards.dataset_id
),

late AS (
    SELECT shards.dataset_id, shards.crawl_date
    FROM alchemist.shards
    WHERE shards.state = 'growing'
    UNION
    SELECT shards.dataset_id, shards.crawl_date
    FROM alchemist.shards
    CROSS JOIN nightly
    LEFT JOIN worked ON nightly.rater_id = worked.rater_id AND shards.dataset_id = worked.dataset_id
    LEFT JOIN alchemist.shard_scores ON nightly.rater_id = shard_scores.rater_id AND shards.shard_id = shard_scores.shard_id
    WHERE
        shards.state = 'verified'
        AND shard_scores.shard_id IS NULL
        AND (nightly.is_production OR shards.created_at BETWEEN nightly.began_at AND worked.worked_at)
        AND shards.shard_id NOT IN (SELECT decided_shards.shard_id FROM alchemist.decided_shards WHERE decided_shards.state = 'rejected')
)

SELECT
    datasets.name AS dataset,
    late.crawl_date
FROM late
INNER JOIN alchemist.datasets ON late.dataset_id = datasets.dataset_id
WHERE late.dataset_id = any(:dataset_ids) AND late.crawl_date < :before
ORDER BY datasets.name, late.crawl_date
