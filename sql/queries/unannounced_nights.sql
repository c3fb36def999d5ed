-- Purpose: Return the nights that became selectable and that Airflow has not announced yet, for `alchemist night announce`.
-- Parameters: actor text (the Airflow run that announces: its own nights are returned again, so that a retry loses none),
--   since timestamptz (nights decided before are left out).
-- One row is: a selectable or released night of a rater that is in production.
-- Relies on: uq_nights_dataset_id_crawl_date_rater_id_revision; reads the nights and the announcements of the last days.
-- Safe to re-run: yes.
SELECT
    nights.night_id,
    datasets.name AS dataset,
    nights.crawl_date,
    nights.revision,
    raters.name AS rater,
    announcements.subject IS NULL AS is_new
FROM alchemist.nights
INNER JOIN alchemist.datasets ON nights.dataset_id = datasets.dataset_id
INNER JOIN alchemist.raters ON nights.rater_id = raters.rater_id AND raters.state = 'production'
LEFT JOIN alchemist.audit_events AS announcements
    ON
        announcements.action = 'announce'
        AND announcements.subject = 'night ' || nights.night_id
        AND announcements.happened_at >= :since
WHERE
    nights.state IN ('selectable', 'released')
    AND nights.decided_at >= :since
    AND (announcements.subject IS NULL OR announcements.actor = :actor)
ORDER BY datasets.name, nights.crawl_date, nights.revision
