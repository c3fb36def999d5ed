-- Keep the highest scores of a rater in an index, in their order. The explorer pages through it by rank.
--
-- SECURITY DEFINER: stages may insert but not create indexes, so this function acts as the owner, for one partition of `scores`.
-- Only the highest: an index on all scores cuts COPY to a quarter of its speed, because each row touches a random leaf (see README).
-- The index is made, or made anew when the corpus has outgrown it, by a selection. It waits 2 s for scoring and readers, which it would
-- block; if they hold the partition longer, the next selection tries again.

CREATE OR REPLACE FUNCTION alchemist.order_highest_scores(id integer, lowest real, most_rows integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    child text := 'scores_' || id;
    kept text := 'ix_scores_' || id || '_highest';
    n_rows real := (SELECT reltuples FROM pg_class WHERE oid = to_regclass('alchemist.' || kept));
BEGIN
    IF n_rows <= most_rows OR to_regclass('alchemist.' || child) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP INDEX IF EXISTS alchemist.%I', kept);
    EXECUTE format('CREATE INDEX %I ON alchemist.%I (score, sample_id) WHERE score >= %L::real', kept, child, lowest);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;

REVOKE ALL ON FUNCTION alchemist.order_highest_scores(integer, real, integer) FROM public;

COMMENT ON FUNCTION alchemist.order_highest_scores(integer, real, integer) IS 'Makes the index of a rater''s scores from the given one on, unless there is one of at most as many rows; returns whether it made one';
