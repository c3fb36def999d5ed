-- Purpose: Return a few samples of nights with a given caption length and a given range of scores, to look at.
-- Parameters: rater_id integer, night_ids integer[], shard_id bigint or null (any), shortest and longest integer (characters of the
--   caption), lowest and highest float8 (scores; lowest itself excluded), n_examples integer.
-- One row is: a location of such a sample: dataset, uri and key of its shard, score.
-- Relies on: night_locations, pk_sample_locations, the rater's partition of pk_scores, pk_samples.
-- Safe to re-run: yes; the first by shard and position.
SELECT
    datasets.name AS dataset,
    shards.uri,
    sample_locations.key,
    scores.score::float8 AS score
FROM alchemist.night_locations
INNER JOIN alchemist.sample_locations
    ON night_locations.shard_id = sample_locations.shard_id AND night_locations.ordinal = sample_locations.ordinal
INNER JOIN alchemist.shards ON night_locations.shard_id = shards.shard_id
INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
INNER JOIN alchemist.scores ON night_locations.sample_id = scores.sample_id AND scores.rater_id = :rater_id
INNER JOIN alchemist.samples ON scores.sample_id = samples.sample_id
WHERE
    night_locations.rater_id = :rater_id
    AND night_locations.night_id = ANY(:night_ids)
    AND (CAST(:shard_id AS bigint) IS NULL OR shards.shard_id = :shard_id)
    AND char_length(samples.caption) BETWEEN :shortest AND :longest
    AND scores.score > :lowest
    AND scores.score <= :highest
ORDER BY shards.shard_id, sample_locations.ordinal
LIMIT :n_examples
