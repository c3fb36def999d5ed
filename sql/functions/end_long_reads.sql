-- End sessions of alchemist_reader that exceed their time limit, or that hold an advisory lock, which a reader does not need.
--
-- Every user can change the timeouts of its own session, so a role's settings are defaults, not limits; this function is the limit.
-- A statement, or an idle transaction, may last `most`; a transaction ten times that.
-- SECURITY DEFINER: stages call it as the writer, and only the owner may end the reader's sessions (`roles.sql`). Where an
-- administrator created the role without granting it to the owner, it ends no session.

CREATE OR REPLACE FUNCTION alchemist.end_long_reads(most interval) RETURNS TABLE (pid integer, is_signalled boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- MATERIALIZED: otherwise the planner may end sessions before it has checked whose they are.
    RETURN QUERY WITH past_bound AS MATERIALIZED (
        SELECT session.pid
        FROM pg_stat_activity AS session
        WHERE
            session.usesysid = to_regrole('alchemist_reader')
            AND session.datname = current_database()
            AND session.pid <> pg_backend_pid()
            AND pg_has_role(session.usesysid, 'USAGE')
            AND (
                (session.state = 'active' AND session.query_start < clock_timestamp() - most)
                OR (starts_with(session.state, 'idle in transaction') AND session.state_change < clock_timestamp() - most)
                OR session.xact_start < clock_timestamp() - 10 * most
                OR EXISTS (
                    SELECT FROM pg_locks WHERE pg_locks.pid = session.pid AND pg_locks.locktype = 'advisory' AND pg_locks.granted
                )
            )
    )

    SELECT past_bound.pid, pg_terminate_backend(past_bound.pid) FROM past_bound;
END $$;

REVOKE ALL ON FUNCTION alchemist.end_long_reads(interval) FROM public;

COMMENT ON FUNCTION alchemist.end_long_reads(interval) IS 'Ends sessions of alchemist_reader that run longer than the given time or hold an advisory lock; returns their process ids';
