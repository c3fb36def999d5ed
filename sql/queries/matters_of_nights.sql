-- Purpose: Return the nights that wait for a person under the production rater: held ones, those that a check stopped and that were not
--   rejected, and those whose drift warned. Nights of removed datasets are left out: nobody can decide them.
-- Parameters: n_each integer (rows of each kind), since timestamptz (warnings from then on).
-- One row is: a matter of one kind: its subject (a dataset), the crawl date or the version it is about, the deciding facts in words,
--   and a page of Airflow.
-- Relies on: uq_raters_one_production, failed_checks, and the tables of nights, which have a row a night.
-- Safe to re-run: yes; the newest of each kind first.
WITH production AS (
    SELECT rater_id FROM alchemist.raters WHERE state = 'production'
),

held AS (
    SELECT
        'held night' AS kind, datasets.name AS subject, nights.crawl_date, NULL::integer AS version, nights.reason AS detail,
        NULL::text AS page, nights.decided_at AS since
    FROM alchemist.nights
    INNER JOIN alchemist.datasets ON nights.dataset_id = datasets.dataset_id AND datasets.removed_at IS NULL
    WHERE nights.state = 'held' AND nights.rater_id = (SELECT production.rater_id FROM production)
    ORDER BY nights.crawl_date DESC, datasets.name ASC
    LIMIT :n_each
),

failed AS (
    SELECT
        'failed check' AS kind, datasets.name AS subject, failed_checks.crawl_date, NULL::integer AS version,
        string_agg(failed_checks.suite || ': ' || failed_checks.expectation, ', ' ORDER BY failed_checks.suite, failed_checks.expectation) AS detail,
        NULL::text AS page, max(failed_checks.created_at) AS since
    FROM alchemist.failed_checks
    INNER JOIN alchemist.datasets ON failed_checks.dataset_name = datasets.name AND datasets.removed_at IS NULL
    WHERE failed_checks.observed -> 'rejected_by' IS NULL
    GROUP BY datasets.name, failed_checks.crawl_date
    ORDER BY failed_checks.crawl_date DESC, datasets.name ASC
    LIMIT :n_each
),

warned AS (
    SELECT
        'drift' AS kind, datasets.name AS subject, nights.crawl_date, NULL::integer AS version,
        'PSI ' || round(score_distributions.psi::numeric, 3) || ', KS distance ' || round(score_distributions.ks_distance::numeric, 3) AS detail,
        NULL::text AS page, score_distributions.created_at AS since
    FROM alchemist.score_distributions
    INNER JOIN alchemist.nights ON score_distributions.night_id = nights.night_id
    INNER JOIN alchemist.datasets ON nights.dataset_id = datasets.dataset_id AND datasets.removed_at IS NULL
    WHERE
        score_distributions.verdict = 'warned'
        AND score_distributions.created_at >= :since
        AND nights.rater_id = (SELECT production.rater_id FROM production)
    ORDER BY nights.crawl_date DESC, datasets.name ASC
    LIMIT :n_each
)

SELECT * FROM held
UNION ALL
SELECT * FROM failed
UNION ALL
SELECT * FROM warned
