-- Purpose: Summarise the production rater's scores of a night by shard, for the suite `scores`.
-- Parameters: dataset text or null (every training dataset), crawl_date date or null (any date), min_night_scores, min_shard_scores
--   integer: limits of the dataset.
-- One row is: a scored shard; night_spread, the same in all rows, is the standard deviation of the night's scores, null below
--   min_night_scores. A shard is constant if it has at least min_shard_scores scores and all are equal. No rows without a
--   production rater.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_shard_scores, pk_sample_locations, pk_scores.
-- Safe to re-run: yes.
WITH found AS (
    SELECT
        shards.shard_id,
        shards.uri,
        count(*) AS n,
        count(*) FILTER (WHERE scores.score BETWEEN -3.4028235e38 AND 3.4028235e38) AS n_finite,
        min(scores.score) AS lowest,
        max(scores.score) AS highest,
        sum(scores.score::float8) AS total,
        sum(scores.score::float8 ^ 2) AS total_squares
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
    GROUP BY shards.shard_id, shards.uri
)

SELECT
    uri,
    n AS n_scores,
    n_finite,
    (lowest = highest AND n >= :min_shard_scores)::integer AS is_constant,
    CASE
        WHEN sum(n) OVER () < :min_night_scores THEN NULL
        -- The sums of equal scores are rounded, which looks like a spread.
        WHEN min(lowest) OVER () = max(highest) OVER () THEN 0
        ELSE sqrt(greatest(sum(total_squares) OVER () / sum(n) OVER () - (sum(total) OVER () / sum(n) OVER ()) ^ 2, 0))
    END AS night_spread
FROM found
ORDER BY shard_id
