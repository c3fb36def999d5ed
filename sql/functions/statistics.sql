-- Refresh the planner statistics of a table and its partitions.
--
-- SECURITY DEFINER: ANALYZE by another user than the owner only prints a warning. The privilege MAINTAIN (Postgres 17) would also allow
-- REINDEX, CLUSTER and LOCK TABLE.

CREATE OR REPLACE FUNCTION alchemist.analyze_table(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('ANALYZE alchemist.%I', name);
END $$;

REVOKE ALL ON FUNCTION alchemist.analyze_table(text) FROM public;

COMMENT ON FUNCTION alchemist.analyze_table(text) IS 'Refreshes the planner statistics of a table and its partitions';
