-- Refresh a table's statistics, its partitions' too.
--
-- SECURITY DEFINER: to anybody but the owner ANALYZE gives a warning and does nothing. A grant of MAINTAIN, which Postgres knows from 17
-- on, would allow more than statistics: REINDEX, CLUSTER, LOCK TABLE.

CREATE OR REPLACE FUNCTION alchemist.analyze_table(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('ANALYZE alchemist.%I', name);
END $$;

REVOKE ALL ON FUNCTION alchemist.analyze_table(text) FROM public;

COMMENT ON FUNCTION alchemist.analyze_table(text) IS 'Refreshes the planner statistics of a table and its partitions';
