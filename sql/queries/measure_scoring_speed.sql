-- Purpose: Return how fast raters scored recently, for cost estimates.
-- Parameters: n_runs integer (runs of stage score, newest first).
-- One row is: a rater on a device: computed samples (reused scores cost nothing) and seconds of its slots, loading included. Raters that
--   share a pass have all of its seconds: how long one of them alone would take is not known.
-- Relies on: ix_runs_stage_config_hash; reads the ledger, never scores.
-- Safe to re-run: yes; the rater that scored last comes first.
WITH recent AS (
    SELECT
        run_id,
        started_at,
        finished_at,
        device
    FROM alchemist.runs
    WHERE stage = 'score'
    ORDER BY run_id DESC
    LIMIT :n_runs
),

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
        -- A retry of quarantined records dates a shard anew, after its run has ended.
        min(least(shard_scores.scored_at, recent.finished_at)) AS first_at,
        max(least(shard_scores.scored_at, recent.finished_at)) AS ended_at
    FROM recent
    INNER JOIN alchemist.shard_scores ON recent.run_id = shard_scores.run_id
    GROUP BY recent.run_id, recent.started_at, recent.device, shard_scores.rater_id
),

-- A run scores in passes, one after the other. Raters that share a pass store each shard in turn; the next pass loads its raters first, which
-- takes longer than a second.
ordered AS (
    SELECT
        turns.*,
        max(ended_at) OVER (PARTITION BY run_id ORDER BY first_at, rater_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
            AS earlier_ended_at
    FROM turns
),

passes AS (
    SELECT
        ordered.*,
        count(*) FILTER (WHERE earlier_ended_at IS NULL OR first_at > earlier_ended_at + interval '1 second')
            OVER (PARTITION BY run_id ORDER BY first_at, rater_id) AS pass
    FROM ordered
),

timed AS (
    SELECT
        passes.rater_id,
        passes.device,
        passes.n_computed,
        passes.ended_at,
        max(passes.ended_at) OVER own AS pass_ended_at,
        first_value(coalesce(passes.earlier_ended_at, passes.started_at))
            OVER (PARTITION BY passes.run_id, passes.pass ORDER BY passes.first_at, passes.rater_id) AS began_at
    FROM passes
    WINDOW own AS (PARTITION BY passes.run_id, passes.pass)
)

SELECT
    timed.rater_id,
    raters.kind,
    timed.device,
    sum(timed.n_computed)::bigint AS n_computed,
    sum(extract(EPOCH FROM timed.pass_ended_at - timed.began_at))::float8 AS seconds
FROM timed
INNER JOIN alchemist.raters ON timed.rater_id = raters.rater_id
WHERE timed.n_computed > 0 AND timed.pass_ended_at > timed.began_at
GROUP BY timed.rater_id, raters.kind, timed.device
ORDER BY max(timed.ended_at) DESC
