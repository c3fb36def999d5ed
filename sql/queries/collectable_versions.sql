-- Purpose: Return the subset versions that garbage collection may remove: they are not in use, and their specification can make
--   them again.
-- Parameters: name text or null (all), min_age_days double precision.
-- One row is: a version with what it still holds: members_bytes (0: its members are not in the store), its manifest and its
--   materialized datasets. Left out are versions that are published, that a rollback would return to (it skips withdrawn
--   versions), that a model was trained on, that a running stage names, or that were selected (also again, with the same
--   options), published, materialized or withdrawn within min_age_days.
-- Relies on: uq_subsets_name_version, ix_models_subset_id, ix_runs_stage_config_hash.
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
    AND NOT EXISTS (
        SELECT FROM alchemist.runs
        WHERE
            runs.stage = 'select'
            AND runs.result ->> 'name' = subsets.name AND runs.result -> 'version' = to_jsonb(subsets.version)
            AND runs.finished_at > now() - make_interval(secs => 86400 * :min_age_days)
    )
ORDER BY subsets.name, subsets.version
