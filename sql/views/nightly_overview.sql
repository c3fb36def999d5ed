-- Purpose: Return the status of each night: is it complete, and what did it bring?
-- One row is: a crawl date of a training dataset with shards, a night or a check, under the production rater.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_shard_scores, uq_quarantined_samples_shard_id_ordinal_rater_id, decided_shards.
CREATE VIEW alchemist.nightly_overview AS
WITH production AS (SELECT rater_id FROM alchemist.raters WHERE state = 'production'),

dated AS (
    SELECT dataset_id, crawl_date FROM alchemist.shards
    UNION
    SELECT dataset_id, crawl_date FROM alchemist.nights
    UNION
    SELECT datasets.dataset_id, check_results.crawl_date FROM alchemist.check_results
    INNER JOIN alchemist.datasets ON coalesce(check_results.dataset_name = datasets.name, TRUE)
    WHERE check_results.crawl_date IS NOT NULL
),

quarantined AS (
    SELECT shard_id, count(DISTINCT ordinal) AS n_quarantined FROM alchemist.quarantined_samples
    WHERE rater_id IS NULL OR rater_id = (SELECT production.rater_id FROM production)
    GROUP BY shard_id
),

counted AS (
    SELECT
        shards.dataset_id, shards.crawl_date, count(*) AS n_shards, count(*) FILTER (WHERE shards.state = 'verified') AS n_readable_shards,
        count(*) FILTER (WHERE shards.state = 'rejected') AS n_rejected_shards,
        count(*) FILTER (WHERE shards.state IN ('growing', 'missing', 'changed')) AS n_unreadable_shards,
        count(shard_scores.shard_id) FILTER (WHERE shards.state = 'verified') AS n_scored_shards,
        count(refused.shard_id) FILTER (WHERE shards.state = 'verified' AND shard_scores.shard_id IS NULL) AS n_refused_shards,
        sum(shards.n_samples) AS n_locations, sum(shards.n_repaired) AS n_repaired, sum(quarantined.n_quarantined) AS n_quarantined,
        sum(shard_scores.n_scored) AS n_scored, sum(shard_scores.n_reused) AS n_reused, max(refused.rater || ': ' || refused.reason) AS refused_for
    FROM alchemist.shards LEFT JOIN quarantined ON shards.shard_id = quarantined.shard_id
    LEFT JOIN alchemist.shard_scores
        ON shards.shard_id = shard_scores.shard_id AND shard_scores.rater_id = (SELECT production.rater_id FROM production)
    LEFT JOIN alchemist.decided_shards AS refused ON shards.shard_id = refused.shard_id AND refused.state = 'rejected'
    WHERE shards.state NOT IN ('retired', 'superseded') GROUP BY shards.dataset_id, shards.crawl_date
),

-- A held revision counts before an open one, an open one before a decided one, then the newest.
decided AS (
    SELECT DISTINCT ON (dataset_id, crawl_date) dataset_id, crawl_date, state, reason FROM alchemist.nights
    WHERE rater_id = (SELECT production.rater_id FROM production)
    ORDER BY dataset_id ASC, crawl_date ASC, state = 'held' DESC, state = 'scored' DESC, revision DESC
),

stopped AS (
    SELECT
        dataset_name, crawl_date, coalesce(
            'stopped by checks: ' || string_agg(expectation, ', ' ORDER BY expectation) FILTER (WHERE observed -> 'rejected_by' IS NULL),
            'rejected: ' || max(observed ->> 'rejected_for')
        ) AS status
    FROM alchemist.failed_checks GROUP BY dataset_name, crawl_date
)

SELECT
    datasets.name AS dataset, dated.crawl_date, coalesce(counted.n_shards, 0) AS n_shards,
    coalesce(counted.n_rejected_shards, 0) AS n_rejected_shards, coalesce(counted.n_locations, 0) AS n_locations,
    coalesce(counted.n_quarantined, 0)::bigint AS n_quarantined, coalesce(counted.n_repaired, 0)::bigint AS n_repaired,
    coalesce(counted.n_scored, 0) AS n_scored, coalesce(counted.n_reused, 0) AS n_reused, decided.state AS night_state,
    CASE
        WHEN counted.n_shards IS NULL THEN 'empty'
        WHEN NOT EXISTS (SELECT FROM production) THEN 'nothing scored: no production rater'
        WHEN counted.n_shards = counted.n_rejected_shards THEN 'nothing scored: every shard was rejected'
        WHEN counted.n_shards = counted.n_rejected_shards + counted.n_unreadable_shards THEN 'nothing scored: no shard can be read now'
        WHEN stopped.status IS NOT NULL THEN stopped.status
        WHEN counted.n_refused_shards = counted.n_readable_shards THEN 'rejected under rater ' || counted.refused_for
        WHEN counted.n_scored_shards < counted.n_readable_shards
            THEN format('%s: %s of %s shards', coalesce(work.status, 'partly scored'), counted.n_scored_shards, counted.n_readable_shards)
        WHEN decided.state IN ('held', 'rejected') THEN decided.state || ': ' || decided.reason
        WHEN decided.state IN ('selectable', 'released') THEN 'selectable'
        ELSE 'scored'
    END AS status, coalesce(counted.n_unreadable_shards, 0) AS n_unreadable_shards,
    coalesce(counted.n_readable_shards - counted.n_scored_shards, 0) AS n_unscored_shards
FROM dated INNER JOIN alchemist.datasets
    ON dated.dataset_id = datasets.dataset_id AND datasets.role = 'train' AND datasets.removed_at IS NULL
LEFT JOIN counted ON dated.dataset_id = counted.dataset_id AND dated.crawl_date = counted.crawl_date
LEFT JOIN decided ON dated.dataset_id = decided.dataset_id AND dated.crawl_date = decided.crawl_date
LEFT JOIN stopped ON datasets.name = stopped.dataset_name AND dated.crawl_date = stopped.crawl_date
LEFT JOIN alchemist.night_work AS work ON dated.dataset_id = work.dataset_id AND dated.crawl_date = work.crawl_date
ORDER BY datasets.name, dated.crawl_date;

COMMENT ON VIEW alchemist.nightly_overview IS 'Status of each night of each training dataset under the production rater';
COMMENT ON COLUMN alchemist.nightly_overview.dataset IS 'Name of the dataset';
COMMENT ON COLUMN alchemist.nightly_overview.crawl_date IS 'Date of the crawl';
COMMENT ON COLUMN alchemist.nightly_overview.n_shards IS 'Number of shards, without retired and superseded ones';
COMMENT ON COLUMN alchemist.nightly_overview.n_rejected_shards IS 'Number of shards that are not a readable tar';
COMMENT ON COLUMN alchemist.nightly_overview.n_locations IS 'Number of records in the shards';
COMMENT ON COLUMN alchemist.nightly_overview.n_quarantined IS 'Number of quarantined records';
COMMENT ON COLUMN alchemist.nightly_overview.n_repaired IS 'Number of records that were repaired at ingest';
COMMENT ON COLUMN alchemist.nightly_overview.n_scored IS 'Number of records with a score; the night is complete when n_scored + n_quarantined = n_locations';
COMMENT ON COLUMN alchemist.nightly_overview.n_reused IS 'Number of scored records whose score was already stored';
COMMENT ON COLUMN alchemist.nightly_overview.night_state IS 'State of the newest revision; a held one counts first, then one that is not decided';
COMMENT ON COLUMN alchemist.nightly_overview.status IS 'Status in words: which run works on the night, what is missing, or why it is held or stopped or was rejected';
COMMENT ON COLUMN alchemist.nightly_overview.n_unreadable_shards IS 'Number of shards that cannot be read now: upload in progress, missing or changed';
COMMENT ON COLUMN alchemist.nightly_overview.n_unscored_shards IS 'Number of shards that can be read and have no scores of the production rater';
