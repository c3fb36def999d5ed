-- Purpose: Extend the live leases of a run. A lease whose row is locked is left as it is: its own commit holds it, which may take longer
--   than the lease, and the run's other leases must not wait for it.
-- Parameters: run_id bigint, ttl_s float8 (seconds from now).
-- One row is: a lease that the run holds, extended or locked; an expired one is lost even if no other run claimed it.
-- Relies on: pk_leases; leases is small.
-- Safe to re-run: yes.
WITH live AS MATERIALIZED (
    SELECT
        resource,
        fencing_token
    FROM alchemist.leases
    WHERE run_id = :run_id AND expires_at > clock_timestamp()
),

free AS MATERIALIZED (
    SELECT leases.resource
    FROM alchemist.leases
    INNER JOIN live ON leases.resource = live.resource AND leases.fencing_token = live.fencing_token
    FOR UPDATE OF leases SKIP LOCKED
),

renewed AS (
    UPDATE alchemist.leases SET expires_at = clock_timestamp() + make_interval(secs => :ttl_s)
    FROM free
    WHERE leases.resource = free.resource
)

SELECT fencing_token FROM live
