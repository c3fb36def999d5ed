-- Purpose: Count given samples by where they come from.
-- Parameters: sample_ids bigint[].
-- One row is: a dataset, a crawl month (YYYY-MM) or the host of a source URL, with the number of these samples whose first readable
--   location is of it; a sample without a URL counts for the name (none).
-- Relies on: pk_samples, alchemist.first_location: a few rows for each given sample.
-- Safe to re-run: yes.
WITH placed AS MATERIALIZED (
    SELECT
        place.dataset,
        to_char(place.crawl_date, 'YYYY-MM') AS crawl_month,
        coalesce(
            lower(substring(samples.source_url FROM '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#:]+)')), '(none)'
        ) AS source
    FROM unnest(CAST(:sample_ids AS bigint[])) AS wanted (sample_id)
    INNER JOIN alchemist.samples ON wanted.sample_id = samples.sample_id
    INNER JOIN LATERAL alchemist.first_location(samples.sample_id) AS place ON TRUE
)

SELECT 'dataset' AS kind, dataset AS name, count(*) AS n_samples FROM placed GROUP BY dataset
UNION ALL
SELECT 'crawl month', crawl_month, count(*) FROM placed GROUP BY crawl_month
UNION ALL
SELECT 'source', source, count(*) FROM placed GROUP BY source
ORDER BY kind ASC, n_samples DESC, name ASC
