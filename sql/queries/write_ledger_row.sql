-- Purpose: mark a shard as scored, its counts taken by the database from the rows of the same transaction.
-- Parameters: shard_id bigint, rater_id integer, night_id integer, n_computed integer (score rows just copied),
--   run_id bigint, code_version text, device text, dtype text.
-- One row is: the ledger row written; the accounting CHECK refuses it when a location has neither score nor quarantine row.
-- Relies on: pk_sample_locations, the rater's partition of pk_scores, uq_quarantined_samples_shard_id_ordinal_rater_id.
-- Safe to re-run: no, the primary key refuses a second row.
WITH set_aside AS (
    SELECT ordinal
    FROM alchemist.quarantined_samples
    WHERE shard_id = :shard_id AND (rater_id IS NULL OR rater_id = :rater_id)
),

scored AS (
    SELECT
        count(*) AS n_scored,
        count(DISTINCT sample_locations.sample_id) AS n_pairs
    FROM alchemist.sample_locations
    INNER JOIN alchemist.scores
        ON sample_locations.sample_id = scores.sample_id AND scores.rater_id = :rater_id
    WHERE
        sample_locations.shard_id = :shard_id
        AND sample_locations.ordinal NOT IN (SELECT set_aside.ordinal FROM set_aside)
)

INSERT INTO alchemist.shard_scores (
    rater_id, shard_id, night_id, n_samples, n_scored, n_reused, n_quarantined, code_version, device, dtype, run_id
)
SELECT
    :rater_id,
    shards.shard_id,
    :night_id,
    shards.n_samples,
    scored.n_scored,
    scored.n_scored - :n_computed,
    (SELECT count(*) FROM set_aside),
    :code_version,
    :device,
    :dtype,
    :run_id
FROM alchemist.shards
CROSS JOIN scored
WHERE shards.shard_id = :shard_id
RETURNING n_samples, n_scored, n_reused, n_quarantined
