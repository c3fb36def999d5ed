-- Purpose: what a rater said of every pair, for an export: the condition, the order and the columns are put around it.
-- Parameters: rater_id integer.
-- One row is: a pair with its score, its rank by the rater's newest scale (null before the first) and its first live location.
-- Relies on: the rater's partition of pk_scores, pk_samples, ix_sample_locations_sample_id, pk_shards.
-- Safe to re-run: yes.
WITH scale AS MATERIALIZED (
    SELECT
        knot_scores || '{}'::float8[] AS knot_scores,
        knot_ranks || '{}'::float8[] AS knot_ranks
    FROM alchemist.rank_scales
    WHERE rater_id = :rater_id AND score = 'rater'
    ORDER BY rank_scale_id DESC
    LIMIT 1
)

SELECT
    scores.sample_id,
    samples.pair_hash,
    scores.score,
    alchemist.rank_on_knots(
        scores.score, (SELECT scale.knot_scores FROM scale), (SELECT scale.knot_ranks FROM scale)
    ) AS rank,
    samples.caption,
    samples.width,
    samples.height,
    samples.source_url,
    samples.licence,
    place.dataset,
    place.crawl_date,
    place.shard,
    place.key
FROM alchemist.scores
INNER JOIN alchemist.samples ON scores.sample_id = samples.sample_id
LEFT JOIN LATERAL (
    SELECT
        datasets.name AS dataset,
        shards.crawl_date,
        shards.uri AS shard,
        sample_locations.key
    FROM alchemist.sample_locations
    INNER JOIN alchemist.shards ON sample_locations.shard_id = shards.shard_id AND shards.state = 'verified'
    INNER JOIN alchemist.datasets ON shards.dataset_id = datasets.dataset_id
    WHERE sample_locations.sample_id = scores.sample_id
    ORDER BY sample_locations.shard_id, sample_locations.ordinal
    LIMIT 1
) AS place ON TRUE
WHERE scores.rater_id = :rater_id
