-- Purpose: Count the quarantined locations of nights by reason, with the shard that has most of them.
-- Parameters: datasets text[], crawl_dates date[] (of the same length: a night each).
-- One row is: a reason in a night, the number of its locations under any rater, and the shard with most of them.
-- Relies on: ix_shards_dataset_id_crawl_date, uq_quarantined_samples_shard_id_ordinal_rater_id.
-- Safe to re-run: yes.
WITH asked AS (
    SELECT * FROM unnest(CAST(:datasets AS text[]), CAST(:crawl_dates AS date[])) AS night (dataset, crawl_date)
),

counted AS (
    SELECT
        asked.dataset,
        asked.crawl_date,
        shards.shard_id,
        quarantined_samples.reason,
        count(DISTINCT quarantined_samples.ordinal) AS n_locations
    FROM asked
    INNER JOIN alchemist.datasets ON asked.dataset = datasets.name
    INNER JOIN alchemist.shards
        ON datasets.dataset_id = shards.dataset_id AND asked.crawl_date = shards.crawl_date
    INNER JOIN alchemist.quarantined_samples ON shards.shard_id = quarantined_samples.shard_id
    WHERE shards.state NOT IN ('retired', 'superseded')
    GROUP BY asked.dataset, asked.crawl_date, shards.shard_id, quarantined_samples.reason
)

SELECT
    dataset,
    crawl_date,
    reason,
    sum(n_locations)::bigint AS n_locations,
    (array_agg(shard_id ORDER BY n_locations DESC, shard_id ASC))[1] AS shard_id
FROM counted
GROUP BY dataset, crawl_date, reason
ORDER BY dataset ASC, crawl_date ASC, n_locations DESC, reason ASC
