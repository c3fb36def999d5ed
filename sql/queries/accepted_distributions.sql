-- Purpose: Return the score distributions of a rater's accepted nights of a dataset, the reference for drift.
-- Parameters: dataset_id integer, rater_id integer, without_ids integer[] (nights under test).
-- One row is: an accepted night; n and quantiles are null where its distribution was not stored.
-- Relies on: uq_nights_dataset_id_crawl_date_rater_id_revision, pk_score_distributions.
-- Safe to re-run: yes.
SELECT
    nights.night_id,
    score_distributions.n,
    score_distributions.quantiles
FROM alchemist.nights
LEFT JOIN alchemist.score_distributions ON nights.night_id = score_distributions.night_id
WHERE
    nights.dataset_id = :dataset_id
    AND nights.rater_id = :rater_id
    AND nights.state IN ('selectable', 'released')
    AND nights.night_id <> ALL(:without_ids)
ORDER BY nights.night_id
