-- Purpose: Return the exporter's metrics of results: published subsets, evaluations, acceptance reports of raters.
-- Parameters: none.
-- One row is: a series with its label values and its value now; for the 20 last published subsets and the 3 newest raters.
-- Relies on: uq_subsets_one_published, compared_models.
-- Safe to re-run: yes.
WITH shown_subsets AS (
    SELECT subset_id, name, n_samples, retention, published_at
    FROM alchemist.subsets
    WHERE state = 'published'
    ORDER BY published_at DESC, subset_id DESC
    LIMIT 20
),

shown_raters AS (
    SELECT rater_id, name, acceptance_report
    FROM alchemist.raters
    WHERE kind = 'trained'
    ORDER BY state = 'production' DESC, rater_id DESC
    LIMIT 3
),

measured AS (
    SELECT
        shown_subsets.name, shown_subsets.published_at, compared_models.metric, compared_models.arm, compared_models.value,
        count(*) OVER (PARTITION BY compared_models.subset_id, compared_models.metric, compared_models.seed) = 2 AS is_paired
    FROM shown_subsets
    INNER JOIN alchemist.compared_models ON shown_subsets.subset_id = compared_models.subset_id
    WHERE compared_models.arm IN ('subset', 'random')
),

-- Over the seeds that both have, because losses differ more between seeds than between arms; without one, of the subset alone.
valued AS (
    SELECT name, metric, arm, coalesce(avg(value) FILTER (WHERE is_paired), avg(value)) AS value
    FROM measured
    GROUP BY name, metric, arm, published_at
    HAVING arm = 'subset' OR bool_or(is_paired)
    ORDER BY published_at DESC, name ASC, metric ASC, arm ASC
    LIMIT 100
)

SELECT 'alchemist_subset_samples' AS metric, ARRAY[name] AS labels, n_samples::double precision AS value FROM shown_subsets
UNION ALL
SELECT 'alchemist_subset_retention_ratio', ARRAY[name], retention FROM shown_subsets
UNION ALL
SELECT 'alchemist_evaluation_value', ARRAY[name, metric, arm], value FROM valued
UNION ALL
SELECT 'alchemist_rater_check_value', ARRAY[shown_raters.name, checks.name], checks.value
FROM shown_raters
CROSS JOIN
    LATERAL
    jsonb_to_recordset(coalesce(shown_raters.acceptance_report -> 'checks', '[]')) AS checks (name text, value double precision)
WHERE checks.value IS NOT NULL
