-- End the sessions that hold a lease's row although the lease has expired: their process was stopped inside a commit, and to the
-- server a COPY that waits for its rows is neither idle nor to be cancelled; only the session's end frees its locks.
--
-- SECURITY DEFINER: a stage of the writer may wait for one of the owner. Only sessions are ended whose role the owner may act as
-- (`roles.sql` grants it the writer), and only those that a lease names. pg_locks tells who runs the transaction that the row waits for.

CREATE OR REPLACE FUNCTION alchemist.end_stalled_sessions() RETURNS TABLE (pid integer, is_signalled boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- MATERIALIZED, or the planner may tell sessions to end before it looks whose they are.
    RETURN QUERY WITH stalled AS MATERIALIZED (
        SELECT held.pid
        FROM alchemist.leases
        INNER JOIN pg_locks AS held
            ON leases.xmax = held.transactionid AND held.locktype = 'transactionid' AND held.granted
        INNER JOIN pg_stat_activity AS session ON held.pid = session.pid
        WHERE
            NOT alchemist.is_live_lease(leases.expires_at)
            AND held.pid <> pg_backend_pid()
            AND pg_has_role(session.usesysid, 'USAGE')
    )

    SELECT stalled.pid, pg_terminate_backend(stalled.pid) FROM stalled;
END $$;

REVOKE ALL ON FUNCTION alchemist.end_stalled_sessions() FROM public;

COMMENT ON FUNCTION alchemist.end_stalled_sessions() IS 'Ends sessions that still hold the row of an expired lease; returns their process ids';
