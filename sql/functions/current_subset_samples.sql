-- The members of the published version of a subset: SELECT * FROM alchemist.current_subset_samples('web-auto-r20').
--
-- A function, and not a view over all subsets: its version is looked up first, so that one partition is read and no other.
-- One statement is one snapshot: during a publish or a rollback it gives the old version or the new one, never a mix. It is inlined
-- (LANGUAGE sql, STABLE, no SET), so joins and conditions around it reach the partition's index.

CREATE OR REPLACE FUNCTION alchemist.current_subset_samples(subset_name text) RETURNS SETOF alchemist.subset_samples
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT subset_samples.*
    FROM alchemist.subset_samples
    WHERE
        subset_samples.subset_id = (
            SELECT subsets.subset_id FROM alchemist.subsets WHERE subsets.name = $1 AND subsets.state = 'published'
        )
$$;
