-- The members of the published version of a subset: SELECT * FROM alchemist.current_subset_samples('web-auto-r20').
--
-- A function, not a view over all subsets: it looks its version up first, so that only one partition is read.
-- During a publish or a rollback it returns the old version or the new one, never a mix, because one statement sees one snapshot.
-- Postgres inlines it (LANGUAGE sql, STABLE, no SET), so joins and conditions around it use the partition's index.

-- The published version of a name; null if none was ever published. If the published one was withdrawn and no other is published,
-- it raises an error with the reason: an empty result would look like an empty subset.
CREATE OR REPLACE FUNCTION alchemist.published_subset_id(subset_name text) RETURNS integer
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    current_id integer := (SELECT subset_id FROM alchemist.subsets WHERE name = subset_name AND state = 'published');
    withdrawn record;
BEGIN
    IF current_id IS NULL THEN
        SELECT version, withdrawn_at, withdrawn_by, withdrawn_reason INTO withdrawn
        FROM alchemist.subsets
        WHERE name = subset_name AND state = 'withdrawn' AND published_at IS NOT NULL
        ORDER BY withdrawn_at DESC LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'subset % v% was withdrawn on % by %: %',
                subset_name, withdrawn.version, withdrawn.withdrawn_at::date, withdrawn.withdrawn_by, withdrawn.withdrawn_reason
                USING HINT = 'No version of it is published now. The view alchemist.subset_overview lists its versions.';
        END IF;
    END IF;
    RETURN current_id;
END $$;

CREATE OR REPLACE FUNCTION alchemist.current_subset_samples(subset_name text) RETURNS SETOF alchemist.subset_samples
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT subset_samples.*
    FROM alchemist.subset_samples
    WHERE subset_samples.subset_id = (SELECT alchemist.published_subset_id($1))
$$;

COMMENT ON FUNCTION alchemist.published_subset_id(text) IS 'Returns the published version (subset_id) of a subset name; null if none was ever published; an error if the published one was withdrawn';
COMMENT ON FUNCTION alchemist.current_subset_samples(text) IS 'Returns the members of the published version of a subset name, with their ranks';
