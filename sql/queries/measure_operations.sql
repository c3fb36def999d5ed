-- Purpose: Return the exporter's metrics of operation: leases, failed checks and tasks, recounted ledger, takedowns, notifications.
-- Parameters: none.
-- One row is: a series with its label values and its value now; for checks and tasks the 15 with the most failures of the last day.
-- Relies on: pk_check_results, ix_check_results_suite_dataset_name_crawl_date, ix_shards_dataset_id_crawl_date; small tables otherwise.
-- Safe to re-run: yes.
WITH newest_checks AS (
    -- No failure any more: a check that passes now or was released or rejected, or of a night whose shards are all retired or superseded.
    SELECT max(check_result_id) AS check_result_id
    FROM alchemist.check_results
    WHERE created_at > clock_timestamp() - make_interval(days => 1)
    GROUP BY suite, expectation, dataset_name, crawl_date, subset_name
),

failed_checks AS (
    SELECT check_results.expectation, check_results.severity, count(*) AS n_failed
    FROM newest_checks INNER JOIN alchemist.check_results ON newest_checks.check_result_id = check_results.check_result_id
    WHERE
        NOT check_results.is_success AND check_results.observed -> 'rejected_by' IS NULL AND NOT EXISTS (
            SELECT FROM alchemist.shards INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
            WHERE datasets.name = check_results.dataset_name AND shards.crawl_date = coalesce(check_results.crawl_date, shards.crawl_date)
            HAVING bool_and(shards.state IN ('retired', 'superseded'))
        )
    GROUP BY check_results.expectation, check_results.severity
    ORDER BY n_failed DESC, check_results.expectation ASC LIMIT 15
),

failed_tasks AS (
    -- A task that was cleared and has succeeded since is not a failure any more.
    SELECT split_part(key, ':', 2) AS subject, count(*) AS n_failed
    FROM alchemist.notifications
    WHERE kind = 'failed_task' AND created_at > clock_timestamp() - make_interval(days => 1) AND event #> '{facts,recovered_at}' IS NULL
    GROUP BY subject
    ORDER BY n_failed DESC, subject ASC
    LIMIT 15
),

-- The suite `scores` recounts scores and quarantine rows of each shard; its newest result for a dataset counts.
recounted AS (
    SELECT DISTINCT ON (coalesce(named.label, 'all'))
        coalesce(named.label, 'all') AS label,
        coalesce((check_results.observed ->> 'unexpected_count')::double precision, 0) AS n_shards
    FROM alchemist.check_results
    LEFT JOIN alchemist.labelled_datasets AS named ON check_results.dataset_name = named.name
    WHERE check_results.suite = 'scores' AND check_results.expectation = 'locations_are_scored_or_quarantined'
    ORDER BY coalesce(named.label, 'all') ASC, check_results.check_result_id DESC
),

-- Always return both outcomes: without a takedown they are 0, not absent.
takedowns AS (
    SELECT
        outcomes.outcome,
        count(takedowns.requested_at) AS n_takedowns,
        extract(EPOCH FROM min(takedowns.requested_at))::double precision AS requested_at
    FROM (VALUES ('pending', FALSE), ('done', TRUE)) AS outcomes (outcome, is_done)
    LEFT JOIN alchemist.takedowns ON outcomes.is_done = (takedowns.bytes_removed_at IS NOT NULL)
    GROUP BY outcomes.outcome
)

SELECT 'alchemist_leases' AS metric, ARRAY[states.outcome] AS labels, states.n_leases::double precision AS value
FROM (
    SELECT
        count(*) FILTER (WHERE alchemist.is_live_lease(expires_at)) AS n_live,
        count(*) FILTER (WHERE NOT alchemist.is_live_lease(expires_at)) AS n_expired
    FROM alchemist.leases
) AS counted
CROSS JOIN LATERAL (VALUES ('live', counted.n_live), ('expired', counted.n_expired)) AS states (outcome, n_leases)
UNION ALL
SELECT 'alchemist_check_failures', ARRAY[expectation, severity], n_failed::double precision FROM failed_checks
UNION ALL
SELECT 'alchemist_task_failures', ARRAY[subject], n_failed::double precision FROM failed_tasks
UNION ALL
SELECT 'alchemist_ledger_mismatched_shards', ARRAY[label], n_shards FROM recounted
UNION ALL
SELECT 'alchemist_takedowns', ARRAY[outcome], n_takedowns::double precision FROM takedowns
UNION ALL
SELECT 'alchemist_takedown_oldest_timestamp_seconds', ARRAY[outcome], requested_at FROM takedowns
WHERE outcome = 'pending' AND requested_at IS NOT NULL
UNION ALL
SELECT 'alchemist_notifications', ARRAY[state], count(*)::double precision
FROM alchemist.notifications WHERE created_at > clock_timestamp() - make_interval(days => 1) GROUP BY state
