-- Take a lock by name until the transaction ends: wait for it, or say at once that another session holds it.
--
-- A lock is a row, since any session may take any advisory lock: a reader's would keep stages waiting. To lock a row takes the right
-- to change it, which readers do not have. A row stays for each name that was ever locked.

CREATE OR REPLACE FUNCTION alchemist.take_lock(wanted text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO alchemist.locks (name) SELECT wanted
    WHERE NOT EXISTS (SELECT FROM alchemist.locks WHERE name = wanted) ON CONFLICT DO NOTHING;
    PERFORM FROM alchemist.locks WHERE name = wanted FOR UPDATE;
END $$;

CREATE OR REPLACE FUNCTION alchemist.try_lock(wanted text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO alchemist.locks (name) SELECT wanted
    WHERE NOT EXISTS (SELECT FROM alchemist.locks WHERE name = wanted) ON CONFLICT DO NOTHING;
    PERFORM FROM alchemist.locks WHERE name = wanted FOR UPDATE SKIP LOCKED;
    RETURN FOUND;
END $$;

REVOKE ALL ON FUNCTION alchemist.take_lock(text), alchemist.try_lock(text) FROM public;

COMMENT ON FUNCTION alchemist.take_lock(text) IS 'Takes a named lock until the transaction ends; waits for it';
COMMENT ON FUNCTION alchemist.try_lock(text) IS 'Takes a named lock until the transaction ends; returns false at once if another session holds it';
