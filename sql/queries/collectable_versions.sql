-- Purpose: which subset versions may give back what they take up: nobody reads them, and their spec can make them again.
-- Parameters: name text or null (all), min_age_days double precision.
-- One row is: a version with what it still holds: members_bytes (0: no membership in the store), its manifest and its copies. Never one
--   that is published, that a rollback would go back to (withdrawn versions are passed over), that a model was trained on, that a
--   running stage names, or that was made, published, first copied or withdrawn within min_age_days.
-- Relies on: uq_subsets_name_version, ix_models_subset_id.
-- Safe to re-run: yes.
SELECT
    subsets.subset_id,
    subsets.name,
    subsets.version,
    subsets.state,
    subsets.manifest_uri,
    subsets.all_materialized_uris,
    coalesce(pg_total_relation_size(to_regclass('alchemist.subset_samples_' || subsets.subset_id)), 0) AS members_bytes
FROM alchemist.subsets
WHERE
    alchemist.is_version_collectable(subsets.subset_id)
    AND (CAST(:name AS text) IS NULL OR subsets.name = :name)
    AND greatest(subsets.created_at, subsets.published_at, subsets.materialized_at, subsets.withdrawn_at)
    <= now() - make_interval(secs => 86400 * :min_age_days)
ORDER BY subsets.name, subsets.version
