-- Purpose: Return the nights whose newest ingest failed, with its error.
-- Parameters: datasets text[], crawl_dates date[] (of the same length: a night each).
-- One row is: a night whose newest ended ingest (of that dataset or all, of that date or all) did not succeed. Commands that were
--   refused for a wrong value (exit code 2) or for a root that is not the dataset's do not count.
-- Relies on: ix_runs_stage_config_hash; reads the runs of one stage.
-- Safe to re-run: yes.
WITH asked AS (
    SELECT * FROM unnest(CAST(:datasets AS text[]), CAST(:crawl_dates AS date[])) AS night (dataset, crawl_date)
),

newest AS (
    SELECT DISTINCT ON (asked.dataset, asked.crawl_date)
        asked.dataset,
        asked.crawl_date,
        runs.state,
        runs.error
    FROM asked
    INNER JOIN alchemist.datasets ON asked.dataset = datasets.name
    INNER JOIN alchemist.runs
        ON
            runs.stage = 'ingest'
            AND runs.state <> 'running'
            AND coalesce(runs.config ->> 'dataset', asked.dataset) = asked.dataset
            AND coalesce(CAST(runs.config ->> 'crawl_date' AS date), asked.crawl_date) = asked.crawl_date
            AND (
                runs.state = 'succeeded'
                OR (
                    runs.exit_code IS DISTINCT FROM 2
                    AND rtrim(coalesce(runs.config ->> 'root', datasets.root_uri), '/') = rtrim(datasets.root_uri, '/')
                )
            )
    ORDER BY asked.dataset ASC, asked.crawl_date ASC, runs.run_id DESC
)

SELECT
    dataset,
    crawl_date,
    error
FROM newest
WHERE state <> 'succeeded'
ORDER BY dataset, crawl_date
