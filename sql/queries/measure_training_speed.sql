-- Purpose: Return how long training took recently, for cost estimates.
-- Parameters: none.
-- One row is: the newest finished run of train_downstream that trained a model from the first step on: seconds per member over all
--   epochs, loading included; none before the first.
-- Relies on: ix_runs_stage_config_hash, pk_models.
-- Safe to re-run: yes.
SELECT
    runs.run_id,
    runs.finished_at,
    runs.work_seconds / sum(models.n_samples)::float8 AS seconds_per_member
FROM alchemist.runs
INNER JOIN alchemist.models ON runs.run_id = models.run_id
WHERE
    runs.stage = 'train_downstream' AND runs.state = 'succeeded' AND runs.work_seconds > 0
    -- A run that resumed the one before it took fewer steps than its models have.
    AND coalesce((
        SELECT earlier.state FROM alchemist.runs AS earlier
        WHERE earlier.stage = runs.stage AND earlier.config_hash = runs.config_hash AND earlier.run_id < runs.run_id
        ORDER BY earlier.run_id DESC
        LIMIT 1
    ), 'succeeded') = 'succeeded'
GROUP BY runs.run_id
ORDER BY runs.run_id DESC
LIMIT 1
