-- Purpose: Return the exporter's freshness metrics: each dataset's newest selectable crawl date, and the usual interval between
--   dates.
-- Parameters: none.
-- One row is: a series with its label values and its value now; a dataset with only one selectable date has no interval.
-- Relies on: small tables: a night is one crawl date of a dataset under a rater.
-- Safe to re-run: yes.
WITH accepted_dates AS (
    SELECT DISTINCT named.label, nights.crawl_date
    FROM alchemist.nights
    INNER JOIN alchemist.labelled_datasets AS named ON nights.dataset_id = named.dataset_id
    INNER JOIN alchemist.raters ON nights.rater_id = raters.rater_id
    WHERE raters.state = 'production' AND nights.state IN ('selectable', 'released')
),

-- Days between neighbouring dates; the usual interval is taken from the newest ones.
gaps AS (
    SELECT
        label,
        crawl_date - lag(crawl_date) OVER (PARTITION BY label ORDER BY crawl_date) AS n_days,
        row_number() OVER (PARTITION BY label ORDER BY crawl_date DESC) AS place
    FROM accepted_dates
)

SELECT
    'alchemist_newest_night_timestamp_seconds' AS metric,
    ARRAY[label] AS labels,
    extract(EPOCH FROM max(crawl_date))::double precision AS value
FROM accepted_dates GROUP BY label
UNION ALL
SELECT 'alchemist_night_interval_seconds', ARRAY[label], 86400 * percentile_disc(0.5) WITHIN GROUP (ORDER BY n_days)::double precision
FROM gaps WHERE place <= 14 AND n_days IS NOT NULL GROUP BY label
