-- Purpose: what the suite `scores` looks at second: the production rater's scores of a night.
-- Parameters: dataset text or null (every training dataset), crawl_date date or null (any date).
-- One row is: a distinct pair of the night's scored shards. None without a production rater.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_shard_scores, pk_sample_locations, pk_scores.
-- Safe to re-run: yes.
SELECT DISTINCT
    scores.sample_id,
    scores.score::float8 AS score
FROM alchemist.raters
INNER JOIN alchemist.shard_scores ON raters.rater_id = shard_scores.rater_id
INNER JOIN alchemist.shards ON shard_scores.shard_id = shards.shard_id
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
INNER JOIN alchemist.sample_locations ON shards.shard_id = sample_locations.shard_id
INNER JOIN alchemist.scores ON sample_locations.sample_id = scores.sample_id AND raters.rater_id = scores.rater_id
WHERE
    raters.state = 'production'
    AND shards.state = 'verified'
    AND coalesce(datasets.name = CAST(:dataset AS text), datasets.role = 'train')
    AND (CAST(:crawl_date AS date) IS NULL OR shards.crawl_date = :crawl_date)
