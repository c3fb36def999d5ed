-- Purpose: Return the samples with the highest and the lowest scores of a crawl date.
-- Parameters: dataset_id integer, crawl_date date, rater_id integer, n_rows integer (of each end).
-- One row is: a sample of the date's scored shards; end_of_night is top or bottom, the most extreme first.
-- Relies on: ix_shards_dataset_id_crawl_date, pk_shard_scores, pk_sample_locations, the rater's partition of pk_scores: it reads
--   one night, independent of the size of the corpus.
-- Safe to re-run: yes.
WITH night AS MATERIALIZED (
    SELECT
        scores.sample_id,
        scores.score,
        min(shards.uri) AS uri,
        min(sample_locations.key) AS key
    FROM alchemist.shards
    INNER JOIN alchemist.shard_scores ON shards.shard_id = shard_scores.shard_id AND shard_scores.rater_id = :rater_id
    INNER JOIN alchemist.sample_locations ON shards.shard_id = sample_locations.shard_id
    INNER JOIN alchemist.scores ON sample_locations.sample_id = scores.sample_id AND scores.rater_id = :rater_id
    WHERE shards.dataset_id = :dataset_id AND shards.crawl_date = :crawl_date AND shards.state = 'verified'
    GROUP BY scores.sample_id, scores.score
)

(SELECT 'top' AS end_of_night, night.* FROM night ORDER BY night.score DESC, night.sample_id ASC LIMIT :n_rows)
UNION ALL
(SELECT 'bottom' AS end_of_night, night.* FROM night ORDER BY night.score ASC, night.sample_id ASC LIMIT :n_rows)
