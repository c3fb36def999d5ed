-- Purpose: how long training took lately, for an estimate of what a subset will cost.
-- Parameters: none.
-- One row is: the newest finished run of stage train_downstream that trained a model: its work per member that it trained on, over all
--   epochs of its config and with loading; none before the first.
-- Relies on: ix_runs_stage_config_hash, pk_models.
-- Safe to re-run: yes.
SELECT
    runs.run_id,
    runs.finished_at,
    runs.work_seconds / sum(models.n_samples)::float8 AS seconds_per_member
FROM alchemist.runs
INNER JOIN alchemist.models ON runs.run_id = models.run_id
WHERE runs.stage = 'train_downstream' AND runs.state = 'succeeded' AND runs.work_seconds > 0
GROUP BY runs.run_id
ORDER BY runs.run_id DESC
LIMIT 1
