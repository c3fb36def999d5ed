-- Purpose: Return the checks that stop a night from being selected from: what people, the overview and `alchemist night publish`
--   show.
-- One row is: a check of a night whose newest result failed and that was not released (a release stores a newer result, a warning). One
--   that was rejected has `rejected_by` in `observed`. A night whose shards were all retired or superseded has nothing to stop.
-- Relies on: ix_check_results_suite_dataset_name_crawl_date, ix_shards_dataset_id_crawl_date.
CREATE VIEW alchemist.failed_checks AS
WITH newest AS (
    SELECT DISTINCT ON (dataset_name, crawl_date, suite, expectation)
        dataset_name, crawl_date, suite, expectation, severity, is_success, observed, created_at
    FROM alchemist.check_results
    WHERE suite IN ('shards', 'samples', 'scores') AND dataset_name IS NOT NULL AND crawl_date IS NOT NULL
    ORDER BY dataset_name ASC, crawl_date ASC, suite ASC, expectation ASC, check_result_id DESC
)

SELECT dataset_name, crawl_date, suite, expectation, observed, created_at
FROM newest
WHERE
    severity = 'fail'
    AND NOT is_success
    AND NOT coalesce(
        (
            SELECT bool_and(shards.state IN ('retired', 'superseded'))
            FROM alchemist.shards
            INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
            WHERE datasets.name = newest.dataset_name AND shards.crawl_date = newest.crawl_date
        ), FALSE
    )
ORDER BY dataset_name, crawl_date, suite, expectation;

COMMENT ON VIEW alchemist.failed_checks IS 'Quality checks that stop a night now: failed at their newest run, and not released by a person';
COMMENT ON COLUMN alchemist.failed_checks.dataset_name IS 'Name of the dataset';
COMMENT ON COLUMN alchemist.failed_checks.crawl_date IS 'Date of the crawl';
COMMENT ON COLUMN alchemist.failed_checks.suite IS 'Suite of the check: shards, samples or scores';
COMMENT ON COLUMN alchemist.failed_checks.expectation IS 'Name of the expectation that failed';
COMMENT ON COLUMN alchemist.failed_checks.observed IS 'Measured values and their limits, as JSON';
COMMENT ON COLUMN alchemist.failed_checks.created_at IS 'When the check ran';
