-- Purpose: what a night, a subset and a point of a metric cost, in seconds of work; times the price of the device it is money.
-- One row is: a night (by its crawl date), a subset version, or an evaluated value, with the device that worked for it.
--   A run that made several values is shared among them evenly; a subset has its selection, its models' training and their evaluation.
-- Relies on: pk_runs, ix_models_subset_id, uq_evaluations_model_id_contract_id_metric; small tables.
CREATE VIEW alchemist.device_seconds AS
WITH points AS (
    SELECT
        evaluations.evaluation_id,
        evaluations.metric,
        models.subset_id,
        models.arm,
        models.seed,
        runs.device,
        runs.work_seconds / count(*) OVER (PARTITION BY runs.run_id) AS seconds
    FROM alchemist.evaluations
    INNER JOIN alchemist.models ON evaluations.model_id = models.model_id
    INNER JOIN alchemist.runs ON evaluations.run_id = runs.run_id
),

trained AS (
    SELECT models.subset_id, runs.device, runs.work_seconds / count(*) OVER (PARTITION BY runs.run_id) AS seconds
    FROM alchemist.models
    INNER JOIN alchemist.runs ON models.run_id = runs.run_id
),

parts AS (
    SELECT subsets.subset_id, runs.device, runs.work_seconds AS seconds
    FROM alchemist.subsets
    INNER JOIN alchemist.runs ON subsets.run_id = runs.run_id
    UNION ALL
    SELECT trained.subset_id, trained.device, trained.seconds FROM trained
    UNION ALL
    SELECT points.subset_id, points.device, points.seconds FROM points
)

SELECT 'night' AS kind, runs.config ->> 'crawl_date' AS name, runs.device, sum(runs.work_seconds) AS seconds
FROM alchemist.runs
WHERE runs.stage IN ('ingest', 'score') AND runs.config ->> 'crawl_date' IS NOT NULL AND runs.work_seconds IS NOT NULL
GROUP BY runs.config ->> 'crawl_date', runs.device
UNION ALL
SELECT 'subset', subsets.name || ' v' || subsets.version, parts.device, sum(parts.seconds)
FROM parts
INNER JOIN alchemist.subsets ON parts.subset_id = subsets.subset_id
GROUP BY subsets.subset_id, subsets.name, subsets.version, parts.device
UNION ALL
SELECT
    'metric point',
    points.metric || ' of ' || coalesce(subsets.name || ' v' || subsets.version, 'all') || ', ' || points.arm || ' seed ' || points.seed,
    points.device,
    sum(points.seconds)
FROM points
LEFT JOIN alchemist.subsets ON points.subset_id = subsets.subset_id
GROUP BY points.metric, subsets.subset_id, subsets.name, subsets.version, points.arm, points.seed, points.device;
