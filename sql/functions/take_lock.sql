-- Take a named lock until the transaction ends: take_lock waits for it, try_lock returns false if another session holds it.
--
-- A lock is a row, not an advisory lock: any session, also a reader's, can take advisory locks and would block stages. Locking a row
-- requires the privilege to change it, which readers do not have. The row of each name stays.

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
