-- Purpose: Return a fingerprint of what each night's scored samples come from, so that kept files of another state are not used.
-- Parameters: rater_id integer, night_ids integer[], last_retirement_id integer (shards retired up to it do not count).
-- One row is: a night with its fingerprint: when it was opened, its ledger (each shard with its run, counts and the time at which its
--   scores were stored), the records that retries added, and which of its shards are retired.
-- Relies on: pk_nights, ix_shard_scores_night_id, pk_shards, ix_retried_samples_night_id; reads ledgers, never scores or samples.
-- Safe to re-run: yes. A restored database that scored a night again has other times.
WITH wanted AS (
    SELECT
        nights.night_id,
        nights.created_at
    FROM alchemist.nights
    WHERE nights.rater_id = CAST(:rater_id AS integer) AND nights.night_id = ANY(CAST(:night_ids AS integer[]))
),

ledger AS (
    SELECT
        shard_scores.night_id,
        sum(shard_scores.n_scored) AS n_scored,
        bit_xor(hashtextextended(
            concat_ws(
                ' ', shard_scores.shard_id, encode(shards.sha256, 'hex'), shard_scores.run_id, shard_scores.n_scored,
                shard_scores.n_quarantined, extract(EPOCH FROM shard_scores.scored_at)
            ), 0
        )) AS digest,
        bit_xor(hashint8extended(shard_scores.shard_id, 1)) FILTER (
            WHERE shards.retirement_id <= CAST(:last_retirement_id AS integer)
        ) AS retired
    FROM wanted
    INNER JOIN alchemist.shard_scores ON wanted.night_id = shard_scores.night_id
    INNER JOIN alchemist.shards ON shard_scores.shard_id = shards.shard_id
    WHERE shard_scores.rater_id = CAST(:rater_id AS integer)
    GROUP BY shard_scores.night_id
),

again AS (
    SELECT
        retried_samples.night_id,
        count(*) AS n_scored,
        bit_xor(hashtextextended(
            concat_ws(
                ' ', retried_samples.shard_id, retried_samples.ordinal, shards.retirement_id <= CAST(:last_retirement_id AS integer)
            ), 0
        )) AS digest
    FROM wanted
    INNER JOIN alchemist.retried_samples ON wanted.night_id = retried_samples.night_id
    INNER JOIN alchemist.shards ON retried_samples.shard_id = shards.shard_id
    WHERE retried_samples.rater_id = CAST(:rater_id AS integer)
    GROUP BY retried_samples.night_id
)

SELECT
    wanted.night_id,
    CAST(coalesce(ledger.n_scored, 0) + coalesce(again.n_scored, 0) AS bigint) AS n_scored,
    concat_ws(
        ' ', extract(EPOCH FROM wanted.created_at), ledger.n_scored, ledger.digest, coalesce(ledger.retired, 0),
        coalesce(again.n_scored, 0), coalesce(again.digest, 0)
    ) AS state
FROM wanted
LEFT JOIN ledger ON wanted.night_id = ledger.night_id
LEFT JOIN again ON wanted.night_id = again.night_id
ORDER BY wanted.night_id
