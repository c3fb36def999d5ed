-- Purpose: Recount a shard's ledger row after a retry scored some of its quarantined locations. New scores of an open night get a new
--   time, so that checks before it are outdated; a decided night stays as it is, because files keep its samples (night_states).
-- Parameters: shard_id bigint, rater_id integer, n_computed integer (score rows that the retry copied).
-- One row is: the new ledger row; the accounting CHECK refuses it when a location has neither a score nor a quarantine row.
-- Relies on: pk_nights, pk_sample_locations, the rater's partition of pk_scores, uq_quarantined_samples_shard_id_ordinal_rater_id.
-- Safe to re-run: no, n_reused would grow again; it runs in the transaction of the retry, under the shard's lease.
WITH quarantined AS (
    SELECT ordinal
    FROM alchemist.quarantined_samples
    WHERE shard_id = :shard_id AND (rater_id IS NULL OR rater_id = :rater_id)
),

counted AS (
    SELECT
        count(*) AS n_scored,
        (SELECT count(*) FROM quarantined) AS n_quarantined
    FROM alchemist.sample_locations
    INNER JOIN alchemist.scores ON sample_locations.sample_id = scores.sample_id AND scores.rater_id = :rater_id
    WHERE
        sample_locations.shard_id = :shard_id
        AND sample_locations.ordinal NOT IN (SELECT quarantined.ordinal FROM quarantined)
)

UPDATE alchemist.shard_scores SET
    n_scored = counted.n_scored,
    n_quarantined = counted.n_quarantined,
    n_reused = shard_scores.n_reused + (counted.n_scored - shard_scores.n_scored - :n_computed),
    scored_at = CASE
        WHEN nights.state = 'scored' AND counted.n_scored > shard_scores.n_scored THEN clock_timestamp()
        ELSE shard_scores.scored_at
    END
FROM counted
CROSS JOIN alchemist.nights
WHERE shard_scores.shard_id = :shard_id AND shard_scores.rater_id = :rater_id AND shard_scores.night_id = nights.night_id
RETURNING
    shard_scores.n_samples,
    shard_scores.n_scored,
    shard_scores.n_reused,
    shard_scores.n_quarantined
