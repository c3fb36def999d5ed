-- Purpose: Return the exporter's metrics of stages: successes, runs, work, progress, cost. telemetry.py declares names and labels.
-- Parameters: is_priced boolean (whether a price is set; without one there is no cost).
-- One row is: a series with its label values and its value now. A cost is the stored one of an ended run: it never changes with a price.
-- Relies on: pk_runs; reads the whole run ledger, which grows by a few rows per night.
-- Safe to re-run: yes.
WITH summed AS (
    SELECT
        stage,
        state,
        count(*)::double precision AS n_runs,
        coalesce(sum(work_seconds), 0) AS work_seconds,
        coalesce(sum(cost) FILTER (WHERE state <> 'running'), 0) AS cost,
        extract(EPOCH FROM max(finished_at))::double precision AS finished_at
    FROM alchemist.runs
    GROUP BY stage, state
),

newest AS (
    SELECT DISTINCT ON (stage) stage, work_seconds
    FROM alchemist.runs
    WHERE state = 'succeeded' AND work_seconds IS NOT NULL
    ORDER BY stage ASC, run_id DESC
),

-- A run whose process died stays "running" until its run key is claimed again, so the heartbeat is compared too.
live AS (
    SELECT
        stage,
        config_hash,
        (progress ->> 'done')::double precision AS n_done,
        (progress ->> 'total')::double precision AS n_total,
        coalesce((progress ->> 'before')::double precision, 0) AS n_before,
        extract(EPOCH FROM heartbeat_at - started_at)::double precision AS seconds
    FROM alchemist.runs
    WHERE state = 'running' AND heartbeat_at > clock_timestamp() - make_interval(mins => 5)
),

-- The worker slots of one work together: each does a part. Its total is what it did in the passes before, and what was left for all
-- of them when it began the pass. Without progress there is no total.
works AS (
    SELECT
        stage,
        count(*)::double precision AS n_runs,
        sum(n_done) AS n_done,
        sum(n_before) + max(n_total - n_before) AS n_total,
        sum(n_done / nullif(seconds, 0)) AS done_per_second
    FROM live
    GROUP BY stage, config_hash
),

alive AS (
    SELECT
        stage,
        sum(n_runs) AS n_runs,
        avg(CASE WHEN n_done > n_total THEN 1 ELSE n_done / nullif(n_total, 0) END) AS done_ratio,
        sum(done_per_second) AS done_per_second
    FROM works
    GROUP BY stage
)

SELECT 'alchemist_stage_last_success_timestamp_seconds' AS metric, ARRAY[stage] AS labels, finished_at AS value
FROM summed WHERE state = 'succeeded'
UNION ALL
SELECT 'alchemist_stage_runs_total', ARRAY[stage, state], n_runs FROM summed WHERE state <> 'running'
UNION ALL
SELECT 'alchemist_stage_work_seconds_total', ARRAY[stage], sum(work_seconds) FROM summed GROUP BY stage
UNION ALL
SELECT 'alchemist_stage_cost_total', ARRAY[stage], sum(cost) FROM summed WHERE CAST(:is_priced AS boolean) GROUP BY stage
UNION ALL
SELECT 'alchemist_stage_last_work_seconds', ARRAY[stage], work_seconds FROM newest
UNION ALL
SELECT 'alchemist_stage_runs_running', ARRAY[stage], n_runs FROM alive
UNION ALL
SELECT 'alchemist_stage_progress_ratio', ARRAY[stage], done_ratio FROM alive WHERE done_ratio IS NOT NULL
UNION ALL
-- The progress of `score` counts an image once for each rater that scores it.
SELECT 'alchemist_score_images_per_second', CAST('{}' AS text[]), done_per_second FROM alive
WHERE stage = 'score' AND done_per_second IS NOT NULL
