-- Purpose: begin the transaction that stores a shard: give its lease back, hold the open revision of its night, and set how the
--   transaction behaves; in one statement, because a commit takes milliseconds and each statement a third of one.
-- Parameters: resource text and token bigint (the lease), dataset_id integer, crawl_date date, rater_id integer.
-- One row is: fencing_token, null where the lease expired or is another's (store nothing then), and night_id, null where none is open.
-- Relies on: pk_leases, uq_nights_one_open.
-- Safe to re-run: no, a lease is given back once.
--   synchronous_commit: a server that loses power may forget the last shards, whole; they are unscored then, and scored again. The
--     commit that ends the run waits for the disk, and with it for all before.
--   idle_in_transaction_session_timeout: a process that is stopped here would keep its row locks, and with them every other slot.
--   lock_timeout: who waits longer for another's pairs looks whether that one stands still (end_stalled_sessions).
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
