-- Purpose: Return a rater's scores and ranks for `alchemist export scores`, without images that were taken down; the condition, the
--   order and the choice of columns are added around it.
-- Parameters: rater_id integer.
-- One row is: a sample with all its columns, score, rank by the rater's newest scale (null before the first) and first readable
--   location.
-- Relies on: the rater's partition of pk_scores, pk_samples, alchemist.first_location, uq_takedowns_image_hash.
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
    samples.*,
    scores.score,
    alchemist.rank_on_knots(
        scores.score, (SELECT scale.knot_scores FROM scale), (SELECT scale.knot_ranks FROM scale)
    ) AS rank,
    place.dataset,
    place.crawl_date,
    place.shard,
    place.key
FROM alchemist.scores
INNER JOIN alchemist.samples ON scores.sample_id = samples.sample_id
LEFT JOIN LATERAL alchemist.first_location(scores.sample_id) AS place ON TRUE
WHERE
    scores.rater_id = :rater_id
    AND NOT EXISTS (SELECT 1 FROM alchemist.takedowns WHERE takedowns.image_hash = samples.image_hash)
