-- Purpose: Return the exporter's metrics of nights: decisions, drift, and the newest crawl date of each dataset.
-- Parameters: none.
-- One row is: a series with its label values and its value now.
-- Relies on: ix_shards_dataset_id_crawl_date (one date per dataset), pk_shard_scores,
--   uq_quarantined_samples_shard_id_ordinal_rater_id.
-- Safe to re-run: yes.
WITH raters_shown AS (
    SELECT rater_id, name, state
    FROM alchemist.raters
    WHERE kind = 'trained' AND (state = 'production' OR (state = 'candidate' AND is_shadow))
    ORDER BY state DESC, rater_id DESC
    LIMIT 2
),

decided AS (
    SELECT named.label, nights.state, nights.crawl_date
    FROM alchemist.nights
    INNER JOIN alchemist.labelled_datasets AS named ON nights.dataset_id = named.dataset_id
    WHERE nights.rater_id = (SELECT raters_shown.rater_id FROM raters_shown WHERE raters_shown.state = 'production')
),

drifted AS (
    SELECT DISTINCT ON (named.label, raters_shown.name) named.label, raters_shown.name, shape.psi, shape.ks_distance
    FROM alchemist.score_distributions AS shape
    INNER JOIN alchemist.nights ON shape.night_id = nights.night_id
    INNER JOIN raters_shown ON nights.rater_id = raters_shown.rater_id
    INNER JOIN alchemist.labelled_datasets AS named ON nights.dataset_id = named.dataset_id
    WHERE shape.psi IS NOT NULL
    ORDER BY named.label ASC, raters_shown.name ASC, nights.night_id DESC
),

newest AS (
    SELECT named.label, shards.shard_id, shards.n_samples, coalesce(shard_scores.n_scored, 0) AS n_scored
    FROM alchemist.labelled_datasets AS named
    INNER JOIN LATERAL (
        SELECT dated.crawl_date
        FROM alchemist.shards AS dated
        WHERE dated.dataset_id = named.dataset_id AND dated.state = 'verified'
        ORDER BY dated.crawl_date DESC
        LIMIT 1
    ) AS night ON TRUE
    INNER JOIN alchemist.shards ON named.dataset_id = shards.dataset_id AND night.crawl_date = shards.crawl_date
    LEFT JOIN alchemist.shard_scores
        ON
            shards.shard_id = shard_scores.shard_id
            AND shard_scores.rater_id = (SELECT raters_shown.rater_id FROM raters_shown WHERE raters_shown.state = 'production')
    WHERE shards.state = 'verified'
),

reasons AS (
    SELECT
        newest.label, bad.reason, count(*) AS n_samples,
        row_number() OVER (PARTITION BY newest.label ORDER BY count(*) DESC, bad.reason ASC) AS place
    FROM newest
    INNER JOIN alchemist.quarantined_samples AS bad ON newest.shard_id = bad.shard_id
    WHERE
        bad.rater_id IS NULL
        OR bad.rater_id = (SELECT raters_shown.rater_id FROM raters_shown WHERE raters_shown.state = 'production')
    GROUP BY newest.label, bad.reason
)

SELECT 'alchemist_nights' AS metric, ARRAY[label, state] AS labels, count(*)::double precision AS value
FROM decided GROUP BY label, state
UNION ALL
SELECT 'alchemist_score_psi', ARRAY[label, name], psi FROM drifted WHERE label <> 'other'
UNION ALL
SELECT 'alchemist_score_ks_distance', ARRAY[label, name], ks_distance FROM drifted WHERE label <> 'other'
UNION ALL
SELECT 'alchemist_night_samples', ARRAY[label, 'found', ''], sum(n_samples)::double precision FROM newest GROUP BY label
UNION ALL
SELECT 'alchemist_night_samples', ARRAY[label, 'scored', ''], sum(n_scored)::double precision FROM newest GROUP BY label
UNION ALL
SELECT
    'alchemist_night_samples',
    ARRAY[label, 'quarantined', CASE WHEN place <= 5 THEN reason ELSE 'other' END],
    sum(n_samples)::double precision
FROM reasons GROUP BY label, CASE WHEN place <= 5 THEN reason ELSE 'other' END
