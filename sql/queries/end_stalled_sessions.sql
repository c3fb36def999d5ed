-- Purpose: end the sessions that hold a lease's row although the lease has expired: their process was stopped inside a commit, and
--   to the server a COPY that waits for its rows is neither idle nor to be cancelled; only its end frees its locks.
-- Parameters: none.
-- One row is: a session of the same role, and whether it was told to end.
-- Relies on: leases is small; pg_locks tells who runs the transaction that the row waits for.
-- Safe to re-run: yes, an ended transaction holds nothing.
-- MATERIALIZED, or the planner may tell sessions to end before it looks whose they are.
WITH stalled AS MATERIALIZED (
    SELECT pg_locks.pid
    FROM alchemist.leases
    INNER JOIN pg_locks
        ON leases.xmax = pg_locks.transactionid AND pg_locks.locktype = 'transactionid' AND pg_locks.granted
    INNER JOIN pg_stat_activity ON pg_locks.pid = pg_stat_activity.pid
    WHERE
        NOT alchemist.is_live_lease(leases.expires_at)
        AND pg_locks.pid <> pg_backend_pid()
        AND pg_stat_activity.usename = current_user
)

SELECT
    stalled.pid,
    pg_terminate_backend(stalled.pid) AS is_told
FROM stalled
