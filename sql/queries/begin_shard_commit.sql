-- Purpose: Begin the transaction that stores a shard's scores: give the shard's lease back, lock the open revision of its night,
--   and set the transaction's limits. One statement, because each round trip costs a third of the commit.
-- Parameters: resource text and token bigint (the lease), dataset_id integer, crawl_date date, rater_id integer.
-- One row is: fencing_token, null where the lease has expired or belongs to another run (then store nothing), and night_id, null
--   where no revision is open.
-- Relies on: pk_leases, uq_nights_one_open.
-- Safe to re-run: no, a lease is given back once.
--   synchronous_commit = off: after a power cut the last shards can be missing as a whole; they are scored again. The commit that
--     ends the run waits for the disk, and with it all commits before.
--   idle_in_transaction_session_timeout: a process that stops here would keep its row locks and block every other slot.
--   lock_timeout: a session that waits longer for samples of another checks whether that session is stalled (end_stalled_sessions).
WITH consumed AS (
    DELETE FROM alchemist.leases
    WHERE resource = :resource AND fencing_token = :token AND expires_at > clock_timestamp()
    RETURNING fencing_token
),

held AS (
    SELECT night_id
    FROM alchemist.nights
    WHERE dataset_id = :dataset_id AND crawl_date = :crawl_date AND rater_id = :rater_id AND state = 'scored'
    FOR SHARE
)

SELECT
    (SELECT consumed.fencing_token FROM consumed) AS fencing_token,
    (SELECT held.night_id FROM held) AS night_id,
    set_config('synchronous_commit', 'off', TRUE) AS synchronous_commit,
    set_config('idle_in_transaction_session_timeout', '10s', TRUE) AS silence_limit,
    set_config('lock_timeout', '10s', TRUE) AS lock_limit
