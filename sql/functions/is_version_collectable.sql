-- Whether a subset version may be garbage-collected: it is not published, no rollback would return to it (rollbacks skip withdrawn
-- versions), no model was trained on it, and no running stage names it. Null for an unknown version.

CREATE OR REPLACE FUNCTION alchemist.is_version_collectable(asked integer) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE rollback_targets AS (
        SELECT published.predecessor_id AS subset_id
        FROM alchemist.subsets AS published
        WHERE published.state = 'published' AND published.predecessor_id IS NOT NULL
        UNION
        SELECT passed_over.predecessor_id
        FROM rollback_targets
        INNER JOIN alchemist.subsets AS passed_over ON rollback_targets.subset_id = passed_over.subset_id
        WHERE passed_over.state = 'withdrawn' AND passed_over.predecessor_id IS NOT NULL
    )

    SELECT
        subsets.state <> 'published'
        AND (subsets.state = 'withdrawn' OR NOT EXISTS (SELECT FROM rollback_targets WHERE rollback_targets.subset_id = asked))
        AND NOT EXISTS (SELECT FROM alchemist.models WHERE models.subset_id = asked)
        AND NOT EXISTS (SELECT FROM alchemist.runs WHERE runs.state = 'running' AND runs.config ->> 'subset' = subsets.name)
    FROM alchemist.subsets
    WHERE subsets.subset_id = asked
$$;

REVOKE ALL ON FUNCTION alchemist.is_version_collectable(integer) FROM public;

COMMENT ON FUNCTION alchemist.is_version_collectable(integer) IS 'Returns whether a subset version may be garbage-collected; null for an unknown version';
