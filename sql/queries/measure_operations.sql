-- Purpose: Return the exporter's metrics of operation: leases, failed tasks, takedowns, notifications.
-- Parameters: none.
-- One row is: a series with its label values and its value now; for tasks the 15 with the most failures of the last day.
-- Relies on: small tables.
-- Safe to re-run: yes.
WITH failed_tasks AS (
    -- A task that was cleared and has succeeded since is not a failure any more.
    SELECT split_part(key, ':', 2) AS subject, count(*) AS n_failed
    FROM alchemist.notifications
    WHERE kind = 'failed_task' AND created_at > clock_timestamp() - make_interval(days => 1) AND event #> '{facts,recovered_at}' IS NULL
    GROUP BY subject
    ORDER BY n_failed DESC, subject ASC
    LIMIT 15
),

-- Always return both outcomes: without a takedown they are 0, not absent.
takedowns AS (
    SELECT
        outcomes.outcome,
        count(takedowns.requested_at) AS n_takedowns,
        extract(EPOCH FROM min(takedowns.requested_at))::double precision AS requested_at
    FROM (VALUES ('pending', FALSE), ('done', TRUE)) AS outcomes (outcome, is_done)
    LEFT JOIN alchemist.takedowns ON outcomes.is_done = (takedowns.bytes_removed_at IS NOT NULL)
    GROUP BY outcomes.outcome
)

SELECT 'alchemist_leases' AS metric, ARRAY[states.outcome] AS labels, states.n_leases::double precision AS value
FROM (
    SELECT
        count(*) FILTER (WHERE alchemist.is_live_lease(expires_at)) AS n_live,
        count(*) FILTER (WHERE NOT alchemist.is_live_lease(expires_at)) AS n_expired
    FROM alchemist.leases
) AS counted
CROSS JOIN LATERAL (VALUES ('live', counted.n_live), ('expired', counted.n_expired)) AS states (outcome, n_leases)
UNION ALL
SELECT 'alchemist_task_failures', ARRAY[subject], n_failed::double precision FROM failed_tasks
UNION ALL
SELECT 'alchemist_takedowns', ARRAY[outcome], n_takedowns::double precision FROM takedowns
UNION ALL
SELECT 'alchemist_takedown_oldest_timestamp_seconds', ARRAY[outcome], requested_at FROM takedowns
WHERE outcome = 'pending' AND requested_at IS NOT NULL
UNION ALL
SELECT 'alchemist_notifications', ARRAY[state], count(*)::double precision
FROM alchemist.notifications WHERE created_at > clock_timestamp() - make_interval(days => 1) GROUP BY state
