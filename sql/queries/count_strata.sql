-- Purpose: Count given samples, and the members of a subset version among them, by where they come from.
-- Parameters: sample_ids bigint[], subset_id integer.
-- One row is: a dataset, a crawl month (YYYY-MM) or the host of a source URL, with the number of these samples whose first readable
--   location is of it, and of the members among them; a sample without a URL counts for the name (none).
-- Relies on: pk_samples, alchemist.first_location, the version's partition of pk_subset_samples: a few rows for each given sample.
-- Safe to re-run: yes.
WITH placed AS MATERIALIZED (
    SELECT
        place.dataset,
        to_char(place.crawl_date, 'YYYY-MM') AS crawl_month,
        coalesce(
            lower(substring(samples.source_url FROM '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#:]+)')), '(none)'
        ) AS source,
        subset_samples.sample_id IS NOT NULL AS is_member
    FROM unnest(CAST(:sample_ids AS bigint[])) AS wanted (sample_id)
    INNER JOIN alchemist.samples ON wanted.sample_id = samples.sample_id
    INNER JOIN LATERAL alchemist.first_location(samples.sample_id) AS place ON TRUE
    LEFT JOIN alchemist.subset_samples
        ON samples.sample_id = subset_samples.sample_id AND subset_samples.subset_id = CAST(:subset_id AS integer)
)

SELECT 'dataset' AS kind, dataset AS name, count(*) AS n_samples, count(*) FILTER (WHERE is_member) AS n_members
FROM placed GROUP BY dataset
UNION ALL
SELECT 'crawl month', crawl_month, count(*), count(*) FILTER (WHERE is_member) FROM placed GROUP BY crawl_month
UNION ALL
SELECT 'source', source, count(*), count(*) FILTER (WHERE is_member) FROM placed GROUP BY source
ORDER BY kind ASC, n_samples DESC, name ASC
