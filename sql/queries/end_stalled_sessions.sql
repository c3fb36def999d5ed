-- Purpose: end the sessions that hold a lease's row although the lease has expired; the function says why and whose.
-- Parameters: none.
-- One row is: a session, and whether it was told to end.
-- Relies on: leases is small.
-- Safe to re-run: yes, an ended transaction holds nothing.
SELECT
    pid,
    is_signalled
FROM alchemist.end_stalled_sessions()
