-- Purpose: Return the cost of each night, subset version and metric value, by stage, in seconds of work and in money.
-- One row is: a night (by its crawl date), a subset version or a metric value, with a stage that worked for it on a device. Work
--   with is_shared (crawl, rater, scores) led to other versions too and is counted in full for each. A run that made several models
--   or values is divided evenly among them. Money is at the prices of the run's day, null where a part of the work had no price. A
--   night includes failed tries, a version only the runs that it was made from.
-- Relies on: pk_runs, pk_shard_scores, pk_shards, ix_models_subset_id, uq_evaluations_model_id_protocol_id_metric; one pass over the ledger.
CREATE VIEW alchemist.costs AS
WITH points AS (
    SELECT
        evaluations.metric, models.subset_id, models.arm, models.seed, evaluations.run_id,
        1.0::float8 / count(*) OVER (PARTITION BY evaluations.run_id) AS share
    FROM alchemist.evaluations INNER JOIN alchemist.models ON evaluations.model_id = models.model_id
),

-- A run that brought or scored several nights: each has its share by shards.
night_work AS (
    SELECT scored.night_id, made.run_id, made.is_ingest, count(*) / sum(count(*)) OVER (PARTITION BY scored.rater_id, made.run_id) AS share
    FROM alchemist.shard_scores AS scored
    INNER JOIN alchemist.shards ON scored.shard_id = shards.shard_id
    CROSS JOIN LATERAL (VALUES (shards.run_id, TRUE), (scored.run_id, FALSE)) AS made (run_id, is_ingest)
    GROUP BY scored.rater_id, scored.night_id, made.run_id, made.is_ingest
),

-- The rater of each version, and the scorers, imported scores and other raters that it ranks by.
rated AS (
    SELECT subsets.subset_id, rank_snapshots.night_ids, raters.rater_id, raters.run_id, raters.rater_id = rank_scales.rater_id AS is_rater
    FROM alchemist.subsets
    INNER JOIN alchemist.rank_snapshots ON subsets.snapshot_id = rank_snapshots.snapshot_id
    INNER JOIN alchemist.rank_scales ON rank_snapshots.rank_scale_id = rank_scales.rank_scale_id
    INNER JOIN alchemist.raters_of_scales() AS used ON rank_scales.rank_scale_id = used.rank_scale_id
    INNER JOIN alchemist.raters ON used.rater_id = raters.rater_id
),

-- The runs that made each rater of a version or its scores. Of a run that scores only the scores count: it can also register a scorer.
shared AS (
    SELECT subset_id, run_id, 1.0::float8 AS share FROM rated WHERE run_id NOT IN (SELECT run_id FROM alchemist.runs WHERE stage = 'score')
    UNION ALL
    SELECT rated.subset_id, night_work.run_id, sum(night_work.share)
    FROM rated
    CROSS JOIN LATERAL (SELECT DISTINCT dataset_id, crawl_date FROM alchemist.nights WHERE night_id = ANY(rated.night_ids)) AS dated
    INNER JOIN alchemist.nights AS scored USING (dataset_id, crawl_date)
    INNER JOIN night_work ON scored.night_id = night_work.night_id AND (rated.is_rater OR NOT night_work.is_ingest)
    WHERE scored.rater_id = rated.rater_id AND (NOT rated.is_rater OR scored.night_id = ANY(rated.night_ids))
    GROUP BY rated.subset_id, rated.rater_id, night_work.run_id
),

parts AS (
    SELECT subset_id, run_id, 1.0::float8 AS share, FALSE AS is_shared FROM alchemist.subsets
    UNION ALL
    SELECT subset_id, run_id, 1.0::float8 / count(*) OVER (PARTITION BY run_id), FALSE FROM alchemist.models
    UNION ALL
    SELECT subset_id, run_id, share, FALSE FROM points
    UNION ALL
    SELECT subsets.subset_id, runs.run_id, 1, FALSE
    FROM alchemist.runs INNER JOIN alchemist.subsets ON runs.result ->> 'subset' = subsets.name || ' v' || subsets.version
    WHERE runs.stage = 'materialize'
    UNION ALL
    -- One pass can make several of a version's scores, and one import is both the rater's run and that of its scores.
    SELECT subset_id, run_id, max(share), TRUE FROM shared GROUP BY subset_id, run_id
),

named AS (
    SELECT 'night' AS kind, config ->> 'crawl_date' AS name, run_id, 1.0::float8 AS share, FALSE AS is_shared
    FROM alchemist.runs WHERE stage IN ('ingest', 'score') AND config ->> 'crawl_date' IS NOT NULL
    UNION ALL
    SELECT 'subset', subsets.name || ' v' || subsets.version, parts.run_id, parts.share, parts.is_shared
    FROM parts INNER JOIN alchemist.subsets ON parts.subset_id = subsets.subset_id
    UNION ALL
    SELECT
        'metric point', points.metric || ' of ' || coalesce(subsets.name || ' v' || subsets.version, 'all') || ', '
        || replace(points.arm, 'planted', 'oracle') || ' seed ' || points.seed, points.run_id, points.share, FALSE
    FROM points LEFT JOIN alchemist.subsets ON points.subset_id = subsets.subset_id
)

SELECT
    named.kind, named.name, runs.stage, named.is_shared, runs.device, sum(runs.work_seconds * named.share) AS seconds,
    CASE WHEN count(*) = count(runs.cost) THEN sum(runs.cost * named.share) END AS cost
FROM named INNER JOIN alchemist.runs ON named.run_id = runs.run_id
WHERE runs.work_seconds IS NOT NULL
GROUP BY named.kind, named.name, runs.stage, named.is_shared, runs.device;

COMMENT ON VIEW alchemist.costs IS 'Cost of each night, subset version and evaluated value, by stage and device';
COMMENT ON COLUMN alchemist.costs.kind IS 'night (runs that were given one crawl date, as nightly_rescore gives it), subset, or metric point (one evaluated value)';
COMMENT ON COLUMN alchemist.costs.name IS 'Crawl date of the night, subset version, or metric with model';
COMMENT ON COLUMN alchemist.costs.stage IS 'Stage that did the work';
COMMENT ON COLUMN alchemist.costs.is_shared IS 'Whether other subset versions use the same work too (crawl, rater, scores): it is counted in full for each of them';
COMMENT ON COLUMN alchemist.costs.device IS 'Device that did the work';
COMMENT ON COLUMN alchemist.costs.seconds IS 'Seconds of work';
COMMENT ON COLUMN alchemist.costs.cost IS 'Cost in the currency of the configured prices; null where a part of the work had no price';
