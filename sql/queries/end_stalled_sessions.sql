-- Purpose: End the sessions that still hold the row of an expired lease; the function of the same name has the details.
-- Parameters: none.
-- One row is: a session, and whether it was signalled to end.
-- Relies on: leases is small.
-- Safe to re-run: yes, an ended session holds no locks.
SELECT
    pid,
    is_signalled
FROM alchemist.end_stalled_sessions()
