-- Purpose: Return the suites that checked a night before the last of its data arrived: their results do not cover it.
-- Parameters: night_id integer.
-- One row is: a suite whose newest result is older than the night's newest or last restored shard or, for `scores`, than the revision
--   or the newest scores of the production rater. Suites that never checked the night, releases and drift are left out, and so are results over all nights
--   together: a run without a date stores results of each undecided night too.
-- Relies on: pk_nights, ix_check_results_suite_dataset_name_crawl_date, ix_shards_dataset_id_crawl_date, ix_shard_scores_night_id.
-- Safe to re-run: yes.
WITH came AS (
    SELECT
        datasets.name AS dataset_name,
        nights.crawl_date,
        (
            -- The state of a verified shard changes when its missing or changed file is restored.
            SELECT max(greatest(shards.created_at, shards.state_changed_at))
            FROM alchemist.shards
            WHERE
                shards.dataset_id = nights.dataset_id AND shards.crawl_date = nights.crawl_date
                AND shards.state IN ('registered', 'verified', 'rejected')
        ) AS registered_at,
        CASE
            WHEN raters.state = 'production' THEN greatest(
                -- A revision that a retry opened has no shard of its own.
                nights.created_at,
                (
                    SELECT max(shard_scores.scored_at)
                    FROM alchemist.shard_scores
                    WHERE shard_scores.night_id = nights.night_id
                )
            )
        END AS scored_at
    FROM alchemist.nights
    INNER JOIN alchemist.datasets ON nights.dataset_id = datasets.dataset_id
    INNER JOIN alchemist.raters ON nights.rater_id = raters.rater_id
    WHERE nights.night_id = :night_id
)

SELECT check_results.suite
FROM came
INNER JOIN alchemist.check_results
    ON came.dataset_name = check_results.dataset_name AND came.crawl_date = check_results.crawl_date
WHERE
    check_results.suite IN ('shards', 'samples', 'scores')
    AND check_results.expectation <> 'scores_are_steady'
    AND check_results.observed -> 'released_by' IS NULL
GROUP BY check_results.suite, came.registered_at, came.scored_at
HAVING max(check_results.created_at) < CASE check_results.suite WHEN 'scores' THEN came.scored_at ELSE came.registered_at END
ORDER BY check_results.suite
