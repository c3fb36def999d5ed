-- Purpose: Return the nights that a run ingests or scores now.
-- One row is: a night and all runs with a live lease that work on it: their options cover it, or they have claimed one of its shards.
--   Runs that score count if they score with the production rater.
-- Relies on: pk_leases (only runs that work have leases), pk_runs, pk_shards; reads the dates of all shards while such a run works.
CREATE VIEW alchemist.night_work AS
WITH production AS (SELECT rater_id, name FROM alchemist.raters WHERE state = 'production'),

live AS MATERIALIZED (
    SELECT runs.run_id, runs.stage, runs.config, leases.resource
    FROM alchemist.leases INNER JOIN alchemist.runs ON leases.run_id = runs.run_id
    WHERE alchemist.is_live_lease(leases.expires_at) AND runs.stage IN ('ingest', 'score')
),

nights AS (SELECT DISTINCT dataset_id, crawl_date FROM alchemist.shards),

working AS (
    SELECT live.run_id, live.stage, nights.dataset_id, nights.crawl_date
    FROM live
    CROSS JOIN nights
    INNER JOIN alchemist.datasets ON nights.dataset_id = datasets.dataset_id
    WHERE
        starts_with(live.resource, 'run:')
        AND coalesce(live.config ->> 'dataset' = datasets.name, TRUE)
        AND coalesce((live.config ->> 'crawl_date')::date = nights.crawl_date, TRUE)
        AND (
            live.stage = 'ingest' OR (
                live.config ->> 'scorer' IS NULL
                AND live.config ->> 'rater' IN ('production', 'nightly', (SELECT production.name FROM production))
            )
        )
    UNION
    SELECT live.run_id, live.stage, shards.dataset_id, shards.crawl_date
    FROM live
    CROSS JOIN production
    INNER JOIN alchemist.shards
        -- CASE, because the names of other leases do not end with a number.
        ON shards.shard_id = CASE
            WHEN starts_with(live.resource, 'shard:' || production.rater_id || ':') THEN split_part(live.resource, ':', 3)::bigint
        END
)

SELECT
    dataset_id,
    crawl_date,
    coalesce(
        'being scored by run ' || string_agg(run_id::text, ', ' ORDER BY run_id) FILTER (WHERE stage = 'score'),
        'being ingested by run ' || string_agg(run_id::text, ', ' ORDER BY run_id)
    ) AS status,
    array_agg(run_id ORDER BY run_id) AS run_ids
FROM working
GROUP BY dataset_id, crawl_date;

COMMENT ON VIEW alchemist.night_work IS 'Nights that a run ingests or scores now; a run that stopped renewing its lease does not count';
COMMENT ON COLUMN alchemist.night_work.dataset_id IS 'Dataset of the night';
COMMENT ON COLUMN alchemist.night_work.crawl_date IS 'Date of the crawl';
COMMENT ON COLUMN alchemist.night_work.status IS 'What is done and by which run, in words; scoring comes before ingesting';
COMMENT ON COLUMN alchemist.night_work.run_ids IS 'Keys of the runs that work on it';
