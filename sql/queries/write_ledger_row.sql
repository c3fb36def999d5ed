-- Purpose: Store the ledger row of a scored shard; the database counts its samples from the rows of the same transaction.
-- Parameters: shard_id bigint, rater_id integer, night_id integer, n_computed integer (score rows as COPY counted them), first_id
--   and last_id bigint (their smallest and largest sample_id, or 1 and 0 if they are too far apart to be read as a range),
--   run_id bigint, code_version text, device text, dtype text.
-- One row is: the ledger row; the accounting CHECK refuses it when a location has neither a score nor a quarantine row.
-- Relies on: pk_sample_locations, the rater's partition of pk_scores, uq_quarantined_samples_shard_id_ordinal_rater_id.
-- Safe to re-run: no, the primary key refuses a second row.
WITH quarantined AS (
    SELECT ordinal
    FROM alchemist.quarantined_samples
    WHERE shard_id = :shard_id AND (rater_id IS NULL OR rater_id = :rater_id)
),

-- New samples have ids without a gap. The key holds each id once, so where COPY counted as many rows as there are ids from the first to
-- the last, every id between them has its score; else they are read as a range into a hash; 10,000 separate lookups take 25 ms.
-- Expressions, not joins: the kind of a join would depend on statistics, which do not include the rows of this transaction.
scored AS MATERIALIZED (
    SELECT
        count(*) FILTER (
            WHERE CASE
                WHEN sample_locations.sample_id BETWEEN :first_id AND :last_id
                    THEN :n_computed = :last_id - :first_id + 1 OR sample_locations.sample_id IN (
                        SELECT near_scores.sample_id
                        FROM alchemist.scores AS near_scores
                        WHERE near_scores.rater_id = :rater_id AND near_scores.sample_id BETWEEN :first_id AND :last_id
                    )
                ELSE EXISTS (
                    SELECT 1
                    FROM alchemist.scores AS far_scores
                    WHERE far_scores.rater_id = :rater_id AND far_scores.sample_id = sample_locations.sample_id
                )
            END
        ) AS n_scored
    FROM alchemist.sample_locations
    WHERE
        sample_locations.shard_id = :shard_id
        -- Evaluated once, before the first row; most shards have no quarantine rows.
        AND (
            NOT EXISTS (SELECT 1 FROM quarantined)
            OR sample_locations.ordinal NOT IN (SELECT quarantined.ordinal FROM quarantined)
        )
)

INSERT INTO alchemist.shard_scores (
    rater_id, shard_id, night_id, n_samples, n_scored, n_reused, n_quarantined, code_version, device, dtype, run_id, scored_at
)
SELECT
    :rater_id,
    shards.shard_id,
    :night_id,
    shards.n_samples,
    scored.n_scored,
    scored.n_scored - :n_computed,
    (SELECT count(*) FROM quarantined),
    :code_version,
    :device,
    :dtype,
    :run_id,
    -- Not the beginning of the transaction: a check that began during the COPY did not read these scores.
    clock_timestamp()
FROM alchemist.shards
CROSS JOIN scored
WHERE shards.shard_id = :shard_id
RETURNING n_samples, n_scored, n_reused, n_quarantined
