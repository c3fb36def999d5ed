-- Purpose: Return whether a person rejected shards of a night under another rater, for `alchemist night publish`.
-- Parameters: night_id bigint.
-- One row is: the newest rejection of shards of the night, with how many of its shards are rejected; none if no shard is. Of a shard
--   that was rejected and released, the later decision counts.
-- Relies on: ix_shard_scores_night_id, pk_shard_scores; reads one night.
-- Safe to re-run: yes.
WITH newest AS (
    SELECT DISTINCT ON (own.shard_id)
        nights.state,
        raters.name AS rater,
        nights.decided_by,
        nights.decided_at,
        nights.reason
    FROM alchemist.shard_scores AS own
    INNER JOIN alchemist.shard_scores AS other ON own.shard_id = other.shard_id AND own.night_id <> other.night_id
    INNER JOIN alchemist.nights ON other.night_id = nights.night_id
    INNER JOIN alchemist.raters ON nights.rater_id = raters.rater_id
    WHERE own.night_id = :night_id AND nights.state IN ('rejected', 'released')
    ORDER BY own.shard_id, nights.decided_at DESC
)

SELECT
    rater,
    decided_by,
    reason,
    count(*) OVER () AS n_rejected,
    (SELECT count(*) FROM alchemist.shard_scores WHERE shard_scores.night_id = :night_id) AS n_shards
FROM newest
WHERE state = 'rejected'
ORDER BY decided_at DESC
LIMIT 1
