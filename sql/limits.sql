-- Keeps a reader from filling the disk of the server. A session can lift its own read-only setting, so it needs rights and limits.
-- Migrations run this as the owner, and the embedded server as superuser in each of its databases; safe to re-run, and it writes only
-- what is missing. Only a superuser can do the second half: on another server an administrator runs this file once in the store's
-- database (infra/SECURITY.md).

DO $$
DECLARE
    writer regrole := to_regrole('alchemist_writer');
    reader regrole := to_regrole('alchemist_reader');
    called text;
BEGIN
    -- Stages use temporary tables; the owner of a database may make them always.
    IF EXISTS (SELECT FROM pg_database WHERE datname = current_database() AND pg_has_role(datdba, 'USAGE')) THEN
        IF writer IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_database, aclexplode(datacl)
            WHERE datname = current_database() AND grantee = writer AND privilege_type = 'TEMPORARY'
        ) THEN
            EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO alchemist_writer', current_database());
        END IF;
        IF has_database_privilege('public', current_database(), 'TEMPORARY') THEN
            EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
        END IF;
    END IF;

    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        RETURN;
    END IF;
    -- Large objects, and messages in the write-ahead log: nothing of ours uses them.
    FOR called IN
        SELECT oid::regprocedure FROM pg_proc
        WHERE
            pronamespace = 'pg_catalog'::regnamespace
            AND proname IN (
                'lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_put', 'lowrite', 'pg_logical_emit_message'
            )
            AND has_function_privilege('public', oid, 'EXECUTE')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', called);
    END LOOP;
    -- Sorts and joins that exceed work_mem. A limit that an administrator has set stays.
    IF reader IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_db_role_setting, unnest(setconfig) AS setting
        WHERE setrole = reader AND setting LIKE 'temp\_file\_limit=%'
    ) THEN
        ALTER ROLE alchemist_reader SET temp_file_limit = '10GB';
    END IF;
END $$;
