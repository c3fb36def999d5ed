-- Purpose: Return how long trainings took, so that a plan replaces its assumed utilisation by what was measured.
-- Parameters: stage text (train_rater or train_downstream), n_runs integer.
-- One row is: a finished run that trained something from the first step on, newest first: device, host and number of its processes,
--   seconds of work, config, steps of all its models, and the training options of the rater whose tokenizer it used, null if a
--   scorer ranked the version.
-- Relies on: ix_runs_stage_config_hash, pk_raters, uq_raters_name; reads as many models and raters as there are.
-- Safe to re-run: yes.
WITH trained AS (
    SELECT
        run_id,
        (acceptance_report ->> 'n_steps')::bigint AS n_steps,
        config -> 'training' AS rater_training
    FROM alchemist.raters
    UNION ALL
    SELECT
        models.run_id,
        sum(models.n_steps),
        -- All models of a run have one rater.
        (array_agg(raters.config -> 'training'))[1]
    FROM alchemist.models
    INNER JOIN alchemist.raters ON models.config ->> 'rater' = raters.name
    GROUP BY models.run_id
)

SELECT
    runs.run_id,
    runs.device,
    runs.host,
    -- Results from before it was stored lack it; several processes were rare.
    coalesce((runs.result ->> 'n_processes')::integer, 1) AS n_processes,
    runs.work_seconds,
    runs.config,
    trained.n_steps::bigint AS n_steps,
    trained.rater_training
FROM alchemist.runs
INNER JOIN trained ON runs.run_id = trained.run_id
WHERE
    runs.stage = :stage AND runs.state = 'succeeded' AND runs.work_seconds > 0 AND trained.n_steps > 0
    -- A run that resumed the one before it took fewer steps than its models have.
    AND coalesce((
        SELECT earlier.state FROM alchemist.runs AS earlier
        WHERE earlier.stage = runs.stage AND earlier.config_hash = runs.config_hash AND earlier.run_id < runs.run_id
        ORDER BY earlier.run_id DESC
        LIMIT 1
    ), 'succeeded') = 'succeeded'
ORDER BY runs.run_id DESC
LIMIT :n_runs
