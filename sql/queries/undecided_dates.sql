-- Purpose: Return the crawl dates of a dataset that a check without a date checks one by one: a failure stops such a night.
-- Parameters: dataset text, suite text (shards, samples or scores).
-- One row is: a crawl date with a shard that the production rater has not scored, or whose night under it is open; for the suite
--   `scores` only one with scores.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_shard_scores, pk_nights.
-- Safe to re-run: yes.
SELECT DISTINCT shards.crawl_date
FROM alchemist.shards
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
LEFT JOIN alchemist.raters ON raters.state = 'production'
LEFT JOIN alchemist.shard_scores ON shards.shard_id = shard_scores.shard_id AND raters.rater_id = shard_scores.rater_id
LEFT JOIN alchemist.nights ON shard_scores.night_id = nights.night_id
WHERE
    datasets.name = :dataset
    AND shards.state IN ('registered', 'verified')
    AND coalesce(nights.state = 'scored', :suite <> 'scores')
ORDER BY shards.crawl_date
