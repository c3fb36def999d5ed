-- Purpose: Return what was decided before against shards of a night, for `alchemist night publish`: a person rejected them, under another
--   rater or before a retry scored more of their samples, or the revision that the samples of a retry come from is held.
-- Parameters: night_id bigint.
-- One row is: the newest rejection of shards of the night, or else the hold, with how many of its shards are rejected; none if no shard
--   is rejected or held. Of a shard that was rejected and released, the later decision counts.
-- Relies on: ix_shard_scores_night_id, ix_retried_samples_night_id, pk_shard_scores, pk_nights; reads one night.
-- Safe to re-run: yes.
WITH own AS (
    SELECT shard_id
    FROM alchemist.shard_scores
    WHERE night_id = :night_id
    UNION
    -- The ledger rows of shards that were retried stay in an earlier revision.
    SELECT shard_id
    FROM alchemist.retried_samples
    WHERE night_id = :night_id
),

newest AS (
    SELECT DISTINCT ON (own.shard_id)
        nights.state,
        raters.name AS rater,
        nights.decided_by,
        nights.decided_at,
        nights.reason
    FROM own
    INNER JOIN alchemist.shard_scores AS other ON own.shard_id = other.shard_id AND other.night_id <> :night_id
    INNER JOIN alchemist.nights ON other.night_id = nights.night_id
    INNER JOIN alchemist.raters ON nights.rater_id = raters.rater_id
    INNER JOIN alchemist.nights AS asked ON asked.night_id = :night_id
    -- Another rater's hold says nothing about the data, because drift is that of the rater's scores.
    WHERE nights.state IN ('rejected', 'released') OR (nights.state = 'held' AND nights.rater_id = asked.rater_id)
    ORDER BY own.shard_id, nights.decided_at DESC
)

SELECT
    state,
    rater,
    decided_by,
    reason,
    count(*) FILTER (WHERE state = 'rejected') OVER () AS n_rejected,
    (SELECT count(*) FROM own) AS n_shards
FROM newest
WHERE state IN ('rejected', 'held')
ORDER BY state DESC, decided_at DESC
LIMIT 1
