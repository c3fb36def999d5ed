-- Purpose: Return the exporter's metrics of data checks: failed checks, and the shards whose scores a recount found wrong.
-- Parameters: none.
-- One row is: a series with its label values and its value now; of failed checks the 15 with the most failures, first those that stop.
-- Relies on: pk_check_results, ix_check_results_suite_dataset_name_crawl_date, ix_shards_dataset_id_crawl_date.
-- Safe to re-run: yes.
WITH newest_of_day AS (
    SELECT max(check_result_id) AS check_result_id
    FROM alchemist.check_results
    WHERE created_at > clock_timestamp() - make_interval(days => 1)
    GROUP BY suite, expectation, dataset_name, crawl_date, subset_name
),

-- A check stops a night until its data is repaired or a person decides, however long that takes. A check of all nights together stops
-- none. A failure of a subset and a warning are never decided, so they count for a day.
failures AS (
    SELECT stopped.expectation, 'fail' AS severity
    FROM alchemist.failed_checks AS stopped
    INNER JOIN alchemist.labelled_datasets AS named ON stopped.dataset_name = named.name
    WHERE stopped.observed -> 'rejected_by' IS NULL
    UNION ALL
    SELECT check_results.expectation, check_results.severity
    FROM newest_of_day
    INNER JOIN alchemist.check_results ON newest_of_day.check_result_id = check_results.check_result_id
    WHERE
        NOT check_results.is_success
        AND (check_results.severity = 'warn' OR check_results.suite IN ('subset', 'evaluation'))
),

counted AS (
    SELECT expectation, severity, count(*) AS n_failed
    FROM failures
    GROUP BY expectation, severity
    ORDER BY severity ASC, n_failed DESC, expectation ASC LIMIT 15
),

-- The suite `scores` without a date counts scores and quarantine rows of each shard of a dataset again; its newest result counts. A
-- dataset without verified shards is counted no more.
recounts AS (
    SELECT DISTINCT ON (dataset_name)
        dataset_name,
        coalesce((observed ->> 'unexpected_count')::double precision, 0) AS n_shards
    FROM alchemist.check_results
    WHERE suite = 'scores' AND expectation = 'locations_are_scored_or_quarantined' AND crawl_date IS NULL
    ORDER BY dataset_name ASC, check_result_id DESC
)

SELECT 'alchemist_check_failures' AS metric, ARRAY[expectation, severity] AS labels, n_failed::double precision AS value FROM counted
UNION ALL
SELECT 'alchemist_ledger_mismatched_shards', ARRAY[named.label], sum(recounts.n_shards)
FROM recounts INNER JOIN alchemist.labelled_datasets AS named ON recounts.dataset_name = named.name
WHERE
    EXISTS (
        SELECT FROM alchemist.shards
        INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
        WHERE datasets.name = named.name AND shards.state = 'verified'
    )
GROUP BY named.label
