-- Make and drop the partitions of `scores` (by rater) and `subset_samples` (by subset).
--
-- SECURITY DEFINER: stages may insert but not create tables, so these functions act as the owner, for two tables and one integer each.
-- LIKE + CHECK + ATTACH, because CREATE TABLE … PARTITION OF waits for every open reader and makes all others wait behind it. The
-- CHECK lets ATTACH skip its scan; ATTACH uses the primary key that LIKE made.
-- It drops only the scores of a retired rater and the members of a version that `alchemist subset gc` may collect.

CREATE OR REPLACE FUNCTION alchemist.partition_key(parent text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN CASE parent WHEN 'scores' THEN 'rater_id' WHEN 'subset_samples' THEN 'subset_id' END;

CREATE OR REPLACE FUNCTION alchemist.add_partition(parent text, id integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key text := alchemist.partition_key(parent);
    child text := parent || '_' || id;
BEGIN
    IF key IS NULL OR id IS NULL OR id < 1 THEN
        RAISE EXCEPTION 'Partition % of % is not valid: the table must be scores or subset_samples, and the id at least 1.', id, parent;
    END IF;
    -- Of two sessions that add the same partition, the second waits here and then finds it.
    PERFORM alchemist.take_lock('partition ' || child);
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass('alchemist.' || child)) THEN
        RETURN;
    END IF;
    -- LIKE does not copy storage settings; migration 0012 gives their reasons.
    EXECUTE format(
        'CREATE TABLE alchemist.%I (LIKE alchemist.%I INCLUDING ALL) WITH (autovacuum_vacuum_insert_scale_factor = 0.02,'
        ' autovacuum_analyze_scale_factor = 0.02, autovacuum_freeze_min_age = 0)', child, parent
    );
    EXECUTE format('COMMENT ON TABLE alchemist.%I IS %L', child, format('Partition of %s: %s %s.', parent, key, id));
    EXECUTE format('ALTER TABLE alchemist.%I ADD CONSTRAINT partition_bound CHECK (%I = %s)', child, key, id);
    EXECUTE format('ALTER TABLE alchemist.%I ATTACH PARTITION alchemist.%I FOR VALUES IN (%s)', parent, child, id);
    EXECUTE format('ALTER TABLE alchemist.%I DROP CONSTRAINT partition_bound', child);
END $$;

CREATE OR REPLACE FUNCTION alchemist.drop_partition(parent text, id integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    child text := parent || '_' || id;
BEGIN
    IF alchemist.partition_key(parent) IS NULL OR id IS NULL THEN
        RAISE EXCEPTION 'Partition % of % is not valid: the table must be scores or subset_samples.', id, parent;
    END IF;
    IF parent = 'scores' AND EXISTS (SELECT FROM alchemist.raters WHERE rater_id = id AND state <> 'retired') THEN
        RAISE EXCEPTION 'Rater % is not retired: its scores are in use. Retire it first.', id USING ERRCODE = 'object_in_use';
    END IF;
    IF parent = 'subset_samples' AND NOT alchemist.is_version_collectable(id) THEN
        RAISE EXCEPTION 'Subset version % is in use: its members cannot be removed.', id USING ERRCODE = 'object_in_use';
    END IF;
    PERFORM alchemist.take_lock('partition ' || child);
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass('alchemist.' || child)) THEN
        EXECUTE format('ALTER TABLE alchemist.%I DETACH PARTITION alchemist.%I', parent, child);
        EXECUTE format('DROP TABLE alchemist.%I', child);
    END IF;
END $$;

REVOKE ALL ON FUNCTION alchemist.add_partition(text, integer), alchemist.drop_partition(text, integer) FROM public;

COMMENT ON FUNCTION alchemist.partition_key(text) IS 'Returns the partition key of scores or subset_samples; null for every other table';
COMMENT ON FUNCTION alchemist.add_partition(text, integer) IS 'Adds a partition of scores (one rater) or subset_samples (one subset version), unless it exists';
COMMENT ON FUNCTION alchemist.drop_partition(text, integer) IS 'Drops a partition of scores or subset_samples; an error while its rater or version is in use';
