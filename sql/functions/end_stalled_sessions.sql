-- End sessions that still hold the row of an expired lease. Their process stopped during a commit; the server regards a COPY that waits
-- for rows as active, so only the end of the session releases its locks. A process whose heartbeat renews the lease of its run has not
-- stopped: its commit only takes longer than the lease of the shard, which no run can renew meanwhile. It has an hour, the longest lease.
--
-- SECURITY DEFINER: a stage of the writer may wait for one of the owner. It ends only sessions of roles that the owner may act as
-- (`roles.sql` grants it the writer) and that hold the row of a lease, which pg_locks shows.

CREATE OR REPLACE FUNCTION alchemist.end_stalled_sessions() RETURNS TABLE (pid integer, is_signalled boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- MATERIALIZED: otherwise the planner may end sessions before it has checked whose they are.
    RETURN QUERY WITH stalled AS MATERIALIZED (
        SELECT held.pid
        FROM alchemist.leases
        INNER JOIN pg_locks AS held
            ON leases.xmax = held.transactionid AND held.locktype = 'transactionid' AND held.granted
        INNER JOIN pg_stat_activity AS session ON held.pid = session.pid
        WHERE
            NOT alchemist.is_live_lease(leases.expires_at)
            AND NOT (
                leases.expires_at > clock_timestamp() - make_interval(hours => 1)
                AND EXISTS (
                    SELECT FROM alchemist.leases AS of_run
                    WHERE
                        of_run.run_id = leases.run_id AND starts_with(of_run.resource, 'run:')
                        AND alchemist.is_live_lease(of_run.expires_at)
                )
            )
            AND held.pid <> pg_backend_pid()
            AND pg_has_role(session.usesysid, 'USAGE')
    )

    SELECT stalled.pid, pg_terminate_backend(stalled.pid) FROM stalled;
END $$;

REVOKE ALL ON FUNCTION alchemist.end_stalled_sessions() FROM public;

COMMENT ON FUNCTION alchemist.end_stalled_sessions() IS 'Ends sessions that still hold the row of an expired lease of a stopped process; returns their process ids';
