-- Purpose: the series of the metrics exporter; names and label order are telemetry.py's catalogue.
-- Parameters: none.
-- One row is: a series with its label values and its value now.
-- Relies on: ix_runs_stage_config_hash, ix_shards_dataset_id_crawl_date, pk_shard_scores; reads ledgers, never scores.
-- Safe to re-run: yes.
WITH production AS (
    SELECT rater_id FROM alchemist.raters WHERE state = 'production'
),

shown_subsets AS (
    SELECT subset_id, name, n_samples
    FROM alchemist.subsets
    WHERE state = 'published'
    ORDER BY published_at DESC
    LIMIT 20
)

SELECT
    'alchemist_stage_last_success_timestamp_seconds' AS metric,
    ARRAY[stage] AS labels,
    extract(EPOCH FROM max(finished_at))::double precision AS value
FROM alchemist.runs WHERE state = 'succeeded' GROUP BY stage
UNION ALL
SELECT 'alchemist_stage_runs_total', ARRAY[stage, state], count(*)::double precision
FROM alchemist.runs GROUP BY stage, state
UNION ALL
SELECT 'alchemist_stage_work_seconds_total', ARRAY[stage], coalesce(sum(work_seconds), 0)
FROM alchemist.runs GROUP BY stage
UNION ALL
SELECT 'alchemist_shards_total', ARRAY[datasets.name, shards.state], count(*)::double precision
FROM alchemist.shards INNER JOIN alchemist.datasets USING (dataset_id) GROUP BY datasets.name, shards.state
UNION ALL
SELECT 'alchemist_samples_scored_total', ARRAY[datasets.name], sum(shard_scores.n_scored)::double precision
FROM alchemist.shard_scores
INNER JOIN production USING (rater_id)
INNER JOIN alchemist.shards USING (shard_id)
INNER JOIN alchemist.datasets USING (dataset_id)
GROUP BY datasets.name
UNION ALL
SELECT 'alchemist_samples_quarantined_total', ARRAY[datasets.name, quarantined_samples.reason], count(*)::double precision
FROM alchemist.quarantined_samples
INNER JOIN alchemist.shards USING (shard_id)
INNER JOIN alchemist.datasets USING (dataset_id)
GROUP BY datasets.name, quarantined_samples.reason
UNION ALL
SELECT 'alchemist_shards_unscored', ARRAY[datasets.name], count(*)::double precision
FROM alchemist.shards
INNER JOIN alchemist.datasets USING (dataset_id)
CROSS JOIN production
WHERE
    shards.state = 'verified'
    AND datasets.role = 'train'
    AND NOT EXISTS (
        SELECT 1 FROM alchemist.shard_scores
        WHERE shard_scores.shard_id = shards.shard_id AND shard_scores.rater_id = production.rater_id
    )
GROUP BY datasets.name
UNION ALL
SELECT 'alchemist_nights_held', ARRAY[datasets.name], count(*)::double precision
FROM alchemist.nights INNER JOIN production USING (rater_id) INNER JOIN alchemist.datasets USING (dataset_id)
WHERE nights.state = 'held' GROUP BY datasets.name
UNION ALL
SELECT 'alchemist_score_psi', ARRAY[datasets.name], (array_agg(shape.psi ORDER BY nights.night_id DESC))[1]
FROM alchemist.score_distributions AS shape INNER JOIN alchemist.nights USING (night_id) INNER JOIN production USING (rater_id)
INNER JOIN alchemist.datasets USING (dataset_id) WHERE shape.psi IS NOT NULL GROUP BY datasets.name
UNION ALL
SELECT 'alchemist_leases', ARRAY[]::text[], count(*)::double precision
FROM alchemist.leases WHERE expires_at > clock_timestamp()
UNION ALL
SELECT 'alchemist_subset_samples', ARRAY[name], n_samples::double precision FROM shown_subsets
UNION ALL
SELECT
    'alchemist_evaluation_value',
    ARRAY[shown_subsets.name, evaluations.metric, models.arm],
    avg(evaluations.value)
FROM shown_subsets
INNER JOIN alchemist.models USING (subset_id)
INNER JOIN alchemist.evaluations USING (model_id)
GROUP BY shown_subsets.name, evaluations.metric, models.arm
