-- The rights of the roles; `limits.sql` sets their limits. migrate() runs this as the owner after every change of this folder; safe to re-run.
--   owner             the user who migrates: owns all objects; only this role creates, alters and drops them
--   alchemist_writer  stages: changes rows, not the schema; partitions and statistics only through functions
--   alchemist_reader  Grafana, analysts: SELECT only; it can change its timeouts, so `end_long_reads` enforces the limit
-- Both can log in after they have a password. The embedded server sets one for each; on another server `alchemist db provision` does.
-- If the owner may not create roles (a managed server), an administrator creates both; until then nothing is granted.

DO $$
DECLARE
    may_create boolean := (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user);
    -- Before Postgres 16, this right included altering and granting roles; ADMIN OPTION was not needed, and the creator did not get it.
    is_old boolean := current_setting('server_version_num')::integer < 160000;
    wanted record;
BEGIN
    IF may_create AND to_regrole('alchemist_writer') IS NULL THEN
        CREATE ROLE alchemist_writer LOGIN;
    END IF;
    IF may_create AND to_regrole('alchemist_reader') IS NULL THEN
        CREATE ROLE alchemist_reader LOGIN;
    END IF;
    -- Every role may change its own defaults, so one reader can change them for all. Only what differs is written: migrations of two
    -- databases would meet at the same row. ALTER ROLE needs both rights.
    IF may_create AND (is_old OR pg_has_role(to_regrole('alchemist_reader'), 'MEMBER WITH ADMIN OPTION')) THEN
        FOR wanted IN
            SELECT name, value FROM (VALUES
                ('default_transaction_read_only', 'on'),
                ('statement_timeout', '60s'),
                ('idle_in_transaction_session_timeout', '60s')
            ) AS defaults (name, value)
        LOOP
            IF NOT EXISTS (
                SELECT FROM pg_db_role_setting, unnest(setconfig) AS setting
                WHERE setrole = to_regrole('alchemist_reader') AND setdatabase = 0 AND setting = wanted.name || '=' || wanted.value
            ) THEN
                EXECUTE format('ALTER ROLE alchemist_reader SET %I = %L', wanted.name, wanted.value);
            END IF;
            -- One for this database alone would win.
            IF EXISTS (
                SELECT FROM pg_db_role_setting INNER JOIN pg_database ON pg_database.oid = setdatabase, unnest(setconfig) AS setting
                WHERE
                    setrole = to_regrole('alchemist_reader')
                    AND datname = current_database()
                    AND split_part(setting, '=', 1) = wanted.name
            ) THEN
                EXECUTE format('ALTER ROLE alchemist_reader IN DATABASE %I RESET %I', current_database(), wanted.name);
            END IF;
        END LOOP;
    END IF;
-- Roles belong to the whole server, so migrations of two databases may create one at the same time.
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

DO $$
DECLARE
    -- As above.
    may_grant boolean := current_setting('server_version_num')::integer < 160000
        AND (SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user);
BEGIN
    -- With this right, functions of the owner can end a session of the writer. The owner already has all rights of the writer.
    IF
        (may_grant OR pg_has_role(to_regrole('alchemist_writer'), 'MEMBER WITH ADMIN OPTION'))
        AND NOT pg_has_role(to_regrole('alchemist_writer'), 'USAGE')
    THEN
        GRANT alchemist_writer TO CURRENT_USER;
    END IF;
    -- The same for sessions of the reader that exceed their limit (`end_long_reads`).
    IF
        (may_grant OR pg_has_role(to_regrole('alchemist_reader'), 'MEMBER WITH ADMIN OPTION'))
        AND NOT pg_has_role(to_regrole('alchemist_reader'), 'USAGE')
    THEN
        GRANT alchemist_reader TO CURRENT_USER;
    END IF;
    IF to_regrole('alchemist_writer') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA alchemist TO alchemist_writer;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA alchemist TO alchemist_writer;
        -- SELECT is for `alchemist db backup`, which copies the state of each sequence.
        GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA alchemist TO alchemist_writer;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA alchemist TO alchemist_writer;
        REVOKE UPDATE, DELETE ON alchemist.audit_events, alchemist.sample_flags, alchemist.blind_judgements FROM alchemist_writer;
        REVOKE INSERT, UPDATE, DELETE ON alchemist.alembic_version FROM alchemist_writer;
        -- For later partitions, which COPY can write to directly.
        ALTER DEFAULT PRIVILEGES IN SCHEMA alchemist GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO alchemist_writer;
    END IF;
    IF to_regrole('alchemist_reader') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA alchemist TO alchemist_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA alchemist TO alchemist_reader;
        GRANT EXECUTE ON FUNCTION alchemist.rank_of(float8, integer) TO alchemist_reader;
        GRANT EXECUTE ON FUNCTION alchemist.score_bound(float8, integer) TO alchemist_reader;
        GRANT EXECUTE ON FUNCTION alchemist.rank_on_knots(float8, float8[], float8[]) TO alchemist_reader;
        GRANT EXECUTE ON FUNCTION alchemist.score_rater_id(text) TO alchemist_reader;
        GRANT EXECUTE ON FUNCTION alchemist.raters_of_scales() TO alchemist_reader;
        GRANT EXECUTE ON FUNCTION alchemist.shift_gsample(integer, float8, float8, float8, float8, bigint) TO alchemist_reader;
        GRANT EXECUTE ON FUNCTION alchemist.signal_ranks(integer, bigint) TO alchemist_reader;
        ALTER DEFAULT PRIVILEGES IN SCHEMA alchemist GRANT SELECT ON TABLES TO alchemist_reader;
    END IF;
END $$;
