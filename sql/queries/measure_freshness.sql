-- Purpose: Return the exporter's freshness metrics: each dataset's newest selectable crawl date, and the usual interval between its
--   crawl dates. A night whose shards were all retired has no samples to select. The exporter chooses among datasets that share a
--   label, after it has applied the intervals of the project file.
-- Parameters: none.
-- One row is: a dataset with its label and its name, and its value now. A dataset without a selectable date has the day before its first crawl
--   date, or the day of the production rater's promotion if that was later; one with a single crawl date has no interval.
-- Relies on: ix_shards_dataset_id_crawl_date, read from one crawl date to the next; small tables otherwise.
-- Safe to re-run: yes.
WITH RECURSIVE production AS (
    SELECT rater_id, (promoted_at AT TIME ZONE 'UTC')::date AS promoted_on FROM alchemist.raters WHERE state = 'production'
),

newest AS (
    SELECT
        named.label,
        named.name,
        coalesce(
            (
                SELECT nights.crawl_date FROM alchemist.nights
                WHERE
                    nights.dataset_id = named.dataset_id AND nights.rater_id = production.rater_id
                    AND nights.state IN ('selectable', 'released')
                    AND EXISTS (
                        SELECT FROM alchemist.shards
                        WHERE
                            shards.dataset_id = nights.dataset_id AND shards.crawl_date = nights.crawl_date
                            AND shards.state NOT IN ('retired', 'superseded')
                    )
                ORDER BY nights.crawl_date DESC LIMIT 1
            ),
            (
                SELECT greatest(shards.crawl_date - 1, production.promoted_on) FROM alchemist.shards
                WHERE shards.dataset_id = named.dataset_id AND shards.state = 'verified'
                ORDER BY shards.crawl_date LIMIT 1
            )
        ) AS crawl_date
    FROM alchemist.labelled_datasets AS named CROSS JOIN production
),

-- The newest 15 crawl dates of each dataset.
crawled AS (
    SELECT named.dataset_id, named.label, named.name, newer.crawl_date, 1 AS place
    FROM alchemist.labelled_datasets AS named
    INNER JOIN LATERAL (
        SELECT shards.crawl_date FROM alchemist.shards
        WHERE shards.dataset_id = named.dataset_id AND shards.state = 'verified'
        ORDER BY shards.crawl_date DESC LIMIT 1
    ) AS newer ON TRUE
    UNION ALL
    SELECT crawled.dataset_id, crawled.label, crawled.name, older.crawl_date, crawled.place + 1
    FROM crawled
    INNER JOIN LATERAL (
        SELECT shards.crawl_date FROM alchemist.shards
        WHERE shards.dataset_id = crawled.dataset_id AND shards.crawl_date < crawled.crawl_date AND shards.state = 'verified'
        ORDER BY shards.crawl_date DESC LIMIT 1
    ) AS older ON TRUE
    WHERE crawled.place < 15
),

-- Days between neighbouring dates; the usual interval is taken from the newest ones.
gaps AS (
    SELECT
        label,
        name,
        crawl_date - lag(crawl_date) OVER (PARTITION BY dataset_id ORDER BY crawl_date) AS n_days
    FROM crawled
)

SELECT
    'alchemist_newest_night_timestamp_seconds' AS metric,
    ARRAY[label, name] AS labels,
    extract(EPOCH FROM crawl_date)::double precision AS value
FROM newest WHERE crawl_date IS NOT NULL
UNION ALL
SELECT 'alchemist_night_interval_seconds', ARRAY[label, name], 86400 * percentile_disc(0.5) WITHIN GROUP (ORDER BY n_days)::double precision
FROM gaps WHERE n_days IS NOT NULL GROUP BY label, name
