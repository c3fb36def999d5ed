-- Purpose: what keeps a night from being drawn from, so that people, the overview and `alchemist publish night` say the same.
-- One row is: a check of a night whose newest outcome stopped it and that nobody has released (a released one has a newer row, a warning).
-- Relies on: ix_check_results_suite_dataset_name_crawl_date.
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
WHERE severity = 'fail' AND NOT is_success
ORDER BY dataset_name, crawl_date, suite, expectation;
