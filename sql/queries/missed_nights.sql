-- Purpose: Return earlier nights that no ingest has ended for: the scheduled start of their run was missed, or its process died.
-- Parameters: dataset_ids integer[], before date (nights of earlier crawl dates), timezone text (of crawl dates), airflow_run text or null
--   (the asking run: its own ingests do not count, so that it gets the same nights when cleared).
-- One row is: a dataset and a crawl date, from the day of its first scheduled run on. An ingest counts for the dates before the day on
--   which it started: one of a date also if it failed, because `night list` reports that, but not if it was refused; one of all dates
--   if it succeeded. One whose process died counts only if a check of its night was stored, without which `night list` has no such night.
--   Dates that are not over in that time zone are left out, because their own runs are still to come.
-- Relies on: ix_runs_stage_config_hash; reads the runs of one stage, and the checks.
-- Safe to re-run: yes.
WITH ingests AS (
    SELECT
        datasets.name AS dataset,
        runs.state,
        runs.actor,
        CAST(runs.config ->> 'crawl_date' AS date) AS crawl_date,
        CAST(runs.started_at AT TIME ZONE :timezone AS date) AS started_on,
        (
            runs.state = 'succeeded'
            OR (
                runs.exit_code IS DISTINCT FROM 2
                AND rtrim(coalesce(runs.config ->> 'root', datasets.root_uri), '/') = rtrim(datasets.root_uri, '/')
                AND (
                    runs.state = 'failed'
                    OR runs.run_id IN (SELECT leases.run_id FROM alchemist.leases WHERE alchemist.is_live_lease(leases.expires_at))
                    OR (datasets.name, CAST(runs.config ->> 'crawl_date' AS date)) IN (
                        SELECT check_results.dataset_name, check_results.crawl_date
                        FROM alchemist.check_results
                    )
                )
            )
        ) AS is_valid
    FROM alchemist.runs
    INNER JOIN alchemist.datasets
        ON
            coalesce(runs.config ->> 'dataset', datasets.name) = datasets.name
            -- A removed dataset may have had the same name.
            AND coalesce(runs.finished_at, 'infinity') > datasets.created_at
    WHERE
        runs.stage = 'ingest'
        AND datasets.dataset_id = any(:dataset_ids)
        AND (runs.actor = CAST(:airflow_run AS text)) IS NOT TRUE
),

begun AS (
    SELECT
        dataset,
        greatest(
            min(started_on) FILTER (WHERE starts_with(actor, 'airflow:nightly_rescore:scheduled__')),
            max(started_on) FILTER (WHERE crawl_date IS NULL AND state = 'succeeded')
        ) AS first_date
    FROM ingests
    GROUP BY dataset
    HAVING bool_or(starts_with(actor, 'airflow:nightly_rescore:scheduled__'))
),

dated AS (
    SELECT
        begun.dataset,
        begun.first_date + day.n AS crawl_date
    FROM begun
    CROSS JOIN LATERAL generate_series(
        0, least(CAST(:before AS date), CAST(clock_timestamp() AT TIME ZONE :timezone AS date)) - begun.first_date - 1
    ) AS day (n)
)

SELECT
    dated.dataset,
    dated.crawl_date
FROM dated
WHERE
    NOT EXISTS (
        SELECT 1
        FROM ingests
        WHERE
            ingests.dataset = dated.dataset
            AND ingests.crawl_date = dated.crawl_date
            AND ingests.started_on > dated.crawl_date
            AND ingests.is_valid
    )
ORDER BY dated.crawl_date, dated.dataset
