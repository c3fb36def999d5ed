-- Purpose: Return the registered datasets, for `alchemist dataset list` and `show`.
-- Parameters: name text or null (every dataset).
-- One row is: a dataset. n_samples counts the records of its verified shards, quarantined ones included; n_waiting the crawl dates
--   of a training dataset with shards that are neither selectable nor rejected; is_default marks the evaluation dataset that commands
--   use by default: the chosen one, else the first registered.
-- Relies on: ix_shards_dataset_id_crawl_date; nightly_overview.
-- Safe to re-run: yes.
WITH counted AS (
    SELECT
        dataset_id,
        count(*) FILTER (WHERE state = 'verified') AS n_shards,
        coalesce(sum(n_samples) FILTER (WHERE state = 'verified'), 0) AS n_samples,
        min(crawl_date) AS first_crawl_date,
        max(crawl_date) AS last_crawl_date
    FROM alchemist.shards
    GROUP BY dataset_id
),

waiting AS (
    SELECT dataset, count(*) AS n_nights
    FROM alchemist.nightly_overview
    WHERE status NOT IN ('selectable', 'empty') AND status NOT LIKE 'rejected%'
    GROUP BY dataset
),

preferred AS (
    SELECT dataset_id FROM alchemist.datasets
    WHERE role = 'evaluation' AND removed_at IS NULL
    ORDER BY is_default DESC, dataset_id ASC LIMIT 1
)

SELECT
    datasets.dataset_id,
    datasets.name,
    datasets.role,
    datasets.root_uri,
    coalesce(counted.n_shards, 0) AS n_shards,
    coalesce(counted.n_samples, 0)::bigint AS n_samples,
    coalesce(waiting.n_nights, 0) AS n_waiting,
    counted.first_crawl_date,
    counted.last_crawl_date,
    coalesce(datasets.dataset_id = (SELECT preferred.dataset_id FROM preferred), FALSE) AS is_default,
    datasets.created_at,
    datasets.removed_at,
    datasets.removed_reason
FROM alchemist.datasets
LEFT JOIN counted ON datasets.dataset_id = counted.dataset_id
LEFT JOIN waiting ON datasets.name = waiting.dataset
WHERE coalesce(datasets.name = CAST(:name AS text), TRUE)
ORDER BY datasets.name
