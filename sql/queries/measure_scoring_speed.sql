-- Purpose: Return how fast raters scored recently, for cost estimates.
-- Parameters: n_runs integer (runs of stage score, newest first).
-- One row is: a rater on a device: computed samples (reused scores cost nothing) and seconds of its slots, loading included.
-- Relies on: ix_runs_stage_config_hash; reads the ledger, never scores.
-- Safe to re-run: yes; the rater that scored last comes first.
WITH recent AS (
    SELECT
        run_id,
        started_at,
        device
    FROM alchemist.runs
    WHERE stage = 'score'
    ORDER BY run_id DESC
    LIMIT :n_runs
),

-- A run scores with one rater after the other: each begins where the one before ended.
turns AS (
    SELECT
        recent.run_id,
        recent.started_at,
        shard_scores.rater_id,
        -- A run that has ended knows the name of its GPU.
        CASE
            WHEN max(shard_scores.device) = 'cpu' THEN 'cpu'
            ELSE coalesce(nullif(recent.device, 'cpu'), max(shard_scores.device))
        END AS device,
        sum(shard_scores.n_scored - shard_scores.n_reused) AS n_computed,
        max(shard_scores.scored_at) AS ended_at
    FROM recent
    INNER JOIN alchemist.shard_scores ON recent.run_id = shard_scores.run_id
    GROUP BY recent.run_id, recent.started_at, recent.device, shard_scores.rater_id
),

timed AS (
    SELECT
        rater_id,
        device,
        n_computed,
        ended_at,
        extract(EPOCH FROM ended_at - coalesce(lag(ended_at) OVER (PARTITION BY run_id ORDER BY ended_at), started_at)) AS seconds
    FROM turns
)

SELECT
    rater_id,
    device,
    sum(n_computed)::bigint AS n_computed,
    sum(seconds)::float8 AS seconds
FROM timed
WHERE n_computed > 0 AND seconds > 0
GROUP BY rater_id, device
ORDER BY max(ended_at) DESC
